"""The indices of one dim in another order: shifted, with a fill or round and round; reversed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from meshlang.ops.runs import check_fill
from meshlang.ops.span import Run, around
from meshlang.program import Op, Spec, apply, as_tensor
from meshlang.tensor import Tensor


@dataclass(frozen=True)
class Shift(Op):
    """What stood at index i stands at ``i + offset``."""

    dim: str
    offset: int
    wrap: bool
    fill: float = 0

    @property
    def detail(self) -> str:
        words = [self.dim, f"by {self.offset}", *(["wrap"] if self.wrap else [])]
        return " ".join([*words, *([f"fill {self.fill}"] if self.fill else [])])

    def passes(self, i: int) -> str:
        return "no" if self.fill else "alone"

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        return (Spec(xs[0].shape, xs[0].dtype),)

    def vjp(self, xs, ys, gs):
        return (apply(Shift(self.dim, -self.offset, self.wrap), gs[0])[0],)

    def plan(self, b, xs, outs):
        size = xs[0].shape[self.dim].size
        runs = around(-self.offset, size, size, self.wrap)
        return [b.reblock(self, xs, self.dim, runs, outs[0], self.fill)]


@dataclass(frozen=True)
class Reverse(Op):
    """The last index first."""

    dim: str

    @property
    def detail(self) -> str:
        return self.dim

    def passes(self, i: int) -> str:
        return "alone"

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        return (Spec(xs[0].shape, xs[0].dtype),)

    def vjp(self, xs, ys, gs):
        return (apply(self, gs[0])[0],)

    def plan(self, b, xs, outs):
        size = xs[0].shape[self.dim].size
        return [b.reblock(self, xs, self.dim, [Run(0, size - 1, size, -1)], outs[0], 0)]


def shift(x: Any, dim: str, offset: int, *, wrap: bool = False, fill: float = 0) -> Tensor:
    """Move all indices of one dim on: what stood at index i stands at ``i + offset``.

    Along a divided dim a processor sends the rows that another one lacks, and no more.

    Args:
        x: any tensor.
        dim: along which.
        offset: how far; below zero, towards the start.
        wrap: what leaves the dim comes in at its other end.
        fill: otherwise, what comes in; zero, which is False for bools, by default.

    Dims:
        x        [dim rest...]
        returns  the same

    Raises:
        DtypeError: the fill is no whole number, and the tensor holds only those.

    Example:
        >>> import meshlang as ml
        >>> ml.shift(ml.range("n:4"), "n", 1).numpy()
        array([0, 0, 1, 2], dtype=int32)
        >>> ml.shift(ml.range("n:4"), "n", -1, wrap=True).numpy()
        array([1, 2, 3, 0], dtype=int32)
    """
    x = as_tensor(x)
    check_fill("shift", fill, x)
    return apply(Shift(x.shape[dim].name, offset, wrap, 0 if wrap else fill), x)[0]


def reverse(x: Any, dim: str) -> Tensor:
    """The indices of one dim from the last to the first.

    Along a divided dim each processor swaps its block with one other.

    Dims:
        x        [dim rest...]
        returns  the same

    Raises:
        DimError: there is no such dim.

    Example:
        >>> import meshlang as ml
        >>> ml.reverse(ml.range("n:4"), "n").numpy()
        array([3, 2, 1, 0], dtype=int32)
    """
    x = as_tensor(x)
    return apply(Reverse(x.shape[dim].name), x)[0]
