"""The user's own modules (``--module=my_package.my_model``), and which `models` is ours.

A module named by ``--module`` is imported before any gin file is read, so that what it registers
with gin has a name by then.
"""

import importlib
import importlib.util
import re
import sys
from collections.abc import Iterable
from importlib.machinery import ModuleSpec
from pathlib import Path

from launch.errors import ConfigError, all_of
from meshlang.errors import message

_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*\Z")


def import_modules(names: Iterable[str], directory: Path) -> None:
    """Import the modules that the user named, in order.

    `directory` joins the places where Python looks, as it does under ``python -m``; the console
    scripts need this. It comes last, so that a folder there cannot hide an installed package.

    Args:
        names: Dotted names, ``"my_package.my_model"``.
        directory: Where the user works.

    Raises:
        ConfigError: A module is not found, does not parse, or imports what is not installed.
            Other exceptions of the user's code pass through, with their traceback.
    """
    if str(directory) not in sys.path:
        sys.path.append(str(directory))
        importlib.invalidate_caches()
    problems = [problem for name in names if (problem := _import(name, directory))]
    if problems:
        raise all_of(problems, "the modules")


def check_models_are_ours(found: ModuleSpec | None = None) -> None:
    """Raise `ConfigError` if `models` is not the package that lies beside `launch`.

    Under ``python -m`` the working directory comes first, and a folder ``models/`` there hides
    ours; its models would be missing from gin, with errors that lead elsewhere.

    Args:
        found: What `models` stands for; asked of Python if not given.
    """
    ours = Path(__file__).resolve().parent.parent / "models"
    found = found or importlib.util.find_spec("models")
    origin = Path(found.origin).resolve() if found and found.origin else None
    if origin == ours / "__init__.py":
        return
    rows = [("found", origin or "nothing"), ("ours", ours / "__init__.py")]
    if origin is None:
        fix = "install meshlang anew: a part of it is missing"
    else:
        fix = (
            "start from another directory, rename that one, or use the commands meshlang-train "
            "and meshlang-plan"
        )
    raise ConfigError(message("the package 'models' is not meshlang's.", rows, fix))


def _import(name: str, directory: Path) -> str | None:
    """Import one module; what is wrong, or None."""
    if not _DOTTED.match(name):
        return message(f"no module can be named {name!r}.", fix=_dotted_fix(name))
    try:
        importlib.import_module(name)
    except SyntaxError as error:
        rows = [("module", name), ("at", f"{error.filename}:{error.lineno}")]
        return message(f"a module does not parse: {error.msg}.", rows)
    except ModuleNotFoundError as error:
        return _not_found(name, error.name or "", directory)
    except ImportError as error:
        return message("a module cannot be imported.", [("module", name), ("error", error)])
    return None


def _not_found(name: str, missing: str, directory: Path) -> str:
    if name == missing or name.startswith(f"{missing}."):
        rows = [("missing", missing), ("working directory", directory)]
        fix = "start where the module can be imported, or install the package it is in"
        return message(f"module {name!r} not found.", rows, fix)
    rows = [("module", name), ("missing", missing)]
    return message("a module imports what is not installed.", rows, f"install {missing!r}")


def _dotted_fix(name: str) -> str:
    dotted = name.removesuffix(".py").strip("./").replace("/", ".")
    if _DOTTED.match(dotted):
        return f"--module={dotted}"
    return "write it as in an import: --module=my_package.my_model"
