"""Gradients: finite differences, what is asked for in which form, loops, second order, errors."""

from collections.abc import Callable
from typing import Any

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
    compare,
    drawn,
    floats,
    ints,
    layouts,
    run,
    trace_error,
)


def mixed(x: ml.Tensor, y: ml.Tensor) -> ml.Tensor:
    """Values used several times, renamed, looked up, in a loop and beside it."""
    w = ml.variable("w", "d:16 f:24", init=ml.normal_init(0.3))
    h = ml.tanh(ml.einsum(x, w, reduce="d"))
    rows = ml.gather(h, ml.constant([3, 0, 3, 9], "n"), dim="batch")
    c, _ = ml.scan(
        lambda c, row: (ml.sin(c * row + ml.sum(w)), None), ml.sum(h, "batch"), rows, over="n"
    )
    return ml.sum(c * h * h) + ml.sum(ml.softmax(y, "d") * x) + ml.sum(w * w)


def of_third_order(x: ml.Tensor) -> list[ml.Tensor]:
    y = ml.sum(x * x * x * x)
    first = ml.gradients(y, [x])[0]
    second = ml.gradients(ml.sum(first), [x])[0]
    return [first, second, ml.gradients(ml.sum(second), [x])[0]]


def hessian_product(x: ml.Tensor, y: ml.Tensor) -> list[ml.Tensor]:
    """The gradient of a directional derivative, with respect to an input and a variable."""
    loss = mixed(x, y)
    wanted = [x, *ml.trainable_variables()[-1:]]
    slopes = ml.gradients(loss, wanted)
    return ml.gradients([ml.sum(g * g) for g in slopes], wanted)


CASES = (
    case("mixed", mixed, x="batch:8 d:16", y="d:16 batch:8"),
    case(
        "third order",
        of_third_order,
        lambda x: [4 * x**3, 12 * x**2, 24 * x],
        x="batch:8 d:16",
    ),
)
HESSIAN = case("hessian", hessian_product, x="batch:8 d:16", y="d:16 batch:8")


def test_values():
    check_values(CASES[1:])


def test_slopes():
    check_slopes((*CASES, HESSIAN))


@pytest.mark.parametrize(
    "laid",
    drawn(
        "gradients",
        (*layouts("batch d f"), Laid("r:2 c:2", "batch:r", "simulated", "d:r f:c", "f:r")),
    ),
)
def test_layouts(laid: Laid):
    check((*CASES, HESSIAN), laid)


# -- what is asked for ---------------------------------------------------------------------------


def values(fn: Callable[..., Any], **arrays: Any) -> Any:
    """Run a function on one processor; inputs are floats along d."""
    given: dict[str, Any] = {
        n: ml.constant(np.asarray(a, np.float32), "d") for n, a in arrays.items()
    }
    return ml.run(fn, backend="simulated", **given)


def test_several_ys_add_up():
    found = values(lambda x: ml.gradients([ml.sum(x * x), ml.sum(x)], [x]), x=[1.0, 2.0])
    np.testing.assert_array_equal(found[0], [3.0, 5.0])


def test_one_y_twice_counts_twice():
    def fn(x: ml.Tensor) -> list[ml.Tensor]:
        y = ml.sum(x * x)
        return ml.gradients([y, y], [x])

    np.testing.assert_array_equal(values(fn, x=[1.0, 2.0])[0], [4.0, 8.0])


def test_cotangents_weigh():
    def fn(x: ml.Tensor, g: ml.Tensor) -> list[ml.Tensor]:
        return [*ml.gradients(x * x, x, g), *ml.gradients([ml.sum(x)], [x], [3.0])]

    found = values(fn, x=[1.0, 2.0], g=[10.0, 100.0])
    np.testing.assert_array_equal(found[0], [20.0, 400.0])
    np.testing.assert_array_equal(found[1], [3.0, 3.0])


def test_a_y_that_is_an_x_has_its_cotangent():
    found = values(lambda x, g: ml.gradients([x, x * 2.0], [x], [g, g]), x=[1.0, 2.0], g=[1.0, 5.0])
    np.testing.assert_array_equal(found[0], [3.0, 15.0])


def test_an_x_in_the_middle_and_one_asked_for_twice():
    def fn(x: ml.Tensor) -> list[ml.Tensor]:
        h = x * x
        return ml.gradients(ml.sum(h * h), [h, x, h])

    found = values(fn, x=[1.0, 2.0])
    for array, wanted in zip(found, ([2.0, 8.0], [4.0, 32.0], [2.0, 8.0]), strict=True):
        np.testing.assert_array_equal(array, wanted)


def test_zeros_where_nothing_depends():
    def fn(x: ml.Tensor, y: ml.Tensor) -> list[ml.Tensor]:
        w = ml.variable("w", "d:2 f:3", init=1.0)
        return ml.gradients(ml.sum(ml.stop_gradient(x) * y), [x, w, ml.round(y)])

    found = values(fn, x=[1.0, 2.0], y=[1.0, 2.0])
    assert [(a.shape, a.any()) for a in found] == [((2,), False), ((2, 3), False), ((2,), False)]


def test_gradients_have_the_order_of_their_x():
    """NumPy sees the order of dims: a gradient is never the transpose of what it is asked for."""

    def fn(x: ml.Tensor, y: ml.Tensor) -> list[ml.Tensor]:
        w = ml.variable("w", "e:4 d:3", init=1.0)
        return ml.gradients(ml.sum(x * y) + ml.sum(ml.arrange(w, "d e")), [x, y, w])

    program = ml.trace(fn, x=ml.spec("a:2 b:3"), y=ml.spec("b:3 a:2"))
    assert [str(g.shape) for g in program.outputs] == ["[a:2 b:3]", "[b:3 a:2]", "[e':4 d':3]"]


def test_of_a_variable_in_each_form():
    """The variable, its value, and the value read again: one gradient, with the update's dims."""
    shapes: list[str] = []

    def fn() -> Any:
        w = ml.variable("w", "d:2", init=3.0)
        y = ml.sum(w * ml.variable("w", "d:2", init=3.0))
        found = ml.gradients(y, [w, ml.variable("w", "d:2", init=3.0), *ml.trainable_variables()])
        shapes.extend(str(g.shape) for g in found)
        return found

    for array in values(fn):
        np.testing.assert_array_equal(array, [6.0, 6.0])
    assert shapes == ["[d':2]"] * 3


def test_after_an_assign_it_is_that_of_the_value_used():
    """A loss that was computed before its variable was assigned still has its gradient."""

    def fn() -> Any:
        w = ml.variable("w", "d:2", init=3.0)
        (held,) = ml.trainable_variables()
        before = ml.sum(w * w)
        ml.assign(held, held * 2.0)
        again = ml.variable("w", "d:2", init=3.0)
        after = ml.sum(again * again)
        return [*ml.gradients(before, [held, w]), *ml.gradients(after, [held, again])]

    found = values(fn)
    for array, wanted in zip(found, (6.0, 6.0, 12.0, 12.0), strict=True):
        np.testing.assert_array_equal(array, [wanted, wanted])


def test_scopes_of_backward_ops():
    def fn(x: ml.Tensor) -> Any:
        with ml.scope("layer"):
            y = ml.sum(ml.exp(x))
        with ml.scope("optimizer"):
            return ml.gradients(y, [x])

    scopes = {node.scope for node in ml.trace(fn, x=ml.spec("d:2")).nodes}
    assert scopes == {"layer", "layer/grad", "optimizer"}


# -- inside of loops -----------------------------------------------------------------------------


def test_inside_of_a_loop_it_is_that_of_the_sum():
    """Microbatches' gradients add up to the batch's, whether w is made inside or outside."""

    def loss(x: ml.Tensor, w: ml.Tensor) -> ml.Tensor:
        v = ml.variable("v", "d:16 f:8", init=ml.normal_init(0.3))
        return ml.sum(ml.square(ml.einsum(ml.sin(x * w), v, reduce="d")))

    def fn(x: ml.Tensor) -> Any:
        w = ml.variable("w", "d:16", init=ml.normal_init(1.0)) * 2.0

        def part(x: ml.Tensor) -> list[ml.Tensor]:
            return ml.gradients(loss(x, w), [*ml.trainable_variables(), w])

        inside = ml.accumulate(part, x.split(batch="batch micro:4"), over="micro")
        total = loss(x, w)
        return {"inside": inside, "outside": ml.gradients(total, [*ml.trainable_variables(), w])}

    made = case("parts", fn, gradients=False, x="batch:32 d:16")
    for laid in (Laid(), Laid("r:2 c:2", "batch:r d:c"), Laid("r:4", "batch:r", params="d:r")):
        found = run(made, laid)
        for i in range(3):
            compare(
                f"{i}", found[f"parts/value/inside/{i}"], found[f"parts/value/outside/{i}"], 1e-12
            )


def test_inside_of_a_scan_a_slice_of_a_variable_has_a_gradient():
    def fn(x: ml.Tensor) -> Any:
        def trip(c: ml.Tensor, _: None) -> Any:
            w = ml.variable("w", "d:2", init=3.0)
            return c, ml.gradients(ml.sum(w * w * c), [w, c])

        return ml.scan(trip, x, over="layers:2")[1]

    found = values(fn, x=[1.0, 10.0])
    np.testing.assert_array_equal(found[0], [[6.0, 60.0]] * 2)
    np.testing.assert_array_equal(found[1], [[9.0, 9.0]] * 2)


def test_inside_of_its_scan_a_variable_is_in_slices():
    def fn(x: ml.Tensor) -> Any:
        def trip(c: ml.Tensor, _: None) -> Any:
            loss = ml.sum(c * ml.variable("w", "d:2", init=3.0))
            return c, ml.gradients(loss, ml.trainable_variables())

        return ml.scan(trip, x, over="layers:3")

    assert (
        trace_error(ml.ProgramError, fn, x="d:2")
        == """\
gradients: a variable made in a scan is differentiated inside of that scan, where there is a slice \
of it.
  variable  [layers':3 d':2]
  slice     [d':2]
  fix: call ml.gradients after ml.scan, or with respect to what ml.variable returned"""
    )


# -- what moves ----------------------------------------------------------------------------------


def test_a_kept_variable_is_gathered_again_for_the_backward_pass():
    """Two all_gathers and a reduce_scatter: 3 (n - 1) / n of the variable's bytes."""

    def fn(x: ml.Tensor) -> Any:
        w = ml.variable("w", "d:16 f:24", init=ml.zeros_init)
        return ml.gradients(
            ml.sum(ml.square(ml.einsum(x, w, reduce="d"))), [x, *ml.trainable_variables()]
        )

    moved = collectives(fn, "r:4", "batch:r", params="d:r", x="batch:8 d:16")
    assert sorted(moved) == ["all_gather over r", "all_gather over r", "reduce_scatter over r"]
    plan = ml.plan(ml.trace(fn, x=ml.spec("batch:8 d:16")), "r:4", "batch:r", params="d:r")
    assert plan.cost.over("r").wire_elements == 3 * 16 * 24 * 3 / 4


def test_slots_divide_gradients_and_not_variables():
    def fn(x: ml.Tensor) -> Any:
        w = ml.variable("w", "d:16 f:24", init=ml.zeros_init)
        (g,) = ml.gradients(ml.sum(ml.square(ml.einsum(x, w, reduce="d"))), [w])
        ml.assign(w, ml.trainable_variables()[0] - 0.1 * g)

    moved = collectives(fn, "r:4", "batch:r", slots="d:r", x="batch:8 d:16")
    assert moved == ["reduce_scatter over r", "all_gather over r"]


# -- laws ----------------------------------------------------------------------------------------

OPS: dict[str, Callable[[ml.Tensor], ml.Tensor]] = {
    "sin": ml.sin,
    "softmax": lambda x: ml.softmax(x, "d"),
    "cumsum": lambda x: ml.cumsum(x, "d"),
    "mean": lambda x: x - ml.mean(x, "batch"),
    "product": lambda x: x * ml.sum(x, "d"),
    "transposed": lambda x: ml.arrange(x, "d batch"),
    "cut": lambda x: x.split(d="o:4 i").merge(d="i o"),
    "exchanged": lambda x: ml.divided(ml.whole(x, "batch"), "batch"),
    "rolled": lambda x: ml.concat(
        [ml.slice(x, "d", start=4, size=4), ml.slice(x, "d", size=4)], "d"
    ),
}


@for_all(
    st.lists(st.sampled_from(sorted(OPS)), min_size=1, max_size=4),
    st.sampled_from(["", "batch:r", "d:r", "batch:r d:c", "d:c+r", "batch:c+r"]),
)
@settings(max_examples=10)
def test_forward_and_backward_agree(names: list[str], layout: str):
    """<J u, v> = <u, J' v>, where J u is the gradient of J' v with respect to v."""

    def fn(x: ml.Tensor, u: ml.Tensor, v: ml.Tensor) -> dict[str, ml.Tensor]:
        y = x
        for name in names:
            y = OPS[name](y)
        (back,) = ml.gradients(y, x, v)
        (ahead,) = ml.gradients(back, v, u)
        return {"ahead": ml.sum(ahead * v), "back": ml.sum(back * u)}

    shapes: dict[str, Any] = dict.fromkeys("xuv", "batch:4 d:8")
    found = run(case("law", fn, gradients=False, **shapes), Laid("r:2 c:2", layout))
    compare("law", found["law/value/ahead"], found["law/value/back"], 1e-11)


# -- errors --------------------------------------------------------------------------------------

ERRORS: list[tuple[type[ml.MeshlangError], Callable[..., Any], str]] = [
    (
        ml.DimError,
        lambda x, i: ml.gradients(x, [x]),
        """\
gradients: what is not a scalar needs a cotangent.
  y  [d:2]
  fix: sum it first: ml.sum(y), or give cotangents=""",
    ),
    (
        ml.DimError,
        lambda x, i: ml.gradients(x, [x], ml.sum(x)),
        """\
gradients: a cotangent has the dims of its y.
  y          [d:2] float64
  cotangent  [] float64
  fix: expand or sum it""",
    ),
    (
        ml.DimError,
        lambda x, i: ml.gradients([x, x], [x], [x]),
        """\
gradients: each y has one cotangent.
  ys          2
  cotangents  1
  fix: give as many cotangents as ys, in the same order""",
    ),
    (
        ml.DtypeError,
        lambda x, i: ml.gradients(ml.sum(i), [x]),
        """\
gradients: y and its cotangent are floats of one dtype.
  y          [] int32
  cotangent  [] int32
  fix: ml.cast""",
    ),
    (
        ml.DtypeError,
        lambda x, i: ml.gradients(x, [x], ml.cast(x, "float32")),
        """\
gradients: y and its cotangent are floats of one dtype.
  y          [d:2] float64
  cotangent  [d:2] float32
  fix: ml.cast""",
    ),
    (
        ml.DtypeError,
        lambda x, i: ml.gradients(ml.sum(x), [i]),
        "gradients: an x is no float.\n  x  [d:2] int32\n  fix: ml.cast",
    ),
    (
        ml.ProgramError,
        lambda x, i: ml.gradients(ml.sum(x * 2.0), [OUTSIDE]),
        """\
gradients: an x is no part of the program.
  x  [d:2] float32
  fix: differentiate with respect to inputs, variables, or what was computed from them""",
    ),
]
OUTSIDE = ml.constant(np.ones(2), "d")


@pytest.mark.parametrize(("error", "fn", "text"), ERRORS)
def test_errors(error: type[ml.MeshlangError], fn: Callable[..., Any], text: str):
    assert trace_error(error, fn, x=floats("d:2"), i=ints("d:2", 9)) == text


def test_an_assign_has_no_gradient():
    def fn(unused: ml.Tensor) -> Any:
        w = ml.variable("w", "d:2", init=3.0)
        ml.assign(w, w * w)
        return ml.gradients(ml.sum(ml.variable("w", "d:2", init=3.0)), [w])

    assert (
        trace_error(ml.ProgramError, fn, unused="")
        == """\
gradients: variable 'w' was assigned on the way, and an assign has no gradient.
  old  [d':2]
  new  [d:2]
  fix: ml.gradients before ml.assign, or ml.stop_gradient(ml.variable(...)) after it"""
    )


def test_gradients_belong_to_programs():
    with pytest.raises(ml.ProgramError) as caught:
        ml.gradients(OUTSIDE, [OUTSIDE])
    assert (
        str(caught.value)
        == """\
ml.gradients belongs to a program, and none is being traced.
  fix: call it inside of the function given to ml.trace or ml.run"""
    )
