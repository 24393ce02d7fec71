"""Which Python and TensorFlow meshlang runs on, said before either gets in the way.

Only the standard library is imported, and of TensorFlow only its metadata is read: where the
versions are wrong, importing anything else may fail first and say less.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib import metadata

PYTHON = ("3.11", "3.12", "3.13")
TENSORFLOW = "2.21"

# The names under which TensorFlow is distributed; each installs the module `tensorflow`.
_DISTRIBUTIONS = ("tensorflow", "tensorflow-cpu", "tensorflow-gpu", "tensorflow-rocm", "tf-nightly")


class VersionError(ValueError):
    """The Python or the TensorFlow in use is not one that meshlang runs on."""


@dataclass(frozen=True)
class Versions:
    """Versions as they are printed; `tensorflow` is None where none is installed."""

    python: str
    tensorflow: str | None


def here() -> Versions:
    """The versions of this process."""
    return Versions(platform.python_version(), _installed_tensorflow())


def check(found: Versions, *, needs_tensorflow: bool = True) -> None:
    """Raise `VersionError` unless meshlang runs on `found`.

    >>> check(Versions(python="3.12.4", tensorflow="2.21.0"))
    >>> check(Versions(python="3.12.4", tensorflow=None), needs_tensorflow=False)

    Args:
        found: The versions, usually `here()`.
        needs_tensorflow: False for what runs without TensorFlow, such as planning.
    """
    wrong_python = _series(found.python) not in PYTHON
    wrong_tensorflow = needs_tensorflow and _series(found.tensorflow) != TENSORFLOW
    if not (wrong_python or wrong_tensorflow):
        return
    wrong = ["Python"] * wrong_python + ["TensorFlow"] * wrong_tensorflow
    pythons = f"{', '.join(PYTHON[:-1])} or {PYTHON[-1]}"
    versions = [found.python, found.tensorflow or "not installed"]
    width = max(len(version) for version in versions)
    lines = [
        f"unsupported {' and '.join(wrong)} version{'s' * (len(wrong) > 1)}.",
        f"  Python      {versions[0]:<{width}}  meshlang needs {pythons}",
        f"  TensorFlow  {versions[1]:<{width}}  meshlang needs {TENSORFLOW}",
    ]
    if wrong_python:
        lines.append(f"  fix: make an environment with Python {pythons} and install meshlang there")
    else:
        lines.append(f"  fix: pip install 'tensorflow=={TENSORFLOW}.*'")
    raise VersionError("\n".join(lines))


def _series(version: str | None) -> str | None:
    """The series of a version: ``"2.21.0rc1"`` -> ``"2.21"``."""
    return version and ".".join(version.split(".")[:2])


def _installed_tensorflow() -> str | None:
    for name in _DISTRIBUTIONS:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None
