"""Which values of gin files suit which annotations."""

import enum
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, NewType, Protocol, TypeVar, runtime_checkable

import pytest

from launch.gin_types import UNKNOWN, Built, Factory, described, fits


class Router(Protocol):
    k: int


@runtime_checkable
class Initializer(Protocol):
    def __call__(self, shape: str) -> None: ...


class TopK:
    """Suits `Router` by having its members."""

    k = 2


class Colour(enum.Enum):
    RED = 1


def constant(shape: str) -> None:
    """An initializer."""


Rate = NewType("Rate", float)
T = TypeVar("T")

FITTING: list[tuple[Any, Any]] = [
    (3, int),
    (3, float),
    (0.5, float),
    ("a", str),
    (True, bool),
    (True, numbers.Number),
    (None, None),
    (None, int | None),
    (3, int | None),
    (3, Any),
    ("a", object),
    ("a", T),
    ("a", "NotImported"),
    (0.1, Rate),
    (3, Annotated[int, "even"]),
    ("relu", Literal["relu", "gelu"]),
    ((1, 2), tuple[int, ...]),
    ((1, "a"), tuple[int, str]),
    ((), tuple[int, ...]),
    ((1, "a"), tuple),
    ([1, 2], list[int]),
    ([1, 2], Sequence[float]),
    ((1, 2), Sequence[float]),
    ({"a": 1}, dict[str, int]),
    ({"a": (1, 2)}, Mapping[str, tuple[int, ...]]),
    ([UNKNOWN, 3], list[int]),
    (UNKNOWN, int),
    (Colour.RED, Colour),
    (Built(TopK), TopK),
    (Built(TopK), Router),
    (Built(bool), int),
    ([Built(TopK)], Sequence[Router]),
    (Factory(TopK), type),
    (Factory(TopK), type[TopK]),
    (Factory(TopK), Callable[[], TopK]),
    (Factory(constant), Callable[..., None]),
    (Factory(constant), Initializer),
]

NOT_FITTING: list[tuple[Any, Any]] = [
    ("3", int),
    (3.0, int),
    (True, int),
    (True, float),
    (1, bool),
    ("True", bool),
    (3, str),
    (None, int),
    (3, None),
    ("a", int | None),
    ("3", Rate),
    (3.5, Annotated[int, "even"]),
    ("tanh", Literal["relu", "gelu"]),
    (True, Literal[1]),
    ((1, "a"), tuple[int, ...]),
    ((1, 2, 3), tuple[int, int]),
    ([1, 2], tuple[int, int]),
    ((1, 2), list[int]),
    ("ab", Sequence[str]),
    ([1, "a"], Sequence[float]),
    ({"a": "b"}, dict[str, int]),
    ({1: 1}, dict[str, int]),
    ("RED", Colour),
    ("TopK", TopK),
    ("TopK", Router),
    ("constant", Initializer),
    ("constant", Callable[..., None]),
    (Built(TopK), str),
    (Factory(TopK), TopK),
    (Factory(TopK), Router),
    (Factory(constant), int | None),
]


@pytest.mark.parametrize(("value", "annotation"), FITTING)
def test_fits(value: Any, annotation: Any) -> None:
    assert fits(value, annotation)


@pytest.mark.parametrize(("value", "annotation"), NOT_FITTING)
def test_does_not_fit(value: Any, annotation: Any) -> None:
    assert not fits(value, annotation)


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (int, "int"),
        (TopK, "TopK"),
        (int | None, "int | None"),
        (tuple[int, ...], "tuple[int, ...]"),
        (Callable[[int], str], "Callable[[int], str]"),
        (Literal["a", "b"], "Literal['a', 'b']"),
    ],
)
def test_described(annotation: Any, text: str) -> None:
    assert described(annotation) == text
