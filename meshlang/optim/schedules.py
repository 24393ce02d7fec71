"""Schedules: scalars that depend on the step. They are factors; a learning rate is their product.

`0.01 * LinearWarmup(steps=100) * Cosine(total=1000, start=100)` is a learning rate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import pi
from typing import Any

import meshlang as ml
from meshlang.errors import MeshlangError, message
from meshlang.program import as_tensor, dtype_name
from meshlang.tensor import Tensor


class Schedule:
    """A function of the step, which counts from 0; a scalar in "high".

    Called with `meshlang.step()`. Schedules and numbers multiply to a `Product`.
    """

    def __call__(self, step: Tensor) -> Tensor:
        """The value at a step, an integer scalar."""
        raise NotImplementedError

    def __mul__(self, other: float | Schedule) -> Product:
        """Both factors, at each step."""
        return Product(factors=(self, other))

    def __rmul__(self, other: float | Schedule) -> Product:
        """Both factors, at each step."""
        return Product(factors=(other, self))


#: a number, or what gives one at each step
LearningRate = float | Schedule | Callable[[Tensor], Tensor]


def rate(value: LearningRate, step: Tensor) -> Tensor:
    """The value at a step: a scalar in "high"."""
    if callable(value):
        return ml.cast(value(step), "high")
    return as_tensor(float(value), dtype_name("high"))


def check_rate(owner: str, name: str, value: Any) -> None:
    """Refuse what is neither a number nor a function of the step."""
    if not callable(value) and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise MeshlangError(
            message(
                f"{owner}: {name} is neither a number nor a schedule.",
                [(name, f"{value!r}, a {type(value).__name__}")],
                f"{name}=0.01, or {name}=0.01 * ml.optim.LinearWarmup(steps=100)",
            )
        )


def check_at_least(owner: str, least: float, **values: float) -> None:
    """Refuse numbers below `least`."""
    for name, value in values.items():
        if value < least:
            raise MeshlangError(
                message(f"{owner}: {name} is {value}, and must be {least} or more.")
            )


def check_above_0(owner: str, **values: float | None) -> None:
    """Refuse numbers of 0 and below; None passes."""
    for name, value in values.items():
        if value is not None and value <= 0:
            raise MeshlangError(message(f"{owner}: {name} is {value}, and must be above 0."))


def check_fraction(owner: str, **values: float) -> None:
    """Refuse numbers outside of [0, 1)."""
    for name, value in values.items():
        if not 0 <= value < 1:
            raise MeshlangError(message(f"{owner}: {name} is {value}, and must lie in [0, 1)."))


def steps_of(steps: float, total: int) -> float:
    """A number of steps that may be given as a part of a run: up to 1, as in Mesh-TensorFlow.

    >>> steps_of(0.25, 1000), steps_of(250, 1000)
    (250.0, 250)
    """
    return steps * total if steps <= 1 else steps


@dataclass(frozen=True, kw_only=True)
class Constant(Schedule):
    """Always `value`."""

    value: float = 1.0

    def __call__(self, step: Tensor) -> Tensor:
        """See the class."""
        return rate(self.value, step)


@dataclass(frozen=True, kw_only=True)
class LinearWarmup(Schedule):
    """From 0 at step 0 in a straight line to 1 at step `steps`, then 1.

    Attributes:
        steps: how many; up to 1 with `total`, a part of it.
        total: steps of the run.

    >>> import meshlang as ml
    >>> [float(LinearWarmup(steps=4)(ml.constant(t, "")).numpy()) for t in (0, 1, 9)]
    [0.0, 0.25, 1.0]
    """

    steps: float
    total: int | None = None

    def __post_init__(self) -> None:
        if self.total is None:
            check_at_least("LinearWarmup", 1, steps=self.steps)
        else:
            check_above_0("LinearWarmup", steps=self.steps, total=self.total)

    def __call__(self, step: Tensor) -> Tensor:
        """See the class."""
        steps = self.steps if self.total is None else steps_of(self.steps, self.total)
        return ml.minimum(ml.cast(step, "high") / steps, 1.0)


@dataclass(frozen=True, kw_only=True)
class Rsqrt(Schedule):
    """1 / sqrt(max(step, warmup)): flat at first, not rising.

    >>> import meshlang as ml
    >>> [round(float(Rsqrt(warmup=100)(ml.constant(t, "")).numpy()), 6) for t in (0, 400)]
    [0.1, 0.05]
    """

    warmup: int = 10_000

    def __post_init__(self) -> None:
        check_at_least("Rsqrt", 1, warmup=self.warmup)

    def __call__(self, step: Tensor) -> Tensor:
        """See the class."""
        return ml.rsqrt(ml.maximum(ml.cast(step, "high"), float(self.warmup)))


@dataclass(frozen=True, kw_only=True)
class Cosine(Schedule):
    """1 until step `start`, half a cosine down to `final` at step `total`, then `final`.

    Source: Loshchilov and Hutter, 2017, without restarts.

    >>> import meshlang as ml
    >>> cosine = Cosine(total=10, final=0.1)
    >>> [round(float(cosine(ml.constant(t, "")).numpy()), 6) for t in (0, 5, 99)]
    [1.0, 0.55, 0.1]
    """

    total: int
    start: int = 0
    final: float = 0.0

    def __post_init__(self) -> None:
        check_at_least("Cosine", 0, start=self.start)
        if self.total <= self.start:
            raise MeshlangError(
                message(f"Cosine: total is {self.total}, and must lie after start, {self.start}.")
            )

    def __call__(self, step: Tensor) -> Tensor:
        """See the class."""
        done = (ml.cast(step, "high") - self.start) / (self.total - self.start)
        half = 0.5 * (1.0 + ml.cos(pi * ml.clip(done, 0.0, 1.0)))
        return self.final + (1.0 - self.final) * half


@dataclass(frozen=True, kw_only=True)
class Product(Schedule):
    """The product of schedules and numbers.

    Attributes:
        factors: what is multiplied.
        offset: factors count steps from here on, as after a pretraining of so many.

    >>> import meshlang as ml
    >>> (0.5 * LinearWarmup(steps=4))(ml.constant(2, "")).numpy()
    array(0.25, dtype=float32)
    """

    factors: tuple[LearningRate, ...] = ()
    offset: int = 0

    def __post_init__(self) -> None:
        for i, factor in enumerate(self.factors):
            check_rate("Product", f"factors[{i}]", factor)

    def __call__(self, step: Tensor) -> Tensor:
        """See the class."""
        total = rate(1.0, step)
        step = step - self.offset if self.offset else step
        for factor in self.factors:
            total = total * rate(factor, step)
        return total
