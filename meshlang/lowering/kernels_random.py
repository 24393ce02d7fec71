"""Random numbers by global position: Philox with the counter at the element's index.

A block that is one run of the global indices is drawn alone; otherwise divided dims are drawn whole
and cut. So bits are the same under every layout.
Philox: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import tensorflow as tf

from meshlang.layout.values import Local, PlanValue
from meshlang.lowering.kernels import Here, kernel
from meshlang.ops.create import Random

_PHILOX = 1
#: elements that one count of Philox makes, for 32-bit results
_EACH = 4
_SEED_STRIDE = -7046029254386353131  # odd, from the golden ratio; spreads seeds over the keys
_TRIP_STRIDE = 2862933555777941757  # odd; spreads steps and outer trips over the counters
#: the largest number below one: rounding must not make a one of [0, 1)
_BELOW_ONE = {"bfloat16": 1.0 - 2.0**-8, "float16": 1.0 - 2.0**-11}


@kernel(Random)
def _random(op: Random, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    made = step.outputs[0]
    first, sizes, cuts = _run(made, here)
    count = prod(sizes)
    draw = _flat(op, _key(op, here), _high(here, blocks), first, count)
    drawn = tf.reshape(draw, sizes)
    if cuts:
        begin = [cuts.get(i, 0) for i in range(len(sizes))]
        drawn = tf.ensure_shape(tf.slice(drawn, tf.stack(begin), made.block), made.block)
    return [tf.cast(drawn, op.dtype)]


def _run(made: PlanValue, here: Here) -> tuple[tf.Tensor, list[int], dict[int, tf.Tensor]]:
    """The run of global indices that covers the block.

    Returns:
        Its first index (int64), the sizes to draw, and where to cut dims that are drawn whole.
    """
    divided = [i for i, axes in enumerate(made.placement) if axes]
    outer = divided[0] if divided else 0
    # A run stays one only if all dims outside of the first divided one have one index.
    whole_before = prod(made.block[:outer]) == 1
    sizes, cuts = list(made.block), {}
    first = tf.constant(0, tf.int64)
    for i in divided:
        if i == outer and whole_before:
            inner = prod(made.shape.sizes[i + 1 :])
            first = tf.cast(here.offset(made, i), tf.int64) * inner
        else:
            sizes[i] = made.shape.sizes[i]
            cuts[i] = here.offset(made, i)
    return first, sizes, cuts


def _flat(op: Random, key: tf.Tensor, high: tf.Tensor, first: tf.Tensor, count: int) -> tf.Tensor:
    """So many numbers of the stream, from this index on: float32, or bits in int64."""
    low = tf.bitcast(first // _EACH, tf.uint64)
    counter = tf.stack([low, high])
    drawn = -(-count // _EACH) * _EACH + _EACH
    skip = tf.cast(first % _EACH, tf.int32)
    if op.kind == "normal":
        numbers = tf.raw_ops.StatelessRandomNormalV2(
            shape=[drawn], key=key, counter=counter, alg=_PHILOX, dtype=tf.float32
        )
    elif op.kind == "uniform":
        # 23 bits; 24 by hand would take three more passes over the numbers.
        numbers = tf.raw_ops.StatelessRandomUniformV2(
            shape=[drawn], key=key, counter=counter, alg=_PHILOX, dtype=tf.float32
        )
        if op.dtype in _BELOW_ONE:
            numbers = tf.minimum(numbers, _BELOW_ONE[op.dtype])
    else:
        bits = tf.raw_ops.StatelessRandomUniformFullIntV2(
            shape=[drawn], key=key, counter=counter, alg=_PHILOX, dtype=tf.uint32
        )
        if op.kind == "bits":
            return tf.slice(tf.cast(bits, tf.int64), [skip], [count])
        numbers = tf.cast(tf.bitwise.right_shift(bits, tf.constant(8, tf.uint32)), tf.float32)
        numbers = numbers * 2.0**-24
        if op.kind == "truncated":
            numbers = _truncated(numbers)
        else:
            numbers = _gumbel(numbers)
    return tf.slice(numbers, [skip], [count])


def _truncated(unit: tf.Tensor) -> tf.Tensor:
    """The normal distribution within two deviations, by inverting its distribution function."""
    below = 0.02275013194817921  # what a normal has below -2
    return tf.cast(tf.math.ndtri(below + _inside(unit) * (1.0 - 2.0 * below)), tf.float32)


def _gumbel(unit: tf.Tensor) -> tf.Tensor:
    return tf.cast(-tf.math.log(-tf.math.log(_inside(unit))), tf.float32)


def _inside(unit: tf.Tensor) -> tf.Tensor:
    """The middle of each number's cell, in float64: never 0 or 1."""
    return tf.cast(unit, tf.float64) + 2.0**-25


def _key(op: Random, here: Here) -> tf.Tensor:
    """The Philox key of (seed, op): uint64 of shape [1]."""
    mixed = tf.cast(here.seed, tf.int64) * tf.constant(_SEED_STRIDE, tf.int64)
    return tf.bitcast(tf.reshape(mixed + tf.constant(op.key, tf.int64), [1]), tf.uint64)


def _high(here: Here, trips: Sequence[tf.Tensor]) -> tf.Tensor:
    """The upper half of the counter, of (step, trips) however many and long: uint64 scalar."""
    mixed = tf.cast(here.step, tf.int64)
    for trip in trips:
        mixed = mixed * tf.constant(_TRIP_STRIDE, tf.int64) + tf.cast(trip, tf.int64) + 1
    return tf.bitcast(mixed, tf.uint64)
