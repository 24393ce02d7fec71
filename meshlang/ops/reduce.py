"""Reductions over named dims."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod as product_of
from typing import Any

from meshlang.dims import Dim, Shape
from meshlang.dtypes import check_kind
from meshlang.errors import DimError, message
from meshlang.program import NARROW, Op, Spec, apply, as_tensor
from meshlang.tensor import Tensor

_BOOL = ("any", "all")
#: how the parts of a reduction over a divided dim are put together
_COLLECTIVE = {"max": "max", "min": "min", "any": "max", "all": "min"}


@dataclass(frozen=True)
class Reduce(Op):
    """sum, prod, max, min, any or all over dims."""

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
        if self.kind == "prod":
            return (_product_cotangent(xs[0], self.dims, gs[0]),)
        ties = cast(equal(xs[0], ys[0]), gs[0].dtype)
        return (ties * (gs[0] / sum_dims(ties, self.dims)),)

    def plan(self, b, xs, outs):
        made = axes_of(b, self.dims)
        if self.kind == "prod":
            return [_product_of_blocks(b, b.local(self, xs, outs)[0], made, outs)]
        if self.kind == "sum":
            if made and outs[0].dtype in NARROW:
                xs, outs = [b.cast(xs[0], b.high)], [Spec(outs[0].shape, b.high)]
            return b.local(self, xs, outs, pending=made)
        part = b.local(self, xs, outs)[0]
        return [b.all_reduce(part, made, _COLLECTIVE[self.kind])]


def axes_of(b: Any, dims: Iterable[Dim]) -> tuple[str, ...]:
    """All the axes along which dims lie."""
    return tuple(a for d in dims for a in b.axes(d))


def _product_of_blocks(b: Any, part: Any, axes: tuple[str, ...], outs: Sequence[Spec]) -> Any:
    """No collective multiplies: the product of each block is gathered, and all multiplied."""
    if not axes:
        return part
    blocks = Dim("blocks", b.tables.mesh.ways(axes))
    return b.local(Reduce("prod", (blocks,)), [b.gather_blocks(part, blocks, axes)], outs)[0]


def _product_cotangent(x: Tensor, dims: tuple[Dim, ...], g: Tensor) -> Tensor:
    """g times the product of all the other elements, which a quotient is not where one is zero."""
    from meshlang.ops.running import cumprod

    *inner, last = dims
    if inner:
        g = _product_cotangent(apply(Reduce("prod", tuple(inner)), x)[0], (last,), g)
        return _product_cotangent(x, tuple(inner), g)
    before = cumprod(x, last.label, exclusive=True)
    after = cumprod(x, last.label, exclusive=True, reverse=True)
    return before * after * g


@dataclass(frozen=True)
class ArgExtreme(Op):
    """The index of the largest ("max") or smallest ("min") value over one dim, the first of equal.

    Its label is argmax or argmin.
    """

    kind: str
    dim: Dim

    @property
    def label(self) -> str:
        return f"arg{self.kind}"

    @property
    def detail(self) -> str:
        return self.dim.label

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        check_kind(self.label, xs[0], "numbers")
        return (Spec(Shape(d for d in xs[0].shape if d != self.dim), "int32"),)

    def vjp(self, xs, ys, gs):
        return (None,)

    def plan(self, b, xs, outs):
        """Over a divided dim: the extreme of all, then the least index that has it."""
        axes = b.axes(self.dim)
        if not axes:
            return b.local(self, xs, outs)
        small = Spec(outs[0].shape, xs[0].dtype)
        part = b.local(Reduce(self.kind, (self.dim,)), xs, [small])[0]
        extreme = b.all_reduce(part, axes, self.kind)
        first = b.local(FirstEqual(self.dim), [xs[0], extreme], outs)
        return [b.all_reduce(first[0], axes, "min")]


@dataclass(frozen=True)
class FirstEqual(Op):
    """Of a block: the least global index along a dim where x equals y; its size where none."""

    dim: Dim

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        return (Spec(xs[1].shape, "int32"),)


def some_dims(op: str, x: Tensor, names: str) -> tuple[Dim, ...]:
    """The dims of x with these names; at least one."""
    dims = x.shape.pick(names)
    if not dims:
        raise DimError(message(f"{op}: no dim is named.", [("operand", x.shape)], "name one"))
    return dims


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
    wide = cast(x, "high") if x.dtype in NARROW else x
    return cast(sum(wide, dims) * (1.0 / product_of(d.size for d in _dims(x, dims))), x.dtype)


def prod(x: Any, dims: str | None = None) -> Tensor:
    """The product over dims, all of them by default; its gradient is right at zeros too.

    Over divided dims the product of each block travels.

    Dims:
        x        [dims... rest...], numbers
        returns  [rest...]

    Raises:
        DimError: x lacks one of the dims.
        DtypeError: x is bools.

    Example:
        >>> import meshlang as ml
        >>> ml.prod(ml.constant([[1, 5], [3, 4]], "a b"), "b").numpy()
        array([ 5, 12], dtype=int32)
    """
    return _reduce("prod", x, dims)


def variance(x: Any, dims: str | None = None) -> Tensor:
    """The mean squared distance from the mean over dims, all of them by default.

    Over divided dims two small sums are paid, of x and of the squared distances: one sum of x and
    of its squares would lose all digits where the mean is large beside the deviation.

    Dims:
        x        [dims... rest...], floats
        returns  [rest...]

    Raises:
        DimError: x lacks one of the dims.
        DtypeError: x is not floats.

    Example:
        >>> import meshlang as ml
        >>> ml.variance(ml.constant([[1.0, 3.0], [4.0, 4.0]], "a b"), "b").numpy()
        array([1., 0.], dtype=float32)
    """
    from meshlang.ops.elementwise import cast

    x = as_tensor(x)
    check_kind("variance", x, "floats")
    return cast(_moments(x, dims)[1], x.dtype)


def standardize(x: Any, dims: str | None = None, *, epsilon: float = 1e-6) -> Tensor:
    """x less its mean, over its deviation: (x - mean(x)) / sqrt(variance(x) + epsilon).

    Dims:
        x        [dims... rest...], floats
        returns  as x

    Raises:
        DimError: x lacks one of the dims.
        DtypeError: x is not floats.

    Example:
        >>> import meshlang as ml
        >>> ml.standardize(ml.constant([1.0, 3.0], "d")).numpy().round(3)
        array([-1.,  1.], dtype=float32)
    """
    from meshlang.ops.elementwise import cast, rsqrt

    x = as_tensor(x)
    check_kind("standardize", x, "floats")
    distance, variance = _moments(x, dims)
    return cast(distance * rsqrt(variance + epsilon), x.dtype)


def _moments(x: Tensor, dims: str | None) -> tuple[Tensor, Tensor]:
    """The distances from the mean and the mean of their squares; of short floats in "high"."""
    from meshlang.ops.elementwise import cast, square

    wide = cast(x, "high") if x.dtype in NARROW else x
    distance = wide - mean(wide, dims)
    return distance, mean(square(distance), dims)


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
    return apply(ArgExtreme("max", x.shape[dim]), x)[0]


def argmin(x: Any, dim: str) -> Tensor:
    """The index of the smallest value over one dim, the first of equal ones. No gradient.

    Dims:
        x        [dim rest...], numbers
        returns  [rest...], int32

    Raises:
        DimError: x lacks the dim.
        DtypeError: x is bools.

    Example:
        >>> import meshlang as ml
        >>> ml.argmin(ml.constant([[1, 5, 5], [3, 2, 1]], "a b"), "b").numpy()
        array([0, 2], dtype=int32)
    """
    x = as_tensor(x)
    return apply(ArgExtreme("min", x.shape[dim]), x)[0]
