"""Clipping by the global norm. A norm is the same on every mesh and layout."""

from __future__ import annotations

from collections.abc import Sequence

import meshlang as ml
from meshlang.errors import MeshlangError, message
from meshlang.program import as_tensor, dtype_name
from meshlang.tensor import Tensor


def global_norm(gradients: Sequence[Tensor]) -> Tensor:
    """The Euclidean norm of all gradients together, each element counted once.

    The sums of all of them are made before any is read, so that they are paid together: one
    all_reduce of scalars for each set of axes that divides some gradient.

    Dims:
        gradients  each its own
        returns    [], in "high"

    Example:
        >>> import meshlang as ml
        >>> ml.run(lambda a, b: ml.optim.global_norm([a, b]),
        ...        a=ml.constant([3.0], "d"), b=ml.constant([[4.0]], "d e"))
        array(5., dtype=float32)
    """
    if not gradients:
        return as_tensor(0.0, dtype_name("high"))
    wide = [ml.cast(g, "high") for g in gradients]
    return ml.sqrt(ml.add_n([ml.einsum(g, g, keep="") for g in wide]))


def clip_factor(norm: Tensor, max_norm: float) -> Tensor:
    """What brings gradients of this norm down to `max_norm`: 1 up to it, then max_norm / norm.

    Give it to an optimizer as `scale`: multiplied there, it costs no pass of its own.

    Dims:
        norm     []
        returns  []
    """
    if max_norm <= 0:
        raise MeshlangError(message(f"clip_factor: max_norm is {max_norm}, and must be above 0."))
    return max_norm / ml.maximum(norm, max_norm)


def clip_by_global_norm(
    gradients: Sequence[Tensor], max_norm: float
) -> tuple[list[Tensor], Tensor]:
    """The gradients, all scaled down by one factor where their norm is above `max_norm`.

    Dims:
        gradients  each its own
        returns    the same, and the norm before clipping: []

    Source: Pascanu et al., 2013.
    """
    norm = global_norm(gradients)
    factor = clip_factor(norm, max_norm)
    return [g * ml.cast(factor, g.dtype) for g in gradients], norm
