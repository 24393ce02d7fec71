"""Kernels of the elementwise ops."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from meshlang.layout.values import Local, Narrow
from meshlang.lowering.kernels import Here, kernel, operands
from meshlang.ops.elementwise import (
    AddN,
    Binary,
    Cast,
    LeakyRelu,
    LeakySlope,
    Polygamma,
    StopGradient,
    Unary,
    Where,
)
from meshlang.ops.slopes import Slope


def _wide(fn: Callable[[tf.Tensor], tf.Tensor]) -> Callable[[tf.Tensor], tf.Tensor]:
    """A function that TensorFlow has no bfloat16 kernel of."""

    def widened(x: tf.Tensor) -> tf.Tensor:
        short = x.dtype in (tf.bfloat16, tf.float16)
        return tf.cast(fn(tf.cast(x, tf.float32)), x.dtype) if short else fn(x)

    return widened


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
    "tan": tf.tan,
    "asin": tf.asin,
    "acos": tf.acos,
    "atan": tf.atan,
    "sinh": tf.sinh,
    "cosh": tf.cosh,
    "tanh": tf.tanh,
    "asinh": tf.asinh,
    "acosh": tf.acosh,
    "atanh": tf.atanh,
    "sigmoid": tf.sigmoid,
    "log_sigmoid": tf.math.log_sigmoid,
    "relu": tf.nn.relu,
    "relu6": tf.nn.relu6,
    "elu": tf.nn.elu,
    "selu": tf.nn.selu,
    # Not tf.nn.gelu, whose constants are rounded to float32 whatever x is.
    "gelu": lambda x: 0.5 * x * (1.0 + tf.math.erf(x * 0.7071067811865476)),
    "gelu_tanh": lambda x: (
        0.5 * x * (1.0 + tf.tanh(0.7978845608028654 * (x + 0.044715 * (x * x * x))))
    ),
    "silu": lambda x: x * tf.sigmoid(x),
    "softplus": tf.math.softplus,
    "softsign": tf.math.softsign,
    "erf": tf.math.erf,
    "erfc": tf.math.erfc,
    "lgamma": _wide(tf.math.lgamma),
    "digamma": _wide(tf.math.digamma),
    "floor": tf.floor,
    "ceil": tf.math.ceil,
    "round": tf.round,
    "is_finite": tf.math.is_finite,
    "is_inf": tf.math.is_inf,
    "is_nan": tf.math.is_nan,
    "logical_not": tf.logical_not,
    "bitwise_not": tf.bitwise.invert,
}

_BINARY: dict[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = {
    "add": lambda x, y: tf.raw_ops.AddV2(x=x, y=y),
    "subtract": tf.subtract,
    "multiply": tf.multiply,
    "divide": lambda x, y: tf.raw_ops.RealDiv(x=x, y=y),
    "divide_no_nan": tf.math.divide_no_nan,
    "maximum": tf.maximum,
    "minimum": tf.minimum,
    "pow": tf.pow,
    "squared_difference": tf.math.squared_difference,
    "xlogy": tf.math.xlogy,
    "atan2": tf.atan2,
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
    "logical_xor": tf.math.logical_xor,
    "bitwise_and": tf.bitwise.bitwise_and,
    "bitwise_or": tf.bitwise.bitwise_or,
    "bitwise_xor": tf.bitwise.bitwise_xor,
    "left_shift": tf.bitwise.left_shift,
    "right_shift": tf.bitwise.right_shift,
}

#: of a cotangent and of what the derivative is computed from
_SLOPE: dict[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = {
    "relu": lambda g, y: tf.raw_ops.ReluGrad(gradients=g, features=y),
    "relu6": lambda g, y: tf.raw_ops.Relu6Grad(gradients=g, features=y),
    "tanh": lambda g, y: tf.raw_ops.TanhGrad(y=y, dy=g),
    "sigmoid": lambda g, y: tf.raw_ops.SigmoidGrad(y=y, dy=g),
    "elu": lambda g, y: tf.raw_ops.EluGrad(gradients=g, outputs=y),
    "selu": lambda g, y: tf.raw_ops.SeluGrad(gradients=g, outputs=y),
    "softplus": lambda g, x: tf.raw_ops.SoftplusGrad(gradients=g, features=x),
    "softsign": lambda g, x: tf.raw_ops.SoftsignGrad(gradients=g, features=x),
    "sqrt": lambda g, y: tf.raw_ops.SqrtGrad(y=y, dy=g),
    "rsqrt": lambda g, y: tf.raw_ops.RsqrtGrad(y=y, dy=g),
    "reciprocal": lambda g, y: tf.raw_ops.ReciprocalGrad(y=y, dy=g),
}


@kernel(Unary)
def _unary(op: Unary, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    return [_UNARY[op.fn](blocks[0])]


@kernel(Binary)
def _binary(op: Binary, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    return [_BINARY[op.fn](*operands(step, blocks))]


@kernel(Where)
def _where(op: Where, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    return [tf.where(*operands(step, blocks))]


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
    return [functools.reduce(_BINARY["add"], operands(step, blocks))]


@kernel(Slope)
def _slope(op: Slope, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    return [_SLOPE[op.fn](*operands(step, blocks))]


@kernel(LeakyRelu)
def _leaky(op: LeakyRelu, here: Here, step: Local, blocks: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    x = blocks[0]
    if x.dtype == tf.float64:  # the kernel rounds alpha to float32 whatever x is
        return [tf.where(x > 0, x, op.alpha * x)]
    return [tf.nn.leaky_relu(x, op.alpha)]


@kernel(LeakySlope)
def _leaky_slope(
    op: LeakySlope, here: Here, step: Local, blocks: Sequence[tf.Tensor]
) -> list[tf.Tensor]:
    g, x = operands(step, blocks)
    if x.dtype == tf.float64:
        return [tf.where(x > 0, g, op.alpha * g)]
    return [tf.raw_ops.LeakyReluGrad(gradients=g, features=x, alpha=op.alpha)]


@kernel(Polygamma)
def _polygamma(
    op: Polygamma, here: Here, step: Local, blocks: Sequence[tf.Tensor]
) -> list[tf.Tensor]:
    def of(x: tf.Tensor) -> tf.Tensor:
        return tf.math.polygamma(tf.constant(op.order, x.dtype), x)

    return [_wide(of)(blocks[0])]
