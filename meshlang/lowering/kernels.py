"""One kernel for each op: TensorFlow on the block of one processor.

Blocks are positional; dims are read off the plan's values. What depends on where a processor stands
comes through `Place.offset`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from meshlang.dims import Shape
from meshlang.layout.mesh import Mesh
from meshlang.layout.values import Cut, Local, Narrow, PlanValue, Reshape
from meshlang.ops.create import Constant, Range
from meshlang.ops.elementwise import AddN, Binary, Cast, StopGradient, Unary, Where
from meshlang.ops.rearrange import Arrange, Expand
from meshlang.ops.reduce import ArgMax, FiniteOrZero, FirstEqual, LogSumExp, Reduce, Softmax
from meshlang.ops.runs import Concat, Pad, Slice
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


def aligned(x: tf.Tensor, shape: Shape, to: Shape) -> tf.Tensor:
    """A block with the order and rank of `to`: missing dims get size 1."""
    order = [shape.index(d) for d in to if d in shape]
    if order != sorted(order):
        x = tf.transpose(x, order)
    if len(shape) == len(to) or not len(shape):
        return x
    sizes = iter(x.shape)
    return tf.reshape(x, [next(sizes) if d in shape else 1 for d in to])


def _operands(step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    to = step.outputs[0].shape
    return [aligned(x, v.shape, to) for x, v in zip(blocks, step.inputs, strict=True)]


# -- elementwise ----------------------------------------------------------------------------------

_UNARY: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "negative": tf.negative,
    "exp": tf.exp,
    "expm1": tf.math.expm1,
    "log": tf.math.log,
    "log1p": tf.math.log1p,
    "sqrt": tf.sqrt,
    "rsqrt": tf.math.rsqrt,
    "square": tf.square,
    "reciprocal": tf.math.reciprocal,
    "abs": tf.abs,
    "sign": tf.sign,
    "sin": tf.sin,
    "cos": tf.cos,
    "tanh": tf.tanh,
    "sigmoid": tf.sigmoid,
    "relu": tf.nn.relu,
    # Not tf.nn.gelu, whose constants are rounded to float32 whatever x is.
    "gelu": lambda x: 0.5 * x * (1.0 + tf.math.erf(x * 0.7071067811865476)),
    "gelu_tanh": lambda x: (
        0.5 * x * (1.0 + tf.tanh(0.7978845608028654 * (x + 0.044715 * (x * x * x))))
    ),
    "silu": lambda x: x * tf.sigmoid(x),
    "softplus": tf.math.softplus,
    "erf": tf.math.erf,
    "floor": tf.floor,
    "ceil": tf.math.ceil,
    "round": tf.round,
    "is_finite": tf.math.is_finite,
    "logical_not": tf.logical_not,
}

_BINARY: dict[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = {
    "add": lambda x, y: tf.raw_ops.AddV2(x=x, y=y),
    "subtract": tf.subtract,
    "multiply": tf.multiply,
    "divide": lambda x, y: tf.raw_ops.RealDiv(x=x, y=y),
    "maximum": tf.maximum,
    "minimum": tf.minimum,
    "pow": tf.pow,
    "floordiv": tf.math.floordiv,
    "mod": tf.math.floormod,
    "equal": tf.equal,
    "not_equal": tf.not_equal,
    "less": tf.less,
    "less_equal": tf.less_equal,
    "greater": tf.greater,
    "greater_equal": tf.greater_equal,
    "logical_and": tf.logical_and,
    "logical_or": tf.logical_or,
}


@kernel(Unary)
def _unary(op: Unary, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    return [_UNARY[op.fn](blocks[0])]


@kernel(Binary)
def _binary(op: Binary, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    return [_BINARY[op.fn](*_operands(step, blocks))]


@kernel(Where)
def _where(op: Where, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    return [tf.where(*_operands(step, blocks))]


@kernel(Cast)
def _cast(op: Cast, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    return [tf.cast(blocks[0], op.dtype)]


@kernel(Narrow)
def _narrow(op: Narrow, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    return [tf.cast(blocks[0], op.dtype)]


@kernel(StopGradient)
def _same(op: Any, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    return [blocks[0]]


@kernel(AddN)
def _add_n(op: AddN, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """In the order of the operands.

    `tf.add_n` begins with whichever operand's buffer it can take over, which depends on what other
    threads have done by then: of three operands or more the last bits would differ between
    processors that should hold the same.
    """
    return [functools.reduce(_BINARY["add"], _operands(step, blocks))]


# -- reductions -----------------------------------------------------------------------------------

_REDUCE = {
    "sum": tf.reduce_sum,
    "max": tf.reduce_max,
    "min": tf.reduce_min,
    "any": tf.reduce_any,
    "all": tf.reduce_all,
}


@kernel(Reduce)
def _reduce(op: Reduce, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    at = [step.inputs[0].shape.index(d) for d in op.dims]
    return [_REDUCE[op.kind](blocks[0], axis=at)]


@kernel(LogSumExp)
def _lse(op: LogSumExp, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    return [tf.reduce_logsumexp(blocks[0], axis=step.inputs[0].shape.index(op.dim))]


@kernel(Softmax)
def _softmax(op: Softmax, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    return [tf.nn.softmax(blocks[0], axis=step.inputs[0].shape.index(op.dim))]


@kernel(FiniteOrZero)
def _finite(op: Any, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    x = blocks[0]
    return [tf.where(tf.math.is_finite(x), x, tf.zeros([], x.dtype))]


@kernel(ArgMax)
def _argmax(op: ArgMax, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    at = step.inputs[0].shape.index(op.dim)
    return [tf.argmax(blocks[0], axis=at, output_type=tf.int32)]


@kernel(FirstEqual)
def _first(op: FirstEqual, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    x, small = step.inputs
    i = x.shape.index(op.dim)
    ranks = [1] * len(x.shape)
    ranks[i] = x.block[i]
    places = tf.reshape(tf.range(x.block[i]) + here.offset(x, i), ranks)
    hit = tf.equal(blocks[0], aligned(blocks[1], small.shape, x.shape))
    return [tf.reduce_min(tf.where(hit, places, op.dim.size), axis=i)]


# -- rearranging ----------------------------------------------------------------------------------


@kernel(Arrange)
def _arrange(op: Arrange, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    names = step.inputs[0].shape.names
    return [tf.transpose(blocks[0], [names.index(n) for n in op.shape.names])]


@kernel(Expand)
def _expand(op: Expand, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    return [tf.broadcast_to(_operands(step, blocks)[0], step.outputs[0].block)]


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


@kernel(Concat)
def _concat(op: Concat, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    return [tf.concat(list(blocks), axis=step.outputs[0].shape.names.index(op.dim))]


@kernel(Slice)
def _slice(op: Slice, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    made = step.outputs[0]
    begin = [op.start if n == op.dim else 0 for n in made.shape.names]
    return [_sliced(blocks[0], begin, made.block)]


@kernel(Pad)
def _pad(op: Pad, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    names = step.outputs[0].shape.names
    return [tf.pad(blocks[0], [[op.before, op.after] if n == op.dim else [0, 0] for n in names])]


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
