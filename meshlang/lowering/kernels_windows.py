"""Kernels of new dims: windows along a dim and adding them up, stacks and their parts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from meshlang.dims import Shape
from meshlang.layout.values import Local
from meshlang.lowering.kernels import Here, aligned, kernel
from meshlang.ops.halos import AddWindows, Windows
from meshlang.ops.span import Span
from meshlang.ops.stacks import Parts, Stack


@kernel(Windows)
def _windows(op: Windows, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    made = step.outputs[0]
    at = made.shape.place(op.dim)
    if _side_by_side(op.span, made.block[at], blocks[0].shape[at]):
        return [tf.reshape(blocks[0], made.block)]
    return [tf.gather(blocks[0], _indices(op.span, made.block[at]), axis=at)]


@kernel(AddWindows)
def _add_windows(
    op: AddWindows, here: Here, step: Local, blocks: Sequence[tf.Tensor]
) -> list[tf.Tensor]:
    """Rows with their window in front, added up by the index that they came from."""
    made = step.outputs[0]
    at = made.shape.place(f"{op.dim.name}.run")
    if _side_by_side(op.span, blocks[0].shape[at], made.block[at]):
        return [tf.reshape(blocks[0], made.block)]
    rank = blocks[0].shape.rank
    order = [at, at + 1, *(i for i in range(rank) if i not in (at, at + 1))]
    places = _indices(op.span, blocks[0].shape[at])
    rows = tf.math.unsorted_segment_sum(tf.transpose(blocks[0], order), places, made.block[at])
    back = [*range(1, at + 1), 0, *range(at + 1, rank - 1)]
    return [tf.transpose(rows, back)]


def _side_by_side(span: Span, count: int, size: int) -> bool:
    """Whether windows neither overlap nor leave gaps: then they are the dim, split."""
    return span.stride == span.window and span.dilation == 1 and size == count * span.window


def _indices(span: Span, count: int) -> np.ndarray:
    """The index within what they reach over, by window and place in it."""
    first = np.arange(count, dtype=np.int32)[:, None] * span.stride
    return first + np.arange(span.window, dtype=np.int32) * span.dilation


@kernel(Stack)
def _stack(op: Stack, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    rest = Shape(step.outputs[0].shape[1:])
    return [tf.stack([aligned(x, v.shape, rest) for x, v in zip(blocks, step.inputs, strict=True)])]


@kernel(Parts)
def _parts(op: Parts, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    return tf.unstack(blocks[0], axis=step.inputs[0].shape.place(op.dim))
