"""Whether a value of a gin file suits a parameter's annotation.

gin-config passes on whatever a file says. A number in quotes then fails far from the file, and a
word in place of a flag does not fail at all. Annotations that say nothing checkable accept all.
"""

import inspect
import types
import typing
from dataclasses import dataclass
from typing import Any

# A value of which nothing is known, such as what a function will return: it suits everything.
UNKNOWN = object()

_ANYTHING = (Any, object, inspect.Parameter.empty)


@dataclass(frozen=True)
class Built:
    """The value of ``@Name()``: an instance of `cls`."""

    cls: type


@dataclass(frozen=True)
class Factory:
    """The value of ``@Name``: the class or function itself."""

    target: Any


def fits(value: Any, annotation: Any) -> bool:
    """Whether `value` may be passed where `annotation` stands.

    >>> fits(3, float), fits("3", float), fits(True, int), fits(None, int | None)
    (True, False, False, True)
    >>> fits((1, 2), tuple[int, ...]), fits("ab", typing.Sequence[str])
    (True, False)
    >>> fits(Factory(list), list), fits(Built(list), list)
    (False, True)

    Args:
        value: A Python literal, possibly with `Built`, `Factory` and `UNKNOWN` in it.
        annotation: As `typing.get_type_hints` gives it.
    """
    if value is UNKNOWN or annotation in _ANYTHING:
        return True
    annotation = _plain(annotation)
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    if origin is typing.Literal:
        return any(type(value) is type(part) and value == part for part in parts)
    if annotation is None:
        return value is None
    if not isinstance(origin or annotation, type):
        return True
    return _fits_class(value, origin or annotation) and _fit_parts(value, origin, parts)


def described(annotation: Any) -> str:
    """An annotation in the words of its source.

    >>> described(int), described(int | None), described(tuple[float, ...])
    ('int', 'int | None', 'tuple[float, ...]')
    """
    if isinstance(annotation, type) and typing.get_origin(annotation) is None:
        return annotation.__qualname__
    return str(annotation).replace("typing.", "").replace("collections.abc.", "")


def _plain(annotation: Any) -> Any:
    """An annotation without the names and notes wrapped around it."""
    while True:
        if typing.get_origin(annotation) in (typing.Annotated, typing.Final):
            annotation = typing.get_args(annotation)[0]
        elif isinstance(annotation, typing.NewType):
            annotation = annotation.__supertype__
        elif type(annotation).__name__ == "TypeAliasType":  # `type Name = ...`, from 3.12 on
            annotation = annotation.__value__
        else:
            return annotation


def _fits_class(value: Any, cls: type) -> bool:
    protocol = getattr(cls, "_is_protocol", False)
    if isinstance(value, Built):
        return protocol or issubclass(value.cls, cls)
    if isinstance(value, Factory):
        if protocol:
            return any("__call__" in vars(base) for base in cls.__mro__)
        return isinstance(value.target, cls)
    if protocol:
        return False
    if isinstance(value, bool):
        return issubclass(bool, cls) and cls is not int
    if isinstance(value, int) and cls is float:
        return True
    return isinstance(value, cls)


def _fit_parts(value: Any, origin: Any, parts: tuple[Any, ...]) -> bool:
    """Whether what a container holds suits the annotations in brackets."""
    if isinstance(value, str) and origin is not None:
        return False  # a text is a sequence of texts, and never meant so
    if isinstance(value, dict) and len(parts) == 2:
        keys, values = parts
        return all(fits(key, keys) and fits(part, values) for key, part in value.items())
    if isinstance(value, tuple) and origin is tuple and parts[-1:] != (...,):
        return len(value) == len(parts) and all(map(fits, value, parts))
    if isinstance(value, list | tuple) and parts:
        return all(fits(part, parts[0]) for part in value)
    return True
