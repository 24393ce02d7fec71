"""Kernels of the largest and smallest rows by index."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from meshlang.layout.values import Local
from meshlang.lowering.kernels import Here, kernel
from meshlang.lowering.kernels_products import arranged, as_rows, flat_index
from meshlang.ops.scatter import ScatterExtreme


@kernel(ScatterExtreme)
def _scatter(
    op: ScatterExtreme, here: Here, step: Local, blocks: Sequence[tf.Tensor]
) -> list[tf.Tensor]:
    x, values, at = step.inputs
    made = step.outputs[0]
    rest = [d for d in values.shape if d not in at.shape]
    flat, _ = flat_index(here, blocks[2:], at, made, (op.dim,), rest)
    given = as_rows(values, blocks[1], list(at.shape), rest)
    lead = [d for d in made.shape if d not in rest]
    held = as_rows(x, blocks[0], lead, rest)
    write = tf.raw_ops.TensorScatterMax if op.kind == "max" else tf.raw_ops.TensorScatterMin
    indices = tf.reshape(flat, [-1, 1])
    # An index of -1 writes nothing.
    found = write(tensor=held, indices=indices, updates=given, bad_indices_policy="IGNORE")
    return [arranged(found, [*lead, *rest], made)]
