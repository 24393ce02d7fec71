"""Clipping by norms, which are the same on every mesh and layout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import meshlang as ml
from meshlang.errors import MeshlangError, message
from meshlang.optim.optimizer import Target
from meshlang.optim.schedules import check_above_0
from meshlang.optim.wrappers import Wrapper, check_optimizer
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


@dataclass(frozen=True, kw_only=True)
class BlockClip(Wrapper):
    """Another optimizer, whose gradients are clipped each by its own norm.

    ``g = g min(1, max_norm / |g|)`` for each variable by itself, each layer of a scan apart: one
    that goes wild does not shrink the steps of all others, as it does with the global norm. Where
    gradients were scaled by the global norm as well, that came before.

    Attributes:
        optimizer: makes the updates.
        max_norm: the largest norm of a variable's gradient, above 0.

    Slots: the optimizer's.
    """

    max_norm: float = 1.0

    def __post_init__(self) -> None:
        check_optimizer("BlockClip", "optimizer", self.optimizer)
        check_above_0("BlockClip", max_norm=self.max_norm)

    def update(self, target: Target) -> Iterator[None]:
        """See the class."""
        squares = target.sum_of_squares(target.gradient)
        yield
        norm = ml.sqrt(squares)
        if target.scale is not None:
            norm = norm * target.scale
        factor = clip_factor(norm, self.max_norm)
        clipped = replace(target, gradient=target.gradient * factor)
        yield from self.optimizer.update(clipped)
