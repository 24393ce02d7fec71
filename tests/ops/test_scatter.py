"""Rows written at an index, and segments: NumPy, slopes, layouts, what moves, errors."""

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
    given,
    ints,
    layouts,
    ties,
    trace_error,
    twice,
)


def written(step: Callable[[Any, Any], Any]) -> Callable[..., np.ndarray]:
    """Of [n rest...], values [q... rest...] and index [q...]: one row after the other."""

    def oracle(x: np.ndarray, values: np.ndarray, index: np.ndarray) -> np.ndarray:
        made = x.copy()
        for place in np.ndindex(index.shape):
            if 0 <= index[place] < len(x):
                made[index[place]] = step(made[index[place]], values[place])
        return made

    return oracle


def in_batches(oracle: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """Of operands that all have a first dim more."""
    return lambda *xs: np.stack([oracle(*rows) for rows in zip(*xs, strict=True)])


FNS = {
    "max": (ml.scatter_max, np.maximum),
    "min": (ml.scatter_min, np.minimum),
    "update": (ml.scatter_update, lambda old, new: new),
}
OUTSIDE = ints("q:16", 12, -3)


def at(name: str) -> Callable[..., ml.Tensor]:
    return lambda x, values, index: FNS[name][0](x, values, index, dim="n")


def writing_cases() -> list[Any]:
    cases = []
    for name, (_, step) in FNS.items():
        oracle = written(step)
        cases += [
            case(f"{name} rows", at(name), oracle, x="n:8 d:16", values="q:16 d:16", index=OUTSIDE),
            case(
                f"{name} of two dims",
                at(name),
                oracle,
                x="n:8 d:16",
                values="q:16 p:4 d:16",
                index=ints("q:16 p:4", 8),
            ),
            case(
                f"{name} in batches",
                at(name),
                in_batches(oracle),
                x="batch:8 n:8 d:16",
                values="batch:8 q:16 d:16",
                index=ints("batch:8 q:16", 8),
            ),
            case(
                f"{name} one row of each",
                at(name),
                in_batches(oracle),
                x="batch:8 n:8 d:16",
                values="batch:8 d:16",
                index=ints("batch:8", 10),
            ),
            case(
                f"{name} turned",
                at(name),
                lambda x, values, index, f=oracle: f(x.T, values.T, index).T,
                x="d:16 n:8",
                values="d:16 q:16",
                index=OUTSIDE,
            ),
        ]
    return cases


def summed(values: np.ndarray, segments: np.ndarray) -> np.ndarray:
    found = np.zeros((8, *values.shape[segments.ndim :]))
    np.add.at(found, segments, values)
    return found


def mean(values: np.ndarray, segments: np.ndarray) -> np.ndarray:
    counts = np.bincount(segments.ravel(), minlength=8)
    return summed(values, segments) / np.maximum(counts, 1)[:, None]


def largest(values: np.ndarray, segments: np.ndarray) -> np.ndarray:
    found = np.full((8, values.shape[-1]), -np.inf)
    np.maximum.at(found, segments, values)
    return found


SMOOTH = (
    *writing_cases(),
    case(
        "sum",
        lambda x, s: ml.segment_sum(x, s, into="n:8"),
        summed,
        x="q:16 d:16",
        s=ints("q:16", 6),
    ),
    case(
        "mean",
        lambda x, s: ml.segment_mean(x, s, into="n:8"),
        mean,
        x="q:16 p:4 d:16",
        s=ints("q:16 p:4", 6),
    ),
    case(
        "largest",
        lambda x, s: ml.segment_max(x, s, into="n:8"),
        largest,
        x="q:24 d:16",
        s=given("q:24", np.arange(24) % 8, "int32"),
    ),
    case(
        "mean in batches",
        lambda x, s: ml.segment_mean(x, s, into="n:8", batch="batch"),
        in_batches(mean),
        x="batch:8 q:16 d:16",
        s=ints("batch:8 q:16", 6),
    ),
)
OTHERS = (
    *(
        case(
            f"{name} of {what}",
            at(name),
            written(step),
            x=make("n:8 d:16"),
            values=make("q:16 d:16"),
            index=OUTSIDE,
        )
        for name, (_, step) in FNS.items()
        for what, make in (("ties", ties), ("integers", lambda s: ints(s, 9, -9)))
    ),
    case(
        "update bools",
        at("update"),
        written(FNS["update"][1]),
        x=bools("n:8 d:16"),
        values=bools("q:16 d:16"),
        index=OUTSIDE,
    ),
    case(
        "largest of empty segments",
        lambda x, s: ml.segment_max(x, s, into="n:8"),
        largest,
        gradients=False,
        x="q:16 d:16",
        s=ints("q:16", 4),
    ),
)
CASES = (*SMOOTH, *OTHERS)


def test_values():
    check_values(CASES)


def test_slopes():
    check_slopes(SMOOTH)


def test_second_gradients():
    index = ints("q:6", 5, -1)
    check_slopes([case(n, twice(at(n)), x="n:4 d:2", values="q:6 d:2", index=index) for n in FNS])


@pytest.mark.parametrize("laid", drawn("scatter", layouts("n d batch")))
def test_layouts(laid: Laid):
    check(CASES, laid)


@pytest.mark.parametrize("laid", drawn("scatter of divided rows", layouts("q n d")))
def test_layouts_of_rows(laid: Laid):
    check(CASES, laid)


def test_equal_values_share_the_gradient():
    def slopes(x: ml.Tensor, values: ml.Tensor) -> list[ml.Tensor]:
        y = ml.scatter_max(x, values, ml.constant([0, 0, 1], "q"), dim="n")
        return ml.gradients(ml.sum(y), [x, values])

    x, values = ml.constant([2.0, 5.0], "n"), ml.constant([2.0, 2.0, 1.0], "q")
    found = [list(g) for g in ml.run(slopes, x=x, values=values)]
    assert found == [[pytest.approx(1 / 3), 1.0], [pytest.approx(1 / 3)] * 2 + [0.0]]


def test_what_moves():
    """Over divided rows the result's block; over a divided dim nothing."""
    shapes = {"x": "n:8 d:16", "values": "q:16 d:16", "index": OUTSIDE}
    assert collectives(at("max"), "r:4", "n:r", **shapes) == []
    assert collectives(at("max"), "r:4", "d:r", **shapes) == []
    assert collectives(at("max"), "r:4", "q:r", **shapes) == ["all_reduce over r"]
    assert collectives(at("update"), "r:4", "n:r", **shapes) == []
    # Places of the last ones, and the rows that are read there.
    assert collectives(at("update"), "r:4", "q:r", **shapes) == ["all_reduce over r"] * 2


@pytest.mark.parametrize("name", list(FNS))
def test_what_is_refused(name: str):
    fn, x = at(name), "n:8 d:16"
    assert (
        trace_error(ml.DimError, fn, x=x, values="q:16", index=OUTSIDE)
        == f"""\
scatter_{name}: the values have the dims of what is written.
  x       [n:8 d:16]
  index   [q:16]
  values  [q:16]
  fix: as [q:16 d:16]"""
    )
    assert (
        trace_error(ml.DtypeError, fn, x=x, values="q:16 d:16", index="q:16")
        == f"""\
scatter_{name}: an index is int32.
  index 0  [q:16] float64
  fix: ml.cast(index, 'int32')"""
    )
    assert trace_error(
        ml.DtypeError, fn, x=x, values=ints("q:16 d:16", 5), index=OUTSIDE
    ).startswith(f"scatter_{name}: the operands have several dtypes.")
    assert (
        trace_error(ml.DimError, lambda x: ml.scatter_max(x, x, x, dim="m"), x=x)
        == "no dim named 'm'.\n  shape  [n:8 d:16]\n  fix: the dims are: n d"
    )


def test_the_mean_of_integers():
    s = ints("q:16", 5)
    text = trace_error(ml.DtypeError, lambda s: ml.segment_mean(s, s, into="n:8"), s=s)
    assert text.startswith("segment_mean takes floats.")


@pytest.mark.parametrize("fn", [ml.segment_sum, ml.segment_mean, ml.segment_max])
def test_segments_that_are_no_integers(fn: Callable[..., ml.Tensor]):
    text = trace_error(ml.DtypeError, lambda x: fn(x, x, into="n:8"), x="q:16")
    assert text == (
        f"{fn.__name__}: an index is int32.\n"
        "  index 0  [q:16] float64\n"
        "  fix: ml.cast(index, 'int32')"
    )
