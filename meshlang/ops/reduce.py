"""Reductions over named dims, and the softmax family."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import Any

from meshlang.dims import Dim, Shape
from meshlang.dtypes import check_kind
from meshlang.program import Op, Spec, apply, as_tensor
from meshlang.tensor import Tensor

_BOOL = ("any", "all")
#: how the parts of a reduction over a divided dim are put together
_COLLECTIVE = {"max": "max", "min": "min", "any": "max", "all": "min"}


@dataclass(frozen=True)
class Reduce(Op):
    """sum, max, min, any or all over dims."""

    kind: str
    dims: tuple[Dim, ...]

    @property
    def label(self) -> str:
        return self.kind

    @property
    def detail(self) -> str:
        return ",".join(d.label for d in self.dims)

    def passes(self, i: int) -> str:
        return "alone" if self.kind == "sum" else "no"

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        check_kind(self.kind, xs[0], "bools" if self.kind in _BOOL else "numbers")
        return (Spec(Shape(d for d in xs[0].shape if d not in self.dims), xs[0].dtype),)

    def creates_pending(self, axes_of, xs):
        if self.kind != "sum":
            return ()
        return tuple(a for d in self.dims for a in axes_of(d))

    def vjp(self, xs, ys, gs):
        from meshlang.ops.elementwise import cast, equal
        from meshlang.ops.rearrange import expand_to

        if self.kind in _BOOL:
            return (None,)
        if self.kind == "sum":
            return (expand_to(gs[0], xs[0].shape),)
        ties = cast(equal(xs[0], ys[0]), gs[0].dtype)
        return (ties * (gs[0] / sum_dims(ties, self.dims)),)

    def plan(self, b, xs, outs):
        made = tuple(a for d in self.dims for a in b.axes(d))
        if self.kind == "sum":
            if made and outs[0].dtype in ("bfloat16", "float16"):
                wide = b.local(self, [b.cast(xs[0], b.high)], [Spec(outs[0].shape, b.high)], made)
                return [b.cast(b.pay(wide[0]), outs[0].dtype)]
            return b.local(self, xs, outs, pending=made)
        part = b.local(self, xs, outs)[0]
        return [b.all_reduce(part, made, _COLLECTIVE[self.kind])]


@dataclass(frozen=True)
class LogSumExp(Op):
    """log of the sum of exponentials over one dim, without overflow."""

    dim: Dim

    @property
    def label(self) -> str:
        return "logsumexp"

    @property
    def detail(self) -> str:
        return self.dim.label

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        check_kind("logsumexp", xs[0], "floats")
        return (Spec(Shape(d for d in xs[0].shape if d != self.dim), xs[0].dtype),)

    def vjp(self, xs, ys, gs):
        from meshlang.ops.elementwise import exp

        return (gs[0] * exp(xs[0] - ys[0]),)

    def plan(self, b, xs, outs):
        if not b.axes(self.dim):
            return b.local(self, xs, outs)
        from meshlang.ops.elementwise import Binary, Unary

        # Below an infinite maximum nothing would be left but NaN; zero serves as well there.
        top = b.local(FiniteOrZero(), [_top(b, xs[0], self.dim, outs[0])], outs)[0]
        total = _paid_sum(b, _shifted_exp(b, xs[0], top), self.dim, outs[0])
        return b.local(Binary("add"), [b.local(Unary("log"), [total], outs)[0], top], outs)


@dataclass(frozen=True)
class Softmax(Op):
    """Exponentials over one dim, divided by their sum."""

    dim: Dim

    @property
    def detail(self) -> str:
        return self.dim.label

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        check_kind("softmax", xs[0], "floats")
        return (Spec(xs[0].shape, xs[0].dtype),)

    def vjp(self, xs, ys, gs):
        weighted = gs[0] * ys[0]
        return (weighted - ys[0] * sum_dims(weighted, [self.dim]),)

    def plan(self, b, xs, outs):
        if not b.axes(self.dim):
            return b.local(self, xs, outs)
        from meshlang.ops.elementwise import Binary

        small = Spec(Shape(d for d in xs[0].shape if d != self.dim), xs[0].dtype)
        shifted = _shifted_exp(b, xs[0], _top(b, xs[0], self.dim, small))
        total = _paid_sum(b, shifted, self.dim, small)
        return b.local(Binary("divide"), [shifted, total], outs)


def _top(b: Any, x: Any, dim: Dim, small: Spec) -> Any:
    """The maximum over a divided dim."""
    return b.all_reduce(b.local(Reduce("max", (dim,)), [x], [small])[0], b.axes(dim), "max")


def _shifted_exp(b: Any, x: Any, top: Any) -> Any:
    """The exponentials of what is left below the maximum."""
    from meshlang.ops.elementwise import Binary, Unary

    like = [Spec(x.shape, x.dtype)]
    return b.local(Unary("exp"), b.local(Binary("subtract"), [x, top], like), like)[0]


def _paid_sum(b: Any, x: Any, dim: Dim, small: Spec) -> Any:
    part = b.local(Reduce("sum", (dim,)), [x], [small], pending=b.axes(dim))
    return b.pay(part[0])


@dataclass(frozen=True)
class FiniteOrZero(Op):
    """Of a block: x where it is finite, else zero."""

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        return (Spec(xs[0].shape, xs[0].dtype),)

    def vjp(self, xs, ys, gs):
        return (None,)


@dataclass(frozen=True)
class ArgMax(Op):
    """The index of the largest value over one dim; the first of equal ones."""

    dim: Dim

    @property
    def label(self) -> str:
        return "argmax"

    @property
    def detail(self) -> str:
        return self.dim.label

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        check_kind("argmax", xs[0], "numbers")
        return (Spec(Shape(d for d in xs[0].shape if d != self.dim), "int32"),)

    def vjp(self, xs, ys, gs):
        return (None,)

    def plan(self, b, xs, outs):
        """Over a divided dim: the global maximum, then the least index that has it."""
        axes = b.axes(self.dim)
        if not axes:
            return b.local(self, xs, outs)
        small = Spec(outs[0].shape, xs[0].dtype)
        top = b.all_reduce(b.local(Reduce("max", (self.dim,)), xs, [small])[0], axes, "max")
        first = b.local(FirstEqual(self.dim), [xs[0], top], outs)
        return [b.all_reduce(first[0], axes, "min")]


@dataclass(frozen=True)
class FirstEqual(Op):
    """Of a block: the least global index along a dim where x equals y; its size where none."""

    dim: Dim

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        return (Spec(xs[1].shape, "int32"),)

    def vjp(self, xs, ys, gs):
        return (None, None)


def _dims(x: Tensor, names: str | None) -> tuple[Dim, ...]:
    return tuple(x.shape) if names is None else x.shape.pick(names)


def sum_dims(x: Tensor, dims: Iterable[Dim]) -> Tensor:
    """The sum over dims given as dims."""
    dims = tuple(dims)
    return apply(Reduce("sum", dims), x)[0] if dims else x


def _reduce(kind: str, x: Any, names: str | None) -> Tensor:
    x = as_tensor(x)
    check_kind(kind, x, "bools" if kind in _BOOL else "numbers")
    dims = _dims(x, names)
    return apply(Reduce(kind, dims), x)[0] if dims else x


def sum(x: Any, dims: str | None = None) -> Tensor:
    """Sum over dims, all of them by default. Over a divided dim it is a pending sum.

    Dims:
        x        [dims... rest...], numbers
        returns  [rest...]

    Raises:
        DimError: x lacks one of the dims.
        DtypeError: x is bools.

    Example:
        >>> import meshlang as ml
        >>> ml.sum(ml.constant([[1.0, 2.0], [3.0, 4.0]], "a b"), "b").numpy()
        array([3., 7.], dtype=float32)
    """
    return _reduce("sum", x, dims)


def mean(x: Any, dims: str | None = None) -> Tensor:
    """The mean over dims, all of them by default. Short floats are summed in "high".

    Dims:
        x        [dims... rest...], floats
        returns  [rest...]

    Raises:
        DimError: x lacks one of the dims.
        DtypeError: x is not floats.

    Example:
        >>> import meshlang as ml
        >>> ml.mean(ml.constant([[1.0, 2.0], [3.0, 4.0]], "a b"), "a").numpy()
        array([2., 3.], dtype=float32)
    """
    from meshlang.ops.elementwise import cast

    x = as_tensor(x)
    check_kind("mean", x, "floats")
    wide = cast(x, "high") if x.dtype in ("bfloat16", "float16") else x
    return cast(sum(wide, dims) * (1.0 / prod(d.size for d in _dims(x, dims))), x.dtype)


def max(x: Any, dims: str | None = None) -> Tensor:
    """The largest value over dims; a gradient is shared equally between equal ones.

    Dims:
        x        [dims... rest...], numbers
        returns  [rest...]

    Raises:
        DimError: x lacks one of the dims.
        DtypeError: x is bools.

    Example:
        >>> import meshlang as ml
        >>> ml.max(ml.constant([[1, 5], [3, 4]], "a b"), "a").numpy()
        array([3, 5], dtype=int32)
    """
    return _reduce("max", x, dims)


def min(x: Any, dims: str | None = None) -> Tensor:
    """The smallest value over dims; a gradient is shared equally between equal ones.

    Dims:
        x        [dims... rest...], numbers
        returns  [rest...]

    Raises:
        DimError: x lacks one of the dims.
        DtypeError: x is bools.

    Example:
        >>> import meshlang as ml
        >>> ml.min(ml.constant([[1, 5], [3, 4]], "a b"), "a").numpy()
        array([1, 4], dtype=int32)
    """
    return _reduce("min", x, dims)


def any(x: Any, dims: str | None = None) -> Tensor:
    """Whether any bool over dims is true.

    Dims:
        x        [dims... rest...], bools
        returns  [rest...], bools

    Raises:
        DimError: x lacks one of the dims.
        DtypeError: x is not bools.

    Example:
        >>> import meshlang as ml
        >>> ml.any(ml.constant([[1, 5], [3, 4]], "a b") > 4, "b").numpy()
        array([ True, False])
    """
    return _reduce("any", x, dims)


def all(x: Any, dims: str | None = None) -> Tensor:
    """Whether all bools over dims are true.

    Dims:
        x        [dims... rest...], bools
        returns  [rest...], bools

    Raises:
        DimError: x lacks one of the dims.
        DtypeError: x is not bools.

    Example:
        >>> import meshlang as ml
        >>> ml.all(ml.constant([[1, 5], [3, 4]], "a b") > 2, "b").numpy()
        array([False,  True])
    """
    return _reduce("all", x, dims)


def logsumexp(x: Any, dim: str) -> Tensor:
    """log(sum(exp(x))) over one dim. Over a divided dim: one max and one sum, both small.

    Dims:
        x        [dim rest...], floats
        returns  [rest...]

    Raises:
        DimError: x lacks the dim.
        DtypeError: x is not floats.

    Example:
        >>> import meshlang as ml
        >>> ml.logsumexp(ml.constant([1000.0, 1000.0], "d"), "d").numpy().round(2)
        np.float32(1000.69)
    """
    x = as_tensor(x)
    return apply(LogSumExp(x.shape[dim]), x)[0]


def softmax(x: Any, dim: str, *, extra_logit: Any = None) -> Tensor:
    """exp(x) / sum(exp(x)) over one dim. Over a divided dim: one max and one sum, both small.

    Args:
        x: the logits.
        dim: over which the results add up to one.
        extra_logit: one more logit, whose share is left out of the result.

    Dims:
        x             [dim rest...], floats
        extra_logit   any of rest, or a number
        returns       as x

    Raises:
        DimError: x lacks the dim, or `extra_logit` has dims that x lacks.
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
        return apply(Softmax(x.shape[dim]), x)[0]
    total = logsumexp(x, dim)
    return exp(x - (total + softplus(extra_logit - total)))


def log_softmax(x: Any, dim: str) -> Tensor:
    """x - logsumexp(x) over one dim.

    Dims:
        x        [dim rest...], floats
        returns  as x

    Raises:
        DimError: x lacks the dim.
        DtypeError: x is not floats.

    Example:
        >>> import meshlang as ml
        >>> ml.log_softmax(ml.constant([10.0, 10.0], "d"), "d").numpy().round(3)
        array([-0.693, -0.693], dtype=float32)
    """
    x = as_tensor(x)
    return x - logsumexp(x, dim)


def argmax(x: Any, dim: str) -> Tensor:
    """The index of the largest value over one dim, the first of equal ones. No gradient.

    Dims:
        x        [dim rest...], numbers
        returns  [rest...], int32

    Raises:
        DimError: x lacks the dim.
        DtypeError: x is bools.

    Example:
        >>> import meshlang as ml
        >>> ml.argmax(ml.constant([[1, 5, 5], [3, 2, 1]], "a b"), "b").numpy()
        array([1, 0], dtype=int32)
    """
    x = as_tensor(x)
    return apply(ArgMax(x.shape[dim]), x)[0]
