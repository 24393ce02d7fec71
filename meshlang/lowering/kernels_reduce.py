"""Kernels of reductions and of the softmax family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from meshlang.dims import Dim
from meshlang.layout.values import Local
from meshlang.lowering.kernels import Here, aligned, kernel
from meshlang.ops.reduce import ArgExtreme, FirstEqual, Reduce
from meshlang.ops.softmax import FiniteOrZero, LogSoftmax, LogSumExp, Softmax

_REDUCE = {
    "sum": tf.reduce_sum,
    "prod": tf.reduce_prod,
    "max": tf.reduce_max,
    "min": tf.reduce_min,
    "any": tf.reduce_any,
    "all": tf.reduce_all,
}


@kernel(Reduce)
def _reduce(op: Reduce, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    return [_REDUCE[op.kind](blocks[0], axis=_places(step, op.dims))]


def _places(step: Local, dims: Sequence[Dim]) -> list[int]:
    return [step.inputs[0].shape.index(d) for d in dims]


@kernel(LogSumExp)
def _lse(op: LogSumExp, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    return [tf.reduce_logsumexp(blocks[0], axis=_places(step, op.dims))]


@kernel(Softmax)
def _softmax(op: Softmax, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    at = _places(step, op.dims)
    if len(at) == 1:
        return [tf.nn.softmax(blocks[0], axis=at[0])]
    exponentials = tf.exp(blocks[0] - tf.reduce_max(blocks[0], at, keepdims=True))
    return [exponentials / tf.reduce_sum(exponentials, at, keepdims=True)]


@kernel(LogSoftmax)
def _log_softmax(
    op: LogSoftmax, here: Here, step: Local, blocks: Sequence[tf.Tensor]
) -> list[tf.Tensor]:
    at = _places(step, op.dims)
    if len(at) == 1:
        return [tf.nn.log_softmax(blocks[0], axis=at[0])]
    below = blocks[0] - tf.reduce_max(blocks[0], at, keepdims=True)
    return [below - tf.math.log(tf.reduce_sum(tf.exp(below), at, keepdims=True))]


@kernel(FiniteOrZero)
def _finite(op: Any, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    x = blocks[0]
    return [tf.where(tf.math.is_finite(x), x, tf.zeros([], x.dtype))]


@kernel(ArgExtreme)
def _arg(op: ArgExtreme, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    at = step.inputs[0].shape.index(op.dim)
    find = tf.argmax if op.kind == "max" else tf.argmin
    return [find(blocks[0], axis=at, output_type=tf.int32)]


@kernel(FirstEqual)
def _first(op: FirstEqual, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    x, small = step.inputs
    i = x.shape.index(op.dim)
    ranks = [1] * len(x.shape)
    ranks[i] = x.block[i]
    places = tf.reshape(tf.range(x.block[i]) + here.offset(x, i), ranks)
    hit = tf.equal(blocks[0], aligned(blocks[1], small.shape, x.shape))
    return [tf.reduce_min(tf.where(hit, places, op.dim.size), axis=i)]
