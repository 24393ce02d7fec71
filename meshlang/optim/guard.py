"""Steps that are skipped: where anything is not finite, no variable changes, on any processor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import meshlang as ml
from meshlang.optim.clip import clip_factor, global_norm
from meshlang.optim.optimizer import Optimizer
from meshlang.optim.spikes import SpikeRule
from meshlang.tensor import Tensor


@dataclass(frozen=True)
class Applied:
    """What came of an update.

    Attributes:
        gradient_norm: of all gradients before clipping: [] in "high".
        applied: False where the step was skipped: [] bool.
        skipped_steps: how many steps have been skipped, this one included: [] int32.
    """

    __parts__: ClassVar[bool] = True

    gradient_norm: Tensor
    applied: Tensor
    skipped_steps: Tensor


def all_finite(*values: Tensor) -> Tensor:
    """Whether no element of any of these is infinite or NaN.

    A sum that went over all processors tells all of them about one that met a NaN: the loss and
    the global norm of the gradients say enough.

    Dims:
        values   each its own
        returns  [], bool
    """
    flags = [ml.all(ml.is_finite(value)) for value in values]
    result = flags[0]
    for flag in flags[1:]:
        result = result & flag
    return result


def count_skipped(ok: Tensor, name: str = "skipped_steps") -> Tensor:
    """Add a step that was not ok to a counter, the variable `name`; it starts at 0.

    Dims:
        ok       [], bool
        returns  the new count: [], int32
    """
    count = ml.variable(name, "", init=0, dtype="int32", trainable=False)
    new = count + ml.cast(~ok, "int32")
    ml.assign(count, new)
    return new


def apply_guarded(
    optimizer: Optimizer,
    loss: Tensor,
    variables: Sequence[Any],
    gradients: Sequence[Tensor],
    *,
    max_norm: float | None = None,
    spikes: SpikeRule | None = None,
) -> Applied:
    """Update variables, unless the loss or a gradient is not finite: then no state changes.

    The number of the step advances all the same, and so do schedules. Variables that the model
    assigns itself are its own affair.

    Args:
        optimizer: whose `apply` is called.
        loss: a scalar.
        variables: see `Optimizer.apply`.
        gradients: see `Optimizer.apply`.
        max_norm: clip by the global norm to this; None does not clip.
        spikes: says which losses are skipped though they are finite; None skips none.

    Returns:
        The norm before clipping, whether the step counted, and how many did not.
    """
    with ml.scope("optimizer"):
        norm = global_norm(gradients)
        ok = all_finite(loss, norm)
        if spikes is not None:
            ok = ok & ~spikes.is_spike(loss)
        scale = None if max_norm is None else clip_factor(norm, max_norm)
    optimizer.apply(variables, gradients, scale=scale, when=ok)
    return Applied(norm, ok, count_skipped(ok))
