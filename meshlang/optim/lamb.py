"""LAMB: Adam's directions, each variable's step relative to the variable's norm."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import meshlang as ml
from meshlang.errors import MeshlangError, message
from meshlang.optim.adam import one_minus_power
from meshlang.optim.optimizer import Optimizer, Target
from meshlang.optim.patterns import check_patterns, found_in
from meshlang.optim.schedules import (
    LearningRate,
    check_above_0,
    check_at_least,
    check_fraction,
    check_rate,
    rate,
)
from meshlang.optim.updates import DescentUpdate
from meshlang.program import apply
from meshlang.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class Lamb(Optimizer):
    """Adam with steps in proportion to the norm of what they change, for large batches.

    With Adam's corrected moments, ``r = m' / (sqrt(v') + epsilon) + weight_decay w``;
    ``trust = clip(|w|, least_norm, largest_norm) / |r|``, and 1 where either norm is 0;
    ``w = w - rate(t) trust r``. Norms are over all dims but those of scans: each layer of a scan
    has its own.

    Attributes:
        learning_rate: a number or a schedule.
        beta1: in [0, 1).
        beta2: in [0, 1).
        epsilon: above 0.
        weight_decay: the part of a value that is added to the direction.
        least_norm: a smaller norm of a value counts as this.
        largest_norm: a larger one counts as this; None leaves it.
        exclude_from_weight_decay: regular expressions; a variable whose name one of them is found
            in does not decay.
        exclude_from_trust: the same for trust, which is 1 then.

    Slots: ``NAME/lamb_m`` and ``NAME/lamb_v``, without correction.
    Source: You et al., 2020.
    """

    learning_rate: LearningRate
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-6
    weight_decay: float = 0.0
    least_norm: float = 0.0
    largest_norm: float | None = None
    exclude_from_weight_decay: tuple[str, ...] = ()
    exclude_from_trust: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_rate("Lamb", "learning_rate", self.learning_rate)
        check_fraction("Lamb", beta1=self.beta1, beta2=self.beta2)
        check_above_0("Lamb", epsilon=self.epsilon, largest_norm=self.largest_norm)
        check_at_least("Lamb", 0, weight_decay=self.weight_decay, least_norm=self.least_norm)
        if self.largest_norm is not None and self.largest_norm < self.least_norm:
            rows = [("least_norm", self.least_norm), ("largest_norm", self.largest_norm)]
            raise MeshlangError(message("Lamb: the largest norm lies below the least.", rows))
        check_patterns("Lamb", "exclude_from_weight_decay", self.exclude_from_weight_decay)
        check_patterns("Lamb", "exclude_from_trust", self.exclude_from_trust)

    def update(self, target: Target) -> Iterator[None]:
        """See the class."""
        name, g = target.variable.name, target.scaled_gradient
        m, v = target.slot("lamb_m"), target.slot("lamb_v")
        new_m = self.beta1 * m + (1.0 - self.beta1) * g
        new_v = self.beta2 * v + (1.0 - self.beta2) * ml.square(g)
        fair_m, fair_v = (
            moment / one_minus_power(beta, target.step) if beta else moment
            for moment, beta in ((new_m, self.beta1), (new_v, self.beta2))
        )
        r = fair_m / (ml.sqrt(fair_v) + self.epsilon)
        if self.weight_decay and not found_in(name, self.exclude_from_weight_decay):
            r = r + self.weight_decay * target.value
        if not found_in(name, self.exclude_from_trust):
            squares = [target.sum_of_squares(x) for x in (target.value, r)]
            yield
            r = r * self._trust(*map(ml.sqrt, squares))
        now = rate(self.learning_rate, target.step)
        (w,) = apply(DescentUpdate(False), target.value, r, now)
        target.assign(w, [(m, new_m), (v, new_v)])

    def _trust(self, of_value: Tensor, of_step: Tensor) -> Tensor:
        """What a step is multiplied by, from both norms: [dims of scans]."""
        size = ml.maximum(of_value, self.least_norm)
        if self.largest_norm is not None:
            size = ml.minimum(size, self.largest_norm)
        known = (of_value > 0.0) & (of_step > 0.0)
        return ml.where(known, size / ml.where(known, of_step, 1.0), 1.0)
