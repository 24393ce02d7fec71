"""Kernels of ops that order others, look at values, or run a user's own function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from meshlang.errors import DimError, message
from meshlang.layout.values import Local
from meshlang.lowering.kernels import KERNELS, Here, kernel
from meshlang.ops.blockwise import LocalMap, Slope
from meshlang.ops.debug import Bad, Print
from meshlang.ops.recomputed import Barrier, Later


@kernel(Barrier)
def _barrier(op: Barrier, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    with tf.control_dependencies([blocks[1]]):
        return [tf.identity(blocks[0])]


@kernel(Later)
def _later(op: Later, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    with tf.control_dependencies([blocks[-1]]):
        return KERNELS[type(op.op)](op.op, here, step, blocks[:-1])


# -- looking at values ----------------------------------------------------------------------------


@kernel(Print)
def _print(op: Print, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    (value,), (block,) = step.inputs, blocks
    divides = [a for a in here.mesh.names if any(a in axes for axes in value.placement)]
    others = [here.coordinates[a] for a in here.mesh.names if a not in divides]
    places = [f"{axis}={{}}" for axis in divides]
    form = " ".join([f"{op.message} {value}".strip(), *places, "{}"])

    def printed() -> tf.Tensor:
        at = [here.coordinates[a] for a in divides]
        with tf.control_dependencies([_printed(form, [*at, block], op.most)]):
            return tf.constant(True)

    first = tf.reduce_all([tf.equal(c, 0) for c in others]) if others else tf.constant(True)
    done = tf.cond(first, printed, lambda: tf.constant(False))
    with tf.control_dependencies([done]):
        return [tf.identity(block)]


def _printed(form: str, inputs: list[tf.Tensor], most: int) -> tf.Operation:
    line = tf.strings.format(form, inputs, summarize=most)
    return tf.raw_ops.PrintV2(input=line, output_stream="stdout", end="\n")


@kernel(Bad)
def _bad(op: Bad, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    (x,) = blocks
    wrong = tf.zeros(x.shape, tf.bool)
    if x.dtype.is_floating and op.finite:
        wrong |= tf.logical_not(tf.math.is_finite(x))
    if op.low is not None:
        wrong |= tf.logical_not(x >= tf.cast(op.low, x.dtype))
    if op.high is not None:
        wrong |= tf.logical_not(x <= tf.cast(op.high, x.dtype))
    return [tf.math.count_nonzero(wrong, dtype=tf.int32)]


# -- a user's own function ------------------------------------------------------------------------


@kernel(LocalMap)
def _local_map(
    op: LocalMap, here: Here, step: Local, blocks: Sequence[tf.Tensor]
) -> list[tf.Tensor]:
    results = _called(op.fn, list(blocks))
    found = [(tuple(r.shape), r.dtype.name) for r in results]
    wanted = [(v.block, v.dtype) for v in step.outputs]
    if found != wanted:
        raise DimError(
            message(
                "local_map: the function returns other blocks than out= says.",
                [
                    ("operands", ", ".join(map(str, step.inputs))),
                    ("returned", ", ".join(f"{list(s)} {d}" for s, d in found) or "nothing"),
                    ("out", ", ".join(f"{list(s)} {d}" for s, d in wanted)),
                ],
                "return blocks of these sizes and dtypes, or declare others",
            )
        )
    return results


def _called(fn: Any, blocks: list[tf.Tensor]) -> list[tf.Tensor]:
    """What a function makes of blocks; a slope is that of its function."""
    if not isinstance(fn, Slope):
        results = fn(*blocks)
        listed = list(results) if isinstance(results, list | tuple) else [results]
        return [tf.convert_to_tensor(r) for r in listed]
    xs, gs = blocks[: fn.operands], blocks[fn.operands :]
    if fn.grad is not None:
        found = fn.grad(tuple(xs), tuple(gs))
        return [tf.convert_to_tensor(found[fn.i])]
    with tf.GradientTape() as tape:
        tape.watch(xs[fn.i])
        ys = [y for y in _called(fn.of, xs) if y.dtype.is_floating]
    zero = tf.UnconnectedGradients.ZERO
    return [tape.gradient(ys, xs[fn.i], output_gradients=gs, unconnected_gradients=zero)]
