"""Kernels of re-blocking: rows that are sent, and blocks put together from pieces."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from meshlang.layout.reblock import Assemble, Layer, Rows
from meshlang.layout.values import Local
from meshlang.lowering.kernels import Here, kernel
from meshlang.ops.span import FILL, Run


@kernel(Rows)
def _rows(op: Rows, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    start = _mine(op.starts, here, op.axes)
    return [_part(blocks[0], op.at, Run(0, 0, op.size), start)]


@kernel(Assemble)
def _assemble(
    op: Assemble, here: Here, step: Local, blocks: Sequence[tf.Tensor]
) -> list[tf.Tensor]:
    """Layers are added in their order."""
    made = step.outputs[0]
    fill = tf.cast(op.fill, made.dtype)
    sums = [_layer(op, layer, here, made.block, blocks, fill) for layer in op.layers]
    return [functools.reduce(tf.add, sums)]


def _layer(
    op: Assemble,
    layer: Layer,
    here: Here,
    block: tuple[int, ...],
    blocks: Sequence[tf.Tensor],
    fill: tf.Tensor,
) -> tf.Tensor:
    """By slices where all processors have runs of the same sizes, else by looking rows up."""
    forms = {tuple((run.operand, run.size, run.step) for run in runs) for runs in layer}
    if len(layer) == 1 and blocks and _goes_round(layer[0], blocks[0].shape[op.at]):
        return tf.roll(blocks[0], -layer[0][0].start, op.at)  # half the time of slices joined
    if len(forms) == 1:
        parts = []
        for i, run in enumerate(layer[0]):
            if run.operand == FILL:
                parts.append(tf.fill(_with(block, op.at, run.size), fill))
            else:
                lowest = [_lowest(runs[i]) for runs in layer]
                start = _mine(lowest, here, op.axes)
                parts.append(_part(blocks[run.operand], op.at, run, start))
        return parts[0] if len(parts) == 1 else tf.concat(parts, op.at)
    begins = np.cumsum([0, *(x.shape[op.at] for x in blocks)]).tolist()
    table = [
        np.concatenate(
            [
                np.full(run.size, begins[-1])
                if run.operand == FILL
                else begins[run.operand] + run.start + run.step * np.arange(run.size)
                for run in runs
            ]
        )
        for runs in layer
    ]
    rows = tf.concat([*blocks, tf.fill(_with(block, op.at, 1), fill)], op.at)
    return tf.gather(rows, _mine(np.stack(table), here, op.axes), axis=op.at)


def _goes_round(runs: Sequence[Run], size: int) -> bool:
    """Whether this is the first operand, begun elsewhere."""
    if len(runs) != 2 or any(run.operand or run.step < 0 for run in runs):
        return False
    first, second = runs
    return second.start == 0 and second.size == first.start and first.start + first.size == size


def _mine(table: Sequence[object] | np.ndarray, here: Here, axes: tuple[str, ...]) -> object:
    """This processor's entry, known while tracing if all have the same."""
    entries = np.asarray(table, np.int32)
    if (entries == entries[0]).all():
        return int(entries[0]) if entries.ndim == 1 else entries[0]
    return tf.constant(entries)[here.index(axes)]


def _lowest(run: Run) -> int:
    return run.start if run.step > 0 else run.start - run.size + 1


def _part(x: tf.Tensor, at: int, run: Run, start: object) -> tf.Tensor:
    """As many rows as a run has, from the lowest one on, in its direction."""
    if x.shape[at] > run.size:
        begin = [start if i == at else 0 for i in range(x.shape.rank)]
        x = tf.slice(x, begin, _with(x.shape, at, run.size))
    return x if run.step > 0 else tf.reverse(x, [at])


def _with(block: Sequence[int], at: int, size: int) -> list[int]:
    return [size if i == at else n for i, n in enumerate(block)]
