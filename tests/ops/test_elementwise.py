"""Elementwise ops: NumPy, finite differences, layouts, pending sums, dtypes, errors."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st

import meshlang as ml
from meshlang.ops.elementwise import BINARY, TAKES, UNARY
from meshlang.program import DTYPES, FLOATS, INTEGERS
from tests.harness import (
    Case,
    Input,
    Laid,
    bools,
    case,
    check,
    check_slopes,
    check_values,
    compare,
    drawn,
    floats,
    given,
    ints,
    layouts,
    run,
    ties,
    trace_error,
)

LAYOUTS = layouts("batch d")
_SQRT_HALF = math.sqrt(0.5)
_erf = np.vectorize(math.erf)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


UNARY_ORACLES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "negative": np.negative,
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: x**-0.5,
    "square": np.square,
    "reciprocal": np.reciprocal,
    "abs": np.abs,
    "sign": np.sign,
    "sin": np.sin,
    "cos": np.cos,
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
    "relu": lambda x: np.maximum(x, 0.0),
    "gelu": lambda x: 0.5 * x * (1.0 + _erf(x * _SQRT_HALF)),
    "gelu_tanh": lambda x: (
        0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))
    ),
    "silu": lambda x: x * _sigmoid(x),
    "softplus": lambda x: np.logaddexp(x, 0.0),
    "erf": _erf,
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.round,
    "is_finite": np.isfinite,
    "logical_not": np.logical_not,
}
BINARY_ORACLES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "pow": np.power,
    "floordiv": np.floor_divide,
    "mod": np.mod,
    "equal": np.equal,
    "not_equal": np.not_equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
}
POSITIVE = {"log", "log1p", "sqrt", "rsqrt", "reciprocal", "divide", "pow", "mod", "floordiv"}


def operand(fn: str, shape: str) -> Input:
    """Something that the function takes, away from its poles; comparisons meet equal numbers."""
    if fn.startswith("logical"):
        return bools(shape)
    if fn in POSITIVE:
        return floats(shape, low=0.5, high=3.0)
    return ties(shape) if BINARY.get(fn, ("", "", ""))[1] == "bool" else floats(shape)


def unary_cases() -> list[Case]:
    return [case(n, getattr(ml, n), UNARY_ORACLES[n], x=operand(n, "batch:8 d:16")) for n in UNARY]


def binary_cases() -> list[Case]:
    cases = []
    for n in BINARY:
        fn, oracle = getattr(ml, n), BINARY_ORACLES[n]
        x, y = operand(n, "batch:8 d:16"), operand(n, "d:16")
        turned = operand(n, "d:16 batch:8")
        cases += [
            case(f"{n} of the larger first", fn, oracle, x=x, y=y),
            case(f"{n} of the smaller first", fn, oracle, x=y, y=x),
            case(f"{n} in other order", fn, lambda x, y, f=oracle: f(x, y.T), x=x, y=turned),
            case(f"{n} of a scalar", fn, oracle, x=x, y=operand(n, "")),
        ]
    return cases


def where_cases() -> list[Case]:
    big, small = "batch:8 d:16", "d:16"
    return [
        case("where condition", ml.where, np.where, c=bools(big), x=small, y=""),
        case("where x", ml.where, np.where, c=bools(small), x=big, y=small),
        case("where y", ml.where, np.where, c=bools(small), x="", y=big),
        case(
            "where three",
            ml.where,
            lambda c, x, y: np.where(c, x[:, None], y),
            c=bools(big),
            x="batch:8",
            y=small,
        ),
        case("where bools", ml.where, np.where, c=bools(small), x=bools(big), y=bools(big)),
    ]


def other_cases() -> list[Case]:
    big, small = "batch:8 d:16", "d:16"
    return [
        case("cast", lambda x: ml.cast(3.0 * x, "int32"), lambda x: (3.0 * x).astype("int32"), x=big),
        case(
            "cast through integers",
            lambda x: ml.cast(ml.cast(3.0 * x, "int64"), "high"),
            lambda x: np.trunc(3.0 * x),
            x=big,
        ),
        case("clip", lambda x: ml.clip(x, -0.5, 0.5), lambda x: np.clip(x, -0.5, 0.5), x=big),
        case("clip by tensors", ml.clip, np.clip, x=big, low=floats(small, -1.0, 0.0), high=""),
        case(
            "add_n",
            lambda x, y, z: ml.add_n([x, y, z, x]),
            lambda x, y, z: 2 * x + y.T + z,
            x=big,
            y="d:16 batch:8",
            z=big,
        ),
        case("operators", operators, operators, x=floats(big, 0.5, 3.0), y=floats(small, 0.5, 3.0)),
        case("operators on bools", boolean, boolean, x=bools(big), y=bools(small)),
    ]


def operators(x: Any, y: Any) -> list[Any]:
    made = [x + y, x - y, x * y, x / y, x // y, x % y, x**y, -x]
    left = [2.0 + x, 2 - x, 2.0 * x, 2 / x, 2.0 // x, 2 % x, 2.0**x]
    right = [x + 2, x - 2.0, x * 2, x / 2.0, x // 2, x % 2.0, x**2]
    return [*made, *left, *right, x < y, x <= y, x > y, x >= y, 1.0 < x, x >= 1]


def boolean(x: Any, y: Any) -> list[Any]:
    return [x & y, x | y, ~x, x & True, False | x]


CASES = (*unary_cases(), *binary_cases(), *where_cases(), *other_cases())
#: where a derivative is zero almost everywhere, and central differences meet no jump
STEPS = ("is_finite", "logical", "equal", "not_equal", "less", "greater", "where bools", "cast")


def test_every_function_of_the_tables_has_an_oracle():
    assert (list(UNARY_ORACLES), list(BINARY_ORACLES)) == (list(UNARY), list(BINARY))


def test_values_are_those_of_numpy():
    check_values(CASES)


def test_gradients_are_slopes():
    smooth = [c for c in CASES if not c.name.startswith(STEPS) and c.name != "operators on bools"]
    check_slopes(smooth)


def test_a_second_gradient_is_the_slope_of_the_first():
    def slope(name: str) -> Callable[[ml.Tensor], ml.Tensor]:
        return lambda x: ml.gradients(ml.sum(getattr(ml, name)(x)), [x])[0]

    linear = {"negative", "relu", "abs", "sign", "floor", "ceil", "round", "is_finite"}
    curved = [n for n in UNARY if n not in linear and n != "logical_not"]
    check_slopes([case(n, slope(n), x=operand(n, "d:5")) for n in curved])


@pytest.mark.parametrize("laid", drawn("elementwise", LAYOUTS))
def test_layouts_change_nothing(laid: Laid):
    check(CASES, laid)


# -- pending sums --------------------------------------------------------------------------------


def pending_cases() -> list[Case]:
    """Ops on sums over a dim that layouts divide, before a sum that makes paying late worthwhile."""
    shape = "batch:8 d:16"

    def late(fn: Callable[..., Any], which: str) -> Callable[..., Any]:
        def apply(x: ml.Tensor, y: ml.Tensor) -> ml.Tensor:
            x = ml.sum(x, "d") if "x" in which else x
            y = ml.sum(y, "d") if "y" in which else y
            result = fn(x, y)
            if result.dtype == "bool":
                result = ml.cast(result, "int32")
            return ml.sum(result, "batch")

        return apply

    def of(name: str, whole: str = "batch:8") -> dict[str, Input]:
        if name.startswith("logical"):
            return {"x": floats(shape), "y": floats(shape)}
        return {"x": operand(name, shape), "y": operand(name, whole)}

    def positive(fn: Callable[..., Any]) -> Callable[..., Any]:
        return lambda x, y: fn(x > 0.0, y > 0.0)

    cases = []
    for n in BINARY:
        fn = positive(getattr(ml, n)) if n.startswith("logical") else getattr(ml, n)
        cases += [
            case(f"{n} both", late(fn, "xy"), x=of(n)["x"], y=of(n, shape)["x"]),
            case(f"{n} first", late(fn, "x"), x=of(n)["x"], y=operand("divide", "batch:8")),
            case(f"{n} second", late(lambda y, x, f=fn: f(x, y), "x"), x=of(n)["x"], y=of(n)["x"])
            if False
            else case(
                f"{n} second", late(fn, "y"), x=operand("divide", "batch:8"), y=of(n)["x"]
            ),
        ]
    for n in UNARY:
        one = (lambda x: ml.logical_not(x > 0.0)) if n == "logical_not" else getattr(ml, n)
        x = floats(shape) if n == "logical_not" else operand(n, shape)
        cases.append(case(n, late(lambda x, y, f=one: f(x), "x"), x=x, y="batch:8"))
    chosen = bools("batch:8")
    for which in ("xy", "x", "y"):
        x, y = (floats(shape if side in which else "batch:8") for side in "xy")
        choose = late(ml.where, which)
        cases.append(
            case(
                f"where {which}",
                lambda c, x, y, w=which: late(lambda x, y: ml.where(c, x, y), w)(x, y),
                c=chosen,
                x=x,
                y=y,
            )
        )
        del choose
        cases.append(case(f"add_n {which}", late(lambda x, y: ml.add_n([x, y, x]), which), x=x, y=y))
    narrow = late(lambda x, y: ml.cast(ml.cast(x, "float32"), "float64"), "x")
    cases.append(case("stop", late(lambda x, y: ml.stop_gradient(x) * y, "xy"), x=shape, y=shape))
    del narrow
    return cases


PENDING = tuple(pending_cases())
