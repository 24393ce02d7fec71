"""More schedules: what falls, and what rises and falls. All but `SlantedTriangular` are factors."""

from __future__ import annotations

from dataclasses import dataclass
from math import log

import meshlang as ml
from meshlang.errors import MeshlangError, message
from meshlang.optim.adam import one_minus_power
from meshlang.optim.schedules import (
    Schedule,
    check_above_0,
    check_at_least,
    check_fraction,
    rate,
    steps_of,
)
from meshlang.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class LinearDecay(Schedule):
    """1, and over the last steps in a straight line to 0 at step `total`, then 0.

    Attributes:
        total: steps of the run.
        steps: how many the descent takes; up to 1, a part of `total`.

    >>> import meshlang as ml
    >>> decay = LinearDecay(total=100)
    >>> [round(float(decay(ml.constant(t, "")).numpy()), 6) for t in (0, 90, 95, 200)]
    [1.0, 1.0, 0.5, 0.0]
    """

    total: int
    steps: float = 0.1

    def __post_init__(self) -> None:
        check_above_0("LinearDecay", total=self.total, steps=self.steps)

    def __call__(self, step: Tensor) -> Tensor:
        """See the class."""
        left = (self.total - ml.cast(step, "high")) / steps_of(self.steps, self.total)
        return ml.clip(left, 0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class Noam(Schedule):
    """Mesh-TensorFlow's schedule of that name: `Rsqrt`, and over the last steps down to 0.

    ``multiplier / sqrt(max(t, warmup)) * min(1, (total - t) / (decay total))``, no less than 0,
    where t and total count from step `offset` on. That of Vaswani et al., 2017, rises at first: it
    is ``d_model**-0.5 * LinearWarmup(steps=n) * Rsqrt(warmup=n)``.

    Attributes:
        total: steps of the run.
        warmup: steps at first in which it is flat.
        decay: the part of the run in which it falls to 0; 0 keeps it up.
        multiplier: of all of it.
        offset: steps that were done before, as in a pretraining.

    >>> import meshlang as ml
    >>> noam = Noam(total=1000, warmup=100)
    >>> [round(float(noam(ml.constant(t, "")).numpy()), 6) for t in (0, 400, 1000)]
    [0.1, 0.05, 0.0]
    """

    total: int
    warmup: int = 10_000
    decay: float = 0.1
    multiplier: float = 1.0
    offset: int = 0

    def __post_init__(self) -> None:
        check_at_least("Noam", 1, warmup=self.warmup)
        check_at_least("Noam", 0, decay=self.decay, offset=self.offset)
        _check_after("Noam", self.total, offset=self.offset)

    def __call__(self, step: Tensor) -> Tensor:
        """See the class."""
        now, total = ml.cast(step, "high") - float(self.offset), self.total - self.offset
        root = ml.rsqrt(ml.maximum(now, float(self.warmup))) * self.multiplier
        if not self.decay:
            return root
        return root * ml.clip((total - now) / (total * self.decay), 0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class SlantedTriangular(Schedule):
    """A short rise from `peak` / `ratio` to `peak`, and a long descent back: a rate by itself.

    The rise takes ``cut = floor(total cut_fraction)`` steps, the descent
    ``cut (1 / cut_fraction - 1)``; after it the rate stays.

    Attributes:
        total: steps of the run.
        cut_fraction: the part of the run in which it rises, in (0, 1).
        ratio: of the highest rate to the lowest.
        peak: the highest.
        start: the step at which it begins.

    Source: Howard and Ruder, 2018.

    >>> import meshlang as ml
    >>> slanted = SlantedTriangular(total=100, ratio=10, peak=1.0)
    >>> [round(float(slanted(ml.constant(t, "")).numpy()), 6) for t in (0, 10, 55, 100)]
    [0.1, 1.0, 0.55, 0.1]
    """

    total: int
    cut_fraction: float = 0.1
    ratio: float = 32.0
    peak: float = 0.01
    start: int = 0

    def __post_init__(self) -> None:
        check_fraction("SlantedTriangular", cut_fraction=self.cut_fraction)
        check_at_least("SlantedTriangular", 1, ratio=self.ratio)
        check_at_least("SlantedTriangular", 0, start=self.start)
        if self._cut < 1:
            rows = [("total", self.total), ("cut_fraction", self.cut_fraction)]
            raise MeshlangError(
                message("SlantedTriangular: the rise takes less than a step.", rows)
            )

    @property
    def _cut(self) -> int:
        return int(self.total * self.cut_fraction)

    def __call__(self, step: Tensor) -> Tensor:
        """See the class."""
        now, cut = ml.cast(step, "high") - float(self.start), self._cut
        down = 1.0 - (now - cut) / (cut * (1.0 / self.cut_fraction - 1.0))
        part = ml.clip(ml.minimum(now / cut, down), 0.0, 1.0)
        return self.peak * (1.0 + part * (self.ratio - 1.0)) / self.ratio


@dataclass(frozen=True, kw_only=True)
class WarmupStableDecay(Schedule):
    """From 0 up to 1, then 1, and over the last steps down to `final`, then `final`.

    Attributes:
        total: steps of the run.
        warmup: how many steps it rises; 0 begins at 1.
        decay: how many it falls; up to 1, a part of `total`.
        final: the last value.
        root: fall as ``1 - sqrt(part done)``, fast at first, instead of in a straight line.

    Source: Hu et al., MiniCPM, 2024; the root from Hägele et al., 2024.

    >>> import meshlang as ml
    >>> schedule = WarmupStableDecay(total=100, warmup=10, decay=0.2)
    >>> [round(float(schedule(ml.constant(t, "")).numpy()), 6) for t in (0, 5, 50, 90, 100)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """

    total: int
    warmup: int = 0
    decay: float = 0.1
    final: float = 0.0
    root: bool = False

    def __post_init__(self) -> None:
        check_at_least("WarmupStableDecay", 0, warmup=self.warmup)
        check_above_0("WarmupStableDecay", total=self.total, decay=self.decay)
        if self.warmup + self._falls > self.total:
            rows = [("warmup", self.warmup), ("decay", self._falls), ("total", self.total)]
            raise MeshlangError(
                message("WarmupStableDecay: rise and fall take more steps than the run has.", rows)
            )

    @property
    def _falls(self) -> float:
        return steps_of(self.decay, self.total)

    def __call__(self, step: Tensor) -> Tensor:
        """See the class."""
        now = ml.cast(step, "high")
        done = ml.clip((now - (self.total - self._falls)) / self._falls, 0.0, 1.0)
        down = 1.0 - (1.0 - self.final) * (ml.sqrt(done) if self.root else done)
        return down * ml.minimum(now / self.warmup, 1.0) if self.warmup else down


@dataclass(frozen=True, kw_only=True)
class Polynomial(Schedule):
    """1 until step `start`, ``final + (1 - final) (1 - part done)^power`` until step `total`.

    >>> import meshlang as ml
    >>> schedule = Polynomial(total=10, power=2.0, final=0.2)
    >>> [round(float(schedule(ml.constant(t, "")).numpy()), 6) for t in (0, 5, 99)]
    [1.0, 0.4, 0.2]
    """

    total: int
    start: int = 0
    power: float = 1.0
    final: float = 0.0

    def __post_init__(self) -> None:
        check_at_least("Polynomial", 0, start=self.start)
        check_above_0("Polynomial", power=self.power)
        _check_after("Polynomial", self.total, start=self.start)

    def __call__(self, step: Tensor) -> Tensor:
        """See the class."""
        left = (self.total - ml.cast(step, "high")) / (self.total - self.start)
        return self.final + (1.0 - self.final) * ml.clip(left, 0.0, 1.0) ** self.power


@dataclass(frozen=True, kw_only=True)
class Exponential(Schedule):
    """1 until step `start`, then times `factor` every `steps` steps, little by little.

    Attributes:
        steps: after so many, the value is `factor` times what it was.
        factor: above 0.
        start: the step at which it begins.
        staircase: all at once at the end of each `steps`.

    >>> import meshlang as ml
    >>> schedule = Exponential(steps=10, factor=0.25)
    >>> [float(schedule(ml.constant(t, "")).numpy()) for t in (0, 5, 10)]
    [1.0, 0.5, 0.25]
    """

    steps: int
    factor: float
    start: int = 0
    staircase: bool = False

    def __post_init__(self) -> None:
        check_at_least("Exponential", 1, steps=self.steps)
        check_at_least("Exponential", 0, start=self.start)
        check_above_0("Exponential", factor=self.factor)

    def __call__(self, step: Tensor) -> Tensor:
        """See the class."""
        times = ml.maximum(ml.cast(step, "high") - float(self.start), 0.0) / self.steps
        return ml.exp((ml.floor(times) if self.staircase else times) * log(self.factor))


@dataclass(frozen=True, kw_only=True)
class Piecewise(Schedule):
    """Constant between steps: ``values[i]`` from step ``boundaries[i-1]`` on.

    Attributes:
        boundaries: steps, rising; at each the next value begins.
        values: one more than boundaries.

    >>> import meshlang as ml
    >>> schedule = Piecewise(boundaries=(10, 20), values=(1.0, 0.5, 0.25))
    >>> [float(schedule(ml.constant(t, "")).numpy()) for t in (9, 10, 20)]
    [1.0, 0.5, 0.25]
    """

    boundaries: tuple[int, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.values) != len(self.boundaries) + 1:
            rows = [("boundaries", len(self.boundaries)), ("values", len(self.values))]
            raise MeshlangError(message("Piecewise: takes one value more than boundaries.", rows))
        if any(b <= a for a, b in zip(self.boundaries, self.boundaries[1:], strict=False)):
            rows = [("boundaries", self.boundaries)]
            raise MeshlangError(message("Piecewise: boundaries must rise.", rows))

    def __call__(self, step: Tensor) -> Tensor:
        """See the class."""
        value = rate(self.values[0], step)
        for boundary, after in zip(self.boundaries, self.values[1:], strict=True):
            value = ml.where(step >= boundary, rate(after, step), value)
        return value


@dataclass(frozen=True, kw_only=True)
class DecayRatePow(Schedule):
    """A decay rate for `Adafactor`: ``1 - (t+1)^-exponent``, t counting from step `offset` on.

    A memory that grows with the steps, as Adafactor's own. With an offset it begins anew there.

    >>> import meshlang as ml
    >>> float(DecayRatePow(exponent=0.5)(ml.constant(3, "")).numpy())
    0.5
    """

    exponent: float = 0.8
    offset: int = 0

    def __post_init__(self) -> None:
        check_above_0("DecayRatePow", exponent=self.exponent)
        check_at_least("DecayRatePow", 0, offset=self.offset)

    def __call__(self, step: Tensor) -> Tensor:
        """See the class."""
        now = ml.maximum(ml.cast(step, "high") - float(self.offset), 0.0)
        return 1.0 - (now + 1.0) ** -self.exponent


@dataclass(frozen=True, kw_only=True)
class DecayRateAdam(Schedule):
    """A decay rate for `Adafactor`: Adam's `beta2` and its correction in one.

    ``beta2 (1 - beta2^t) / (1 - beta2^(t+1))``: 0 at the first step, beta2 in the long run.

    >>> import meshlang as ml
    >>> [round(float(DecayRateAdam(beta2=0.5)(ml.constant(t, "")).numpy()), 6) for t in (0, 1)]
    [0.0, 0.333333]
    """

    beta2: float = 0.999

    def __post_init__(self) -> None:
        check_fraction("DecayRateAdam", beta2=self.beta2)

    def __call__(self, step: Tensor) -> Tensor:
        """See the class."""
        if not self.beta2:
            return rate(0.0, step)
        before = one_minus_power(self.beta2, step - 1)
        return self.beta2 * before / one_minus_power(self.beta2, step)


def _check_after(owner: str, total: int, **first: int) -> None:
    """Refuse a last step that is no later than the first."""
    ((name, value),) = first.items()
    if total <= value:
        raise MeshlangError(
            message(f"{owner}: total is {total}, and must lie after {name}, {value}.")
        )
