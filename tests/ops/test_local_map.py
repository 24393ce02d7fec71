"""`local_map`: NumPy, both kinds of gradients, layouts, sums over processors, errors."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

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
    trace_error,
)


def elementwise(x: ml.Tensor, y: ml.Tensor) -> Any:
    """Two results, the second of whole numbers; the second operand lacks a dim."""

    def fn(x: tf.Tensor, y: tf.Tensor) -> Any:
        return tf.sin(x) * y * y, tf.cast(x > y, tf.int32)

    return ml.local_map(fn, (x, y), out=("batch d", ml.spec("batch:8 d:16", "int32")))


def summed(x: ml.Tensor, w: ml.Tensor) -> Any:
    """A product over a dim that may be divided, given as a sum of products of blocks."""

    def fn(x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        return tf.matmul(tf.tanh(x), w)

    return ml.sin(ml.local_map(fn, [x, w], out="batch e", sums="d"))


def declared(x: ml.Tensor, w: ml.Tensor) -> Any:
    """A gradient of one's own: that of w is a part of a sum over the batch."""

    def fn(x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
        return tf.sin(x) * w

    def slope(xs: Any, gs: Any) -> Any:
        (x, w), (g,) = xs, gs
        return g * tf.cos(x) * w, tf.reduce_sum(g * tf.sin(x), 0)

    return ml.local_map(fn, (x, w), out="batch d", grad=slope)


def bent(x: ml.Tensor) -> Any:
    """A declared gradient that is not the true one."""
    return ml.local_map(lambda x: 2.0 * x, x, out="batch d", grad=lambda xs, gs: (gs[0] * xs[0],))


def bent_slope(x: ml.Tensor) -> Any:
    return ml.gradients(ml.sum(bent(x)), [x])[0]


def twice(x: ml.Tensor, w: ml.Tensor) -> Any:
    slopes = ml.gradients(ml.sum(ml.square(summed(x, w))), [x, w])
    return [s * s for s in slopes]


def in_a_loop(x: ml.Tensor, w: ml.Tensor) -> Any:
    def trip(h: ml.Tensor, _: None) -> Any:
        return ml.local_map(lambda h, w: tf.sin(h) + w, (h, w), out="batch d"), None

    return ml.scan(trip, x, over="n:3")[0]


CASES = (
    case(
        "elementwise",
        elementwise,
        lambda x, y: (np.sin(x) * y * y, (x > y).astype(np.int32)),
        x="batch:8 d:16",
        y="d:16",
    ),
    case(
        "summed",
        summed,
        lambda x, w: np.sin(np.tanh(x) @ w),
        x="batch:8 d:16",
        w="d:16 e:24",
    ),
    case("declared", declared, lambda x, w: np.sin(x) * w, x="batch:8 d:16", w="d:16"),
    case("bent", bent_slope, lambda x: x, x="batch:8 d:16"),
    case("twice", twice, x="batch:8 d:16", w="d:16 e:24"),
    case("in a loop", in_a_loop, x="batch:8 d:16", w="d:16"),
)


def test_values():
    check_values(CASES[:4])


def test_slopes():
    check_slopes(CASES)


@pytest.mark.parametrize("laid", drawn("local map", layouts("batch d e"), draws=4))
def test_layouts(laid: Laid):
    check(CASES, laid)


def test_a_sum_is_paid_and_nothing_else_moves():
    shapes = {"x": "batch:8 d:16", "w": "d:16 e:24"}
    assert collectives(summed, "r:4", "d:r", **shapes) == ["all_reduce over r"]
    assert collectives(summed, "r:4", "batch:r", **shapes) == []


def total(x: ml.Tensor) -> Any:
    return ml.local_map(lambda x: tf.reduce_sum(x, 1), x, out="batch")


def made(x: ml.Tensor) -> Any:
    return ml.local_map(lambda x: tf.zeros([4]), x, out="e:8")


LAYOUT_ERRORS: list[tuple[Callable[..., Any], str, str]] = [
    (
        total,
        "d:r",
        """\
local_map: axis 'r' divides dim 'd' of an operand, and a result is whole over it.
  operand 0  [batch:8 d:16/r] float64
  result     [batch:8]
  layout     d:r
  mesh       r:2
  fix: sums='d' if it is a sum over d, or hold it whole: ml.whole(x, 'd')""",
    ),
    (
        made,
        "e:r",
        """\
local_map: axis 'r' divides dim 'e' of a result, and no operand: which block is it?
  operand 0  [batch:8 d:16] float64
  result     [e:8]
  layout     e:r
  mesh       r:2
  fix: give an operand that has it, or a result 'e*:8'""",
    ),
]


@pytest.mark.parametrize(("fn", "layout", "text"), LAYOUT_ERRORS)
def test_layouts_refused(fn: Callable[..., Any], layout: str, text: str):
    assert layout_error(fn, "r:2", layout, x="batch:8 d:16") == text


ERRORS: list[tuple[Callable[..., Any], str]] = [
    (
        lambda x: ml.local_map(tf.sin, x, out="batch e"),
        """\
local_map: no operand has a dim named 'e'.
  dims  batch d
  fix: give its size: e:8""",
    ),
    (
        lambda x: ml.local_map(tf.sin, x, out="batch d", sums="d"),
        """\
local_map: dim 'd' is summed over, and a result has it.
  out   [batch:8 d:16]
  sums  d
  fix: leave it out of one of them""",
    ),
]


@pytest.mark.parametrize(("fn", "text"), ERRORS)
def test_errors(fn: Callable[..., Any], text: str):
    assert trace_error(ml.DimError, fn, x="batch:8 d:16") == text


def test_blocks_of_other_sizes_are_refused_when_lowered():
    x = ml.constant(np.zeros((4, 6), np.float32), "batch d")
    with pytest.raises(ml.DimError) as caught:
        ml.run(lambda x: ml.local_map(tf.transpose, x, out="batch d"), "r:2", "batch:r", x=x)
    assert (
        str(caught.value)
        == """\
local_map: the function returns other blocks than out= says.
  operands  [batch:4/r d:6] float32
  returned  [6, 2] float32
  out       [2, 6] float32
  fix: return blocks of these sizes and dtypes, or declare others"""
    )
