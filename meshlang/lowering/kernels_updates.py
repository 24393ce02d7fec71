"""Kernels of optimizers' updates: on blocks, as every op, and in place, on variables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from meshlang.layout.values import Local
from meshlang.lowering.kernels import Here, kernel
from meshlang.optim.updates import AdamUpdate, DescentUpdate, MomentumUpdate, Update

Blocks = Sequence[tf.Tensor]


@kernel(AdamUpdate)
def _adam(op: AdamUpdate, here: Here, step: Local, blocks: Blocks) -> list[tf.Tensor]:
    w, m, v, gradient, rate, fair1, fair2, *rest = blocks
    g = gradient * rest[-1] if op.scaled else gradient
    m = m * op.beta1 + g * (1 - op.beta1)
    v = v * op.beta2 + tf.square(g) * (1 - op.beta2)
    rate, epsilon = _folded(op, rate, fair1, fair2)
    kept = w * (1 - rest[0]) if op.decayed else w
    return [kept - m / (tf.sqrt(v) + epsilon) * rate, m, v]


@kernel(MomentumUpdate)
def _momentum(op: MomentumUpdate, here: Here, step: Local, blocks: Blocks) -> list[tf.Tensor]:
    w, v, gradient, rate, *rest = blocks
    g = gradient * rest[-1] if op.scaled else gradient
    v = v * op.momentum + g
    return [w - (g + v * op.momentum if op.nesterov else v) * rate, v]


@kernel(DescentUpdate)
def _descent(op: DescentUpdate, here: Here, step: Local, blocks: Blocks) -> list[tf.Tensor]:
    w, gradient, rate, *rest = blocks
    return [w - (gradient * rest[-1] if op.scaled else gradient) * rate]


def _folded(
    op: AdamUpdate, rate: tf.Tensor, fair1: tf.Tensor, fair2: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """The corrections in the rate and in epsilon, which are scalars, instead of in the moments."""
    root = tf.sqrt(fair2)
    return rate * root / fair1, op.epsilon * root


# -- in place -------------------------------------------------------------------------------------

InPlace = Callable[[Any, Blocks, Blocks, tf.Tensor | None], None]
IN_PLACE: dict[type[Update], InPlace] = {}


def in_place(op: type[Update]) -> Callable[[InPlace], InPlace]:
    """Register the in-place kernel of an update.

    It is called with the op, the handles of the variable and its slots, the gradient followed by
    the op's scalars, and when to update at all, a bool scalar or None. Where that is False it
    changes no value, whatever the gradient holds: rates become 0, factors of slots become 1.
    """

    def register(fn: InPlace) -> InPlace:
        IN_PLACE[op] = fn
        return fn

    return register


@in_place(AdamUpdate)
def _adam_in_place(op: AdamUpdate, handles: Blocks, operands: Blocks, ok: tf.Tensor | None) -> None:
    gradient, rate, fair1, fair2, *rest = operands
    w, m, v = handles
    rate, epsilon = _folded(op, rate, fair1, fair2)
    if op.decayed:
        held = tf.raw_ops.ReadVariableOp(resource=w, dtype=rate.dtype)
        tf.raw_ops.AssignVariableOp(resource=w, value=held * (1 - _unless(ok, rest[0], 0)))
    tf.raw_ops.ResourceApplyAdam(
        var=w,
        m=m,
        v=v,
        beta1_power=tf.zeros_like(rate),
        beta2_power=tf.zeros_like(rate),
        lr=_unless(ok, rate, 0),
        beta1=_unless(ok, tf.constant(op.beta1, rate.dtype), 1),
        beta2=_unless(ok, tf.constant(op.beta2, rate.dtype), 1),
        epsilon=epsilon,
        grad=_gradient(op, gradient, rest, ok),
    )


@in_place(MomentumUpdate)
def _momentum_in_place(
    op: MomentumUpdate, handles: Blocks, operands: Blocks, ok: tf.Tensor | None
) -> None:
    gradient, rate, *rest = operands
    w, v = handles
    tf.raw_ops.ResourceApplyMomentum(
        var=w,
        accum=v,
        lr=_unless(ok, rate, 0),
        grad=_gradient(op, gradient, rest, ok),
        momentum=_unless(ok, tf.constant(op.momentum, rate.dtype), 1),
        use_nesterov=op.nesterov,
    )


@in_place(DescentUpdate)
def _descent_in_place(
    op: DescentUpdate, handles: Blocks, operands: Blocks, ok: tf.Tensor | None
) -> None:
    gradient, rate, *rest = operands
    tf.raw_ops.ResourceApplyGradientDescent(
        var=handles[0], alpha=rate, delta=_gradient(op, gradient, rest, ok)
    )


def _unless(ok: tf.Tensor | None, x: tf.Tensor, otherwise: int) -> tf.Tensor:
    """The scalar x, or what changes nothing where the step is skipped."""
    return x if ok is None else tf.where(ok, x, tf.constant(otherwise, x.dtype))


def _gradient(op: Update, gradient: tf.Tensor, rest: Blocks, ok: tf.Tensor | None) -> tf.Tensor:
    """The scaled gradient; 0 where the step is skipped, also where it is NaN. One pass at most."""
    if ok is None:
        return gradient * rest[-1] if op.scaled else gradient
    scale = rest[-1] if op.scaled else tf.ones([], gradient.dtype)
    return tf.math.multiply_no_nan(gradient, _unless(ok, scale, 0))
