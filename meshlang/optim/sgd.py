"""Gradient descent, with momentum."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from meshlang.errors import MeshlangError, message
from meshlang.optim.optimizer import Optimizer, Target
from meshlang.optim.schedules import LearningRate, check_fraction, check_rate, rate
from meshlang.optim.updates import DescentUpdate, MomentumUpdate
from meshlang.program import apply


@dataclass(frozen=True, kw_only=True)
class Sgd(Optimizer):
    """Gradient descent with momentum.

    ``v = momentum v + g``; ``u = v``, or with nesterov ``u = g + momentum v`` (the new v);
    ``w = w - rate(t) u``. The rate is no part of v: a change of it acts on the whole velocity.

    Attributes:
        learning_rate: a number or a schedule.
        momentum: in [0, 1).
        nesterov: look ahead along the velocity; source: Sutskever et al., 2013.

    Slots: ``NAME/sgd_v``, none without momentum.
    """

    learning_rate: LearningRate
    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        check_rate("Sgd", "learning_rate", self.learning_rate)
        check_fraction("Sgd", momentum=self.momentum)
        if self.nesterov and not self.momentum:
            raise MeshlangError(
                message("Sgd: nesterov looks ahead along a momentum of 0.", fix="momentum=0.9")
            )

    def update(self, target: Target) -> Iterable[None]:
        """See the class."""
        scaled = target.scale is not None
        scalars = [rate(self.learning_rate, target.step), *([target.scale] if scaled else [])]
        if not self.momentum:
            (w,) = apply(DescentUpdate(scaled), target.value, target.gradient, *scalars)
            target.assign(w)
            return ()
        v = target.slot("sgd_v")
        op = MomentumUpdate(scaled, self.momentum, self.nesterov)
        w, new_v = apply(op, target.value, v, target.gradient, *scalars)
        target.assign(w, [(v, new_v)])
        return ()
