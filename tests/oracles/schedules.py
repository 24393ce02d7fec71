"""More schedules in plain Python: functions of the step, which counts from 0.

The first three compute what Mesh-TensorFlow's functions of these names do while a run lasts; after
its last step they stay where theirs go on downwards.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from math import floor, sqrt


def part(x: float) -> float:
    """Held in [0, 1]."""
    return min(max(x, 0.0), 1.0)


def linear_decay(step: int, total: int, steps_or_fraction: float = 0.1) -> float:
    """The straight line that meets 0 at step `total`, over so many steps, held in [0, 1].

    >>> linear_decay(95, 100), linear_decay(95, 100, 20), linear_decay(50, 100, 1)
    (0.5, 0.25, 0.5)
    """
    steps = steps_or_fraction * total if steps_or_fraction <= 1 else steps_or_fraction
    return part((total - step) / steps)


def noam(
    step: int,
    total: int,
    warmup: int = 10_000,
    decay: float = 0.1,
    multiplier: float = 1.0,
    offset: int = 0,
) -> float:
    """`multiplier / sqrt(max(t, warmup)) * min(1, (total - t) / (total * decay))`, from `offset`.

    >>> noam(400, 1000, warmup=100), round(noam(950, 1000, 100) * sqrt(950), 12)
    (0.05, 0.5)
    """
    step, total = step - offset, total - offset
    falling = part((total - step) / (total * decay)) if decay else 1.0
    return multiplier / sqrt(max(step, warmup)) * falling


def slanted_triangular(
    step: int,
    total: int,
    cut_fraction: float = 0.1,
    ratio: float = 32.0,
    peak: float = 0.01,
    start: int = 0,
) -> float:
    """Up to `peak` in `cut` steps, and down to `peak / ratio`.

    >>> [slanted_triangular(t, 100, 0.1, 10, 1.0) for t in (0, 10, 100)]
    [0.1, 1.0, 0.1]
    """
    cut, step = floor(total * cut_fraction), step - start
    p = step / cut if step < cut else 1 - (step - cut) / (cut * (1 / cut_fraction - 1))
    return peak * (1 + part(p) * (ratio - 1)) / ratio


def warmup_stable_decay(
    step: int, total: int, warmup: int, decay: int, final: float = 0.0, root: bool = False
) -> float:
    """A rise, a plain, and a descent over the last `decay` steps."""
    if step < warmup:
        return step / warmup
    done = part((step - (total - decay)) / decay)
    return 1 - (1 - final) * (sqrt(done) if root else done)


def polynomial(
    step: int, total: int, start: int = 0, power: float = 1.0, final: float = 0.0
) -> float:
    """`final + (1 - final) (1 - done)^power`."""
    return final + (1 - final) * part(1 - (step - start) / (total - start)) ** power


def exponential(
    step: int, steps: int, factor: float, start: int = 0, staircase: bool = False
) -> float:
    """`factor ^ (steps done / steps)`."""
    times = max(step - start, 0) / steps
    return factor ** (floor(times) if staircase else times)


def piecewise(step: int, boundaries: Sequence[int], values: Sequence[float]) -> float:
    """The value of the piece in which a step lies; a boundary begins a piece."""
    return values[bisect_right(boundaries, step)]


def decay_rate_pow(step: int, exponent: float, offset: int = 0) -> float:
    """`1 - (t+1)^-exponent`, t counted from `offset` and never negative."""
    return 1 - (max(step - offset, 0) + 1.0) ** -exponent


def decay_rate_adam(step: int, beta2: float) -> float:
    """The factor of v in Adam's corrected second moment: v' = d v' + (1 - d) g^2.

    >>> decay_rate_adam(0, 0.9), round(decay_rate_adam(1, 0.9), 6)
    (0.0, 0.473684)
    """
    return beta2 * (1 - beta2**step) / (1 - beta2 ** (step + 1))
