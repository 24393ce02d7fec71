"""Tensors along a new dim, and apart again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from meshlang.dims import Dim, Shape, check_twins
from meshlang.dtypes import check_same
from meshlang.errors import DimError, message
from meshlang.program import Op, Spec, apply, as_tensor
from meshlang.tensor import Tensor


@dataclass(frozen=True)
class Stack(Op):
    """Tensors of the same dims along a new dim, in front."""

    dim: Dim

    @property
    def detail(self) -> str:
        return repr(self.dim)

    def passes(self, i: int) -> str:
        return "together"

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        check_twins("stack", [x.shape for x in xs])
        return (Spec(Shape((self.dim, *xs[0].shape)), xs[0].dtype),)

    def vjp(self, xs, ys, gs):
        from meshlang.ops.rearrange import arrange

        parts = apply(Parts(self.dim.name), gs[0])
        return tuple(arrange(g, x.shape) for g, x in zip(parts, xs, strict=True))

    def plan(self, b, xs, outs):
        """Of a divided dim each processor keeps its part of what it has anyway."""
        made = b.local(self, xs, outs, whole=(self.dim.name,))[0]
        return [b.move(made, outs[0].shape)]


@dataclass(frozen=True)
class Parts(Op):
    """One tensor for each index of a dim."""

    dim: str

    @property
    def label(self) -> str:
        return "unstack"

    @property
    def detail(self) -> str:
        return self.dim

    def passes(self, i: int) -> str:
        return "alone"

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        dim = xs[0].shape[self.dim]
        rest = Shape(d for d in xs[0].shape if d != dim)
        return tuple(Spec(rest, xs[0].dtype) for _ in range(dim.size))

    def vjp(self, xs, ys, gs):
        from meshlang.ops.create import zeros
        from meshlang.ops.rearrange import arrange

        parts = [zeros(y.shape, y.dtype) if g is None else g for g, y in zip(gs, ys, strict=True)]
        return (arrange(apply(Stack(xs[0].shape[self.dim]), *parts)[0], xs[0].shape),)

    def plan(self, b, xs, outs):
        """Every part of a divided dim goes to every processor along it."""
        return b.local(self, [b.gather(xs[0], self.dim)], outs)


def stack(xs: Sequence[Any], dim: str) -> Tensor:
    """Put tensors of the same dims beside each other, along a new dim in front.

    Where the layout divides the new dim, each processor keeps its part; nothing is sent.

    Args:
        xs: one tensor or more, of one dtype; their dims agree, in any order.
        dim: the name of the new dim, whose size is their number.

    Dims:
        xs       [dims...] each
        returns  [dim dims...], in the first one's order

    Raises:
        DimError: there is nothing to stack, dims differ, or the new dim is there already.
        DtypeError: dtypes differ.

    Example:
        >>> import meshlang as ml
        >>> ml.stack([ml.constant([1, 2], "n"), ml.constant([3, 4], "n")], "k").numpy()
        array([[1, 2],
               [3, 4]], dtype=int32)
    """
    tensors = [as_tensor(x) for x in xs]
    if not tensors:
        raise DimError(message("stack: nothing to stack.", [("dim", repr(dim))]))
    labels = [f"operand {i}" for i in range(len(tensors))]
    check_same("stack", labels, tensors)
    for x in tensors:
        if set(x.shape.names) != set(tensors[0].shape.names):
            raise DimError(
                message(
                    "stack: all must have the same dims.",
                    zip(labels, (t.shape for t in tensors), strict=True),
                    "x.expand, or ml.sum over, what only some of them have",
                )
            )
    return apply(Stack(Dim(dim, len(tensors))), *tensors)[0]


def unstack(x: Any, dim: str) -> list[Tensor]:
    """One tensor for each index of a dim, which they lack.

    A divided dim is gathered, since all of its parts are wanted everywhere.

    Args:
        x: any tensor.
        dim: along which.

    Dims:
        x        [dim rest...]
        returns  [rest...], as many as the dim is long

    Raises:
        DimError: there is no such dim.

    Example:
        >>> import meshlang as ml
        >>> x = ml.constant([[1, 2], [3, 4]], "k n")
        >>> [part.numpy().tolist() for part in ml.unstack(x, "n")]
        [[1, 3], [2, 4]]
    """
    x = as_tensor(x)
    return list(apply(Parts(x.shape[dim].name), x))
