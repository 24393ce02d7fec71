"""Kernels of the largest and smallest rows by index."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from meshlang.layout.values import Local
from meshlang.lowering.kernels import Here, aligned, kernel
from meshlang.lowering.kernels_products import arranged, as_rows, flat_index
from meshlang.ops.scatter import ScatterExtreme


@kernel(ScatterExtreme)
def _scatter(
    op: ScatterExtreme, here: Here, step: Local, blocks: Sequence[tf.Tensor]
) -> list[tf.Tensor]:
    x, values, at = step.inputs
    made = step.outputs[0]
    rest = [d for d in values.shape if d not in at.shape]
    flat, rows = flat_index(here, blocks[2:], at, made, (op.dim,), rest)
    given = as_rows(values, blocks[1], list(at.shape), rest)
    most = op.kind == "max"
    found = (tf.math.unsorted_segment_max if most else tf.math.unsorted_segment_min)(
        given, tf.reshape(flat, [-1]), rows
    )
    found = arranged(found, [*(d for d in made.shape if d not in rest), *rest], made)
    x = aligned(blocks[0], x.shape, made.shape)
    # Where nothing is written the kernel gives the least finite number, which hides -inf in x.
    none = tf.equal(found, found.dtype.min if most else found.dtype.max)
    return [tf.where(none, x, (tf.maximum if most else tf.minimum)(x, found))]
