"""Running sums, products and extremes along a dim, and linear recurrences.

Along a divided dim each block runs alone; then one value of each block travels, and what the
blocks before have made is put in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from meshlang.dims import Dim, Shape
from meshlang.dtypes import check_kind, check_same
from meshlang.errors import DimError, message
from meshlang.program import Op, Spec, apply, as_tensor
from meshlang.tensor import Tensor

#: kind: the elementwise function of two that it runs
STEPS = {"sum": "add", "prod": "multiply", "max": "maximum", "min": "minimum"}


@dataclass(frozen=True)
class Running(Op):
    """The sum, product, maximum or minimum of all elements up to each one."""

    kind: str
    dim: Dim
    exclusive: bool
    reverse: bool

    @property
    def label(self) -> str:
        return f"cum{self.kind}"

    @property
    def detail(self) -> str:
        return _detail(self)

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        check_kind(self.label, xs[0], "numbers")
        return (Spec(xs[0].shape, xs[0].dtype),)

    def vjp(self, xs, ys, gs):
        x, g = xs[0], gs[0]
        if self.kind == "sum":
            return (apply(Running("sum", self.dim, self.exclusive, not self.reverse), g)[0],)
        if self.kind == "prod":
            return (self._of_product(x, ys[0], g),)
        return (self._of_extreme(x, ys[0], g),)

    def _other(self, *, exclusive: bool) -> Running:
        return Running(self.kind, self.dim, exclusive, self.reverse)

    def _of_product(self, x: Tensor, y: Tensor, g: Tensor) -> Tensor:
        """What stands before an element, times a recurrence of what comes after: no quotient."""
        back = Recurrence(self.dim, exclusive=True, reverse=not self.reverse)
        if self.exclusive:
            return y * apply(back, x, g)[0]
        before = apply(self._other(exclusive=True), x)[0]
        return before * (g + apply(back, x, x * g)[0])

    def _of_extreme(self, x: Tensor, y: Tensor, g: Tensor) -> Tensor:
        """Each result's cotangent is shared by the elements up to it that are equal to it."""
        from meshlang.ops.create import zeros_like
        from meshlang.ops.elementwise import cast, divide_no_nan, equal

        back = Recurrence(self.dim, exclusive=True, reverse=not self.reverse)
        before = y
        if self.exclusive:
            g = apply(back, zeros_like(g), g)[0]
            y = apply(self._other(exclusive=False), x)[0]
        else:
            before = apply(self._other(exclusive=True), x)[0]
        hit = cast(equal(x, y), g.dtype)
        same = cast(equal(y, before), g.dtype)
        share = divide_no_nan(g, apply(Recurrence(self.dim, False, self.reverse), same, hit)[0])
        return hit * (share + apply(back, same, same * share)[0])

    def plan(self, b, xs, outs):
        """Over a divided dim: run locally, then put in the totals of the blocks before."""
        axes = b.axes(self.dim)
        local = b.local(self, xs, outs)
        if not axes:
            return local
        from meshlang.ops.elementwise import Binary
        from meshlang.ops.reduce import Reduce

        small = Spec(Shape(d for d in xs[0].shape if d != self.dim), xs[0].dtype)
        total = b.local(Reduce(self.kind, (self.dim,)), xs, [small])[0]
        totals = b.gather_blocks(total, b.blocks_dim(self.dim), axes)
        before = b.local(BlocksBefore(self.kind, self.reverse, axes), [totals], [small])
        return b.local(Binary(STEPS[self.kind]), [local[0], before[0]], outs)


@dataclass(frozen=True)
class BlocksBefore(Op):
    """Of the totals of all blocks: that of those before (or after) this processor's own."""

    kind: str
    reverse: bool
    axes: tuple[str, ...]

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        return (Spec(Shape(xs[0].shape[1:]), xs[0].dtype),)


@dataclass(frozen=True)
class Recurrence(Op):
    """y[i] = a[i] y[i-1] + b[i] from zero on; `exclusive`, y[i-1] in its place."""

    dim: Dim
    exclusive: bool
    reverse: bool

    @property
    def detail(self) -> str:
        return _detail(self)

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        rows = [("a", xs[0].shape), ("b", xs[1].shape)]
        check_same("recurrence", ["a", "b"], xs)
        check_kind("recurrence", xs[1], "floats")
        if set(xs[0].shape) != set(xs[1].shape):
            fix = "expand the smaller one"
            raise DimError(message("recurrence: a and b have the same dims.", rows, fix))
        return (Spec(xs[1].shape, xs[1].dtype),)

    def vjp(self, xs, ys, gs):
        a, g = xs[0], gs[0]
        back = Recurrence(self.dim, exclusive=True, reverse=not self.reverse)
        if self.exclusive:
            after = apply(back, a, g)[0]
            return after * ys[0], after
        after = g + apply(back, a, a * g)[0]
        before = apply(Recurrence(self.dim, True, self.reverse), *xs)[0]
        return after * before, after

    def plan(self, b, xs, outs):
        """Over a divided dim: each block from zero on, then what it would make of what comes in."""
        axes = b.axes(self.dim)
        if not axes:
            return b.local(self, xs, outs)
        xs = [b.arrange(xs[0], xs[1].shape), xs[1]]
        local = b.local(self, xs, outs)
        from meshlang.ops.elementwise import Binary
        from meshlang.ops.reduce import Reduce

        small = Spec(Shape(d for d in outs[0].shape if d != self.dim), outs[0].dtype)
        factor = b.local(Reduce("prod", (self.dim,)), [xs[0]], [small])[0]
        end = b.local(EndOfRecurrence(self.dim, self.reverse), xs, [small])[0]
        blocks = b.blocks_dim(self.dim)
        carried = [b.gather_blocks(each, blocks, axes) for each in (factor, end)]
        came = b.local(CarriedIn(self.reverse, axes), carried, [small])[0]
        running = Running("prod", self.dim, self.exclusive, self.reverse)
        grown = b.local(Binary("multiply"), [b.local(running, [xs[0]], outs)[0], came], outs)[0]
        return b.local(Binary("add"), [local[0], grown], outs)


@dataclass(frozen=True)
class EndOfRecurrence(Op):
    """Of a block: the last value of its recurrence from zero on."""

    dim: Dim
    reverse: bool

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        return (Spec(Shape(d for d in xs[1].shape if d != self.dim), xs[1].dtype),)


@dataclass(frozen=True)
class CarriedIn(Op):
    """Of the factors and ends of all blocks: what comes into this processor's own."""

    reverse: bool
    axes: tuple[str, ...]

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        return (Spec(Shape(xs[0].shape[1:]), xs[0].dtype),)


def _detail(op: Running | Recurrence) -> str:
    words = [op.dim.label, *(w for w in ("exclusive", "reverse") if getattr(op, w))]
    return " ".join(words)


def _running(kind: str, x: Any, dim: str, exclusive: bool, reverse: bool) -> Tensor:
    x = as_tensor(x)
    return apply(Running(kind, x.shape[dim], exclusive, reverse), x)[0]


def cumsum(x: Any, dim: str, *, exclusive: bool = False, reverse: bool = False) -> Tensor:
    """Running sums along a dim. Over a divided dim one total of each block travels.

    Args:
        x: numbers.
        dim: along which.
        exclusive: leave the element itself out.
        reverse: from the end.

    Dims:
        x        [dim rest...]
        returns  the same

    Raises:
        DimError: x lacks the dim.
        DtypeError: x holds bools.

    Example:
        >>> import meshlang as ml
        >>> ml.cumsum(ml.constant([1, 2, 3], "n"), "n", exclusive=True).numpy()
        array([0, 1, 3], dtype=int32)
    """
    return _running("sum", x, dim, exclusive, reverse)


def cumprod(x: Any, dim: str, *, exclusive: bool = False, reverse: bool = False) -> Tensor:
    """Running products along a dim. Its gradient divides by nothing, so zeros are no matter.

    Args:
        x: numbers.
        dim: along which. Over a divided one the product of each block travels.
        exclusive: leave the element itself out.
        reverse: from the end.

    Dims:
        x        [dim rest...]
        returns  the same

    Raises:
        DimError: x lacks the dim.
        DtypeError: x holds bools.

    Example:
        >>> import meshlang as ml
        >>> ml.cumprod(ml.constant([2, 3, 4], "n"), "n", reverse=True).numpy()
        array([24, 12,  4], dtype=int32)
    """
    return _running("prod", x, dim, exclusive, reverse)


def cummax(x: Any, dim: str, *, exclusive: bool = False, reverse: bool = False) -> Tensor:
    """Running maxima along a dim; a gradient is shared equally between equal ones.

    Args:
        x: numbers.
        dim: along which. Over a divided one the maximum of each block travels.
        exclusive: leave the element itself out; before the first stands the least of the dtype.
        reverse: from the end.

    Dims:
        x        [dim rest...]
        returns  the same

    Raises:
        DimError: x lacks the dim.
        DtypeError: x holds bools.

    Example:
        >>> import meshlang as ml
        >>> ml.cummax(ml.constant([2, 1, 4, 3], "n"), "n").numpy()
        array([2, 2, 4, 4], dtype=int32)
    """
    return _running("max", x, dim, exclusive, reverse)


def cummin(x: Any, dim: str, *, exclusive: bool = False, reverse: bool = False) -> Tensor:
    """Running minima along a dim; a gradient is shared equally between equal ones.

    Args:
        x: numbers.
        dim: along which. Over a divided one the minimum of each block travels.
        exclusive: leave the element itself out; before the first stands the most of the dtype.
        reverse: from the end.

    Dims:
        x        [dim rest...]
        returns  the same

    Raises:
        DimError: x lacks the dim.
        DtypeError: x holds bools.

    Example:
        >>> import meshlang as ml
        >>> ml.cummin(ml.constant([2.0, 1.0, 4.0], "n"), "n", exclusive=True).numpy()
        array([inf,  2.,  1.], dtype=float32)
    """
    return _running("min", x, dim, exclusive, reverse)


def recurrence(
    a: Any, b: Any, dim: str, *, exclusive: bool = False, reverse: bool = False
) -> Tensor:
    """y[i] = a[i] y[i-1] + b[i] along a dim, from zero on.

    It is computed in log2(size) steps, each on all elements at once.

    Args:
        a: what each value takes of the one before it.
        b: what is added.
        dim: along which. Over a divided one two values of each block travel.
        exclusive: y[i-1] in the place of y[i].
        reverse: from the end.

    Dims:
        a, b     [dim rest...], floats
        returns  as b

    Raises:
        DimError: a and b have different dims, or lack the dim.
        DtypeError: they are not floats of one dtype.

    Example:
        >>> import meshlang as ml
        >>> a, b = ml.constant([9.0, 2.0, 0.5], "n"), ml.constant([1.0, 1.0, 1.0], "n")
        >>> ml.recurrence(a, b, "n").numpy()
        array([1. , 3. , 2.5], dtype=float32)
    """
    a, b = as_tensor(a), as_tensor(b)
    return apply(Recurrence(b.shape[dim], exclusive, reverse), a, b)[0]
