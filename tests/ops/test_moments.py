"""Products, variances, standardisation: NumPy, slopes, zeros, layouts, what is paid, errors."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import meshlang as ml
from tests.harness import (
    Laid,
    bools,
    case,
    check,
    check_slopes,
    check_values,
    collectives,
    drawn,
    floats,
    given,
    ints,
    layouts,
    trace_error,
)

SHAPE = "batch:8 d:16 f:24"
NEAR_ONE = floats(SHAPE, 0.8, 1.2)
#: with no zero, one, two, and all zeros along d
ZEROS = np.array([[2.0, 3.0, 0.5, 4.0] * 2, [2.0, 0.0, 0.5, 4.0, 1.0, 3.0, 2.0, 5.0]] * 4)
ZEROS[4, :3], ZEROS[6] = 0.0, 0.0


def standardized(x: np.ndarray, axis: int | tuple[int, ...], epsilon: float = 1e-6) -> np.ndarray:
    return (x - x.mean(axis, keepdims=True)) / np.sqrt(x.var(axis, keepdims=True) + epsilon)


CASES = (
    case("prod", lambda x: ml.prod(x, "d"), lambda x: x.prod(1), x=NEAR_ONE),
    case("prod of two", lambda x: ml.prod(x, "f batch"), lambda x: x.prod((0, 2)), x=NEAR_ONE),
    case("prod of all", ml.prod, np.prod, x=NEAR_ONE),
    case("prod of none", lambda x: ml.prod(x, ""), lambda x: x, x=NEAR_ONE),
    case(
        "prod of zeros", lambda x: ml.prod(x, "d"), lambda x: x.prod(1), x=given("b:8 d:8", ZEROS)
    ),
    case("variance", lambda x: ml.variance(x, "d"), lambda x: x.var(1), x=SHAPE),
    case("variance of two", lambda x: ml.variance(x, "f batch"), lambda x: x.var((0, 2)), x=SHAPE),
    case("variance of all", ml.variance, np.var, x=SHAPE),
    case("standardize", lambda x: ml.standardize(x, "d"), lambda x: standardized(x, 1), x=SHAPE),
    case(
        "standardize two",
        lambda x: ml.standardize(x, "batch f", epsilon=0.1),
        lambda x: standardized(x, (0, 2), 0.1),
        x=SHAPE,
    ),
)
INTEGERS = tuple(
    case(
        f"prod of {dtype}",
        lambda x: ml.prod(x, "d"),
        lambda x: np.prod(x, 1, dtype=x.dtype),
        x=ints("batch:8 d:16", 3, 1, dtype=dtype),
    )
    for dtype in ("int32", "int64", "uint8", "uint32")
)


def test_values():
    check_values((*CASES, *INTEGERS))


def test_slopes():
    check_slopes(CASES)


def test_second_gradients():
    def slope(fn: Callable[..., ml.Tensor]) -> Callable[[ml.Tensor], ml.Tensor]:
        def first(x: ml.Tensor) -> ml.Tensor:
            y = fn(x)
            return ml.gradients(ml.sum(y * y + y), [x])[0]

        return first

    fns: list[Any] = [
        lambda x: ml.prod(x, "d"),
        lambda x: ml.prod(x, "d b"),
        lambda x: ml.variance(x, "d"),
        lambda x: ml.standardize(x, "d", epsilon=0.1),
    ]
    check_slopes([case(f"fn {i}", slope(fn), x="b:3 d:5") for i, fn in enumerate(fns)])
    check_slopes(case("zeros", slope(fns[0]), x=given("b:8 d:8", ZEROS)))


@pytest.mark.parametrize("laid", drawn("moments", layouts("batch d f")))
def test_layouts(laid: Laid):
    check((*CASES, *INTEGERS), laid)


def test_the_gradient_of_a_product_with_zeros():
    def slope(x: ml.Tensor) -> ml.Tensor:
        return ml.gradients(ml.prod(x), [x])[0]

    for values, wanted in (
        ([2.0, 0.0, 4.0], [0.0, 8.0, 0.0]),
        ([0.0, 0.0, 4.0], [0.0, 0.0, 0.0]),
        ([2.0, 3.0, 4.0], [12.0, 8.0, 6.0]),
    ):
        assert list(ml.run(slope, x=ml.constant(values, "d"))) == wanted


def test_a_variance_keeps_its_digits_beside_a_large_mean():
    x = np.array([1e4, 1e4 + 1.0, 1e4 + 2.0, 1e4 + 3.0])
    assert float(ml.variance(ml.constant(x, "d", "float32")).numpy()) == 1.25


def test_short_floats_are_summed_in_high():
    x = ml.constant([300.0, -300.0] * 500, "d", "float16")
    assert float(ml.standardize(x).numpy()[0]) == 1.0


def test_what_is_paid():
    spec = "batch:8 d:16"
    assert (
        collectives(lambda x: ml.variance(x, "d"), "r:4", "d:r", x=spec)
        == ["all_reduce over r"] * 2
    )
    assert (
        collectives(lambda x: ml.standardize(x, "d"), "r:4", "d:r", x=spec)
        == ["all_reduce over r"] * 2
    )
    assert collectives(lambda x: ml.prod(x, "d"), "r:4", "d:r", x=spec) == ["all_gather over r"]
    assert collectives(lambda x: ml.prod(x, "d"), "r:4", "batch:r", x=spec) == []
    program = ml.trace(lambda x: ml.prod(x, "d"), x=ml.spec(spec))
    assert ml.plan(program, "r:4", "d:r").cost.over("r").elements == 4 * 8


@pytest.mark.parametrize("fn", [ml.variance, ml.standardize])
def test_they_take_floats(fn: Callable[..., Any]):
    assert (
        trace_error(ml.DtypeError, lambda x: fn(x, "d"), x=ints("d:8", 5))
        == f"{fn.__name__} takes floats.\n  operand  [d:8] int32\n  fix: ml.cast(x, 'compute')"
    )


def test_a_product_takes_numbers():
    assert (
        trace_error(ml.DtypeError, ml.prod, x=bools("d:8"))
        == "prod takes numbers.\n  operand  [d:8] bool\n  fix: ml.cast(x, 'int32')"
    )


@pytest.mark.parametrize("fn", [ml.prod, ml.variance, ml.standardize])
def test_the_dim_is_there(fn: Callable[..., Any]):
    assert (
        trace_error(ml.DimError, lambda x: fn(x, "m"), x="n:8 d:16")
        == "no dim named 'm'.\n  shape  [n:8 d:16]\n  fix: the dims are: n d"
    )
