"""Running sums, products and extremes, and recurrences: NumPy, slopes, layouts, what moves."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st

import meshlang as ml
from tests.harness import (
    DOUBLE,
    Case,
    Laid,
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
    twice,
)

KINDS: dict[str, tuple[Callable[..., ml.Tensor], Any, Any]] = {
    "cumsum": (ml.cumsum, np.add, 0),
    "cumprod": (ml.cumprod, np.multiply, 1),
    "cummax": (ml.cummax, np.maximum, -np.inf),
    "cummin": (ml.cummin, np.minimum, np.inf),
}
WAYS = [(exclusive, reverse) for exclusive in (False, True) for reverse in (False, True)]


def running(kind: str, axis: int, exclusive: bool = False, reverse: bool = False) -> Any:
    """By its definition, one after the other."""
    _, step, first = KINDS[kind]

    def oracle(x: np.ndarray) -> np.ndarray:
        rows = np.moveaxis(x, axis, 0)
        rows = rows[::-1] if reverse else rows
        if x.dtype.kind != "f" and not np.isfinite(first):
            limits = np.iinfo(x.dtype)
            state = np.full(rows.shape[1:], limits.min if first < 0 else limits.max, x.dtype)
        else:
            state = np.full(rows.shape[1:], first, x.dtype)
        found = []
        for row in rows:
            after = step(state, row)
            found.append(state if exclusive else after)
            state = after
        made = np.array(found[::-1] if reverse else found)
        return np.moveaxis(made, 0, axis)

    return oracle


def recurred(exclusive: bool = False, reverse: bool = False) -> Any:
    def oracle(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        state, found = np.zeros_like(b[0]), []
        for i in reversed(range(len(b))) if reverse else range(len(b)):
            after = a[i] * state + b[i]
            found.append(state if exclusive else after)
            state = after
        return np.array(found[::-1] if reverse else found)

    return oracle


def running_cases() -> list[Case]:
    cases = []
    for kind, (fn, _, _) in KINDS.items():
        # The least of the dtype is no float with a slope: finite numbers only where it may stand.
        for exclusive, reverse in WAYS:
            if exclusive and kind in ("cummax", "cummin"):
                continue
            cases.append(
                case(
                    f"{kind} {exclusive=} {reverse=}",
                    lambda x, f=fn, e=exclusive, r=reverse: f(x, "n", exclusive=e, reverse=r),
                    running(kind, 1, exclusive, reverse),
                    x="d:16 n:24 batch:8",
                )
            )
        cases.append(
            case(f"{kind} of a vector", lambda x, f=fn: f(x, "n"), running(kind, 0), x="n:8")
        )
    return cases


def without_infinity(fn: Callable[..., ml.Tensor], reverse: bool) -> Callable[..., ml.Tensor]:
    def clipped(x: ml.Tensor) -> ml.Tensor:
        return ml.clip(fn(x, "n", exclusive=True, reverse=reverse), -9.0, 9.0)

    return clipped


EXCLUSIVE = [
    case(
        f"{kind} exclusive {reverse=}",
        without_infinity(KINDS[kind][0], reverse),
        lambda x, k=kind, r=reverse: np.clip(running(k, 1, True, r)(x), -9.0, 9.0),
        x="d:16 n:24",
    )
    for kind in ("cummax", "cummin")
    for reverse in (False, True)
]
RECURRENCES = [
    case(
        f"recurrence {exclusive=} {reverse=}",
        lambda a, b, e=exclusive, r=reverse: ml.recurrence(a, b, "n", exclusive=e, reverse=r),
        recurred(exclusive, reverse),
        a=floats("n:24 d:16", -1.0, 1.0),
        b="n:24 d:16",
    )
    for exclusive, reverse in WAYS
]
TURNED = case(
    "recurrence of turned operands",
    lambda a, b: ml.recurrence(a, b, "n"),
    lambda a, b: recurred()(a.T, b),
    a=floats("d:16 n:24", -1.0, 1.0),
    b="n:24 d:16",
)
ZEROS = [
    case(
        f"cumprod of zeros {exclusive=}",
        lambda x, e=exclusive: ml.cumprod(x, "n", exclusive=e),
        running("cumprod", 0, exclusive),
        x=given("n:8", [2.0, 3.0, 0.0, 4.0, 0.5, 0.0, 2.0, 1.0]),
    )
    for exclusive in (False, True)
]
SMOOTH = (*running_cases(), *EXCLUSIVE, *RECURRENCES, TURNED, *ZEROS)
TIES = tuple(
    case(
        f"{kind} of {what} {reverse=}",
        lambda x, f=KINDS[kind][0], r=reverse: f(x, "n", reverse=r),
        running(kind, 0, False, reverse),
        x=x,
    )
    for kind in KINDS
    for what, x in (("ties", ties("n:24 d:16")), ("integers", ints("n:24 d:16", 9, -9)))
    for reverse in (False, True)
)
LEAST = tuple(
    case(
        f"exclusive {kind} of {dtype}",
        lambda x, f=KINDS[kind][0]: f(x, "n", exclusive=True),
        running(kind, 0, True),
        gradients=False,
        x=ints("n:24", 9, dtype=dtype),
    )
    for kind in ("cummax", "cummin")
    for dtype in ("int32", "uint8", "float64")
)
CASES = (*SMOOTH, *TIES, *LEAST)


def test_values():
    check_values(CASES)


def test_slopes():
    check_slopes(SMOOTH)


def test_second_gradients():
    cases = [
        case(f"{kind} {way}", twice(lambda x, f=fn, w=way: f(x, "n", **w)), x="n:6 d:2")
        for kind, (fn, _, _) in KINDS.items()
        for way in ({}, {"reverse": True}, {"exclusive": True})
        if way != {"exclusive": True} or kind in ("cumsum", "cumprod")
    ]
    zeros = given("n:6", [2.0, 0.0, 3.0, 0.0, 4.0, 1.0])
    cases.append(case("zeros", twice(lambda x: ml.cumprod(x, "n")), x=zeros))
    for exclusive, reverse in WAYS:
        fn = lambda a, b, e=exclusive, r=reverse: ml.recurrence(a, b, "n", exclusive=e, reverse=r)  # noqa: E731
        cases.append(case(f"recurrence {exclusive} {reverse}", twice(fn), a="n:6 d:2", b="n:6 d:2"))
    check_slopes(cases)


@pytest.mark.parametrize("laid", drawn("running", layouts("n d batch")))
def test_layouts(laid: Laid):
    check(CASES, laid)


def gradient_of(fn: Callable[[ml.Tensor], ml.Tensor], x: list[float], layout: str) -> list[float]:
    def slope(x: ml.Tensor) -> ml.Tensor:
        weights = ml.constant([1.0, 10.0, 100.0, 1000.0], "n", "float64")
        return ml.gradients(ml.sum(weights * fn(x)), [x])[0]

    x_ = ml.constant(x, "n", "float64")
    return list(ml.run(slope, "r:2", layout, precision=DOUBLE, x=x_))


@pytest.mark.parametrize("layout", ["", "n:r"])
def test_equal_elements_share_the_gradient_of_what_stands_behind_them(layout: str):
    """Of [1 3 3 2] the running maxima are [1 3 3 3]: the third is shared by two, and the fourth."""
    shared = gradient_of(lambda x: ml.cummax(x, "n"), [1.0, 3.0, 3.0, 2.0], layout)
    assert shared == [1.0, 10.0 + 550.0, 550.0, 0.0]
    back = gradient_of(lambda x: ml.cummin(x, "n", reverse=True), [1.0, 1.0, 2.0, 1.0], layout)
    assert back == [1.0 / 3, 1.0 / 3 + 5.0, 0.0, 1.0 / 3 + 5.0 + 100.0 + 1000.0]


# -- what moves ----------------------------------------------------------------------------------


@pytest.mark.parametrize("fn", [fn for fn, _, _ in KINDS.values()])
def test_one_total_of_each_block_travels(fn: Callable[..., ml.Tensor]):
    assert collectives(lambda x: fn(x, "n"), "r:2 c:4", "d:r+c", x="n:32 d:16") == []
    moved = collectives(lambda x: fn(x, "n"), "r:2 c:4", "n:c d:r", x="n:32 d:16")
    assert moved == ["all_gather over c"]
    program = ml.trace(lambda x: fn(x, "n"), x=ml.spec("n:32 d:16"))
    assert ml.plan(program, "r:2 c:4", "n:c d:r").cost.over("c").elements == 4 * 16 // 2


def test_two_values_of_each_block_of_a_recurrence_travel():
    def fn(a: ml.Tensor, b: ml.Tensor) -> ml.Tensor:
        return ml.recurrence(a, b, "n")

    spec = "n:32 d:16"
    assert collectives(fn, "r:4", "n:r", a=spec, b=spec) == ["all_gather over r"] * 2
    program = ml.trace(fn, a=ml.spec(spec), b=ml.spec(spec))
    assert ml.plan(program, "r:4", "n:r").cost.over("r").elements == 2 * 4 * 16


# -- laws ----------------------------------------------------------------------------------------


@for_all(
    st.sampled_from(list(KINDS)),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["", "n:r", "n:c+r", "n:r d:c"]),
)
@settings(max_examples=12)
def test_the_end_is_the_whole(kind: str, exclusive: bool, reverse: bool, layout: str):
    join = {"cumsum": ml.add, "cumprod": ml.multiply, "cummax": ml.maximum, "cummin": ml.minimum}
    of_all = {"cumsum": ml.sum, "cumprod": ml.prod, "cummax": ml.max, "cummin": ml.min}

    def fn(x: ml.Tensor) -> dict[str, ml.Tensor]:
        last = ml.constant(0 if reverse else 15, "")
        end = ml.gather(KINDS[kind][0](x, "n", exclusive=exclusive, reverse=reverse), last, dim="n")
        own = ml.gather(x, last, dim="n")
        return {"end": join[kind](end, own) if exclusive else end, "all": of_all[kind](x, "n")}

    found = run(case("law", fn, gradients=False, x="n:16 d:8"), Laid("r:2 c:2", layout))
    compare("law", found["law/value/end"], found["law/value/all"], 1e-12)


# -- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_dim_that_is_not_there_and_bools(kind: str):
    fn = KINDS[kind][0]
    assert (
        trace_error(ml.DimError, lambda x: fn(x, "m"), x="n:8 d:16")
        == "no dim named 'm'.\n  shape  [n:8 d:16]\n  fix: the dims are: n d"
    )
    assert (
        trace_error(ml.DtypeError, lambda x: fn(x, "n"), x=bools("n:8"))
        == f"{kind} takes numbers.\n  operand  [n:8] bool\n  fix: ml.cast(x, 'int32')"
    )


def test_what_a_recurrence_takes():
    def fn(a: ml.Tensor, b: ml.Tensor) -> ml.Tensor:
        return ml.recurrence(a, b, "n")

    assert (
        trace_error(ml.DimError, fn, a="n:8", b="n:8 d:16")
        == """\
recurrence: a and b have the same dims.
  a  [n:8]
  b  [n:8 d:16]
  fix: expand the smaller one"""
    )
    whole = ints("n:8", 5)
    assert (
        trace_error(ml.DtypeError, fn, a=whole, b=whole)
        == "recurrence takes floats.\n  operand  [n:8] int32\n  fix: ml.cast(x, 'compute')"
    )
    assert trace_error(ml.DtypeError, fn, a=whole, b="n:8").startswith(
        "recurrence: the operands have several dtypes.\n  a  [n:8] int32\n  b  [n:8] float64\n"
    )
