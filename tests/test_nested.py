"""Nested results, flattened and rebuilt: dicts, lists, tuples, named tuples, our dataclasses."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import pytest

import meshlang as ml
from meshlang.structure import leaves, named_leaves, rebuild


class Pair(NamedTuple):
    values: Any
    indices: Any


@dataclass(frozen=True)
class Route:
    """One of ours: it says that it holds parts."""

    __parts__: ClassVar[bool] = True
    gates: Any
    more: Any = None


@dataclass(frozen=True)
class Spec:
    """A value that happens to be a dataclass."""

    size: int


CASES = [
    (5, [("", 5)]),
    (None, []),
    ({}, []),
    ({"a": 1, "b": None, "c": [2, (3,)]}, [("a", 1), ("c.0", 2), ("c.1.0", 3)]),
    ((1, [2, {"x": 3}]), [("0", 1), ("1.0", 2), ("1.1.x", 3)]),
    (Pair(1, {"k": 2}), [("values", 1), ("indices.k", 2)]),
    (Route([1, 2], Route(3)), [("gates.0", 1), ("gates.1", 2), ("more.gates", 3)]),
    ({"s": Spec(3)}, [("s", Spec(3))]),
    ({"t": ml.Shape.parse("a:1 b:2")}, [("t", ml.Shape.parse("a:1 b:2"))]),
]


@pytest.mark.parametrize(("value", "found"), CASES)
def test_leaves(value: Any, found: list[tuple[str, Any]]):
    assert list(named_leaves(value)) == found
    assert list(leaves(value)) == [leaf for _, leaf in found]


@pytest.mark.parametrize("value", [value for value, _ in CASES])
def test_rebuild_keeps_the_form(value: Any):
    assert rebuild(value, lambda leaf: leaf) == value
    marked = rebuild(value, lambda leaf: (leaf, "seen"))
    assert type(marked) is type(value) or value in (None, 5)


def test_rebuild_gives_what_the_function_gives():
    assert rebuild({"a": Pair(1, (2, 3)), "b": Route(4)}, lambda x: x * 10) == {
        "a": Pair(10, (20, 30)),
        "b": Route(40),
    }


def test_programs_return_named_tuples():
    program = ml.trace(lambda x: ml.top_k(x, "n", into="k:2"), x=ml.spec("n:5"))
    assert type(program.results) is ml.ops.order.TopK
    assert [str(t.shape) for t in program.outputs] == ["[k:2]", "[k:2]"]
