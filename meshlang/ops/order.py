"""Along an order: running sums, the largest k."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from meshlang.dims import Dim, Shape
from meshlang.errors import DimError, message
from meshlang.program import Op, Spec, apply, as_tensor
from meshlang.tensor import Tensor


@dataclass(frozen=True)
class CumSum(Op):
    """Running sums along one dim."""

    dim: Dim
    exclusive: bool
    reverse: bool

    @property
    def detail(self) -> str:
        words = [self.dim.label, *(w for w in ("exclusive", "reverse") if getattr(self, w))]
        return " ".join(words)

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
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


def top_k(x: Any, dim: str, *, into: str | Dim) -> TopK:
    """The k largest values along a dim, by k rounds of argmax.

    Dims:
        x        [dim rest...], floats
        into     the new dim, its size is k
        returns  values and int32 indices, [rest... into] both

    Example:
        >>> import meshlang as ml
        >>> ml.top_k(ml.constant([1.0, 5.0, 3.0], "n"), "n", into="k:2").indices.numpy()
        array([1, 2], dtype=int32)
    """
    from meshlang.ops.create import range as iota
    from meshlang.ops.elementwise import stop_gradient
    from meshlang.ops.index import gather
    from meshlang.ops.reduce import argmax

    x = as_tensor(x)
    along = x.shape[dim]
    (new,) = Shape.parse(into if isinstance(into, str) else (into,))
    if new.size > along.size:
        raise DimError(message(f"top_k: {new!r} of {along!r}.", [("operand", x.shape)]))
    left, values, indices = stop_gradient(x), [], []
    places = iota(along)
    for _ in range(new.size):
        best = argmax(left, along.label)
        indices.append(best)
        values.append(gather(x, best, dim=along.label))
        left = _without(left, places, best)
    return TopK(_stack(values, new), _stack(indices, new))


def _without(x: Tensor, places: Tensor, best: Tensor) -> Tensor:
    """x with minus infinity where `best` points."""
    from meshlang.ops.elementwise import equal, where
    from meshlang.ops.rearrange import expand_to

    taken = equal(expand_to(best, x.shape), expand_to(places, x.shape))
    return where(taken, as_tensor(float("-inf"), x.dtype), x)


def _stack(xs: list[Tensor], dim: Dim) -> Tensor:
    from meshlang.ops.rearrange import expand_to
    from meshlang.ops.runs import concat

    one = Dim(dim.name, 1, dim.twin)
    return concat([expand_to(x, x.shape + one) for x in xs], dim.label)


def cumsum(x: Any, dim: str, *, exclusive: bool = False, reverse: bool = False) -> Tensor:
    """Running sums along a dim.

    Args:
        x: numbers.
        dim: along which.
        exclusive: leave the element itself out.
        reverse: from the end.

    Dims:
        x        [dim rest...]
        returns  the same

    Example:
        >>> import meshlang as ml
        >>> ml.cumsum(ml.constant([1, 2, 3], "n"), "n", exclusive=True).numpy()
        array([0, 1, 3], dtype=int32)
    """
    x = as_tensor(x)
    return apply(CumSum(x.shape[dim], exclusive, reverse), x)[0]
