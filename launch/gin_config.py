"""gin-config as meshlang uses it: read, judged as a whole, bound for a while, and cleared.

    with configured(options.gin_files, options.gin_bindings) as config:
        run = config.build(Run)
        ...
        config.check_used()

Apart from this, launch.gin_source uses gin-config's parser, launch.gin_lookup its registry, and
launch.gin_registry registers classes; nothing else in meshlang touches it. Its state is global, so
one configuration holds at a time, and it is empty before and after. gin is code: files are read
from `search_path` and where the user says, never from a checkpoint, and may not import.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from launch import gin_checks
from launch.errors import ConfigError, all_of
from launch.gin_lookup import Bindings, Registry, replaced
from launch.gin_source import Macro, Reference, Statement, load_gin, read, search_path
from meshlang.errors import message

T = TypeVar("T")

_WHERE = "the gin configuration"
_CALL = re.compile(r"\n  In call to configurable '([^']+)'")
_ADDED = re.compile(r"\n  (?:In call to configurable|No values supplied by Gin) ")
_REQUIRED = re.compile(r"Required bindings for `([^`]+)` not provided in config: \[(.*?)\]")


class Config:
    """A configuration that holds; made by `configured`."""

    def __init__(self, bindings: Bindings) -> None:
        self._bindings = bindings

    def build(self, what: Callable[..., T]) -> T:
        """Call a registered class or function with the values bound to its parameters.

        Raises:
            ConfigError: Values are missing, in it or in what it is built from (all are listed), or
                a constructor refuses its values with a ValueError or TypeError.
        """
        registry = self._bindings.registry
        root = registry.selector_of(what)
        if problems := gin_checks.needed(root, self._bindings):
            raise all_of(problems, _WHERE)
        try:
            return load_gin().get_configurable(root)()
        except (ValueError, TypeError) as error:
            raise self._refused(error) from error

    def unused_bindings(self) -> tuple[Statement, ...]:
        """The bindings that nothing has used so far."""
        return tuple(gin_checks.unused(self._bindings))

    def check_used(self) -> None:
        """Raise `ConfigError` with the lines of all bindings that nothing has used so far."""
        if unused := self.unused_bindings():
            raise ConfigError(gin_checks.unused_text(unused, self._bindings))

    def operative_text(self) -> str:
        """All values in use so far, defaults included, as gin that gives the same again."""
        return load_gin().operative_config_str(max_line_length=100)

    def _refused(self, error: Exception) -> ConfigError:
        """What a constructor said, with the bindings it was given."""
        text = str(error)
        said = _ADDED.split(text)[0]
        if type(error).__name__ != "ValueError":
            said = f"{type(error).__name__}: {said}"
        calls = _CALL.findall(text)  # the innermost first
        name = calls[0] if calls else "?"
        rows: list[tuple[str, object]] = [("error", said.replace("\n", "\n         "))]
        for (_, selector, _), statement in self._bindings.table.items():
            if selector.rpartition(".")[2] == name:
                rows.append(("given", statement))
        return ConfigError(message(f"cannot build {name!r}.", rows))


@contextmanager
def configured(
    files: Sequence[str],
    bindings: Sequence[str] = (),
    *,
    folders: Sequence[Path] | None = None,
) -> Iterator[Config]:
    """Let gin files and bindings hold inside the ``with`` block.

    What files may name must be registered before: by ``@gin.configurable`` and its like, when
    their modules are imported.

    Args:
        files: Names of gin files; later ones win.
        bindings: ``"NAME=VALUE"``, applied after the files; launch.gin_source tells how a VALUE
            without quotes is read.
        folders: Where gin files are looked for; `search_path()` if not given.

    Raises:
        ConfigError: Files are not found, unreadable, import or include each other in a circle;
            names do not exist; required values are missing; values have the wrong type. All that
            is wrong is listed. Also inside the block, for a value that a later call requires.
    """
    gin = load_gin()
    source = read(files, bindings, search_path() if folders is None else folders)
    registry = Registry()
    problems, known = gin_checks.names(source.statements, registry)
    problems = [*source.problems, *problems]
    if not source.problems:  # a file that is not read might set the macro
        problems += gin_checks.macros(source.statements, registry)
    table = Bindings(known, registry)
    problems += [*gin_checks.required(table), *gin_checks.types(table)]
    if problems:
        raise all_of(problems, _WHERE)
    gin.clear_config()
    try:
        _bind(table)
        yield Config(table)
    except RuntimeError as error:
        if problems := _required_later(str(error)):
            raise all_of(problems, _WHERE) from error
        raise
    finally:
        gin.clear_config()


def _bind(table: Bindings) -> None:
    gin = load_gin()
    make = gin.config.ParserDelegate()

    def real(part: Reference | Macro) -> Any:
        if isinstance(part, Macro):
            return make.macro(part.name)
        return make.configurable_reference(part.name, part.called)

    for key, statement in table.table.items():
        gin.bind_parameter(key, replaced(statement.value, real))


def _required_later(text: str) -> list[str]:
    """The values that a call lacks, if that is what gin-config says."""
    match = _REQUIRED.match(text)
    names = [f"{match[1]}.{name}" for name in re.findall("'([^']+)'", match[2])] if match else []
    return [message(f"missing gin value: {name!r}.", fix=f"--gin.{name}=VALUE") for name in names]
