"""Losses far above those of late, whose steps may be skipped."""

from __future__ import annotations

from dataclasses import dataclass

import meshlang as ml
from meshlang.errors import MeshlangError, message
from meshlang.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class SpikeRule:
    """Says which losses are spikes: those more than `sigmas` deviations above the mean of late.

    Mean and deviation are of about the last `interval` losses; of the first that many none is a
    spike. A spike counts for them as a loss at the bound, so that losses which stay high are
    borne after a while.

    Attributes:
        sigmas: deviations above the mean.
        interval: how many losses count.

    Variables: ``spikes/count``, ``spikes/mean``, ``spikes/variance``.
    """

    sigmas: float = 6.0
    interval: int = 128

    def __post_init__(self) -> None:
        if self.sigmas <= 0 or self.interval < 2:
            rows = [("sigmas", self.sigmas), ("interval", self.interval)]
            fix = "sigmas above 0, an interval of 2 or more"
            raise MeshlangError(message("SpikeRule: no loss can be judged so.", rows, fix))

    def is_spike(self, loss: Tensor) -> Tensor:
        """Whether this loss is one; the mean and the deviation then know it. Once a step.

        Dims:
            loss     []
            returns  [], bool
        """
        loss = ml.cast(loss, "high")
        with ml.scope("spikes"):
            frozen = {"dtype": "high", "trainable": False, "init": 0.0}
            count = ml.variable("count", "", **frozen)
            mean = ml.variable("mean", "", **frozen)
            variance = ml.variable("variance", "", **frozen)
            bound = mean + self.sigmas * ml.sqrt(variance)
            judged = count >= float(self.interval)
            spike = judged & (loss > bound)
            taken = ml.where(spike, bound, loss)
            rate = 1.0 / ml.minimum(count + 1.0, float(self.interval))
            off = taken - mean
            finite = ml.is_finite(loss)
            ml.assign(count, count + 1.0, when=finite)
            ml.assign(mean, mean + rate * off, when=finite)
            ml.assign(variance, (1.0 - rate) * (variance + rate * off * off), when=finite)
        return spike
