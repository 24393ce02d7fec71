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
from meshlang.ops.elementwise import Binary, Unary
from meshlang.ops.functions import BINARY, UNARY, Function
from meshlang.ops.slopes import FUSED
from tests.harness import (
    DOUBLE,
    Case,
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
    trace_error,
)
from tests.ops.functions import BINARY_ORACLES, UNARY_ORACLES, digamma, operand, polygamma

LAYOUTS = layouts("batch d")


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
        ]
        if n in ("add", "multiply", "divide", "maximum", "pow"):
            cases += [
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
        case(
            "cast", lambda x: ml.cast(3.0 * x, "int32"), lambda x: (3.0 * x).astype("int32"), x=big
        ),
        case(
            "cast through integers",
            lambda x: ml.cast(ml.cast(3.0 * x, "int64"), "high"),
            lambda x: np.trunc(3.0 * x),
            x=big,
        ),
        case("clip", lambda x: ml.clip(x, -0.5, 0.5), lambda x: np.clip(x, -0.5, 0.5), x=big),
        # Whose slope is zero anyway.
        case(
            "stop_gradient", lambda x: x - ml.stop_gradient(ml.floor(x)), lambda x: x % 1.0, x=big
        ),
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
        case("operators on bits", bits, bits, x=ints(big, 99, -99), y=ints(small, 8)),
        case("leaky_relu", ml.leaky_relu, lambda x: np.where(x > 0, x, 0.2 * x), x=big),
        case(
            "leaky_relu by 3",
            lambda x: ml.leaky_relu(x, 3.0),
            lambda x: np.where(x > 0, x, 3.0 * x),
            x=big,
        ),
        case(
            "polygamma",
            lambda x: [ml.polygamma(x, 1), ml.digamma(x)],
            lambda x: [polygamma(x), digamma(x)],
            x=floats(big, 0.5, 3.0),
        ),
    ]


def operators(x: Any, y: Any) -> list[Any]:
    made = [x + y, x - y, x * y, x / y, x // y, x % y, x**y, -x]
    left = [2.0 + x, 2 - x, 2.0 * x, 2 / x, 2.0 // x, 2 % x, 2.0**x]
    right = [x + 2, x - 2.0, x * 2, x / 2.0, x // 2, x % 2.0, x**2]
    return [*made, *left, *right, x < y, x <= y, x > y, x >= y, 1.0 < x, x >= 1]


def boolean(x: Any, y: Any) -> list[Any]:
    return [x & y, x | y, x ^ y, ~x, x & True, False | x, True ^ x]


def bits(x: Any, y: Any) -> list[Any]:
    return [x & y, x | y, x ^ y, ~x, x & 3, 4 | x, 7 ^ x, x << 2, x >> 1, 1 << y, 99 >> y]


CASES = (*unary_cases(), *binary_cases(), *where_cases(), *other_cases())
FLOATING = [n for n, row in UNARY.items() if row.takes not in ("bools", "integers")]
#: where a derivative is zero almost everywhere, and central differences meet no jump
STEPS = (
    *("is_", "logical", "bitwise", "left_shift", "right_shift", "where bools", "cast"),
    *("equal", "not_equal", "less", "greater", "operators on"),
)


def test_every_function_of_the_tables_has_an_oracle():
    assert (list(UNARY_ORACLES), list(BINARY_ORACLES)) == (list(UNARY), list(BINARY))


def test_values_are_those_of_numpy():
    check_values(CASES)


def test_gradients_are_slopes():
    smooth = [c for c in CASES if not c.name.startswith(STEPS)]
    check_slopes(smooth)


def test_a_second_gradient_is_the_slope_of_the_first():
    def slope(name: str) -> Callable[[ml.Tensor], ml.Tensor]:
        return lambda x: ml.gradients(ml.sum(getattr(ml, name)(x)), [x])[0]

    linear = {"negative", "relu", "relu6", "abs", "sign", "floor", "ceil", "round"}
    curved = [n for n, row in UNARY.items() if n not in linear and is_smooth(row)]
    check_slopes([case(n, slope(n), x=operand(n, "d:5")) for n in curved])


def is_smooth(row: Function) -> bool:
    return row.gives == "same" and row.takes != "integers"


def test_second_gradients_of_two_operands():
    def slopes(name: str) -> Callable[..., list[ml.Tensor]]:
        return lambda x, y: ml.gradients(ml.sum(getattr(ml, name)(x, y)), [x, y])

    curved = ("multiply", "divide", "divide_no_nan", "pow", "squared_difference", "xlogy", "atan2")
    assert set(curved) < {n for n, row in BINARY.items() if is_smooth(row)}
    big, small = "batch:3 d:5", "d:5"
    check_slopes(
        [
            case(f"{n} of {x} {y}", slopes(n), x=operand(n, x), y=operand(n, y))
            for n in curved
            for x, y in ((big, small), (small, big), (big, big))
        ]
    )


def test_second_gradients_of_leaky_relu_and_polygamma():
    def slope(fn: Callable[[ml.Tensor], ml.Tensor]) -> Callable[[ml.Tensor], ml.Tensor]:
        return lambda x: ml.gradients(ml.sum(ml.square(fn(x))), [x])[0]

    check_slopes(
        [
            case("leaky", slope(ml.leaky_relu), x="d:8"),
            case("polygamma", slope(lambda x: ml.polygamma(x, 1)), x=floats("d:8", 0.5, 3.0)),
        ]
    )


@pytest.mark.parametrize("laid", drawn("elementwise", LAYOUTS, draws=3))
def test_layouts_change_nothing(laid: Laid):
    check(CASES, laid)


# -- pending sums --------------------------------------------------------------------------------


def late(fn: Callable[..., Any], sums: str) -> Callable[..., Any]:
    """Operands marked "s" are sums over d, pending where it is divided; paying late is cheaper."""

    def apply(*xs: ml.Tensor) -> ml.Tensor:
        result = fn(*(ml.sum(x, "d") if how == "s" else x for x, how in zip(xs, sums, strict=True)))
        return ml.sum(ml.cast(result, "int32") if result.dtype == "bool" else result, "batch")

    return apply


def late_case(name: str, fn: Callable[..., Any], sums: str) -> Case:
    """Operands that the function takes, one for each mark."""
    shapes = {"s": "batch:8 d:16", "w": "batch:8"}
    inputs: dict[str, Any] = {f"x{i}": operand(name, shapes[how]) for i, how in enumerate(sums)}
    return case(f"{name} {sums}", late(fn, sums), **inputs)


def pending_cases() -> list[Case]:
    cases = [late_case(n, getattr(ml, n), "s") for n in ("negative", "exp", "abs")]
    for n in ("add", "subtract", "multiply", "divide", "maximum", "less"):
        cases += [late_case(n, getattr(ml, n), how) for how in ("ss", "sw", "ws")]
    for how in ("wss", "wsw", "wws"):
        cases.append(late_case("where", lambda c, x, y: ml.where(c > 0.0, x, y), how))
    for how in ("sss", "ssw"):
        cases.append(late_case("add_n", lambda *xs: ml.add_n(xs), how))
    large, small = (ints("batch:8 d:16", below, dtype="float64") for below in (2**30, 2**15))
    return [
        *cases,
        late_case("stop_gradient", lambda x, y: ml.stop_gradient(x) * y, "ss"),
        case("cast narrows", late(narrowed, "s"), x=large, gradients=False, exact=True),
        case("cast widens", lambda x: widened(ml.cast(x, "float32")), x=small, exact=True),
    ]


def narrowed(x: ml.Tensor) -> ml.Tensor:
    return ml.cast(ml.cast(x, "float32"), "float64")


widened = late(lambda x: ml.cast(x, "float64"), "s")


PENDING = tuple(pending_cases())


def slope_cases() -> list[Case]:
    """The cotangent of x is a sum over f, and may pass the slope before it is paid."""
    fns = {n: getattr(ml, n) for n in FUSED} | {"leaky_relu": ml.leaky_relu}
    return [
        case(
            f"{n} before a product",
            lambda x, w, f=fn: ml.einsum(f(x), w, reduce="d"),
            x=operand(n, "batch:8 d:16"),
            w="d:16 f:24",
        )
        for n, fn in fns.items()
    ]


SLOPES = tuple(slope_cases())


@pytest.mark.parametrize("laid", drawn("slopes", layouts("f batch d"), draws=2))
def test_a_pending_cotangent_passes_a_slope(laid: Laid):
    check(SLOPES, laid)


def test_a_slope_is_one_op():
    program = ml.trace(lambda x: ml.gradients(ml.sum(ml.relu(x)), [x])[0], x=ml.spec("d:8"))
    labels = [node.op.label for node in program.nodes]
    assert labels[-1] == "relu_slope"
    assert "greater" not in labels


def test_sums_pass_linear_functions_alone():
    passing = {n for n in UNARY if Unary(n).passes(0) != "no"}
    passing |= {n for n in BINARY if {Binary(n).passes(0), Binary(n).passes(1)} != {"no"}}
    assert passing == {"negative", "add", "subtract", "multiply", "divide", "divide_no_nan"}


@pytest.mark.parametrize("laid", drawn("pending sums", LAYOUTS, draws=3))
def test_a_pending_sum_passes_only_where_it_may(laid: Laid):
    check(PENDING, laid)


@pytest.mark.parametrize(
    ("fn", "sums", "elements"),
    [
        (ml.negative, "s", 1),
        (ml.exp, "s", 8),
        (ml.add, "ss", 1),
        (ml.add, "sw", 8),
        (ml.multiply, "sw", 1),
        (ml.multiply, "ss", 8 + 1),
        (ml.divide, "sw", 1),
        (ml.divide, "ws", 8),
        (lambda *xs: ml.add_n(xs), "sss", 1),
        (lambda x: ml.cast(x, "float32"), "s", 8),
    ],
)
def test_what_is_paid_for_sums(fn: Callable[..., Any], sums: str, elements: int):
    """One element where the sum passes through fn and the sum over batch behind it, else eight."""
    shapes = {"s": "batch:8 d:16", "w": "batch:8"}
    specs = {f"x{i}": ml.spec(shapes[how], "float64") for i, how in enumerate(sums)}
    program = ml.trace(lambda **xs: late(fn, sums)(*xs.values()), precision=DOUBLE, **specs)
    cost = ml.plan(program, "all:8", "d:all").cost
    assert cost.over("all").elements == elements


# -- ties, poles, NaN ----------------------------------------------------------------------------


def gradient_of(fn: Callable[..., ml.Tensor], *xs: list[float]) -> list[list[float]]:
    """The gradients of the sum of a function of vectors."""

    def slopes(**tensors: ml.Tensor) -> list[ml.Tensor]:
        return ml.gradients(ml.sum(fn(*tensors.values())), list(tensors.values()))

    named: dict[str, Any] = {f"x{i}": ml.constant(x, "d", "float64") for i, x in enumerate(xs)}
    return [list(g) for g in ml.run(slopes, precision=DOUBLE, **named)]


def test_equal_operands_of_maximum_and_minimum_share_the_gradient():
    x, y = [1.0, 2.0, 3.0], [1.0, 5.0, 0.0]
    assert gradient_of(ml.maximum, x, y) == [[0.5, 0.0, 1.0], [0.5, 1.0, 0.0]]
    assert gradient_of(ml.minimum, x, y) == [[0.5, 1.0, 0.0], [0.5, 0.0, 1.0]]


def test_the_gradient_of_clip_stops_outside():
    x = [-2.0, -1.0, 0.0, 1.0, 2.0]
    assert gradient_of(lambda x: ml.clip(x, -1.0, 1.0), x) == [[0.0, 0.5, 1.0, 0.5, 0.0]]


def test_kinks_have_the_gradient_zero():
    assert gradient_of(ml.abs, [0.0]) == gradient_of(ml.relu, [0.0]) == [[0.0]]


def test_where_leaks_nothing_of_what_it_does_not_choose():
    def safe_root(x: ml.Tensor) -> ml.Tensor:
        return ml.where(x > 0.0, ml.sqrt(ml.where(x > 0.0, x, 1.0)), 0.0)

    assert gradient_of(safe_root, [4.0, 0.0, -1.0]) == [[0.25, 0.0, 0.0]]
    bad = [math.nan, math.inf]
    chosen = ml.where(ml.constant([False, False], "d"), ml.constant(bad, "d"), 0.0)
    assert list(chosen.numpy()) == [0.0, 0.0]


def test_powers_of_zero_and_of_negative_numbers():
    x, y = [0.0, 0.0, 0.0, -2.0, -2.0], [0.0, 1.0, 2.0, 3.0, 0.0]
    values = [float(v) for v in ml.constant(x, "d").numpy() ** np.array(y)]
    assert [float(v) for v in (ml.constant(x, "d") ** ml.constant(y, "d")).numpy()] == values
    assert gradient_of(ml.pow, x, y) == [[0.0, 1.0, 0.0, 12.0, 0.0], [0.0] * 5]


def test_what_has_no_value_is_zero_and_leaks_nothing():
    zero, x = [0.0, 0.0, 0.0, 2.0], [0.0, -1.0, 2.0, 0.0]
    safe = ml.xlogy(ml.constant(zero, "d"), ml.constant(x, "d")).numpy()
    np.testing.assert_array_equal(safe, [0.0, 0.0, 0.0, -math.inf])
    log_2 = pytest.approx(math.log(2.0))
    assert gradient_of(ml.xlogy, zero[:3], x[:3]) == [[0.0, 0.0, log_2], [0.0, 0.0, 0.0]]
    assert gradient_of(ml.divide_no_nan, [1.0, 0.0, 1.0], [0.0, 0.0, 2.0]) == [
        [0.0, 0.0, 0.5],
        [0.0, 0.0, -0.25],
    ]
    assert gradient_of(ml.atan2, [0.0, 0.0], [0.0, 2.0]) == [[0.0, 0.5], [0.0, 0.0]]


def test_integers_divide_down_and_bits_shift_with_their_sign():
    x, y = ml.constant([7, -7, 7, -7], "d"), ml.constant([2, 2, -2, -2], "d")
    assert list((x // y).numpy()) == [3, -4, -4, 3]
    assert list((x % y).numpy()) == [1, 1, -1, -1]
    assert list(ml.right_shift(x, 1).numpy()) == [3, -4, 3, -4]
    assert list((x**2).numpy()) == [49, 49, 49, 49]


def test_polygamma_of_order_0():
    text = trace_error(ml.ProgramError, lambda x: ml.polygamma(x, 0), x="d:8")
    assert text == "polygamma: the order is 0.\n  fix: 1 or more"


def test_infinities_and_nans_are_the_same_under_a_layout():
    special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e308, -1e308, 1.0])
    cases = [
        case(n, getattr(ml, n), x=given("batch:8", special), gradients=False) for n in FLOATING
    ]
    check(cases, Laid("all:8", "batch:all"))


# -- laws ----------------------------------------------------------------------------------------

DIMS = {"batch": 8, "d": 16, "f": 3, "g": 5}


@st.composite
def shape_and_part(draw: st.DrawFn) -> tuple[str, str]:
    """Dims in some order, and some of them in some order."""
    names = draw(st.permutations(list(DIMS)))
    part = draw(st.lists(st.sampled_from(names), unique=True))
    large, small = (" ".join(f"{n}:{DIMS[n]}" for n in some) for some in (names, part))
    return large, small


@for_all(shape_and_part())
@settings(max_examples=15)
def test_broadcasting_is_expanding(shapes: tuple[str, str]):
    large, small = shapes

    def both_ways(x: ml.Tensor, y: ml.Tensor) -> dict[str, ml.Tensor]:
        missing = {d.name: d.size for d in x.shape if d not in y.shape}
        return {"broadcast": x * y, "expanded": x * y.expand(**missing)}

    found = run(case("law", both_ways, x=large, y=small), Laid())
    np.testing.assert_array_equal(found["law/value/broadcast"], found["law/value/expanded"])


@for_all(st.lists(st.sampled_from(sorted(FLOATING)), min_size=1, max_size=4))
@settings(max_examples=15)
def test_the_gradient_of_a_sum_is_the_sum_of_gradients(names: list[str]):
    def summed(x: ml.Tensor) -> dict[str, ml.Tensor]:
        ys = [ml.cast(getattr(ml, n)(x), "high") for n in names]
        apart = [ml.gradients(ml.sum(y), [x])[0] for y in ys]
        return {
            "together": ml.gradients([ml.sum(y) for y in ys], [x])[0],
            "apart": ml.add_n(apart),
        }

    found = run(case("law", summed, gradients=False, x=floats("d:5", 0.5, 2.0)), Laid())
    compare("together", found["law/value/together"], found["law/value/apart"], 1e-12)
