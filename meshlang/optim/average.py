"""Averages of weights, kept beside them, and their use in evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import meshlang as ml
from meshlang.errors import MeshlangError, VariableError, message
from meshlang.optim.optimizer import Target
from meshlang.optim.schedules import LearningRate, check_at_least, check_fraction, check_rate, rate
from meshlang.optim.wrappers import Wrapper, check_optimizer, within

if TYPE_CHECKING:
    from meshlang.lowering.executable import Executable

_SLOT = "ema"


@dataclass(frozen=True, kw_only=True)
class Ema(Wrapper):
    """Another optimizer, and the exponential moving average of what it makes of the variables.

    After the update: ``a = decay a + (1 - decay) w``, and ``a = w`` up to step `start`: an average
    begins with the first values that it sees. A skipped step leaves it alone. Training is the same
    with and without averages; see `averaged` for their use.

    Attributes:
        optimizer: makes the updates.
        decay: in [0, 1), or a schedule, such as one that rises from a short memory to a long one.
        start: the step after which values are averaged.

    Slots: the optimizer's, and ``NAME/ema``, in "high".
    Source: Polyak and Juditsky, 1992.
    """

    decay: LearningRate = 0.999
    start: int = 0

    def __post_init__(self) -> None:
        check_optimizer("Ema", "optimizer", self.optimizer)
        check_rate("Ema", "decay", self.decay)
        if isinstance(self.decay, int | float):
            check_fraction("Ema", decay=self.decay)
        check_at_least("Ema", 0, start=self.start)
        if any(isinstance(inner, Ema) for inner in within(self.optimizer)):
            raise MeshlangError(message("Ema: the optimizer keeps averages already."))

    def update(self, target: Target) -> Iterator[None]:
        """See the class."""
        yield from self.optimizer.update(target)
        # Read after it was assigned, so that the update itself may still be done in place.
        value = ml.cast(target.variable.as_tensor(), "high")
        average = target.slot(_SLOT)
        first = target.step <= self.start
        fresh = ml.where(first, 1.0, 1.0 - rate(self.decay, target.step))
        when = None if target.when is None else target.when | first
        new = average * (1.0 - fresh) + value * fresh
        ml.assign(average, ml.arrange(new, average.shape), when=when)


def has_averages(executable: Executable) -> bool:
    """Whether `averaged` can be used: averages are kept, and a step was taken.

    Args:
        executable: of the program that trains.
    """
    return bool(_averages(executable)) and executable.step > 0


@contextmanager
def averaged(executable: Executable) -> Iterator[None]:
    """Within, variables hold their averages; afterwards what they held before, to the last bit.

    All executables of its store see them: give the one that trains, and evaluate with another.
    Values pass through the host's memory, which holds a copy of the weights meanwhile.

    Args:
        executable: of a program that was trained with `Ema`, at least one step.

    Raises:
        VariableError: no variable has an average, or no step was taken.

    Example:
        >>> import meshlang as ml
        >>> def step(x):
        ...     w = ml.variable("w", "d:2", init=ml.zeros_init)
        ...     optimizer = ml.optim.Ema(optimizer=ml.optim.Sgd(learning_rate=1.0), decay=0.5)
        ...     optimizer.apply([w], ml.gradients(ml.sum(w * x), [w]))
        >>> run = ml.lower(ml.plan(ml.trace(step, x=ml.spec("d:2"))))
        >>> run.initialize()
        >>> for _ in range(2):
        ...     run(x=[-1.0, 2.0])
        >>> with ml.optim.averaged(run):
        ...     run["w"]
        array([ 1.5, -3. ], dtype=float32)
        >>> run["w"]
        array([ 2., -4.], dtype=float32)
    """
    averages = _averages(executable)
    if not averages or executable.step == 0:
        raise VariableError(
            message(
                "there are no averages to evaluate with.",
                [("variables with one", len(averages)), ("steps", executable.step)],
                "train with ml.optim.Ema(optimizer=...), and give the executable that trains",
            )
        )
    before = {name: executable[name] for name in averages}
    try:
        for name, average in averages.items():
            executable.set(name, executable[average])
        yield
    finally:
        for name, value in before.items():
            executable.set(name, value)


def _averages(executable: Executable) -> dict[str, str]:
    """The variables that have an average, and its name."""
    names = set(executable.plan.variables)
    return {name: f"{name}/{_SLOT}" for name in names if f"{name}/{_SLOT}" in names}
