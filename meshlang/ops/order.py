"""Along an order: running sums, the largest k."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from meshlang.dims import Dim, Shape
from meshlang.dtypes import check_kind
from meshlang.errors import DimError, message
from meshlang.program import FLOATS, Op, Spec, apply, as_tensor
from meshlang.tensor import Tensor


@dataclass(frozen=True)
class CumSum(Op):
    """Running sums along one dim."""

    dim: Dim
    exclusive: bool
    reverse: bool

    @property
    def label(self) -> str:
        return "cumsum"

    @property
    def detail(self) -> str:
        words = [self.dim.label, *(w for w in ("exclusive", "reverse") if getattr(self, w))]
        return " ".join(words)

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        check_kind("cumsum", xs[0], "numbers")
        return (Spec(xs[0].shape, xs[0].dtype),)

    def vjp(self, xs, ys, gs):
        return (apply(CumSum(self.dim, self.exclusive, not self.reverse), gs[0])[0],)

    def plan(self, b, xs, outs):
        """Over a divided dim: run locally, then add the totals of the blocks before."""
        axes = b.axes(self.dim)
        local = b.local(self, xs, outs)
        if not axes:
            return local
        from meshlang.ops.elementwise import Binary
        from meshlang.ops.reduce import Reduce

        small = Spec(Shape(d for d in xs[0].shape if d != self.dim), xs[0].dtype)
        total = b.local(Reduce("sum", (self.dim,)), xs, [small])[0]
        blocks = b.blocks_dim(self.dim)
        totals = b.gather_blocks(total, blocks, axes)
        before = b.local(BlocksBefore(self.dim, self.reverse, axes), [totals], [small])
        return b.local(Binary("add"), [local[0], before[0]], outs)


@dataclass(frozen=True)
class BlocksBefore(Op):
    """Of the totals of all blocks: the sum over those before (or after) this processor's own."""

    dim: Dim
    reverse: bool
    axes: tuple[str, ...]

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        return (Spec(Shape(xs[0].shape[1:]), xs[0].dtype),)


class TopK(NamedTuple):
    """The largest values and their indices, in falling order; of equal ones the first."""

    values: Tensor
    indices: Tensor


@dataclass(frozen=True)
class Largest(Op):
    """The largest values along `dim` and their indices, along the new dim `into`."""

    dim: Dim
    into: Dim

    @property
    def label(self) -> str:
        return "top_k"

    @property
    def detail(self) -> str:
        return f"{self.dim.label} into {self.into!r}"

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        (x,) = xs
        check_kind("top_k", x, "numbers")
        if self.into.size > self.dim.size:
            raise DimError(
                message(
                    f"top_k: {self.dim!r} has no {self.into.size} largest values.",
                    [("operand", x.shape), ("into", repr(self.into))],
                    f"into='{self.into.name}:{self.dim.size}' at most",
                )
            )
        shape = Shape((*(d for d in x.shape if d != self.dim), self.into))
        return (Spec(shape, x.dtype), Spec(shape, "int32"))

    def vjp(self, xs, ys, gs):
        from meshlang.ops.index import ScatterAdd

        if xs[0].dtype not in FLOATS:
            return (None,)
        return (apply(ScatterAdd((self.dim,), xs[0].shape), gs[0], ys[1])[0],)

    def plan(self, b, xs, outs):
        """Over a divided dim: those of each block, gathered; the largest of all are among them."""
        axes = b.axes(self.dim)
        if axes:
            xs = self._of_blocks(b, xs[0], axes)
            made = b.local(LargestOfBlocks(self.into), xs, outs, whole=(self.into.name,))
        else:
            made = b.local(self, xs, outs, whole=(self.into.name,))
        return [b.move(value, spec.shape) for value, spec in zip(made, outs, strict=True)]

    def _of_blocks(self, b: Any, x: Any, axes: tuple[str, ...]) -> list[Any]:
        size = min(self.into.size, x.block[x.shape.index(self.dim)])
        some = Dim(f"{self.dim.name}.{self.into.name}", size)
        shape = Shape((*(d for d in x.shape if d != self.dim), some))
        found = b.local(Largest(self.dim, some), [x], [Spec(shape, x.dtype), Spec(shape, "int32")])
        return [b.gather_blocks(value, b.blocks_dim(self.dim), axes) for value in found]


@dataclass(frozen=True)
class LargestOfBlocks(Op):
    """Of the largest values of all blocks, and their indices: the largest, and theirs."""

    into: Dim

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        shape = Shape((*xs[0].shape[1:-1], self.into))
        return (Spec(shape, xs[0].dtype), Spec(shape, "int32"))


def top_k(x: Any, dim: str, *, into: str | Dim) -> TopK:
    """The k largest values along a dim.

    Over a divided dim each block's k largest travel, not the dim.

    Args:
        x: numbers.
        dim: along which.
        into: the new dim; its size is k.

    Dims:
        x        [dim rest...]
        returns  values and int32 indices, [rest... into] both

    Raises:
        DimError: the dim is shorter than k.
        DtypeError: x holds bools.

    Example:
        >>> import meshlang as ml
        >>> ml.top_k(ml.constant([1.0, 5.0, 3.0], "n"), "n", into="k:2").indices.numpy()
        array([1, 2], dtype=int32)
    """
    x = as_tensor(x)
    (new,) = Shape.parse(into if isinstance(into, str) else (into,))
    return TopK(*apply(Largest(x.shape[dim], new), x))


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
        DtypeError: x holds bools.

    Example:
        >>> import meshlang as ml
        >>> ml.cumsum(ml.constant([1, 2, 3], "n"), "n", exclusive=True).numpy()
        array([0, 1, 3], dtype=int32)
    """
    x = as_tensor(x)
    return apply(CumSum(x.shape[dim], exclusive, reverse), x)[0]
