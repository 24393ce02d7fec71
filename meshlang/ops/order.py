"""By size: the largest k, sorting, the n-th largest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from meshlang.dims import Dim, Shape
from meshlang.dtypes import check_kind
from meshlang.errors import DimError, message
from meshlang.program import FLOATS, Op, Spec, apply, as_tensor
from meshlang.tensor import Tensor


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


@dataclass(frozen=True)
class Sort(Op):
    """The values along a dim in order, and where each stood; equal ones stay in theirs."""

    dim: Dim
    descending: bool

    @property
    def detail(self) -> str:
        return self.dim.label + (" descending" if self.descending else "")

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        check_kind("sort", xs[0], "numbers")
        return (Spec(xs[0].shape, xs[0].dtype), Spec(xs[0].shape, "int32"))

    def vjp(self, xs, ys, gs):
        if xs[0].dtype not in FLOATS:
            return (None,)
        return (apply(Permuted(self.dim, back=True), gs[0], ys[1])[0],)

    def plan(self, b, xs, outs):
        """Along a divided dim: all of it is gathered, sorted, and cut again."""
        made = b.local(self, [b.gather(xs[0], self.dim.name)], outs, whole=(self.dim.name,))
        return [b.move(value, spec.shape) for value, spec in zip(made, outs, strict=True)]


@dataclass(frozen=True)
class Permuted(Op):
    """x read at an index along a dim, of which each row is a permutation; or `back`, written."""

    dim: Dim
    back: bool

    @property
    def detail(self) -> str:
        return self.dim.label + (" back" if self.back else "")

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        return (Spec(xs[0].shape, xs[0].dtype),)

    def vjp(self, xs, ys, gs):
        return (apply(Permuted(self.dim, not self.back), gs[0], xs[1])[0], None)

    def plan(self, b, xs, outs):
        xs = [b.gather(x, self.dim.name) for x in xs]
        made = b.local(self, xs, outs, whole=(self.dim.name,))
        return [b.move(made[0], outs[0].shape)]


def sort(x: Any, dim: str, *, descending: bool = False) -> Tensor:
    """The values along a dim from the smallest to the largest, or the other way.

    A divided dim is gathered for it, as the plan says.

    Dims:
        x        [dim rest...], numbers
        returns  the same

    Raises:
        DimError: x lacks the dim.
        DtypeError: x holds bools.

    Example:
        >>> import meshlang as ml
        >>> ml.sort(ml.constant([3, 1, 2], "n"), "n").numpy()
        array([1, 2, 3], dtype=int32)
    """
    x = as_tensor(x)
    return apply(Sort(x.shape[dim], descending), x)[0]


def argsort(x: Any, dim: str, *, descending: bool = False) -> Tensor:
    """Where the values stand that `sort` gives; of equal ones the first comes first. No gradient.

    Dims:
        x        [dim rest...], numbers
        returns  the same, int32

    Raises:
        DimError: x lacks the dim.
        DtypeError: x holds bools.

    Example:
        >>> import meshlang as ml
        >>> ml.argsort(ml.constant([3, 1, 3], "n"), "n", descending=True).numpy()
        array([0, 2, 1], dtype=int32)
    """
    x = as_tensor(x)
    return apply(Sort(x.shape[dim], descending), x)[1]


def nth_largest(x: Any, dim: str, n: int) -> Tensor:
    """The n-th largest value along a dim; 0 is the largest. Over a divided dim as `top_k`.

    Dims:
        x        [dim rest...], numbers
        returns  [rest...]

    Raises:
        DimError: the dim has no n-th element.
        DtypeError: x holds bools.

    Example:
        >>> import meshlang as ml
        >>> ml.nth_largest(ml.constant([4.0, 7.0, 5.0], "n"), "n", 1).numpy()
        array(5., dtype=float32)
    """
    return _nth("nth_largest", x, dim, n)


def nth_smallest(x: Any, dim: str, n: int) -> Tensor:
    """The n-th smallest value along a dim; 0 is the smallest. Over a divided dim as `top_k`.

    Dims:
        x        [dim rest...], numbers with a sign
        returns  [rest...]

    Raises:
        DimError: the dim has no n-th element.
        DtypeError: x holds bools, or integers without a sign.

    Example:
        >>> import meshlang as ml
        >>> ml.nth_smallest(ml.constant([4.0, 7.0, 5.0], "n"), "n", 2).numpy()
        array(7., dtype=float32)
    """
    x = as_tensor(x)
    check_kind("nth_smallest", x, "signed numbers")
    return -_nth("nth_smallest", -x, dim, n)


def _nth(op: str, x: Any, dim: str, n: int) -> Tensor:
    from meshlang.ops.index import gather

    x = as_tensor(x)
    along = x.shape[dim]
    if not 0 <= n < along.size:
        rows = [("operand", x.shape), ("n", n)]
        raise DimError(message(f"{op}: {along!r} has no such element.", rows, "0 is the first"))
    some = Dim(f"{along.name}.{op}", n + 1)
    values = apply(Largest(along, some), x)[0]
    return gather(values, as_tensor(n), dim=some.name)
