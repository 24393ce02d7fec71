"""Adam with decoupled weight decay."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import log

import meshlang as ml
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
from meshlang.optim.updates import AdamUpdate
from meshlang.program import apply
from meshlang.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class AdamW(Optimizer):
    """Adam with decoupled weight decay.

    At step t, which counts from 0: ``m = beta1 m + (1 - beta1) g``,
    ``v = beta2 v + (1 - beta2) g^2``, with bias correction ``m' = m / (1 - beta1^(t+1))`` and
    ``v' = v / (1 - beta2^(t+1))``, without it the same;
    ``w = w - rate(t) (m' / (sqrt(v') + epsilon)) - decay_rate(t) weight_decay w``.

    Attributes:
        learning_rate: a number or a schedule.
        beta1: in [0, 1).
        beta2: in [0, 1).
        epsilon: above 0.
        weight_decay: the part of a value that is taken away at each step, times the rate.
        decay_rate: that rate: None takes `learning_rate`. A schedule of its own makes the decay
            independent of the learning rate's peak (Wortsman et al., 2023).
        bias_correction: False is Mesh-TensorFlow's AdamWeightDecayOptimizer, with epsilon 1e-6.
        exclude_from_weight_decay: regular expressions; a variable whose name one of them is found
            in does not decay.

    Slots: ``NAME/adam_m`` and ``NAME/adam_v``, without correction.
    Source: Kingma and Ba, 2015; Loshchilov and Hutter, 2019.
    """

    learning_rate: LearningRate
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    decay_rate: LearningRate | None = None
    bias_correction: bool = True
    exclude_from_weight_decay: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_rate("AdamW", "learning_rate", self.learning_rate)
        check_fraction("AdamW", beta1=self.beta1, beta2=self.beta2)
        check_at_least("AdamW", 0, weight_decay=self.weight_decay)
        check_above_0("AdamW", epsilon=self.epsilon)
        if self.decay_rate is not None:
            check_rate("AdamW", "decay_rate", self.decay_rate)
        check_patterns("AdamW", "exclude_from_weight_decay", self.exclude_from_weight_decay)

    def update(self, target: Target) -> Iterable[None]:
        """See the class."""
        step, name = target.step, target.variable.name
        decayed, scaled = self._decays(name), target.scale is not None
        scalars = [rate(self.learning_rate, step), *self._corrections(step)]
        if decayed:
            of = self.learning_rate if self.decay_rate is None else self.decay_rate
            scalars.append(self.weight_decay * rate(of, step))
        if target.scale is not None:
            scalars.append(target.scale)
        m, v = target.slot("adam_m"), target.slot("adam_v")
        op = AdamUpdate(scaled, self.beta1, self.beta2, self.epsilon, decayed)
        w, new_m, new_v = apply(op, target.value, m, v, target.gradient, *scalars)
        target.assign(w, [(m, new_m), (v, new_v)])
        return ()

    def _decays(self, name: str) -> bool:
        return self.weight_decay > 0 and not found_in(name, self.exclude_from_weight_decay)

    def _corrections(self, step: Tensor) -> list[Tensor]:
        """What the moments are divided by."""
        return [
            one_minus_power(beta, step) if self.bias_correction and beta else rate(1.0, step)
            for beta in (self.beta1, self.beta2)
        ]


def one_minus_power(beta: float, step: Tensor) -> Tensor:
    """1 - beta^(step+1), by expm1: the difference itself would lose digits while it is small."""
    return -ml.expm1((ml.cast(step, "high") + 1.0) * log(beta))
