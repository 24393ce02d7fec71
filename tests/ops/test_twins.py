"""Twins: whole, beside and back, exchange: NumPy, layouts, what moves, laws, errors."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st

import meshlang as ml
from tests.harness import (
    Laid,
    case,
    check,
    check_slopes,
    check_values,
    collectives,
    drawn,
    layout_error,
    layouts,
    run,
    trace_error,
)


def routed(x: ml.Tensor, w: ml.Tensor) -> ml.Tensor:
    """Each expert scales what groups send it, and sends it back."""
    rows = ml.exchange(x, "group", "experts")
    return ml.exchange(rows * w, "experts", "group")


CASES = (
    case(
        "whole", lambda x: ml.whole(x * 2.0, "experts") * 3.0, lambda x: x * 6.0, x="experts:8 d:16"
    ),
    case(
        "whole and divided",
        lambda x, y: ml.divided(ml.whole(x, "experts d") * y, "d experts"),
        np.multiply,
        x="experts:8 d:16",
        y="experts*:8 d*:16",
    ),
    case("divided", lambda x: ml.divided(x, "d") * 2.0, lambda x: x * 2.0, x="d*:16 batch:24"),
    case(
        "beside",
        lambda x: ml.whole(x, "experts", beside="group") * 2.0,
        lambda x: x * 2.0,
        x="experts:8 d:16",
    ),
    case(
        "exchange",
        lambda x: ml.exchange(x, "group", "experts"),
        lambda x: x,
        x="group:24 experts|group:8 d:16",
    ),
    case(
        "exchange back",
        lambda x: ml.exchange(x, "experts", "group"),
        lambda x: x,
        x="group|experts:24 experts:8",
    ),
    case(
        "routed", routed, lambda x, w: x * w, x="group:24 experts|group:8 d:16", w="experts:8 d:16"
    ),
    case(
        "a sum over a whole dim",
        lambda x: ml.sum(ml.whole(x, "experts"), "experts"),
        lambda x: x.sum(0),
        x="experts:8 d:16",
    ),
)
#: groups and experts on one axis, on two, and one with more axes than the other
MEETING = (
    Laid("all:8", "group:all experts:all"),
    Laid("r:2 c:4", "group:r experts:c"),
    Laid("r:2 c:4", "group:c experts:r+c"),
    Laid("r:2 c:4", "group:r+c experts:c"),
    Laid("r:2 c:4", "group:r+c experts:r"),
    Laid("r:2 c:4", "group:r+c experts:c+r"),
    Laid("r:2 c:4", "group:c experts:c d:r"),
    Laid("a:2 b:2 c:2", "group:a+b experts:b+c"),
    Laid("a:2 b:2 c:2", "group:a experts:a+b d:c"),
)


def test_values():
    check_values(CASES)


def test_slopes():
    check_slopes(CASES)


@pytest.mark.parametrize("laid", drawn("twins", layouts("group experts d batch")))
def test_layouts(laid: Laid):
    check(CASES, laid)


@pytest.mark.parametrize("laid", drawn("exchanges", MEETING))
def test_layouts_in_which_groups_meet_experts(laid: Laid):
    check(CASES, laid)


# -- what moves ----------------------------------------------------------------------------------

EXCHANGES = [
    # on one axis: exactly one all_to_all
    ("all:8", "group:all experts:all", ["all_to_all over all"]),
    ("r:2 c:4", "group:r experts:r d:c", ["all_to_all over r"]),
    # on different axes: free
    ("r:2 c:4", "group:r experts:c", []),
    ("r:2 c:4", "group:r", []),
    ("r:2 c:4", "experts:c", []),
    ("r:2 c:4", "", []),
    # one has more: over the axis that they share
    ("r:2 c:4", "group:r+c experts:c", ["all_to_all over c"]),
    ("r:2 c:4", "group:c experts:r+c", ["all_to_all over c"]),
    ("a:2 b:2 c:2", "group:a+b experts:c+b", ["all_to_all over b"]),
]


@pytest.mark.parametrize(("mesh", "layout", "moved"), EXCHANGES)
def test_what_an_exchange_moves(mesh: str, layout: str, moved: list[str]):
    shape = "group:16 experts|group:8 d:24"
    assert collectives(lambda x: ml.exchange(x, "group", "experts"), mesh, layout, x=shape) == moved
    back = collectives(
        lambda x: ml.exchange(x, "experts", "group"),
        mesh,
        layout,
        x="group|experts:16 experts:8 d:24",
    )
    assert back == moved


@pytest.mark.parametrize(("mesh", "layout", "moved"), EXCHANGES)
def test_the_gradient_of_an_exchange_is_an_exchange_back(mesh: str, layout: str, moved: list[str]):
    def fn(x: ml.Tensor, g: ml.Tensor) -> list[ml.Tensor]:
        return ml.gradients(ml.exchange(x, "group", "experts"), [x], g)

    shapes = {"x": "group:16 experts|group:8 d:24", "g": "group|experts:16 experts:8 d:24"}
    assert collectives(fn, mesh, layout, **shapes) == moved


def test_whole_gathers_and_divided_cuts():
    def back(x: ml.Tensor, g: ml.Tensor) -> list[ml.Tensor]:
        return ml.gradients(ml.whole(x, "experts"), [x], g)

    assert collectives(
        lambda x: ml.whole(x, "experts"), "r:2", "experts:r", x="experts:8 d:16"
    ) == ["all_gather over r"]
    assert (
        collectives(lambda x: ml.divided(x, "experts"), "r:2", "experts:r", x="experts*:8 d:16")
        == []
    )
    assert collectives(back, "r:2", "experts:r", x="experts:8 d:16", g="experts*:8 d:16") == []


def test_a_pending_sum_that_is_divided_is_scattered():
    def fn(x: ml.Tensor, y: ml.Tensor) -> ml.Tensor:
        return ml.divided(ml.einsum(x, y, reduce="batch"), "experts")

    shapes = {"x": "batch:16 experts*:8", "y": "batch:16 d:24"}
    assert collectives(fn, "r:2", "batch:r experts:r", **shapes) == ["reduce_scatter over r"]


def test_what_is_beside_lies_on_the_axes_that_are_left():
    program = ml.trace(
        lambda x: {"x": ml.whole(x, "experts", beside="group")}, x=ml.spec("experts:8 d:16")
    )
    tables = ml.plan(program, "a:2 b:2", "experts:a+b", beside=[program]).tables
    other = ml.trace(lambda x: x, x=ml.spec("group:4"))
    taken = ml.plan(program, "a:2 b:2", "experts:a+b group:a", beside=[other]).tables
    (dim, _) = program.outputs[0].shape
    assert (tables.axes(dim), taken.axes(dim)) == (("a", "b"), ("b",))


# -- marks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fn", "shape", "made"),
    [
        (lambda x: ml.whole(x, "a b"), "a:2 b:3", "[a*:2 b*:3]"),
        (lambda x: ml.whole(x, "a"), "a*:2 b:3", "[a*:2 b:3]"),
        (lambda x: ml.whole(x, "a"), "a|b:2 b:3", "[a*:2 b:3]"),
        (lambda x: ml.whole(x, "a", beside="b"), "a*:2 b:3", "[a|b:2 b:3]"),
        (lambda x: ml.divided(x, "a b"), "a|b:2 b*:3", "[a:2 b:3]"),
        (lambda x: ml.divided(x, "a"), "a:2", "[a:2]"),
        (lambda x: ml.exchange(x, "a", "b"), "a:2 b|a:3", "[a|b:2 b:3]"),
        # a plain name finds a twin, and the mark stays
        (lambda x: ml.sum(x, "b"), "a*:2 b|a:3", "[a*:2]"),
        (lambda x: ml.softmax(x, "a"), "a*:2 b:3", "[a*:2 b:3]"),
        (lambda x: ml.einsum(x, x, reduce="a"), "a*:2 b|a:3", "[b|a:3]"),
        (lambda x: ml.cumsum(x, "a"), "a*:2", "[a*:2]"),
        (lambda x: ml.slice(x, "a", size=1), "a*:2", "[a*:1]"),
        (lambda x: ml.pad(x, "a", before=1), "a*:2", "[a*:3]"),
        (lambda x: ml.concat([x, x], "a"), "a*:2 b:3", "[a*:4 b:3]"),
        (lambda x: ml.top_k(x, "a", into="k:1").values, "a*:2 b|c:3", "[b|c:3 k:1]"),
        (lambda x: ml.gather(x, ml.range("n:2"), dim="a"), "a*:2 b*:3", "[n:2 b*:3]"),
        (lambda x: x + x, "a*:2 b|c:3", "[a*:2 b|c:3]"),
    ],
)
def test_marks(fn: Callable[[ml.Tensor], ml.Tensor], shape: str, made: str):
    assert str(fn(ml.constant(np.ones(ml.Shape.parse(shape).sizes), shape)).shape) == made


# -- laws ----------------------------------------------------------------------------------------


def lists_of_axes() -> st.SearchStrategy[str]:
    axes = st.lists(st.sampled_from("abc"), unique=True, min_size=1, max_size=3)
    return axes.map("+".join)


def laws(x: ml.Tensor) -> dict[str, ml.Tensor]:
    """Many ways of x [group:8 experts|group:16] to come back to itself."""
    return {
        "exchanged": ml.exchange(ml.exchange(x, "group", "experts"), "experts", "group"),
        "whole": ml.whole(ml.whole(x, "experts"), "experts", beside="group"),
        "all whole": ml.divided(
            ml.whole(ml.whole(x, "experts group"), "experts", beside="group"), "group"
        ),
    }


@for_all(lists_of_axes(), lists_of_axes())
@settings(max_examples=10)
def test_there_and_back_is_identity(groups: str, experts: str):
    made = case("law", laws, gradients=False, x="group:8 experts|group:16")
    laid = Laid("a:2 b:2 c:2", f"group:{groups} experts:{experts}")
    for name, array in run(made, laid).items():
        np.testing.assert_array_equal(array, made.arrays["x"], err_msg=name)


# -- errors --------------------------------------------------------------------------------------

ERRORS = [
    (
        lambda x: x + ml.divided(x, "experts"),
        """\
add: dim 'experts|group' meets its twin 'experts'.
  operand 0  [group:2 experts|group:3]
  operand 1  [group:2 experts:3]
  fix: ml.divided(x, 'experts'), or ml.exchange with 'group'""",
    ),
    (
        lambda x: ml.einsum(x, ml.whole(x, "group"), reduce="experts"),
        """\
einsum: dim 'group' meets its twin 'group*'.
  operand 0  [group:2 experts|group:3]
  operand 1  [group*:2 experts|group:3]
  fix: bring one to the other: ml.whole(x, 'group') or ml.divided(x, 'group')""",
    ),
    (
        lambda x: ml.concat([x, ml.whole(x, "experts")], "experts"),
        """\
concat: dim 'experts|group' meets its twin 'experts*'.
  operand 0  [group:2 experts|group:3]
  operand 1  [group:2 experts*:3]
  fix: bring both under one twin, with ml.whole or ml.divided(x, 'experts')""",
    ),
    (
        lambda x: ml.whole(x, "expert"),
        """\
no dim named 'expert'.
  shape  [group:2 experts|group:3]
  fix: did you mean 'experts'?""",
    ),
    (
        lambda x: ml.whole(x, "group", beside="group"),
        """\
whole: dim 'group' cannot lie beside itself.
  operand  [group:2 experts|group:3]
  dims     'group'
  fix: name the dim that it shall make room for, or leave beside= out""",
    ),
    (
        lambda x: ml.exchange(x, "experts", "group"),
        """\
exchange: wants dims experts and group|experts.
  operand  [group:2 experts|group:3]
  fix: ml.whole(x, 'group', beside='experts') first""",
    ),
    (
        lambda x: ml.exchange(ml.whole(x, "experts"), "group", "experts"),
        """\
exchange: wants dims group and experts|group.
  operand  [group:2 experts*:3]
  fix: ml.whole(x, 'experts', beside='group') first""",
    ),
]


@pytest.mark.parametrize(("fn", "text"), ERRORS)
def test_errors(fn: Callable[[ml.Tensor], ml.Tensor], text: str):
    assert trace_error(ml.DimError, fn, x="group:2 experts|group:3") == text


def test_two_dims_on_one_axis_may_be_held_apart_by_a_twin():
    refused = layout_error(
        lambda x: ml.divided(x, "experts"), "r:2", "group:r experts:r", x="group:8 experts|group:16"
    )
    assert (
        refused
        == """\
dims 'group' and 'experts' of one tensor are both laid out on axis 'r'.
  rename  [group:8 experts:16]
  layout  group:r experts:r
  mesh    r:2
  fix: hold one of them whole here: ml.whole(x, 'experts')"""
    )
