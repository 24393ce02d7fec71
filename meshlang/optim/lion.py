"""Lion: steps of one size, in the direction of a momentum's signs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import meshlang as ml
from meshlang.optim.optimizer import Optimizer, Target
from meshlang.optim.patterns import check_patterns, found_in
from meshlang.optim.schedules import (
    LearningRate,
    check_at_least,
    check_fraction,
    check_rate,
    rate,
)
from meshlang.optim.updates import DescentUpdate
from meshlang.program import apply


@dataclass(frozen=True, kw_only=True)
class Lion(Optimizer):
    """Signs of a momentum, with decoupled weight decay. One slot, half of Adam's.

    ``u = sign(beta1 m + (1 - beta1) g)``; ``m = beta2 m + (1 - beta2) g``;
    ``w = w - rate(t) (u + weight_decay w)``. Every element moves by the rate, so that the rate is
    three to ten times smaller than Adam's, and the decay as much larger.

    Attributes:
        learning_rate: a number or a schedule.
        beta1: of the momentum that is followed, in [0, 1).
        beta2: of the momentum that is kept, in [0, 1).
        weight_decay: the part of a value that is taken away at each step, times the rate.
        exclude_from_weight_decay: regular expressions; a variable whose name one of them is found
            in does not decay.

    Slots: ``NAME/lion_m``.
    Source: Chen et al., 2023.
    """

    learning_rate: LearningRate
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.0
    exclude_from_weight_decay: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_rate("Lion", "learning_rate", self.learning_rate)
        check_fraction("Lion", beta1=self.beta1, beta2=self.beta2)
        check_at_least("Lion", 0, weight_decay=self.weight_decay)
        check_patterns("Lion", "exclude_from_weight_decay", self.exclude_from_weight_decay)

    def update(self, target: Target) -> Iterable[None]:
        """See the class."""
        m, g = target.slot("lion_m"), target.scaled_gradient
        u = ml.sign(self.beta1 * m + (1.0 - self.beta1) * g)
        if self.weight_decay and not found_in(target.variable.name, self.exclude_from_weight_decay):
            u = u + self.weight_decay * target.value
        now = rate(self.learning_rate, target.step)
        (w,) = apply(DescentUpdate(False), target.value, u, now)
        target.assign(w, [(m, self.beta2 * m + (1.0 - self.beta2) * g)])
        return ()
