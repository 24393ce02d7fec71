"""Reductions and the softmax family: NumPy, finite differences, layouts, ties, what is paid."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st

import meshlang as ml
from meshlang.layout.values import Collective
from tests.harness import (
    DOUBLE,
    Case,
    Input,
    Laid,
    any_layout,
    bools,
    case,
    check,
    check_slopes,
    check_values,
    collectives,
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

LAYOUTS = layouts("batch d f")
SHAPE = "batch:8 d:16 f:24"
AXES = {"batch": 0, "d": 1, "f": 2}


def logsumexp(x: np.ndarray, axis: int) -> np.ndarray:
    top = x.max(axis)
    return top + np.log(np.exp(x - np.expand_dims(top, axis)).sum(axis))


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


ORACLES: dict[str, Callable[..., Any]] = {
    "sum": np.sum,
    "mean": np.mean,
    "max": np.max,
    "min": np.min,
    "any": np.any,
    "all": np.all,
}


def reduction(kind: str, dims: str | None, x: Input, note: str = "") -> Case:
    axis = None if dims is None else tuple(AXES[n] for n in dims.split())
    return case(
        f"{kind} {dims}{note}",
        lambda x: getattr(ml, kind)(x, dims),
        lambda x: np.asarray(ORACLES[kind](x, axis=axis), x.dtype),
        x=x,
    )


def sparse(shape: str) -> Input:
    """Bools of which few are true, so that not every `any` is."""
    return Input(shape, "bool", lambda rng, sizes: rng.uniform(size=sizes) < 0.05)


def dense(shape: str) -> Input:
    return Input(shape, "bool", lambda rng, sizes: rng.uniform(size=sizes) > 0.05)


CHOICES = (None, "d", "f batch", "")
INPUTS = {"any": sparse(SHAPE), "all": dense(SHAPE)}
REDUCTIONS = tuple(
    reduction(kind, dims, INPUTS.get(kind, floats(SHAPE))) for kind in ORACLES for dims in CHOICES
)
TIES = tuple(
    reduction(kind, dims, ties(SHAPE), " of ties")
    for kind in ("max", "min")
    for dims in ("d", "f batch")
)
INTEGERS = tuple(
    reduction(kind, "d", ints(SHAPE, 9, dtype=dtype), f" of {dtype}")
    for kind in ("sum", "max", "min")
    for dtype in ("int32", "int64", "uint8", "uint32")
)


def along(name: str, fn: Callable[..., Any], oracle: Callable[..., Any], x: Input) -> list[Case]:
    """One case for each dim."""
    return [
        case(f"{name} {dim}", lambda x, d=dim: fn(x, d), lambda x, a=axis: oracle(x, a), x=x)
        for dim, axis in AXES.items()
    ]


def several(x: np.ndarray, axis: tuple[int, ...]) -> list[np.ndarray]:
    e = np.exp(x)
    total = e.sum(axis, keepdims=True)
    return [e / total, np.log(total.squeeze(axis)), x - np.log(total)]


FAMILY = (
    *along("logsumexp", ml.logsumexp, logsumexp, floats(SHAPE)),
    *along("softmax", ml.softmax, softmax, floats(SHAPE)),
    *along(
        "log_softmax",
        ml.log_softmax,
        lambda x, axis: x - np.expand_dims(logsumexp(x, axis), axis),
        floats(SHAPE),
    ),
    case(
        "extra logit",
        lambda x, extra: ml.softmax(x, "d", extra_logit=extra),
        lambda x, extra: softmax(np.concatenate([x, extra[:, None, None] + 0 * x[:, :1]], 1), 1)[
            :, :-1
        ],
        x=SHAPE,
        extra="batch:8",
    ),
    case(
        "of several dims",
        lambda x: [fn(x, "f batch") for fn in (ml.softmax, ml.logsumexp, ml.log_softmax)],
        lambda x: several(x, (0, 2)),
        x=SHAPE,
    ),
    case(
        "of all dims with an extra logit",
        lambda x, extra: ml.softmax(x, "batch d f", extra_logit=extra),
        lambda x, extra: np.exp(x) / (np.exp(x).sum() + np.exp(extra)),
        x=SHAPE,
        extra="",
    ),
    case(
        "twins",
        lambda x: (ml.softmax(ml.whole(x, "d"), "d"), ml.sum(ml.whole(x, "d", beside="f"), "d f")),
        lambda x: (softmax(x, 1), x.sum((1, 2))),
        x=SHAPE,
    ),
    case(
        "large logits",
        lambda x: (ml.softmax(x * 1e3, "d"), ml.logsumexp(x * 1e3, "d")),
        lambda x: (softmax(x * 1e3, 1), logsumexp(x * 1e3, 1)),
        x=SHAPE,
    ),
)
ARGMAX = (
    *along("argmax", ml.argmax, lambda x, a: np.argmax(x, a).astype("int32"), floats(SHAPE)),
    *along("argmax of ties", ml.argmax, lambda x, a: np.argmax(x, a).astype("int32"), ties(SHAPE)),
    *along("argmin", ml.argmin, lambda x, a: np.argmin(x, a).astype("int32"), floats(SHAPE)),
    *along("argmin of ties", ml.argmin, lambda x, a: np.argmin(x, a).astype("int32"), ties(SHAPE)),
    case(
        "argmax of int32",
        lambda x: ml.argmax(x, "d"),
        lambda x: np.argmax(x, 1).astype("int32"),
        x=ints(SHAPE, 9, low=-9),
    ),
)
CASES = (*REDUCTIONS, *TIES, *INTEGERS, *FAMILY, *ARGMAX)


def test_values_are_those_of_numpy():
    check_values(CASES)


def test_gradients_are_slopes():
    smooth = [c for c in REDUCTIONS if c.name.split()[0] not in ("any", "all")]
    check_slopes([*smooth, *(c for c in FAMILY if c.name != "large logits")])


def test_a_second_gradient_is_the_slope_of_the_first():
    def slope(fn: Callable[..., ml.Tensor]) -> Callable[[ml.Tensor], ml.Tensor]:
        def first(x: ml.Tensor) -> ml.Tensor:
            y = fn(x, "d")
            return ml.gradients(ml.sum(y * y), [x])[0]

        return first

    fns = (ml.sum, ml.mean, ml.max, ml.logsumexp, ml.softmax, ml.log_softmax)
    check_slopes([case(fn.__name__, slope(fn), x="batch:3 d:5") for fn in fns])
    both = [case(fn.__name__, slope(lambda x, _, f=fn: f(x, "d b")), x="b:3 d:5") for fn in fns]
    check_slopes(both)


@pytest.mark.parametrize("laid", drawn("reductions", LAYOUTS, draws=3))
def test_layouts_change_nothing_in_reductions(laid: Laid):
    check((*REDUCTIONS, *TIES), laid)


@pytest.mark.parametrize("backend", ["simulated", "spmd"])
def test_integers_are_reduced_over_processors(backend: str):
    check(INTEGERS, Laid("r:2 c:2", "batch:r d:c", backend))


@pytest.mark.parametrize("laid", drawn("softmax", LAYOUTS, draws=3))
def test_layouts_change_nothing_in_the_softmax_family(laid: Laid):
    check((*FAMILY, *ARGMAX), laid)


@pytest.mark.slow
@for_all(any_layout("batch d f"))
@settings(max_examples=20)
def test_any_layout_changes_nothing(laid: Laid):
    check((*REDUCTIONS, *FAMILY, *ARGMAX), laid)


# -- ties, infinities ----------------------------------------------------------------------------


def gradient_of(fn: Callable[[ml.Tensor], ml.Tensor], x: list[float]) -> list[float]:
    def slope(x: ml.Tensor) -> ml.Tensor:
        return ml.gradients(fn(x), [x])[0]

    return list(ml.run(slope, precision=DOUBLE, x=ml.constant(x, "d", "float64")))


def test_equal_extremes_share_the_gradient():
    assert gradient_of(ml.max, [3.0, 1.0, 3.0, 2.0]) == [0.5, 0.0, 0.5, 0.0]
    assert gradient_of(ml.min, [1.0, 1.0, 1.0, 1.0]) == [0.25] * 4


def test_extremes_of_ties_share_the_gradient_over_processors():
    """The tied elements lie on several processors, and none of them counts its own alone."""
    x = given("d:8", [5, 1, 5, 1, 5, 1, 5, 1])
    found = run(case("ties", lambda x: ml.max(x, "d"), x=x), Laid("all:8", "d:all"))
    weight = found["ties/gradient/x"].sum()
    np.testing.assert_array_equal(found["ties/gradient/x"], [weight / 4, 0.0] * 4)


INFINITE = np.array(
    [
        [-math.inf] * 8,
        [-math.inf] * 7 + [0.5],
        [math.inf] + [0.0] * 7,
        [1e300, -1e300] * 4,
        [0.0] * 8,
        [math.nan] + [0.0] * 7,
        [math.nan] * 8,
        [-math.inf, math.inf] * 4,
    ]
)


@pytest.mark.parametrize("backend", ["simulated", "spmd"])
@pytest.mark.parametrize("layout", ["d:all", "batch:all"])
def test_infinities_and_nans_are_the_same_under_a_layout(layout: str, backend: str):
    """Masks are often minus infinity, and a NaN must reach the loss."""
    fns = (ml.logsumexp, ml.softmax, ml.log_softmax, ml.max, ml.min, ml.sum)
    cases = [
        case(
            fn.__name__,
            lambda x, f=fn: f(x, "d"),
            gradients=False,
            x=given("batch:8 d:8", INFINITE),
        )
        for fn in fns
    ]
    check(cases, Laid("all:8", layout, backend))


def test_the_logsumexp_of_nothing_is_minus_infinity():
    for laid in (Laid(), Laid("all:8", "d:all")):
        found = run(
            case("nothing", lambda x: ml.logsumexp(x, "d"), x=given("d:8", [-math.inf] * 8)), laid
        )
        assert found["nothing/value"] == -math.inf


# -- what is paid --------------------------------------------------------------------------------


def small(fn: Callable[..., Any], layout: str) -> list[tuple[str, int]]:
    """The kind and the elements of each all_reduce."""
    program = ml.trace(lambda x: fn(x, "d"), x=ml.spec("batch:8 d:16"))
    planned = ml.plan(program, "r:2 c:2", layout)
    return [(s.reduce, s.payload[0]) for s in planned.steps if isinstance(s, Collective)]


@pytest.mark.parametrize(
    ("fn", "paid"),
    [
        (ml.softmax, [("max", 4), ("sum", 4)]),
        (ml.logsumexp, [("max", 4), ("sum", 4)]),
        (ml.log_softmax, [("max", 4), ("sum", 4)]),
        (ml.argmax, [("max", 4), ("min", 4)]),
        (ml.argmin, [("min", 4), ("min", 4)]),
        (ml.max, [("max", 4)]),
        (ml.min, [("min", 4)]),
        (ml.sum, [("sum", 4)]),
        (ml.mean, [("sum", 4)]),
    ],
)
def test_over_a_divided_dim_only_the_small_shape_is_reduced(
    fn: Callable[..., Any], paid: list[tuple[str, int]]
):
    assert small(fn, "batch:r d:c") == paid
    assert small(fn, "batch:r") == []


def test_over_several_divided_dims_there_is_one_maximum_and_one_sum():
    for fn in (ml.softmax, ml.logsumexp):
        assert small(lambda x, _, f=fn: f(x, "batch d"), "batch:r d:c") == [("max", 1), ("sum", 1)]


def test_the_gradient_of_softmax_pays_one_more_small_sum():
    def slope(x: ml.Tensor) -> ml.Tensor:
        y = ml.softmax(x, "d")
        return ml.gradients(ml.sum(y * y, "d"), [x], ml.ones("batch:8"))[0]

    assert collectives(slope, "r:2", "d:r", x="batch:8 d:16") == ["all_reduce over r"] * 3


def test_a_short_float_is_summed_in_high():
    program = ml.trace(lambda x: ml.sum(x, "d"), x=ml.spec("batch:8 d:16", "bfloat16"))
    dtypes = [step.outputs[0].dtype for step in ml.plan(program, "all:8", "d:all").steps]
    assert dtypes == ["float32", "float32", "float32", "bfloat16"]
    short, fns = floats("batch:8 d:16", dtype="bfloat16"), (ml.sum, ml.mean, ml.softmax, ml.max)
    check(
        [case(fn.__name__, lambda x, f=fn: f(x, "d"), x=short) for fn in fns],
        Laid("r:2 c:4", "batch:r d:c"),
    )


def test_the_mean_of_short_floats_does_not_overflow():
    x = ml.constant([10.0] * 10000, "d", "float16")
    assert float(ml.mean(x).numpy()) == 10.0


def test_a_pending_sum_passes_a_sum_and_no_maximum():
    check(
        [
            case("sum of sum", lambda x: ml.sum(ml.sum(x, "d"), "batch"), x=SHAPE),
            case("max of sum", lambda x: ml.max(ml.sum(x, "d"), "batch"), x=SHAPE),
            case("softmax of sum", lambda x: ml.softmax(ml.sum(x, "d"), "f"), x=SHAPE),
            case("argmax of sum", lambda x: ml.argmax(ml.sum(x, "d"), "f"), x=SHAPE),
            case("mean of product", lambda x: ml.mean(x * x), x=SHAPE),
        ],
        Laid("a:2 b:2 c:2", "batch:a d:b f:c"),
    )


# -- laws ----------------------------------------------------------------------------------------


@st.composite
def two_parts(draw: st.DrawFn) -> tuple[str, str]:
    names = draw(st.permutations(list(AXES)))
    cut = draw(st.integers(0, len(names)))
    return " ".join(names[:cut]), " ".join(names[cut:])


@for_all(two_parts())
@settings(max_examples=10)
def test_reducing_twice_is_reducing_once(parts: tuple[str, str]):
    first, second = parts

    def both_ways(x: ml.Tensor) -> dict[str, Any]:
        return {
            fn.__name__: (fn(fn(x, first), second), fn(x, f"{first} {second}"))
            for fn in (ml.sum, ml.mean, ml.max, ml.min)
        }

    found = run(case("law", both_ways, gradients=False, x=SHAPE), Laid())
    for name in ("sum", "mean", "max", "min"):
        compare(name, found[f"law/value/{name}/0"], found[f"law/value/{name}/1"], 1e-12)


@for_all(st.floats(-50.0, 50.0))
@settings(max_examples=10)
def test_softmax_does_not_feel_a_shift(shift: float):
    def both(x: ml.Tensor) -> list[ml.Tensor]:
        y, z = ml.softmax(x, "d"), ml.softmax(x + shift, "d")
        lifted = ml.logsumexp(x + shift, "d") - ml.logsumexp(x, "d")
        return [y, z, ml.exp(ml.log_softmax(x, "d")), ml.sum(y, "d"), lifted]

    y, z, e, total, lifted = run(
        case("law", both, gradients=False, x="batch:3 d:5"), Laid()
    ).values()
    np.testing.assert_allclose(z, y, rtol=1e-11)
    np.testing.assert_allclose(e, y, rtol=1e-12)
    np.testing.assert_allclose(total, 1.0, rtol=1e-12)
    np.testing.assert_allclose(lifted, shift, rtol=1e-12, atol=1e-12)


# -- errors --------------------------------------------------------------------------------------

X = "batch:8 d_model:16"


@pytest.mark.parametrize("fn", [ml.softmax, ml.logsumexp])
def test_the_softmax_family_names_a_dim(fn: Callable[..., Any]):
    assert (
        trace_error(ml.DimError, lambda x: fn(x, ""), x=X)
        == f"{fn.__name__}: no dim is named.\n  operand  [batch:8 d_model:16]\n  fix: name one"
    )


NAMED = (ml.sum, ml.mean, ml.max, ml.min, ml.argmax, ml.argmin)


@pytest.mark.parametrize("fn", [*NAMED, ml.logsumexp, ml.softmax, ml.log_softmax])
def test_an_unknown_dim(fn: Callable[..., Any]):
    assert (
        trace_error(ml.DimError, lambda x: fn(x, "d_modle"), x=X)
        == """\
no dim named 'd_modle'.
  shape  [batch:8 d_model:16]
  fix: did you mean 'd_model'?"""
    )


def test_a_dim_named_twice():
    assert (
        trace_error(ml.DimError, lambda x: ml.sum(x, "batch batch"), x=X)
        == """\
dim 'batch' is named twice: 'batch batch'.
  shape  [batch:8 d_model:16]
  fix: give names alone"""
    )


FLOATS_ONLY = (ml.mean, ml.logsumexp, ml.softmax, ml.log_softmax)


@pytest.mark.parametrize("fn", FLOATS_ONLY)
def test_what_takes_floats_refuses_integers(fn: Callable[..., Any]):
    text = trace_error(ml.DtypeError, lambda x: fn(x, "batch"), x=ints(X, 5))
    assert (
        text
        == f"""\
{fn.__name__} takes floats.
  operand  [batch:8 d_model:16] int32
  fix: ml.cast(x, 'compute')"""
    )


@pytest.mark.parametrize("fn", [ml.sum, ml.max, ml.min, ml.argmax, ml.argmin])
def test_what_takes_numbers_refuses_bools(fn: Callable[..., Any]):
    assert (
        trace_error(ml.DtypeError, lambda x: fn(x, "batch"), x=bools(X))
        == f"""\
{fn.__name__} takes numbers.
  operand  [batch:8 d_model:16] bool
  fix: ml.cast(x, 'int32')"""
    )


@pytest.mark.parametrize("fn", [ml.any, ml.all])
@pytest.mark.parametrize("shape", [X, ""])
def test_what_takes_bools_refuses_numbers(fn: Callable[..., Any], shape: str):
    assert (
        trace_error(ml.DtypeError, fn, x=shape)
        == f"""\
{fn.__name__} takes bools.
  operand  {ml.Shape.parse(shape)} float64
  fix: compare first, e.g. x > 0"""
    )


def test_an_extra_logit_has_no_more_dims():
    def extended(x: ml.Tensor, extra: ml.Tensor) -> ml.Tensor:
        return ml.softmax(x, "d_model", extra_logit=extra)

    assert (
        trace_error(ml.DimError, extended, x=X, extra="batch:8 heads:2")
        == """\
subtract: one side must have all the dims of the other.
  left         [batch:8 d_model:16]
  right        [batch:8 heads:2]
  only in one  heads:2 d_model:16
  fix: to combine every pair, say so: x.expand(heads=2)"""
    )
