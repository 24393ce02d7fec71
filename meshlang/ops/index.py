"""Rows by index: gather, scatter_add, one_hot. Real ones, never products with one-hot tensors.

An index outside of its dim reads zeros and writes nothing, on every layout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from meshlang.dims import Dim, Shape, check_twins
from meshlang.errors import DimError, DtypeError, message
from meshlang.program import FLOATS, Op, Spec, apply, as_tensor, dtype_name
from meshlang.tensor import Tensor


@dataclass(frozen=True)
class Gather(Op):
    """Operands: the table, then one index for each of `dims`."""

    dims: tuple[Dim, ...]

    @property
    def detail(self) -> str:
        return ",".join(d.label for d in self.dims)

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        table, index = xs[0], xs[1]
        _check_index("gather", xs[1:])
        check_twins("gather", [table.shape, index.shape])
        rest = [d for d in table.shape if d not in self.dims and d not in index.shape]
        return (Spec(Shape((*index.shape, *rest)), table.dtype),)

    def passes(self, i: int) -> str:
        return "alone" if i == 0 else "no"

    def creates_pending(self, axes_of, xs):
        """Each processor reads the rows that it holds: the rows are a sum with one part not zero."""
        return tuple(a for d in self.dims for a in axes_of(d))

    def plan(self, b, xs, outs):
        return b.local(self, xs, outs, pending=self.creates_pending(b.axes, xs))

    def vjp(self, xs, ys, gs):
        table = xs[0]
        if table.dtype not in FLOATS:
            return (None,) * len(xs)
        batch = [d for d in table.shape if d in xs[1].shape]
        g = apply(ScatterAdd(self.dims, tuple(batch)), gs[0], *xs[1:])[0]
        from meshlang.ops.rearrange import arrange

        return (arrange(g, table.shape), *(None for _ in self.dims))


@dataclass(frozen=True)
class ScatterAdd(Op):
    """Operands: the values, then one index for each of the new `dims`. `batch` dims stay."""

    dims: tuple[Dim, ...]
    batch: tuple[Dim, ...]

    @property
    def detail(self) -> str:
        return " ".join(map(repr, self.dims))

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        values, index = xs[0], xs[1]
        _check_index("scatter_add", xs[1:])
        for dim in index.shape:
            if dim not in values.shape:
                raise DimError(
                    message(
                        "scatter_add: the values lack a dim of the index.",
                        [("values", values.shape), ("index", index.shape), ("lacking", repr(dim))],
                        f"values.expand({dim.name}={dim.size})",
                    )
                )
        rest = [d for d in values.shape if d not in index.shape]
        shape = Shape((*self.batch, *self.dims, *rest))
        check_twins("scatter_add", [shape, values.shape])
        return (Spec(shape, values.dtype),)

    def passes(self, i: int) -> str:
        return "alone" if i == 0 else "no"

    def creates_pending(self, axes_of, xs):
        """Rows of all processors are added: what is summed over is the index's own dims."""
        return tuple(a for d in xs[1].shape if d not in self.batch for a in axes_of(d))

    def plan(self, b, xs, outs):
        return b.local(self, xs, outs, pending=self.creates_pending(b.axes, xs))

    def vjp(self, xs, ys, gs):
        from meshlang.ops.rearrange import arrange

        g = apply(Gather(self.dims), gs[0], *xs[1:])[0]
        return (arrange(g, xs[0].shape), *(None for _ in self.dims))


@dataclass(frozen=True)
class OneHot(Op):
    """One where the index is, zeros elsewhere."""

    dim: Dim
    dtype: str

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        _check_index("one_hot", xs)
        return (Spec(xs[0].shape + self.dim, self.dtype),)

    def vjp(self, xs, ys, gs):
        return (None,)


def _check_index(op: str, index: tuple[Tensor, ...]) -> None:
    for i in index:
        if i.dtype != "int32":
            raise DtypeError(
                message(
                    f"{op}: an index is int32.",
                    [("index", f"{i.shape} {i.dtype}")],
                    "ml.cast(index, 'int32')",
                )
            )
        if i.shape != index[0].shape:
            raise DimError(
                message(
                    f"{op}: all indices have one shape.",
                    [(f"index {n}", x.shape) for n, x in enumerate(index)],
                    "expand or arrange them",
                )
            )


def gather(table: Any, index: Any, *, dim: str) -> Tensor:
    """Look rows up along a dim, or (with a mapping of dims to indices) along several.

    Dims:
        table    [batch... dim rest...]
        index    [batch... query...], int32; outside of [0, size) it reads zeros
        returns  [batch... query... rest...]; dims shared by both are batch dims

    Over a divided dim each processor reads the rows it holds, and a sum is pending.

    Example:
        >>> import meshlang as ml
        >>> table = ml.constant([[1.0, 2.0], [3.0, 4.0]], "vocab d")
        >>> ml.gather(table, ml.constant([1, 1, 0], "n"), dim="vocab").numpy()
        array([[3., 4.],
               [3., 4.],
               [1., 2.]], dtype=float32)
    """
    return gather_at(table, {dim: index})


def gather_at(table: Any, index: Mapping[str, Any]) -> Tensor:
    """Look rows up by several indices at once: ``gather_at(slots, {"experts": e, "slot": s})``.

    Dims:
        table    [batch... dims... rest...]
        index    [batch... query...] each, int32
        returns  [batch... query... rest...]
    """
    table = as_tensor(table)
    dims = tuple(table.shape[name] for name in index)
    return apply(Gather(dims), table, *map(as_tensor, index.values()))[0]


def scatter_add(
    values: Any, index: Any, *, into: str | Dim, batch: str = ""
) -> Tensor:
    """Add rows into zeros of a new dim, at an index.

    Dims:
        values   [batch... query... rest...]
        index    [batch... query...], int32; outside of [0, size) it writes nothing
        into     the new dim with its size, ``"vocab:256"``
        returns  [batch... into rest...]; query dims are summed over

    Example:
        >>> import meshlang as ml
        >>> index = ml.constant([1, 1, 0], "n")
        >>> ml.scatter_add(ml.constant([1.0, 2.0, 4.0], "n"), index, into="vocab:3").numpy()
        array([4., 3., 0.], dtype=float32)
    """
    return scatter_add_at(values, {into: index}, batch=batch)


def scatter_add_at(
    values: Any, index: Mapping[str | Dim, Any], *, batch: str = ""
) -> Tensor:
    """Add rows into zeros of several new dims at once.

    Dims:
        values   [batch... query... rest...]
        index    new dims with sizes -> [batch... query...] each, int32
        returns  [batch... new dims... rest...]
    """
    values = as_tensor(values)
    dims = tuple(d for new in index for d in (Shape.parse(new) if isinstance(new, str) else (new,)))
    kept = values.shape.pick(batch)
    return apply(ScatterAdd(dims, kept), values, *map(as_tensor, index.values()))[0]


def one_hot(index: Any, dim: str | Dim, dtype: str = "compute") -> Tensor:
    """One where the index is and zeros elsewhere, along a new last dim. No gradient.

    Dims:
        index    [dims...], int32
        dim      the new dim with its size
        returns  [dims... dim]
    """
    (new,) = Shape.parse(dim if isinstance(dim, str) else (dim,))
    return apply(OneHot(new, dtype_name(dtype)), as_tensor(index))[0]
