"""Nested results: dicts, lists, tuples and dataclasses of tensors, flattened and rebuilt."""

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any


def named_leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves with the way to each: keys, fields and places, joined by dots.

    >>> list(named_leaves({"a": 1, "b": (2, [3])}))
    [('a', 1), ('b.0', 2), ('b.1.0', 3)]
    >>> list(named_leaves(4))
    [('', 4)]
    """
    parts = _parts(value)
    if parts is None:
        if value is not None:
            yield path, value
        return
    for name, part in parts.items():
        yield from named_leaves(part, f"{path}.{name}" if path else str(name))


def leaves(value: Any) -> Iterator[Any]:
    """The leaves of a nested value, in order.

    >>> list(leaves({"a": 1, "b": (2, [3])}))
    [1, 2, 3]
    """
    for _, leaf in named_leaves(value):
        yield leaf


def rebuild(value: Any, fn: Callable[[Any], Any]) -> Any:
    """The same nesting with `fn` of each leaf.

    >>> rebuild({"a": 1, "b": (2, None)}, lambda x: x * 10)
    {'a': 10, 'b': (20, None)}
    """
    parts = _parts(value)
    if parts is None:
        return None if value is None else fn(value)
    made = {name: rebuild(part, fn) for name, part in parts.items()}
    if isinstance(value, dict):
        return made
    if type(value) in (list, tuple):
        return type(value)(made.values())
    return type(value)(**made)


def _parts(value: Any) -> dict[Any, Any] | None:
    """What a nested value holds, by key, field or place; None for a leaf."""
    if isinstance(value, dict):
        return value
    if type(value) in (list, tuple):
        return dict(enumerate(value))
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return value._asdict()  # type: ignore[attr-defined]
    if is_dataclass(value) and not isinstance(value, type) and _holds_parts(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    return None


def _holds_parts(value: Any) -> bool:
    """Frozen results of ours are opened; values that happen to be dataclasses are leaves."""
    return bool(getattr(value, "__parts__", False))
