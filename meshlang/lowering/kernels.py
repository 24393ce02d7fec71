"""One kernel for each op: TensorFlow on the block of one processor.

Blocks are positional; dims are read off the plan's values. What depends on where a processor stands
comes through `Place.offset`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from meshlang.dims import Shape
from meshlang.layout.mesh import Mesh
from meshlang.layout.values import Cut, Local, PlanValue, Reshape
from meshlang.ops.create import Constant, Range
from meshlang.ops.rearrange import Arrange, Expand
from meshlang.ops.state import StackUp, Step, Unstack

Kernel = Callable[[Any, "Here", Local, Sequence[tf.Tensor]], list[tf.Tensor]]
KERNELS: dict[type, Kernel] = {}


@dataclass(frozen=True)
class Here:
    """Where a kernel runs: this processor's coordinates, and the call's seed and step."""

    mesh: Mesh
    coordinates: dict[str, tf.Tensor]
    seed: tf.Tensor
    step: tf.Tensor

    def index(self, axes: tuple[str, ...]) -> tf.Tensor | int:
        """Which piece of a dim along these axes is here: an int32 scalar."""
        at: tf.Tensor | int = 0
        for axis in axes:
            at = at * self.mesh[axis] + self.coordinates[axis]
        return at

    def offset(self, value: PlanValue, i: int) -> tf.Tensor | int:
        """The global index at which the block begins, along its dim `i`."""
        return self.index(value.placement[i]) * value.block[i]


def kernel(op: type) -> Callable[[Kernel], Kernel]:
    """Register the kernel of an op."""

    def register(fn: Kernel) -> Kernel:
        KERNELS[op] = fn
        return fn

    return register


def run_kernel(step: Local, here: Here, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Compute one step and check the shapes of what comes out against the plan."""
    results = KERNELS[type(step.op)](step.op, here, step, blocks)
    for result, value in zip(results, step.outputs, strict=True):
        if tuple(result.shape) != value.block or result.dtype.name != value.dtype:
            raise AssertionError(
                f"{step.op.label} makes {tuple(result.shape)} {result.dtype.name}, "
                f"the plan says {value.block} {value.dtype} for {value}"
            )
    return results


def turned(x: tf.Tensor, order: Sequence[int]) -> tf.Tensor:
    """`tf.transpose`; nothing is copied where only dims of size 1 change places."""
    if list(order) == sorted(order):
        return x
    long = [i for i in order if x.shape[i] != 1]
    if long == sorted(long):
        return tf.reshape(x, [x.shape[i] for i in order])
    return tf.transpose(x, order)


def aligned(x: tf.Tensor, shape: Shape, to: Shape) -> tf.Tensor:
    """A block with the order and rank of `to`: missing dims get size 1."""
    x = turned(x, [shape.index(d) for d in to if d in shape])
    if len(shape) == len(to) or not len(shape):
        return x
    sizes = iter(x.shape)
    return tf.reshape(x, [next(sizes) if d in shape else 1 for d in to])


def operands(step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Blocks of operands with the order and rank of the first result."""
    to = step.outputs[0].shape
    return [aligned(x, v.shape, to) for x, v in zip(blocks, step.inputs, strict=True)]


# -- rearranging ----------------------------------------------------------------------------------


@kernel(Arrange)
def _arrange(op: Arrange, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    names = step.inputs[0].shape.names
    return [turned(blocks[0], [names.index(n) for n in op.shape.names])]


@kernel(Expand)
def _expand(op: Expand, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    return [tf.broadcast_to(operands(step, blocks)[0], step.outputs[0].block)]


@kernel(Reshape)
def _reshape(op: Reshape, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    block = step.outputs[0].block
    return [blocks[0] if tuple(blocks[0].shape) == block else tf.reshape(blocks[0], block)]


@kernel(Cut)
def _cut(op: Cut, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    made = step.outputs[0]
    begin: list[Any] = [0] * len(made.block)
    for i, axes in op.dims:
        begin[i] = here.index(axes) * made.block[i]
    return [_sliced(blocks[0], begin, made.block)]


def _sliced(x: tf.Tensor, begin: Sequence[Any], block: Sequence[int]) -> tf.Tensor:
    if tuple(x.shape) == tuple(block):
        return x
    return tf.ensure_shape(tf.slice(x, tf.stack(list(begin)), list(block)), list(block))


@kernel(Unstack)
def _unstack(op: Unstack, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    return tf.unstack(blocks[0], axis=step.inputs[0].shape.names.index(op.dim))


@kernel(StackUp)
def _stack(op: StackUp, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    rest = Shape(step.outputs[0].shape[1:])
    parts = [aligned(x, v.shape, rest) for x, v in zip(blocks, step.inputs, strict=True)]
    return [tf.stack(parts)]


# -- new values -----------------------------------------------------------------------------------


@kernel(Constant)
def _constant(
    op: Constant, here: Here, step: Local, blocks: Sequence[tf.Tensor]
) -> list[tf.Tensor]:
    made = step.outputs[0]
    whole = tf.constant(op.array, dtype=op.dtype)
    return [_sliced(whole, [here.offset(made, i) for i in range(len(made.block))], made.block)]


@kernel(Range)
def _range(op: Range, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    made = step.outputs[0]
    return [tf.cast(tf.range(made.block[0]) + here.offset(made, 0), op.dtype)]


@kernel(Step)
def _step(op: Step, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    return [tf.cast(here.step, "int32")]
