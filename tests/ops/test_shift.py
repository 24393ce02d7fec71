"""Shift, reverse: NumPy, finite differences, layouts, what moves, laws, errors."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st

import meshlang as ml
from tests.harness import (
    Laid,
    bools,
    case,
    check,
    check_slopes,
    check_values,
    drawn,
    ints,
    layouts,
    run,
    trace_error,
    twice,
)


def shifted(offset: int, axis: int, fill: float = 0) -> Callable[[np.ndarray], np.ndarray]:
    """By indexing what is padded on both sides."""

    def oracle(x: np.ndarray) -> np.ndarray:
        far = abs(offset)
        wide = np.pad(x, [(far, far) if i == axis else (0, 0) for i in range(x.ndim)])
        outside = np.pad(
            np.zeros_like(x, bool),
            [(far, far) if i == axis else (0, 0) for i in range(x.ndim)],
            constant_values=True,
        )
        wide = np.where(outside, np.asarray(fill, x.dtype), wide)
        return np.take(wide, np.arange(x.shape[axis]) + far - offset, axis)

    return oracle


def in_a_loop(x: np.ndarray, trips: int) -> np.ndarray:
    for _ in range(trips):
        x = shifted(2, 0)(x) * 0.5 - x
    return x


CASES = (
    case("by one", lambda x: ml.shift(x, "n", 1), shifted(1, 0), x="n:24 d:16"),
    case("back", lambda x: ml.shift(x, "n", -5), shifted(-5, 1), x="d:16 n:24"),
    case("by a block", lambda x: ml.shift(x, "n", 8), shifted(8, 0), x="n:32"),
    case("by nothing", lambda x: ml.shift(x, "n", 0), lambda x: x, x="n:24 d:16"),
    case("away", lambda x: ml.shift(x, "n", 30), np.zeros_like, x="n:24 d:16"),
    case("round", lambda x: ml.shift(x, "n", 3, wrap=True), lambda x: np.roll(x, 3, 0), x="n:24"),
    case(
        "round and round",
        lambda x: ml.shift(x, "n", -29, wrap=True),
        lambda x: np.roll(x, -29, 1),
        x="d:16 n:24",
    ),
    case("fill", lambda x: ml.shift(x, "n", 2, fill=-1.5), shifted(2, 0, -1.5), x="n:24 d:16"),
    case("reverse", lambda x: ml.reverse(x, "n"), lambda x: x[::-1], x="n:24 d:16"),
    case("reverse inside", lambda x: ml.reverse(x, "n"), lambda x: x[:, ::-1], x="d:16 n:8"),
    case("second order", twice(lambda x: ml.shift(x, "n", 3)), x="n:24 d:16"),
    case("second order round", twice(lambda x: ml.shift(x, "n", 9, wrap=True)), x="n:24"),
    case("second order reverse", twice(lambda x: ml.reverse(x, "n")), x="n:24 d:16"),
    case(
        "in a loop",
        lambda x: ml.scan(lambda c, _: (ml.shift(c, "n", 2) * 0.5 - c, None), x, over="t:3")[0],
        lambda x: in_a_loop(x, 3),
        x="n:24 d:16",
    ),
    case("numbers", lambda x: ml.shift(x, "n", 2, fill=7), shifted(2, 0, 7), x=ints("n:24", 100)),
    case("bools", lambda x: ml.shift(x, "n", 9, fill=True), shifted(9, 0, 1), x=bools("n:24")),
)


def test_values():
    check_values([each for each in CASES if each.oracle])


def test_slopes():
    check_slopes(CASES[:-2])


@pytest.mark.parametrize("laid", drawn("shift", layouts("n d")))
def test_layouts(laid: Laid):
    check(CASES, laid)


# -- what moves ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fn", "moved"),
    [
        (lambda x: ml.shift(x, "n", 0), {}),
        (lambda x: ml.shift(x, "n", 32), {}),
        (lambda x: ml.shift(x, "n", 32, wrap=True), {}),
        (lambda x: ml.shift(x, "n", 1), {"permute": (1, 1)}),
        (lambda x: ml.shift(x, "n", -3, wrap=True), {"permute": (1, 3)}),
        (lambda x: ml.shift(x, "n", 8), {"permute": (1, 8)}),
        (lambda x: ml.shift(x, "n", 11), {"permute": (2, 8)}),
        (lambda x: ml.reverse(x, "n"), {"permute": (1, 8)}),
    ],
)
def test_only_rows_that_others_lack_travel(
    fn: Callable[[ml.Tensor], ml.Tensor], moved: dict[str, tuple[int, int]]
):
    """Permutes and rows sent; there are 4 blocks of 8."""
    plan = ml.plan(ml.trace(fn, x=ml.spec("n:32 d:16")), "r:4 c:2", "n:r d:c")
    found = {
        kind: (t.collectives, int(t.wire_elements) // 8)
        for (kind, _), t in plan.cost.traffic.items()
    }
    assert found == moved


def test_a_gradient_sends_as_much_back():
    def fn(x: ml.Tensor, g: ml.Tensor) -> ml.Tensor:
        return ml.gradients(ml.shift(x, "n", 2), [x], g)[0]

    plan = ml.plan(ml.trace(fn, x=ml.spec("n:32"), g=ml.spec("n:32")), "r:4", "n:r")
    assert (plan.cost.all.collectives, plan.cost.all.wire_elements) == (1, 2.0)


# -- laws ----------------------------------------------------------------------------------------


@for_all(
    st.integers(-40, 40), st.integers(-40, 40), st.sampled_from(["", "n:r", "n:c+r", "n:r d:c"])
)
@settings(max_examples=8)
def test_shifts_round_add_up(one: int, other: int, layout: str):
    def fn(x: ml.Tensor) -> ml.Tensor:
        away = ml.shift(ml.shift(x, "n", one, wrap=True), "n", other, wrap=True)
        back = ml.reverse(ml.shift(ml.reverse(away, "n"), "n", one, wrap=True), "n")
        return ml.shift(back, "n", -other, wrap=True)

    made = case("law", fn, gradients=False, x="n:16 d:8")
    found = run(made, Laid("r:2 c:2", layout))["law/value"]
    np.testing.assert_array_equal(found, made.arrays["x"])


# -- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("fn", [lambda x: ml.shift(x, "m", 1), lambda x: ml.reverse(x, "m")])
def test_the_dim_is_there(fn: Callable[[ml.Tensor], ml.Tensor]):
    assert (
        trace_error(ml.DimError, fn, x="n:8 d:16")
        == "no dim named 'm'.\n  shape  [n:8 d:16]\n  fix: the dims are: n d"
    )


def test_bools_are_filled_with_bools():
    assert (
        trace_error(ml.DtypeError, lambda x: ml.shift(x, "n", 1, fill=2), x=bools("n:8"))
        == """\
shift: bool does not hold 2.
  operand  [n:8] bool
  value    2
  fix: ml.cast(x, 'compute') first, or another value"""
    )
