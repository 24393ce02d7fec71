"""Rows by index: gather, scatter_add, one_hot. Real ones, never products with one-hot tensors.

An index outside of its dim reads zeros and writes nothing, on every layout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from meshlang.dims import Dim, Shape, check_twins
from meshlang.dtypes import check_kind
from meshlang.errors import DimError, DtypeError, message
from meshlang.program import FLOATS, Op, Spec, apply, as_tensor, dtype_name
from meshlang.tensor import Tensor

#: what cannot be summed over processors, and in which dtype it is
_SUMMED_AS = {"bool": "int32", "uint8": "int32", "uint32": "int64"}


@dataclass(frozen=True)
class Gather(Op):
    """Operands: the table, then one index for each of `dims`.

    Attributes:
        dims: of the table, that are looked up.
        summed: dims of the index over which the rows are added.
        unique: no two indices that lie inside are equal.
    """

    dims: tuple[Dim, ...]
    summed: tuple[Dim, ...] = ()
    unique: bool = False

    @property
    def detail(self) -> str:
        return _detail(",".join(d.label for d in self.dims), self.summed, self.unique)

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        table, index = xs[0], xs[1]
        check_index("gather", self.dims, xs[1:])
        check_twins("gather", [table.shape, index.shape])
        kept = [d for d in index.shape if d not in self.summed]
        rest = [d for d in table.shape if d not in self.dims and d not in index.shape]
        return (Spec(Shape((*kept, *rest)), table.dtype),)

    def passes(self, i: int) -> str:
        return "alone" if i == 0 else "no"

    def creates_pending(self, axes_of, xs):
        """Each processor reads the rows that it holds: of the parts of a sum one is not zero."""
        return () if xs[0].dtype in _SUMMED_AS else self._axes(axes_of)

    def _axes(self, axes_of):
        return tuple(a for d in (*self.dims, *self.summed) for a in axes_of(d))

    def plan(self, b, xs, outs):
        return _summed_rows(b, self, xs, outs, self._axes(b.axes))

    def vjp(self, xs, ys, gs):
        none = (None,) * len(self.dims)
        if xs[0].dtype not in FLOATS:
            return (None, *none)
        return (apply(ScatterAdd(self.dims, xs[0].shape, self.unique), gs[0], *xs[1:])[0], *none)


@dataclass(frozen=True)
class ScatterAdd(Op):
    """Operands: the values, then one index for each of the new `dims`.

    Attributes:
        dims: that the result has and the values need not have.
        shape: of the result. Dims of the index that it lacks are summed over.
        unique: no two indices that lie inside are equal.
    """

    dims: tuple[Dim, ...]
    shape: Shape
    unique: bool = False

    @property
    def detail(self) -> str:
        return _detail(" ".join(map(repr, self.dims)), (), self.unique)

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        values, index = xs[0], xs[1]
        check_kind("scatter_add", values, "numbers")
        check_index("scatter_add", self.dims, xs[1:])
        check_twins("scatter_add", [values.shape, index.shape, self.shape])
        return (Spec(self.shape, values.dtype),)

    def passes(self, i: int) -> str:
        return "alone" if i == 0 else "no"

    def creates_pending(self, axes_of, xs):
        """Rows of all processors are added: what is summed over is the index's own dims."""
        return () if xs[0].dtype in _SUMMED_AS else self._axes(axes_of, xs)

    def _axes(self, axes_of, xs):
        return tuple(a for d in xs[1].shape if d not in self.shape for a in axes_of(d))

    def plan(self, b, xs, outs):
        return _summed_rows(b, self, xs, outs, self._axes(b.axes, xs))

    def vjp(self, xs, ys, gs):
        from meshlang.ops.rearrange import arrange

        lacking = tuple(d for d in xs[1].shape if d not in xs[0].shape)
        g = apply(Gather(self.dims, lacking, self.unique), gs[0], *xs[1:])[0]
        return (arrange(g, xs[0].shape), *(None for _ in self.dims))


def _summed_rows(
    b: Any, op: Op, xs: Sequence[Any], outs: Sequence[Spec], axes: tuple[str, ...]
) -> Sequence[Any]:
    """A sum over axes: pending, or paid at once in a dtype in which it can be."""
    made = b.local(op, xs, outs, pending=axes)
    dtype = outs[0].dtype
    if not axes or dtype not in _SUMMED_AS:
        return made
    return [b.cast(b.pay(b.cast(made[0], _SUMMED_AS[dtype])), dtype)]


def _detail(dims: str, summed: tuple[Dim, ...], unique: bool) -> str:
    more = [f"summed={','.join(d.label for d in summed)}"] if summed else []
    return " ".join([dims, *more, *(["unique"] if unique else [])])


@dataclass(frozen=True)
class OneHot(Op):
    """One where the index is, zeros elsewhere."""

    dim: Dim
    dtype: str

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        check_index("one_hot", (), xs)
        return (Spec(xs[0].shape + self.dim, self.dtype),)

    def vjp(self, xs, ys, gs):
        return (None,)


def check_index(op: str, dims: tuple[Dim, ...], index: tuple[Tensor, ...]) -> None:
    """Refuse what is no index into these dims."""
    rows = [(f"index {n}", f"{i.shape} {i.dtype}") for n, i in enumerate(index)]
    for i in index:
        if i.dtype != "int32":
            raise DtypeError(message(f"{op}: an index is int32.", rows, "ml.cast(index, 'int32')"))
        if i.shape != index[0].shape:
            raise DimError(
                message(f"{op}: all indices have one shape.", rows, "expand or arrange them")
            )
        for dim in dims:
            if dim.name in i.shape.names:
                raise DimError(
                    message(
                        f"{op}: an index into {dim.name!r} has a dim of that name.",
                        [("indexed", dim), *rows],
                        f"index.rename({dim.name}='other')",
                    )
                )


def gather(table: Any, index: Any, *, dim: str) -> Tensor:
    """Look rows up along a dim.

    Over a divided dim each processor reads the rows it holds, and a sum is pending.

    Dims:
        table    [batch... dim rest...]
        index    [batch... query...], int32; outside of [0, size) it reads zeros
        returns  [batch... query... rest...]; dims shared by both are batch dims

    Raises:
        DimError: the table lacks the dim, or the index has it.
        DtypeError: the index is not int32.

    Example:
        >>> import meshlang as ml
        >>> table = ml.constant([[1.0, 2.0], [3.0, 4.0]], "vocab d")
        >>> ml.gather(table, ml.constant([1, 1, 0], "n"), dim="vocab").numpy()
        array([[3., 4.],
               [3., 4.],
               [1., 2.]], dtype=float32)
    """
    return gather_at(table, {dim: index})


def gather_at(
    table: Any, index: Mapping[str, Any], *, summed: str = "", unique: bool = False
) -> Tensor:
    """Look rows up by several indices at once: ``gather_at(slots, {"experts": e, "slot": s})``.

    With `summed` it is the transpose of `scatter_add_at` of values that lack those dims.

    Args:
        table: where rows are read.
        index: for each dim that is looked up, an int32 tensor; all have one shape.
        summed: dims of the index over which the rows are added.
        unique: a promise that no two indices inside of the table are equal. It changes how fast
            gradients are, not what they are; where it is broken they are wrong.

    Dims:
        table    [batch... dims... rest...]
        index    [batch... query...] each
        returns  [batch... query... rest...] without `summed`

    Raises:
        DimError: the table lacks a dim, an index has it, or the indices differ in shape.
        DtypeError: an index is not int32.

    Example:
        >>> import meshlang as ml
        >>> slots = ml.constant([[1.0, 2.0], [3.0, 4.0]], "slot d")
        >>> places = ml.constant([[1, 9], [0, 1]], "token choice")
        >>> ml.gather_at(slots, {"slot": places}, summed="choice").numpy()
        array([[3., 4.],
               [4., 6.]], dtype=float32)
    """
    table = as_tensor(table)
    dims = tuple(table.shape[name] for name in index)
    indices = _indices("gather", index)
    op = Gather(dims, indices[0].shape.pick(summed), unique)
    return apply(op, table, *indices)[0]


def scatter_add(values: Any, index: Any, *, into: str | Dim, batch: str = "") -> Tensor:
    """Add rows into zeros of a new dim, at an index.

    Dims:
        values   [batch... query... rest...]
        index    [batch... query...], int32; outside of [0, size) it writes nothing
        into     the new dim with its size, ``"vocab:256"``
        returns  [batch... into rest...]; query dims are summed over

    Raises:
        DimError: the index or the values have the new dim already, or the index lacks a batch dim.
        DtypeError: the index is not int32, or the values are bools.

    Example:
        >>> import meshlang as ml
        >>> index = ml.constant([1, 1, 0], "n")
        >>> ml.scatter_add(ml.constant([1.0, 2.0, 4.0], "n"), index, into="vocab:3").numpy()
        array([4., 3., 0.], dtype=float32)
    """
    return scatter_add_at(values, {into: index}, batch=batch)


def scatter_add_at(
    values: Any,
    index: Mapping[str | Dim, Any],
    *,
    batch: str = "",
    order: str | None = None,
    unique: bool = False,
) -> Tensor:
    """Add rows into zeros of several new dims at once.

    Args:
        values: the rows. A row is written at each index along dims that the values lack.
        index: for each new dim with its size an int32 tensor; all have one shape.
        batch: dims of the index that the result keeps.
        order: the dims of the result in another order, which moves no data.
        unique: a promise that no two indices inside of the new dims are equal, so that rows can be
            read instead of added. Where it is broken the results are wrong.

    Dims:
        values   [batch... query... rest...]
        index    [batch... query...] each
        returns  [batch... new dims... rest...], or `order`; query dims are summed over

    Raises:
        DimError: `order` does not name the dims of the result, an index or the values have a new
            dim already, or the indices differ in shape.
        DtypeError: an index is not int32, or the values are bools.

    Example:
        >>> import meshlang as ml
        >>> tokens = ml.constant([1.0, 2.0], "token")
        >>> places = ml.constant([[3, 0], [9, 1]], "token choice")
        >>> ml.scatter_add_at(tokens, {"slot:4": places}, unique=True).numpy()
        array([1., 2., 0., 1.], dtype=float32)
    """
    values = as_tensor(values)
    dims = tuple(d for new in index for d in (Shape.parse(new) if isinstance(new, str) else (new,)))
    indices = _indices("scatter_add", index)
    asked = indices[0].shape
    rest = [d for d in values.shape if d not in asked]
    shape = Shape((*asked.pick(batch), *dims, *rest))
    if order is not None:
        if set(shape.pick(order)) != set(shape):
            rows = [("dims", shape), ("order", order)]
            fix = f"order={' '.join(shape.names)!r}"
            raise DimError(message("scatter_add: order names all dims.", rows, fix))
        shape = Shape(shape.pick(order))
    return apply(ScatterAdd(dims, shape, unique), values, *indices)[0]


def _indices(op: str, index: Mapping[Any, Any]) -> list[Tensor]:
    if not index:
        raise DimError(message(f"{op}: there is no index.", fix="{'dim': index, ...}"))
    return [as_tensor(i) for i in index.values()]


def one_hot(index: Any, dim: str | Dim, dtype: str = "compute") -> Tensor:
    """One where the index is and zeros elsewhere, along a new last dim. No gradient.

    Dims:
        index    [dims...], int32
        dim      the new dim with its size
        returns  [dims... dim]

    Raises:
        DimError: the index has the dim already.
        DtypeError: the index is not int32.

    Example:
        >>> import meshlang as ml
        >>> ml.one_hot(ml.constant([2, 7, 0], "n"), "vocab:3").numpy()
        array([[0., 0., 1.],
               [0., 0., 0.],
               [1., 0., 0.]], dtype=float32)
    """
    (new,) = Shape.parse(dim if isinstance(dim, str) else (dim,))
    return apply(OneHot(new, dtype_name(dtype)), as_tensor(index))[0]
