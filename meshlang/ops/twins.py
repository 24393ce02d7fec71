"""Twins: one dim under another placement, for routers and for tokens that travel to experts."""

from __future__ import annotations

from typing import Any

from meshlang.dims import WHOLE, Dim, Twin
from meshlang.errors import DimError, message
from meshlang.ops.rearrange import Rename
from meshlang.program import apply, as_tensor
from meshlang.tensor import Tensor


def retag(x: Tensor, *pairs: tuple[Dim, Dim]) -> Tensor:
    """Rename dims given as dims, twins included."""
    changed = tuple((old, new) for old, new in pairs if old != new)
    return apply(Rename(changed), x)[0] if changed else x


def whole(x: Any, dims: str, *, beside: str | None = None) -> Tensor:
    """Hold dims whole, or (`beside`) on the axes that another dim leaves free.

    Args:
        x: any tensor.
        dims: which, by name.
        beside: the dim next to which they shall lie, for `exchange`.

    Dims:
        x        [dims... rest...]
        returns  [dims*... rest...], or [dims|beside... rest...]

    Raises:
        DimError: x lacks one of the dims, or a dim shall lie beside itself.

    Example:
        >>> import meshlang as ml
        >>> x = ml.constant([[1.0, 2.0]], "group experts")
        >>> ml.whole(x, "experts").shape, ml.whole(x, "experts", beside="group").shape
        ([group:1 experts*:2], [group:1 experts|group:2])
    """
    x = as_tensor(x)
    found = x.shape.pick(dims)
    if beside in (d.name for d in found):
        raise DimError(
            message(
                f"whole: dim {beside!r} cannot lie beside itself.",
                [("operand", x.shape), ("dims", repr(dims))],
                "name the dim that it shall make room for, or leave beside= out",
            )
        )
    twin = WHOLE if beside is None else Twin("beside", (beside,))
    return retag(x, *((d, Dim(d.name, d.size, twin)) for d in found))


def divided(x: Any, dims: str) -> Tensor:
    """Undo `whole`: the dims lie where their plain names do.

    Dims:
        x        [dims*... rest...]
        returns  [dims... rest...]

    Raises:
        DimError: x lacks one of the dims.

    Example:
        >>> import meshlang as ml
        >>> ml.divided(ml.constant([1.0, 2.0], "experts*"), "experts").shape
        [experts:2]
    """
    x = as_tensor(x)
    return retag(x, *((d, d.plain()) for d in x.shape.pick(dims)))


def exchange(x: Any, source: str, target: str) -> Tensor:
    """Let what is divided by `source` be divided by `target`: tokens travel to their experts.

    Free when the two lie on different axes, an all_to_all when on one; where one has more axes, an
    all_to_all over those that they share.

    Dims:
        x        [source target|source rest...]
        returns  [source|target target rest...]; back with ``exchange(x, target, source)``

    Raises:
        DimError: x has not these two dims.

    Example:
        >>> import meshlang as ml
        >>> x = ml.constant([[1.0, 2.0]], "group experts|group")
        >>> ml.exchange(x, "group", "experts").shape
        [group|experts:1 experts:2]
    """
    x = as_tensor(x)
    one, other = x.shape[source], x.shape[target]
    if one.twin is not None or other.twin != Twin("beside", (one.name,)):
        raise DimError(
            message(
                f"exchange: wants dims {one.name} and {other.name}|{one.name}.",
                [("operand", x.shape)],
                f"ml.whole(x, {other.name!r}, beside={one.name!r}) first",
            )
        )
    moved = Dim(one.name, one.size, Twin("beside", (other.name,)))
    return retag(x, (one, moved), (other, other.plain()))
