"""The derivatives of the elementwise functions, as programs of the same functions.

Where TensorFlow has one kernel for a cotangent times a derivative, `Slope` is that kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from meshlang.ops import elementwise as e
from meshlang.program import Op, Spec, apply, as_tensor
from meshlang.tensor import Tensor

_SQRT_2_OVER_PI = math.sqrt(2.0 / math.pi)
_SQRT_HALF = math.sqrt(0.5)
_INV_SQRT_2PI = 1.0 / math.sqrt(2.0 * math.pi)
_TWO_OVER_SQRT_PI = 2.0 / math.sqrt(math.pi)


# -- one operand ---------------------------------------------------------------------------------


def _gelu(x: Tensor, y: Tensor) -> Tensor:
    return 0.5 * (1.0 + e.erf(x * _SQRT_HALF)) + x * e.exp(x * x * -0.5) * _INV_SQRT_2PI


def _gelu_tanh(x: Tensor, y: Tensor) -> Tensor:
    t = e.tanh(_SQRT_2_OVER_PI * (x + 0.044715 * x * x * x))
    inner = _SQRT_2_OVER_PI * (1.0 + 3 * 0.044715 * x * x)
    return 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner


def _silu(x: Tensor, y: Tensor) -> Tensor:
    s = e.sigmoid(x)
    return s + y * (1.0 - s)


#: the derivative from x and y; of what is in neither this table nor in FUSED it is zero or none
SLOPES: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "exp": lambda x, y: y,
    "expm1": lambda x, y: y + 1.0,
    "log": lambda x, y: e.reciprocal(x),
    "log1p": lambda x, y: e.reciprocal(1.0 + x),
    "square": lambda x, y: 2.0 * x,
    "abs": lambda x, y: e.sign(x),
    "sin": lambda x, y: e.cos(x),
    "cos": lambda x, y: -e.sin(x),
    "tan": lambda x, y: 1.0 + e.square(y),
    "asin": lambda x, y: e.rsqrt(1.0 - e.square(x)),
    "acos": lambda x, y: -e.rsqrt(1.0 - e.square(x)),
    "atan": lambda x, y: e.reciprocal(1.0 + e.square(x)),
    "sinh": lambda x, y: e.cosh(x),
    "cosh": lambda x, y: e.sinh(x),
    "asinh": lambda x, y: e.reciprocal(e.cosh(y)),
    "acosh": lambda x, y: e.reciprocal(e.sinh(y)),
    "atanh": lambda x, y: e.reciprocal(1.0 - e.square(x)),
    "log_sigmoid": lambda x, y: e.sigmoid(-x),
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "silu": _silu,
    "erf": lambda x, y: _TWO_OVER_SQRT_PI * e.exp(-e.square(x)),
    "erfc": lambda x, y: -_TWO_OVER_SQRT_PI * e.exp(-e.square(x)),
    "lgamma": lambda x, y: e.digamma(x),
    "digamma": lambda x, y: e.polygamma(x, 1),
}


def _bell(s: Tensor) -> Tensor:
    return s * (1.0 - s)


class Fused(NamedTuple):
    """A derivative that has a kernel.

    Attributes:
        of: whether it is computed from "x" or from "y".
        second: its own derivative by that; None where that is zero almost everywhere.
    """

    of: str
    second: Callable[[Tensor], Tensor] | None = None


FUSED = {
    "relu": Fused("y"),
    "relu6": Fused("y"),
    "tanh": Fused("y", lambda y: -2.0 * y),
    "sigmoid": Fused("y", lambda y: 1.0 - 2.0 * y),
    "elu": Fused("y", lambda y: e.cast(y < 0.0, y.dtype)),
    "selu": Fused("y", lambda y: e.cast(y < 0.0, y.dtype)),
    "softplus": Fused("x", lambda x: _bell(e.sigmoid(x))),
    "softsign": Fused("x", lambda x: -2.0 * e.sign(x) * e.pow(1.0 + e.abs(x), -3.0)),
    "sqrt": Fused("y", lambda y: -0.5 * e.square(e.reciprocal(y))),
    "rsqrt": Fused("y", lambda y: -1.5 * e.square(y)),
    "reciprocal": Fused("y", lambda y: -2.0 * y),
}


@dataclass(frozen=True)
class Slope(Op):
    """A cotangent times the derivative of a function of the table `FUSED`, in one kernel."""

    fn: str

    @property
    def label(self) -> str:
        return f"{self.fn}_slope"

    def passes(self, i: int) -> str:
        return "alone" if i == 0 else "no"

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        g, at = xs
        return (Spec(e.broadcast_shape(self.label, g.shape, at.shape), g.dtype),)

    def vjp(self, xs, ys, gs):
        g, at = xs
        second = FUSED[self.fn].second
        back = None if second is None else gs[0] * g * second(at)
        return (apply(Slope(self.fn), gs[0], at)[0], back)


def unary_cotangent(fn: str, x: Tensor, y: Tensor, g: Tensor) -> Tensor | None:
    """Of the operand of a function, from that of its result."""
    if fn == "negative":
        return -g
    if fn in FUSED:
        return apply(Slope(fn), g, x if FUSED[fn].of == "x" else y)[0]
    return g * SLOPES[fn](x, y) if fn in SLOPES else None


# -- two operands --------------------------------------------------------------------------------

Pair = tuple[Tensor, Tensor]


def _ties(g: Tensor, x: Tensor, y: Tensor, wins: Tensor) -> Pair:
    """Each side gets g where it wins; on ties both get half."""
    half = e.cast(e.equal(x, y), g.dtype) * 0.5
    first = e.cast(wins, g.dtype) + half
    return g * first, g * (1.0 - first)


def _divide_no_nan(g: Tensor, x: Tensor, y: Tensor, z: Tensor) -> Pair:
    return e.divide_no_nan(g, y), -e.divide_no_nan(g * z, y)


def _pow(g: Tensor, x: Tensor, y: Tensor, z: Tensor) -> Pair:
    """Zero where x or y make the value a constant, so that neither 0 ** 0 nor a log leaks NaN."""
    one = as_tensor(1, x.dtype)
    power = e.where(e.equal(y, 0.0), one, y - 1.0)
    return g * (y * e.pow(x, power)), g * (z * e.log(e.where(x > 0.0, x, one)))


def _squared_difference(g: Tensor, x: Tensor, y: Tensor, z: Tensor) -> Pair:
    slope = g * (2.0 * (x - y))
    return slope, -slope


def _xlogy(g: Tensor, x: Tensor, y: Tensor, z: Tensor) -> Pair:
    """Zero where the value is zero because x is, and y has no logarithm."""
    zero, one = as_tensor(0, g.dtype), as_tensor(1, g.dtype)
    lost = e.logical_and(e.equal(x, 0.0), y <= 0.0)
    safe = e.where(lost, one, y)
    return g * e.log(safe), e.where(lost, zero, g * (x / safe))


def _atan2(g: Tensor, x: Tensor, y: Tensor, z: Tensor) -> Pair:
    """Zero where both are zero, and there is no angle."""
    share = e.divide_no_nan(g, e.square(x) + e.square(y))
    return share * y, -(share * x)


#: cotangents of both operands from those of the result, and all values; they may be too large
_BINARY: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Pair]] = {
    "add": lambda g, x, y, z: (g, g),
    "subtract": lambda g, x, y, z: (g, -g),
    "divide": lambda g, x, y, z: (g / y, -(g * z / y)),
    "divide_no_nan": _divide_no_nan,
    "maximum": lambda g, x, y, z: _ties(g, x, y, x > y),
    "minimum": lambda g, x, y, z: _ties(g, x, y, x < y),
    "pow": _pow,
    "squared_difference": _squared_difference,
    "xlogy": _xlogy,
    "atan2": _atan2,
    "mod": lambda g, x, y, z: (g, -(g * e.floordiv(x, y))),
}


def binary_cotangents(
    fn: str, x: Tensor, y: Tensor, z: Tensor, g: Tensor
) -> Sequence[Tensor | None]:
    """Of the operands of a function, from that of its result z; None where it is zero or none."""
    if fn == "multiply":
        return _product_onto(g, y, x), _product_onto(g, x, y)
    if fn not in _BINARY:
        return None, None
    found = _BINARY[fn](g, x, y, z)
    return [e.onto(back, of.shape) for back, of in zip(found, (x, y), strict=True)]


def _product_onto(g: Tensor, other: Tensor, like: Tensor) -> Tensor:
    """The sum of g times other over the dims that `like` lacks: one contraction, no big product."""
    if set(g.shape) == set(like.shape):
        return e.onto(g * other, like.shape)
    from meshlang.ops.contract import einsum_onto

    return einsum_onto(g, other, like.shape)
