"""Clippy: no element moves by more than a fraction of itself; and the same around any optimizer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import meshlang as ml
from meshlang.errors import MeshlangError, message
from meshlang.optim.average import Ema
from meshlang.optim.optimizer import Optimizer, Target
from meshlang.optim.schedules import LearningRate, check_above_0, check_at_least, check_rate, rate
from meshlang.optim.wrappers import Wrapper, check_optimizer, proposal, within
from meshlang.tensor import Tensor


@dataclass(frozen=True, kw_only=True)
class Clippy(Optimizer):
    """Adagrad whose steps shrink, all of a variable by one factor, until no element moves far.

    With g the gradient, w the value and a the accumulator, which begins at `accumulator`:

    1. ``p = 1 / sqrt(a + epsilon)``, ``d = rate(t) g p``.
    2. ``bound = relative |w| + accumulator_relative p + absolute``.
    3. ``scale = min(1, bound / |d|)`` over all elements whose d is not 0; all dims but those of
       scans: each layer of a scan has its own.
    4. ``w = w - scale d``.
    5. ``a = a + g^2``, or with clip_accumulator ``a = a + (scale g)^2``; with accumulate_first it
       is done before 1, as Adagrad does.

    An element at 0 may move by `absolute` alone: with the small one that is the default, of the
    authors' program, a variable of zeros hardly moves. Their paper has relative 0.5, absolute 0.01.

    Attributes:
        learning_rate: a number or a schedule.
        accumulator: its initial value, 0 or more.
        relative: the part of its size by which an element may move.
        accumulator_relative: the part of p by which it may.
        absolute: how far any element may move.
        epsilon: above 0.
        clip_accumulator: see 5.
        accumulate_first: see 5; not with clip_accumulator, which needs the scale.

    Slots: ``NAME/clippy_a``; ``NAME/clippy_scale``, the last step's scale, to look at.
    Source: Tang et al., 2023.
    """

    learning_rate: LearningRate
    accumulator: float = 0.1
    relative: float = 0.1
    accumulator_relative: float = 0.0
    absolute: float = 1e-7
    epsilon: float = 1e-7
    clip_accumulator: bool = False
    accumulate_first: bool = False

    def __post_init__(self) -> None:
        check_rate("Clippy", "learning_rate", self.learning_rate)
        check_at_least(
            "Clippy",
            0,
            accumulator=self.accumulator,
            relative=self.relative,
            accumulator_relative=self.accumulator_relative,
            absolute=self.absolute,
        )
        check_above_0("Clippy", epsilon=self.epsilon)
        if self.clip_accumulator and self.accumulate_first:
            raise MeshlangError(
                message(
                    "Clippy: the accumulator cannot take clipped gradients before the clipping.",
                    [("clip_accumulator", True), ("accumulate_first", True)],
                    "leave one of them out",
                )
            )

    def update(self, target: Target) -> Iterator[None]:
        """See the class."""
        g = target.scaled_gradient
        old = target.slot("clippy_a", init=self.accumulator)
        a = old + ml.square(g) if self.accumulate_first else old
        p = ml.rsqrt(a + self.epsilon)
        d = g * p * rate(self.learning_rate, target.step)
        bound = self.relative * ml.abs(target.value) + self.absolute
        if self.accumulator_relative:
            bound = bound + self.accumulator_relative * p
        least = _least_ratio(target, bound, d)
        yield
        scale = ml.minimum(least, 1.0)
        if not self.accumulate_first:
            a = a + ml.square(g * scale if self.clip_accumulator else g)
        shown = target.slot("clippy_scale", scale.shape)
        target.assign(target.value - d * scale, [(old, a), (shown, scale)])


@dataclass(frozen=True, kw_only=True)
class RelativeClip(Wrapper):
    """Another optimizer whose steps shrink, as Clippy's do: see there, 2 to 4.

    ``scale = min(1, (relative |w| + absolute) / |d|)`` where d is the whole step, weight decay with
    it. The optimizer's slots do not know of the scale.

    Attributes:
        optimizer: proposes steps.
        relative: the part of its size by which an element may move.
        absolute: how far any element may move.

    Slots: the optimizer's; ``NAME/relative_scale``, the last step's scale, to look at.
    Source: Tang et al., 2023.
    """

    relative: float = 0.5
    absolute: float = 1e-2

    def __post_init__(self) -> None:
        check_optimizer("RelativeClip", "optimizer", self.optimizer)
        check_at_least("RelativeClip", 0, relative=self.relative, absolute=self.absolute)
        if any(isinstance(inner, Ema) for inner in within(self.optimizer)):
            raise MeshlangError(
                message(
                    "RelativeClip: averages are of values that were assigned, so Ema goes outside.",
                    fix="ml.optim.Ema(optimizer=ml.optim.RelativeClip(optimizer=...))",
                )
            )

    def update(self, target: Target) -> Iterator[None]:
        """See the class."""
        trial = proposal(target)
        yield from self.optimizer.update(trial)
        ((value, slots),) = trial.given
        d = target.value - value
        bound = self.relative * ml.abs(target.value) + self.absolute
        least = _least_ratio(target, bound, d)
        yield
        scale = ml.minimum(least, 1.0)
        shown = target.slot("relative_scale", scale.shape)
        target.assign(target.value - d * scale, [*slots, (shown, scale)])


def _least_ratio(target: Target, bound: Tensor, d: Tensor) -> Tensor:
    """The least of bound / |d| where d is not 0, at most 1 where it is: [dims of scans]."""
    still = ml.equal(d, 0.0)
    ratio = ml.where(still, 1.0, bound / ml.where(still, 1.0, ml.abs(d)))
    dims = [name for name in ratio.shape.names if name not in target.stacked]
    return ml.min(ratio, " ".join(dims)) if dims else ratio
