"""Rows written into a tensor at an index: the largest, the smallest, the last; segments.

As for `meshlang.scatter_add`, an index outside of its dim writes nothing, on every layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from meshlang.dims import Dim, Shape, check_twins
from meshlang.dtypes import check_kind, check_same
from meshlang.errors import DimError, message
from meshlang.ops.create import full, range
from meshlang.ops.elementwise import cast, divide_no_nan, equal, where
from meshlang.ops.index import check_index, gather, gather_at, scatter_add
from meshlang.ops.rearrange import arrange, expand_to
from meshlang.program import FLOATS, NARROW, Op, Spec, apply, as_tensor, both
from meshlang.tensor import Tensor


@dataclass(frozen=True)
class ScatterExtreme(Op):
    """Operands: a tensor, values, and an index into its `dim`. Each place keeps the extreme."""

    kind: str
    dim: Dim

    @property
    def label(self) -> str:
        return f"scatter_{self.kind}"

    @property
    def detail(self) -> str:
        return self.dim.label

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        _check(self.label, self.dim, *xs)
        check_kind(self.label, xs[0], "numbers")
        return (Spec(xs[0].shape, xs[0].dtype),)

    def vjp(self, xs, ys, gs):
        """Shared equally by all that are equal to the result at their place."""
        (x, values, index), y, g = xs, ys[0], gs[0]
        kept = cast(equal(x, y), g.dtype)
        won = cast(equal(values, gather(y, index, dim=self.dim.label)), g.dtype)
        batch = " ".join(d.label for d in index.shape if d in x.shape)
        # Only rows that lie inside are counted, as only those are written.
        share = g / (kept + scatter_add(won, index, into=self.dim, batch=batch))
        return kept * share, won * gather(share, index, dim=self.dim.label), None

    def plan(self, b, xs, outs):
        """Where rows lie on several processors, the extreme of what each has made."""
        query = [d for d in xs[2].shape if d not in outs[0].shape]
        axes = tuple(a for d in query for a in b.axes(d))
        return [b.all_reduce(b.local(self, xs, outs)[0], axes, self.kind)]


def _check(op: str, dim: Dim, x: Tensor, values: Tensor, index: Tensor) -> None:
    check_index(op, (dim,), (index,))
    check_same(op, ("x", "values"), (x, values))
    check_twins(op, [x.shape, values.shape, index.shape])
    rest = [d for d in x.shape if d != dim and d not in index.shape]
    if set(values.shape) != {*index.shape, *rest}:
        rows = [("x", x.shape), ("index", index.shape), ("values", values.shape)]
        wanted = Shape((*index.shape, *rest))
        raise DimError(
            message(f"{op}: the values have the dims of what is written.", rows, f"as {wanted}")
        )


def scatter_max(x: Any, values: Any, index: Any, *, dim: str) -> Tensor:
    """x with the largest of itself and of the values at each place that the index names.

    A gradient is shared equally between equal ones.

    Dims:
        x        [batch... dim rest...], numbers
        values   [batch... query... rest...]
        index    [batch... query...], int32; outside of [0, size) it writes nothing
        returns  as x

    Raises:
        DimError: x lacks the dim, the index has it, or the values have other dims.
        DtypeError: the index is not int32, or x and the values are no numbers of one dtype.

    Example:
        >>> import meshlang as ml
        >>> x, index = ml.constant([5.0, 5.0, 5.0], "slot"), ml.constant([0, 2, 2], "n")
        >>> ml.scatter_max(x, ml.constant([9.0, 7.0, 8.0], "n"), index, dim="slot").numpy()
        array([9., 5., 8.], dtype=float32)
    """
    return _extreme("max", x, values, index, dim)


def scatter_min(x: Any, values: Any, index: Any, *, dim: str) -> Tensor:
    """x with the smallest of itself and of the values at each place that the index names.

    A gradient is shared equally between equal ones.

    Dims:
        x        [batch... dim rest...], numbers
        values   [batch... query... rest...]
        index    [batch... query...], int32; outside of [0, size) it writes nothing
        returns  as x

    Raises:
        DimError: x lacks the dim, the index has it, or the values have other dims.
        DtypeError: the index is not int32, or x and the values are no numbers of one dtype.

    Example:
        >>> import meshlang as ml
        >>> x, index = ml.constant([5.0, 5.0, 5.0], "slot"), ml.constant([0, 2, 2], "n")
        >>> ml.scatter_min(x, ml.constant([9.0, 4.0, 3.0], "n"), index, dim="slot").numpy()
        array([5., 5., 3.], dtype=float32)
    """
    return _extreme("min", x, values, index, dim)


def _extreme(kind: str, x: Any, values: Any, index: Any, dim: str) -> Tensor:
    x, values = both(x, values)
    return apply(ScatterExtreme(kind, x.shape[dim]), x, values, as_tensor(index))[0]


def scatter_update(x: Any, values: Any, index: Any, *, dim: str) -> Tensor:
    """x with the values in the places that the index names; of several for one place the last.

    The last is so in the order of the index's dims, outer ones first, on every layout.

    Dims:
        x        [batch... dim rest...]
        values   [batch... query... rest...]
        index    [batch... query...], int32; outside of [0, size) it writes nothing
        returns  as x

    Raises:
        DimError: x lacks the dim, the index has it, or the values have other dims.
        DtypeError: the index is not int32, or x and the values have two dtypes.

    Example:
        >>> import meshlang as ml
        >>> x, index = ml.constant([5.0, 5.0, 5.0], "slot"), ml.constant([0, 2, 2], "n")
        >>> ml.scatter_update(x, ml.constant([1.0, 2.0, 3.0], "n"), index, dim="slot").numpy()
        array([1., 5., 3.], dtype=float32)
    """
    x, values = both(x, values)
    index, along = as_tensor(index), x.shape[dim]
    _check("scatter_update", along, x, values, index)
    query = [d for d in index.shape if d not in x.shape]
    batch = [d for d in index.shape if d in x.shape]
    last = apply(
        ScatterExtreme("max", along),
        full(Shape((*batch, along)), -1, "int32"),
        _positions(query, index.shape),
        index,
    )[0]
    # A place that nothing is written to has last -1, which lies outside of the outermost dim.
    at = {
        d.label: last // stride if i == 0 else (last // stride) % d.size
        for i, (d, stride) in enumerate(zip(query, _strides(query), strict=True))
    }
    found = gather_at(values, at, unique=True) if at else values
    return arrange(where(last >= 0, found, x), x.shape)


def _strides(dims: Sequence[Dim]) -> list[int]:
    return [prod(d.size for d in dims[i + 1 :]) for i, _ in enumerate(dims)]


def _positions(query: Sequence[Dim], shape: Shape) -> Tensor:
    """For each element its place in the order of the query dims."""
    found = expand_to(as_tensor(0), shape)
    for dim, stride in zip(query, _strides(query), strict=True):
        found = found + range(dim) * stride
    return found


def segment_sum(values: Any, segments: Any, *, into: str | Dim, batch: str = "") -> Tensor:
    """The sum of the values of each segment, 0 of an empty one: `scatter_add` by another name.

    Dims:
        values    [batch... query... rest...], numbers
        segments  [batch... query...], int32; a value outside of [0, size) is in no segment
        into      the new dim with its size, ``"document:16"``
        returns   [batch... into rest...]

    Raises:
        DimError: the segments or the values have the new dim already, or a batch dim lacks.
        DtypeError: the segments are not int32, or the values are bools.

    Example:
        >>> import meshlang as ml
        >>> x, of = ml.constant([1.0, 2.0, 4.0], "n"), ml.constant([0, 0, 2], "n")
        >>> ml.segment_sum(x, of, into="document:3").numpy()
        array([3., 0., 4.], dtype=float32)
    """
    values, segments = _checked_segments("segment_sum", "numbers", values, segments)
    return scatter_add(values, segments, into=into, batch=batch)


def segment_mean(values: Any, segments: Any, *, into: str | Dim, batch: str = "") -> Tensor:
    """The mean of the values of each segment, 0 of an empty one.

    Dims:
        values    [batch... query... rest...], floats
        segments  [batch... query...], int32; a value outside of [0, size) is in no segment
        into      the new dim with its size, ``"document:16"``
        returns   [batch... into rest...]

    Raises:
        DimError: the segments or the values have the new dim already, or a batch dim lacks.
        DtypeError: the segments are not int32, or the values are not floats.

    Example:
        >>> import meshlang as ml
        >>> x, of = ml.constant([1.0, 2.0, 4.0], "n"), ml.constant([0, 0, 2], "n")
        >>> ml.segment_mean(x, of, into="document:3").numpy()
        array([1.5, 0. , 4. ], dtype=float32)
    """
    values, segments = _checked_segments("segment_mean", "floats", values, segments)
    ones = full(segments.shape, 1, "high" if values.dtype in NARROW else values.dtype)
    total = scatter_add(cast(values, ones.dtype), segments, into=into, batch=batch)
    counts = scatter_add(ones, segments, into=into, batch=batch)
    return cast(divide_no_nan(total, counts), values.dtype)


def segment_max(values: Any, segments: Any, *, into: str | Dim, batch: str = "") -> Tensor:
    """The largest of the values of each segment; of an empty one the least of the dtype.

    Dims:
        values    [batch... query... rest...], numbers
        segments  [batch... query...], int32; a value outside of [0, size) is in no segment
        into      the new dim with its size, ``"document:16"``
        returns   [batch... into rest...]

    Raises:
        DimError: the segments or the values have the new dim already, or a batch dim lacks.
        DtypeError: the segments are not int32, or the values are bools.

    Example:
        >>> import meshlang as ml
        >>> x, of = ml.constant([1.0, 2.0, 4.0], "n"), ml.constant([0, 0, 2], "n")
        >>> ml.segment_max(x, of, into="document:3").numpy()
        array([  2., -inf,   4.], dtype=float32)
    """
    values, segments = _checked_segments("segment_max", "numbers", values, segments)
    (new,) = Shape.parse(into if isinstance(into, str) else (into,))
    rest = [d for d in values.shape if d not in segments.shape]
    shape = Shape((*segments.shape.pick(batch), new, *rest))
    least = -np.inf if values.dtype in FLOATS else np.iinfo(values.dtype).min
    return scatter_max(full(shape, least, values.dtype), values, segments, dim=new.label)


def _checked_segments(op: str, kind: str, values: Any, segments: Any) -> tuple[Tensor, Tensor]:
    values, segments = as_tensor(values), as_tensor(segments)
    check_kind(op, values, kind)
    check_index(op, (), (segments,))
    return values, segments
