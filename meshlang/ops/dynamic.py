"""A run of indices that begins where a tensor says: read, and written.

Both are other ops put together: rows are looked up by index, so that along a divided dim each
processor reads what it holds, and only the run is sent.
"""

from __future__ import annotations

from typing import Any

from meshlang.dims import Dim, Shape
from meshlang.dtypes import check_same
from meshlang.errors import DimError, DtypeError, message
from meshlang.ops.create import range as counting
from meshlang.ops.elementwise import greater_equal, less, logical_and, where
from meshlang.ops.index import gather
from meshlang.ops.rearrange import arrange, rename
from meshlang.program import as_tensor
from meshlang.tensor import Tensor


def dynamic_slice(x: Any, dim: str, *, start: Any, size: int) -> Tensor:
    """A run of indices of one dim that begins where a tensor says; the dim keeps its name.

    Along a divided dim each processor reads the rows that it holds, and a sum of the run is
    pending: the dim is not gathered.

    Args:
        x: any tensor.
        dim: along which.
        start: the first index, an int32 scalar. What lies outside of the dim is zero.
        size: how many indices.

    Dims:
        x        [dim rest...]
        start    []
        returns  [dim:size rest...]

    Raises:
        DimError: the size is not within the dim, or `start` has dims.
        DtypeError: `start` is not int32.

    Example:
        >>> import meshlang as ml
        >>> start = ml.constant(2, "", "int32")
        >>> ml.dynamic_slice(ml.constant([1.0, 2.0, 3.0, 4.0], "n"), "n", start=start, size=2)
        Tensor[n:2] float32
        [3. 4.]
    """
    x, start = as_tensor(x), as_tensor(start)
    old = x.shape[dim]
    _check_start("dynamic_slice", start, ("operand", x.shape))
    if not 1 <= size <= old.size:
        rows = [("operand", x.shape), ("size", size)]
        fix = f"a size from 1 to {old.size}"
        raise DimError(message(f"dynamic_slice: no {size} indices in {old!r}.", rows, fix))
    run = Dim(f"{old.name}.run", size, old.twin)
    rows = gather(x, counting(run) + start, dim=old.label)
    shape = x.shape.swap(old, run)
    return rename(arrange(rows, shape), **{run.name: old.name})


def dynamic_update(x: Any, value: Any, dim: str, *, start: Any) -> Tensor:
    """A tensor with a run of indices of one dim replaced, from where a tensor says.

    Along a divided dim each processor writes into what it holds; the value is gathered if it is
    divided, the tensor is not.

    Args:
        x: any tensor.
        value: what is written, of x's dtype and dims; its size along `dim` is that of the run.
        dim: along which.
        start: the first index, an int32 scalar. What lies outside of the dim is not written.

    Dims:
        x        [dim rest...]
        value    [dim rest...], not longer along dim
        start    []
        returns  as x

    Raises:
        DimError: the value is longer, other dims differ, or `start` has dims.
        DtypeError: dtypes differ, or `start` is not int32.

    Example:
        >>> import meshlang as ml
        >>> x, two = ml.constant([1, 2, 3, 4], "n"), ml.constant([8, 9], "n")
        >>> ml.dynamic_update(x, two, "n", start=1).numpy()
        array([1, 8, 9, 4], dtype=int32)
    """
    x, value, start = as_tensor(x), as_tensor(value), as_tensor(start)
    old = x.shape[dim]
    rows = [("operand", x.shape), ("value", value.shape)]
    _check_start("dynamic_update", start, *rows)
    check_same("dynamic_update", ["operand", "value"], [x, value])
    new = value.shape[dim]
    if new.size > old.size or set(value.shape) - {new} != set(x.shape) - {old}:
        fix = f"apart from {old.name!r} the same dims, and no more indices of it"
        raise DimError(message("dynamic_update: the value does not fit in.", rows, fix))
    run = f"{old.name}.run"
    place = counting(old) - start
    written = gather(rename(value, **{new.name: run}), place, dim=run)
    inside = logical_and(greater_equal(place, 0), less(place, new.size))
    return where(inside, arrange(written, x.shape), x)


def _check_start(op: str, start: Tensor, *rows: tuple[str, Shape]) -> None:
    shown = [*rows, ("start", f"{start.shape} {start.dtype}")]
    if len(start.shape):
        fix = "one number; to read at several places: ml.gather"
        raise DimError(message(f"{op}: `start` is a scalar.", shown, fix))
    if start.dtype != "int32":
        raise DtypeError(message(f"{op}: `start` is int32.", shown, "ml.cast(start, 'int32')"))
