"""Nested results: dicts, lists, tuples and dataclasses of tensors, flattened and rebuilt."""

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any


def leaves(value: Any) -> Iterator[Any]:
    """The leaves of a nested value, in order.

    >>> list(leaves({"a": 1, "b": (2, [3])}))
    [1, 2, 3]
    """
    if isinstance(value, dict):
        for part in value.values():
            yield from leaves(part)
    elif isinstance(value, list) or type(value) is tuple:
        for part in value:
            yield from leaves(part)
    elif is_dataclass(value) and not isinstance(value, type) and _holds_parts(value):
        for field in fields(value):
            yield from leaves(getattr(value, field.name))
    elif value is not None:
        yield value


def rebuild(value: Any, fn: Callable[[Any], Any]) -> Any:
    """The same nesting with `fn` of each leaf.

    >>> rebuild({"a": 1, "b": (2, None)}, lambda x: x * 10)
    {'a': 10, 'b': (20, None)}
    """
    if isinstance(value, dict):
        return {key: rebuild(part, fn) for key, part in value.items()}
    if isinstance(value, list):
        return [rebuild(part, fn) for part in value]
    if type(value) is tuple:
        return tuple(rebuild(part, fn) for part in value)
    if is_dataclass(value) and not isinstance(value, type) and _holds_parts(value):
        return type(value)(
            **{field.name: rebuild(getattr(value, field.name), fn) for field in fields(value)}
        )
    return None if value is None else fn(value)


def _holds_parts(value: Any) -> bool:
    """Frozen results of ours are opened; values that happen to be dataclasses are leaves."""
    return bool(getattr(value, "__parts__", False))
