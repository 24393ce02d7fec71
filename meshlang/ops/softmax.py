"""The softmax family, over one dim or several.

Over divided dims one maximum and one sum travel, both of the shape that is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from meshlang.dims import Dim, Shape
from meshlang.dtypes import check_kind
from meshlang.ops.reduce import Reduce, axes_of, some_dims, sum_dims
from meshlang.program import Op, Spec, apply, as_tensor
from meshlang.tensor import Tensor


@dataclass(frozen=True)
class LogSumExp(Op):
    """log of the sum of exponentials over dims, without overflow."""

    dims: tuple[Dim, ...]

    @property
    def label(self) -> str:
        return "logsumexp"

    @property
    def detail(self) -> str:
        return ",".join(d.label for d in self.dims)

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        check_kind("logsumexp", xs[0], "floats")
        return (Spec(xs[0].shape - Shape(self.dims), xs[0].dtype),)

    def vjp(self, xs, ys, gs):
        from meshlang.ops.elementwise import exp

        return (gs[0] * exp(xs[0] - ys[0]),)

    def plan(self, b, xs, outs):
        if not axes_of(b, self.dims):
            return b.local(self, xs, outs)
        from meshlang.ops.elementwise import Binary, Unary

        # Below an infinite maximum nothing would be left but NaN; zero serves as well there.
        top = b.local(FiniteOrZero(), [_top(b, xs[0], self.dims, outs[0])], outs)[0]
        total = _paid_sum(b, _shifted_exp(b, xs[0], top), self.dims, outs[0])
        return b.local(Binary("add"), [b.local(Unary("log"), [total], outs)[0], top], outs)


@dataclass(frozen=True)
class Softmax(Op):
    """Exponentials divided by their sum over dims."""

    dims: tuple[Dim, ...]

    @property
    def detail(self) -> str:
        return ",".join(d.label for d in self.dims)

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        check_kind("softmax", xs[0], "floats")
        return (Spec(xs[0].shape, xs[0].dtype),)

    def vjp(self, xs, ys, gs):
        return ((gs[0] - sum_dims(gs[0] * ys[0], self.dims)) * ys[0],)

    def plan(self, b, xs, outs):
        if not axes_of(b, self.dims):
            return b.local(self, xs, outs)
        from meshlang.ops.elementwise import Binary

        small = Spec(xs[0].shape - Shape(self.dims), xs[0].dtype)
        shifted = _shifted_exp(b, xs[0], _top(b, xs[0], self.dims, small))
        total = _paid_sum(b, shifted, self.dims, small)
        return b.local(Binary("divide"), [shifted, total], outs)


@dataclass(frozen=True)
class LogSoftmax(Op):
    """What is left of x below the logsumexp of it over dims."""

    dims: tuple[Dim, ...]

    @property
    def label(self) -> str:
        return "log_softmax"

    @property
    def detail(self) -> str:
        return ",".join(d.label for d in self.dims)

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        check_kind("log_softmax", xs[0], "floats")
        return (Spec(xs[0].shape, xs[0].dtype),)

    def vjp(self, xs, ys, gs):
        from meshlang.ops.elementwise import exp

        return (gs[0] - exp(ys[0]) * sum_dims(gs[0], self.dims),)

    def plan(self, b, xs, outs):
        if not axes_of(b, self.dims):
            return b.local(self, xs, outs)
        from meshlang.ops.elementwise import Binary, Unary

        small = Spec(xs[0].shape - Shape(self.dims), xs[0].dtype)
        below = b.local(Binary("subtract"), [xs[0], _top(b, xs[0], self.dims, small)], outs)[0]
        total = _paid_sum(b, b.local(Unary("exp"), [below], outs)[0], self.dims, small)
        return b.local(Binary("subtract"), [below, *b.local(Unary("log"), [total], [small])], outs)


def _top(b: Any, x: Any, dims: tuple[Dim, ...], small: Spec) -> Any:
    """The maximum over divided dims."""
    return b.all_reduce(b.local(Reduce("max", dims), [x], [small])[0], axes_of(b, dims), "max")


def _shifted_exp(b: Any, x: Any, top: Any) -> Any:
    """The exponentials of what is left below the maximum."""
    from meshlang.ops.elementwise import Binary, Unary

    like = [Spec(x.shape, x.dtype)]
    return b.local(Unary("exp"), b.local(Binary("subtract"), [x, top], like), like)[0]


def _paid_sum(b: Any, x: Any, dims: tuple[Dim, ...], small: Spec) -> Any:
    part = b.local(Reduce("sum", dims), [x], [small], pending=axes_of(b, dims))
    return b.pay(part[0])


@dataclass(frozen=True)
class FiniteOrZero(Op):
    """Of a block: x where it is finite, else zero."""

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        return (Spec(xs[0].shape, xs[0].dtype),)


def logsumexp(x: Any, dims: str) -> Tensor:
    """log(sum(exp(x))) over dims. Over divided dims: one max and one sum, both small.

    Dims:
        x        [dims... rest...], floats
        returns  [rest...]

    Raises:
        DimError: x lacks a dim, or none is named.
        DtypeError: x is not floats.

    Example:
        >>> import meshlang as ml
        >>> ml.logsumexp(ml.constant([1000.0, 1000.0], "d"), "d").numpy().round(2)
        np.float32(1000.69)
    """
    x = as_tensor(x)
    return apply(LogSumExp(some_dims("logsumexp", x, dims)), x)[0]


def softmax(x: Any, dims: str, *, extra_logit: Any = None) -> Tensor:
    """exp(x) / sum(exp(x)) over dims. Over divided dims: one max and one sum, both small.

    Args:
        x: the logits.
        dims: over which the results add up to one, one or more.
        extra_logit: one more logit, whose share is left out of the result.

    Dims:
        x             [dims... rest...], floats
        extra_logit   any of rest, or a number
        returns       as x

    Raises:
        DimError: x lacks a dim, none is named, or `extra_logit` has dims that x lacks.
        DtypeError: x is not floats.

    Example:
        >>> import meshlang as ml
        >>> x = ml.constant([2.0, 2.0], "d")
        >>> ml.softmax(x, "d").numpy(), ml.softmax(x, "d", extra_logit=2.0).numpy().round(3)
        (array([0.5, 0.5], dtype=float32), array([0.333, 0.333], dtype=float32))
    """
    from meshlang.ops.elementwise import exp, softplus

    x = as_tensor(x)
    if extra_logit is None:
        return apply(Softmax(some_dims("softmax", x, dims)), x)[0]
    total = logsumexp(x, dims)
    return exp(x - (total + softplus(extra_logit - total)))


def log_softmax(x: Any, dims: str) -> Tensor:
    """x - logsumexp(x) over dims.

    Dims:
        x        [dims... rest...], floats
        returns  as x

    Raises:
        DimError: x lacks a dim, or none is named.
        DtypeError: x is not floats.

    Example:
        >>> import meshlang as ml
        >>> ml.log_softmax(ml.constant([10.0, 10.0], "d"), "d").numpy().round(3)
        array([-0.693, -0.693], dtype=float32)
    """
    x = as_tensor(x)
    return apply(LogSoftmax(some_dims("log_softmax", x, dims)), x)[0]
