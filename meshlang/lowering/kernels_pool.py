"""Kernels of pooling: TensorFlow's own on images, on what the windows of a block reach over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import tensorflow as tf

from meshlang.layout.values import Local, PlanValue
from meshlang.lowering.kernels import Here, kernel, turned
from meshlang.ops.pool import Pool, PoolPick, PoolSlope, inside
from meshlang.ops.span import Span, as_tensorflow


@kernel(Pool)
def _pool(op: Pool, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    x, y = step.inputs[0], step.outputs[0]
    images = _Images.of(op.along, x)
    run = tf.raw_ops.MaxPool if op.kind == "max" else tf.raw_ops.AvgPool
    argument = "input" if op.kind == "max" else "value"
    made = images.back(y, run(**{argument: images.to(x, blocks[0])}, **images.lies()))
    return [made if op.kind == "max" else _of_what_is_inside(op.along, images, here, y, made)]


@kernel(PoolSlope)
def _slope(op: PoolSlope, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    g, made = step.inputs[-1], step.outputs[0]
    images = _Images.of(op.along, made)
    if op.kind == "max":
        given = [images.to(v, b) for v, b in zip(step.inputs, blocks, strict=True)]
        named = dict(zip(("orig_input", "orig_output", "grad"), given, strict=True))
        return [images.back(made, tf.raw_ops.MaxPoolGrad(**named, **images.lies()))]
    shared = images.to(g, _of_what_is_inside(op.along, images, here, g, blocks[0]))
    sizes = images.sizes(made)
    slope = tf.raw_ops.AvgPoolGrad(orig_input_shape=sizes, grad=shared, **images.lies())
    return [images.back(made, slope)]


@kernel(PoolPick)
def _pick(op: PoolPick, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """By index: TensorFlow's MaxPoolGradGrad may write over the operand that it still reads."""
    images = _Images.of(op.along, step.inputs[0])
    x, _, z = (images.to(v, b) for v, b in zip(step.inputs, blocks, strict=True))
    _, at = tf.raw_ops.MaxPoolWithArgmax(input=x, include_batch_in_index=True, **images.lies())
    return [images.back(step.outputs[0], tf.gather(tf.reshape(z, [-1]), at))]


def _of_what_is_inside(
    along: Sequence[tuple[str, Span]], images: _Images, here: Here, value: PlanValue, y: Any
) -> tf.Tensor:
    """Of means over whole windows, those over what lies inside; TensorFlow's padding knows it."""
    if images.whole:
        return y
    for name, lies in along:
        counts = inside(lies)
        if (counts == lies.window).all():
            continue
        at = value.shape.place(name)
        size = value.block[at]
        factor = tf.constant(lies.window / counts, y.dtype)
        mine = tf.slice(factor, [here.offset(value, at)], [size])
        y *= tf.reshape(mine, [size if i == at else 1 for i in range(len(value.block))])
    return y


@dataclass(frozen=True)
class _Images:
    """Values as [batch, height, width, channels]; one dim is the height of images of width 1.

    Attributes:
        dims: along which is pooled.
        spans: how the windows lie; those of a second dim that is not there have size 1.
        whole: whether TensorFlow pads, else what windows reach over is there already.
    """

    dims: tuple[str, ...]
    spans: tuple[Span, ...]
    whole: bool

    @classmethod
    def of(cls, along: Sequence[tuple[str, Span]], x: PlanValue) -> _Images:
        """Of the value that windows slide over."""
        dims, spans = zip(*along, strict=True)
        return cls(dims, spans, dims[0] in x.shape.names)

    def lies(self) -> dict[str, Any]:
        """The arguments that all of TensorFlow's kernels share."""
        more = [1] * (3 - len(self.spans))
        return {
            "ksize": [1, *(s.window for s in self.spans), *more],
            "strides": [1, *(s.stride for s in self.spans), *more],
            "padding": as_tensorflow(self.spans) if self.whole else "VALID",
        }

    def parts(self, value: PlanValue) -> tuple[list[int], list[int], list[int]]:
        """The places of dims: in front of the first pooled one, pooled, behind."""
        names = [name.removesuffix(".run") for name in value.shape.names]
        pooled = [names.index(name) for name in self.dims]
        rest = [i for i in range(len(names)) if i not in pooled]
        return [i for i in rest if i < pooled[0]], pooled, [i for i in rest if i > pooled[0]]

    def _order(self, value: PlanValue) -> list[int]:
        front, pooled, behind = self.parts(value)
        return [*front, *pooled, *behind]

    def sizes(self, value: PlanValue) -> list[int]:
        """Of a value as images."""
        front, pooled, behind = ([value.block[i] for i in part] for part in self.parts(value))
        return [prod(front), *pooled, *([1] * (2 - len(pooled))), prod(behind)]

    def to(self, value: PlanValue, block: tf.Tensor) -> tf.Tensor:
        """From a block to images."""
        return _shaped(turned(block, self._order(value)), self.sizes(value))

    def back(self, value: PlanValue, images: tf.Tensor) -> tf.Tensor:
        """From images to a block."""
        order = self._order(value)
        block = _shaped(images, [value.block[i] for i in order])
        return turned(block, np.argsort(order).tolist())


def _shaped(x: tf.Tensor, shape: list[int]) -> tf.Tensor:
    """TensorFlow's fast gradient is found only where nothing stands between pool and gradient."""
    return x if list(x.shape) == shape else tf.reshape(x, shape)
