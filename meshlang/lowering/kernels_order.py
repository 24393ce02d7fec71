"""Kernels by size: the largest k, sorting."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from meshlang.layout.values import Local
from meshlang.lowering.kernels import Here, aligned, kernel, turned
from meshlang.ops.order import Largest, LargestOfBlocks, Permuted, Sort


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


@kernel(Sort)
def _sort(op: Sort, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    at = step.inputs[0].shape.index(op.dim)
    x = _last(blocks[0], at)
    if not op.descending:
        x = _turned_over(x)
    values, places = tf.math.top_k(x, x.shape[-1])
    if not op.descending:
        values = _turned_over(values)
    return [_back(values, at), _back(places, at)]


def _turned_over(x: tf.Tensor) -> tf.Tensor:
    """In the opposite order, without an overflow; twice, it is the same."""
    return tf.negative(x) if x.dtype.is_floating else tf.bitwise.invert(x)


def _last(x: tf.Tensor, at: int) -> tf.Tensor:
    """With this dim last."""
    return turned(x, [*(i for i in range(x.shape.rank) if i != at), at])


def _back(x: tf.Tensor, at: int) -> tf.Tensor:
    """With the last dim at this place."""
    return turned(x, [*range(at), x.shape.rank - 1, *range(at, x.shape.rank - 1)])


@kernel(Permuted)
def _permuted(
    op: Permuted, here: Here, step: Local, blocks: Sequence[tf.Tensor]
) -> list[tf.Tensor]:
    shape = step.inputs[0].shape
    at, places = shape.index(op.dim), aligned(blocks[1], step.inputs[1].shape, shape)
    if op.back:
        places = tf.argsort(places, at)
    found = tf.gather(_last(blocks[0], at), _last(places, at), batch_dims=len(shape) - 1)
    return [_back(found, at)]
