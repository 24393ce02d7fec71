"""Runs that begin where a tensor says: NumPy, finite differences, layouts, what moves, errors."""

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
    trace_error,
    twice,
)


def at(start: int) -> Any:
    return given("", np.array(start, np.int32), "int32")


def read(size: int) -> Callable[[ml.Tensor, ml.Tensor], ml.Tensor]:
    return lambda x, start: ml.dynamic_slice(x, "n", start=start, size=size)


def write(x: ml.Tensor, value: ml.Tensor, start: ml.Tensor) -> ml.Tensor:
    return ml.dynamic_update(x, value, "n", start=start)


def written(axis: int) -> Callable[..., np.ndarray]:
    def oracle(x: np.ndarray, value: np.ndarray, start: np.ndarray) -> np.ndarray:
        made = np.moveaxis(x.copy(), axis, 0)
        for i, row in enumerate(np.moveaxis(value, axis, 0)):
            if 0 <= start + i < len(made):
                made[start + i] = row
        return np.moveaxis(made, 0, axis)

    return oracle


CASES = (
    case("read", read(8), lambda x, start: x[5:13], x="n:16 d:8", start=at(5)),
    case("read inside", read(8), lambda x, start: x[:, :8], x="d:8 n:16", start=at(0)),
    case(
        "read outside",
        read(8),
        lambda x, start: np.concatenate([x[12:], np.zeros((4, 8))]),
        x="n:16 d:8",
        start=at(12),
    ),
    case("write", write, written(0), x="n:16 d:8", value="n:8 d:8", start=at(3)),
    case("write inside", write, written(1), x="d:8 n:16", value="d:8 n:8", start=at(-2)),
    case("second order", twice(read(8)), x="n:16 d:8", start=at(7)),
    case("read numbers", read(8), lambda x, s: x[4:12], x=ints("n:16", 99), start=at(4)),
    case("write bools", write, written(0), x=bools("n:16"), value=bools("n:8"), start=at(1)),
)


def test_values():
    check_values([each for each in CASES if each.oracle])


def test_slopes():
    check_slopes(CASES[:-2])


@pytest.mark.parametrize("laid", drawn("dynamic runs", layouts("n d")))
def test_layouts(laid: Laid):
    check(CASES, laid)


def test_the_run_is_sent_and_the_dim_is_not():
    whole = {"x": "n:16 d:8", "start": at(0)}
    assert collectives(read(2), "r:2", "d:r", **whole) == []
    fn = lambda x, start: ml.dynamic_slice(x, "n", start=start, size=2) * 2.0  # noqa: E731
    assert collectives(fn, "r:2", "n:r", **whole) == ["reduce_scatter over r"]
    plan = ml.plan(ml.trace(fn, x=ml.spec("n:16 d:8"), start=ml.spec("", "int32")), "r:2", "n:r")
    assert plan.cost.all.elements == 2 * 8
    shapes = {"x": "n:16 d:8", "value": "n:2 d:8", "start": at(0)}
    assert collectives(write, "r:2", "n:r", **shapes) == ["all_gather over r"]


ERRORS = [
    (
        lambda x, y: ml.dynamic_slice(x, "n", start=0, size=9),
        """\
dynamic_slice: no 9 indices in n:8.
  operand  [n:8 d:16]
  size     9
  fix: a size from 1 to 8""",
    ),
    (
        lambda x, y: ml.dynamic_slice(x, "n", start=ml.range("d:16"), size=2),
        """\
dynamic_slice: `start` is a scalar.
  operand  [n:8 d:16]
  start    [d:16] int32
  fix: one number; to read at several places: ml.gather""",
    ),
    (
        lambda x, y: ml.dynamic_update(x, y, "n", start=0),
        """\
dynamic_update: the value does not fit in.
  operand  [n:8 d:16]
  value    [n:9 d:16]
  fix: apart from 'n' the same dims, and no more indices of it""",
    ),
]


@pytest.mark.parametrize(("fn", "text"), ERRORS)
def test_errors(fn: Callable[[ml.Tensor, ml.Tensor], ml.Tensor], text: str):
    assert trace_error(ml.DimError, fn, x="n:8 d:16", y="n:9 d:16") == text


def test_a_start_is_a_whole_number():
    fn = lambda x: ml.dynamic_slice(x, "n", start=1.0, size=2)  # noqa: E731
    assert (
        trace_error(ml.DtypeError, fn, x="n:8")
        == """\
dynamic_slice: `start` is int32.
  operand  [n:8]
  start    [] float64
  fix: ml.cast(start, 'int32')"""
    )
