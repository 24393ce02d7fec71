"""Kernels of running sums, products and extremes, and of linear recurrences."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

from meshlang.layout.values import Local
from meshlang.lowering.kernels import Here, aligned, kernel
from meshlang.ops.running import BlocksBefore, CarriedIn, EndOfRecurrence, Recurrence, Running

_REDUCE = {
    "sum": tf.reduce_sum,
    "prod": tf.reduce_prod,
    "max": tf.reduce_max,
    "min": tf.reduce_min,
}


def _neutral(kind: str, dtype: tf.DType) -> tf.Tensor:
    """What changes nothing."""
    if kind in ("sum", "prod"):
        return tf.constant(int(kind == "prod"), dtype)
    if dtype.is_floating:
        return tf.constant(float("-inf") if kind == "max" else float("inf"), dtype)
    return tf.constant(dtype.min if kind == "max" else dtype.max, dtype)


def _behind(x: tf.Tensor, at: int, by: int, fill: tf.Tensor, reverse: bool) -> tf.Tensor:
    """Each element in the place of the one `by` further on; `fill` where there is none."""
    size = x.shape[at]
    begin = [by if reverse and i == at else 0 for i in range(x.shape.rank)]
    sizes = [size - by if i == at else n for i, n in enumerate(x.shape)]
    edge = tf.fill([by if i == at else n for i, n in enumerate(x.shape)], fill)
    rest = tf.slice(x, begin, sizes)
    return tf.concat([rest, edge] if reverse else [edge, rest], at)


@kernel(Running)
def _running(op: Running, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    x, at = blocks[0], step.inputs[0].shape.index(op.dim)
    if op.kind in ("sum", "prod"):
        run = tf.cumsum if op.kind == "sum" else tf.math.cumprod
        return [run(x, at, exclusive=op.exclusive, reverse=op.reverse)]
    better: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    better = tf.maximum if op.kind == "max" else tf.minimum
    fill, by = _neutral(op.kind, x.dtype), 1
    if op.exclusive:
        x = _behind(x, at, 1, fill, op.reverse)
    while by < x.shape[at]:
        x, by = better(x, _behind(x, at, by, fill, op.reverse)), 2 * by
    return [x]


@kernel(BlocksBefore)
def _before(
    op: BlocksBefore, here: Here, step: Local, blocks: Sequence[tf.Tensor]
) -> list[tf.Tensor]:
    totals = blocks[0]
    places, mine = tf.range(totals.shape[0]), here.index(op.axes)
    counted = places > mine if op.reverse else places < mine
    counted = tf.reshape(counted, [-1] + [1] * (totals.shape.rank - 1))
    return [_REDUCE[op.kind](tf.where(counted, totals, _neutral(op.kind, totals.dtype)), axis=0)]


def _recurred(a: tf.Tensor, b: tf.Tensor, at: int, reverse: bool) -> tf.Tensor:
    """By doubling: after each step every element has taken in twice as many before it."""
    zero, by = tf.zeros([], b.dtype), 1
    while by < b.shape[at]:
        b = b + a * _behind(b, at, by, zero, reverse)
        if 2 * by < b.shape[at]:
            a = a * _behind(a, at, by, zero, reverse)
        by *= 2
    return b


@kernel(Recurrence)
def _recurrence(
    op: Recurrence, here: Here, step: Local, blocks: Sequence[tf.Tensor]
) -> list[tf.Tensor]:
    shape = step.inputs[1].shape
    at, b = shape.index(op.dim), blocks[1]
    found = _recurred(aligned(blocks[0], step.inputs[0].shape, shape), b, at, op.reverse)
    if op.exclusive:
        found = _behind(found, at, 1, tf.zeros([], b.dtype), op.reverse)
    return [found]


@kernel(EndOfRecurrence)
def _end(
    op: EndOfRecurrence, here: Here, step: Local, blocks: Sequence[tf.Tensor]
) -> list[tf.Tensor]:
    shape = step.inputs[1].shape
    at = shape.index(op.dim)
    found = _recurred(aligned(blocks[0], step.inputs[0].shape, shape), blocks[1], at, op.reverse)
    return [tf.gather(found, 0 if op.reverse else found.shape[at] - 1, axis=at)]


@kernel(CarriedIn)
def _carried(
    op: CarriedIn, here: Here, step: Local, blocks: Sequence[tf.Tensor]
) -> list[tf.Tensor]:
    ends = _recurred(blocks[0], blocks[1], 0, op.reverse)
    came = _behind(ends, 0, 1, tf.zeros([], ends.dtype), op.reverse)
    return [tf.gather(came, here.index(op.axes))]
