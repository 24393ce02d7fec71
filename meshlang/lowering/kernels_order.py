"""Kernels along an order: running sums, the largest k."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from meshlang.layout.values import Local
from meshlang.lowering.kernels import Here, kernel
from meshlang.ops.order import BlocksBefore, CumSum, Largest, LargestOfBlocks


@kernel(CumSum)
def _cumsum(op: CumSum, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    at = step.inputs[0].shape.index(op.dim)
    return [tf.cumsum(blocks[0], at, exclusive=op.exclusive, reverse=op.reverse)]


@kernel(BlocksBefore)
def _before(
    op: BlocksBefore, here: Here, step: Local, blocks: Sequence[tf.Tensor]
) -> list[tf.Tensor]:
    totals = blocks[0]
    places, mine = tf.range(totals.shape[0]), here.index(op.axes)
    counted = places > mine if op.reverse else places < mine
    counted = tf.reshape(counted, [-1] + [1] * (totals.shape.rank - 1))
    return [tf.reduce_sum(tf.where(counted, totals, tf.zeros([], totals.dtype)), axis=0)]


@kernel(Largest)
def _largest(op: Largest, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    (x,) = step.inputs
    at = x.shape.index(op.dim)
    last = [*(i for i in range(len(x.shape)) if i != at), at]
    values, indices = tf.math.top_k(tf.transpose(blocks[0], last), op.into.size)
    return [values, indices + here.offset(x, at)]


@kernel(LargestOfBlocks)
def _of_blocks(
    op: LargestOfBlocks, here: Here, step: Local, blocks: Sequence[tf.Tensor]
) -> list[tf.Tensor]:
    """Of equal candidates the first comes first: blocks stand in order, and so do their own."""
    count, *rest, some = blocks[0].shape
    order = [*range(1, len(rest) + 1), 0, len(rest) + 1]
    found, places = (tf.reshape(tf.transpose(b, order), [*rest, count * some]) for b in blocks)
    values, best = tf.math.top_k(found, op.into.size)
    return [values, tf.gather(places, best, batch_dims=len(rest))]
