"""More optimizers in plain NumPy, float64: records as in `tests.oracles.optimizers`.

`stacked` are positions of dims along which variables of many layers stand: each layer has norms,
trust and scales of its own, as if it were a variable by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tests.oracles.optimizers import Array, LearningRate, Optimizer, Slots, rate


def norm(x: Array, stacked: tuple[int, ...] = ()) -> Array:
    """The Euclidean norm of each layer, sizes of 1 kept.

    >>> norm(np.array([[3.0, 4.0], [0.0, 2.0]]), stacked=(0,)).ravel().tolist()
    [5.0, 2.0]
    """
    return np.sqrt(np.sum(x**2, axis=_rest(x, stacked), keepdims=True))


def _rest(x: Array, stacked: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(d for d in range(x.ndim) if d not in stacked)


@dataclass(frozen=True)
class Lion:
    """`u = sign(beta1 m + (1-beta1) g)`; `m = beta2 m + (1-beta2) g`; `w -= lr (u + decay w)`."""

    learning_rate: LearningRate
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.0

    def slots(self, w: Array) -> Slots:
        """The momentum, 0 at first."""
        return {"m": np.zeros(w.shape)}

    def update(self, step: int, w: Array, grad: Array, slots: Slots) -> tuple[Array, Slots]:
        """See the class."""
        u = np.sign(self.beta1 * slots["m"] + (1 - self.beta1) * grad)
        m = self.beta2 * slots["m"] + (1 - self.beta2) * grad
        return w - rate(self.learning_rate, step) * (u + self.weight_decay * w), {"m": m}


@dataclass(frozen=True)
class Lamb:
    """Adam's corrected direction plus decay, scaled to the norm of the value.

    `r = m' / (sqrt(v') + epsilon) + weight_decay w`; `w -= lr trust r`, where trust is the norm of
    w, held between `least` and `largest`, over that of r, and 1 where either is 0.
    """

    learning_rate: LearningRate
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-6
    weight_decay: float = 0.0
    least: float = 0.0
    largest: float = np.inf
    trusting: bool = True
    stacked: tuple[int, ...] = ()

    def slots(self, w: Array) -> Slots:
        """Both moments start at 0."""
        return {"m": np.zeros(w.shape), "v": np.zeros(w.shape)}

    def update(self, step: int, w: Array, grad: Array, slots: Slots) -> tuple[Array, Slots]:
        """See the class."""
        m = self.beta1 * slots["m"] + (1 - self.beta1) * grad
        v = self.beta2 * slots["v"] + (1 - self.beta2) * grad**2
        fair_m, fair_v = m / (1 - self.beta1 ** (step + 1)), v / (1 - self.beta2 ** (step + 1))
        r = fair_m / (np.sqrt(fair_v) + self.epsilon) + self.weight_decay * w
        trust = np.ones(1)
        if self.trusting:
            of_w, of_r = norm(w, self.stacked), norm(r, self.stacked)
            known = (of_w > 0) & (of_r > 0)
            trust = np.clip(of_w, self.least, self.largest) / np.where(known, of_r, 1)
            trust = np.where(known, trust, 1.0)
        new = w - rate(self.learning_rate, step) * trust.reshape(_fit(trust, w)) * r
        return new, {"m": m, "v": v}


def _fit(x: Array, w: Array) -> tuple[int, ...]:
    return x.shape if x.ndim == w.ndim else (1,) * w.ndim


def least_ratio(bound: Array, delta: Array, stacked: tuple[int, ...]) -> Array:
    """`min(1, bound / |delta|)` over each layer, elements that do not move left out."""
    moves = delta != 0
    ratio = np.where(moves, bound / np.where(moves, np.abs(delta), 1), 1.0)
    return np.minimum(1.0, ratio.min(axis=_rest(ratio, stacked), keepdims=True))


@dataclass(frozen=True)
class Clippy:
    """Adagrad, each step times the largest factor up to 1 that keeps elements within bounds.

    `p = 1/sqrt(acc + epsilon)`, `d = lr g p`, `bound = relative |w| + acc_relative p + absolute`,
    `scale = min(1, min(bound / |d|))`, `w -= scale d`. Then `acc += g^2`, or `(scale g)^2`; or
    `acc += g^2` before all of it.
    """

    learning_rate: LearningRate
    accumulator: float = 0.1
    relative: float = 0.1
    accumulator_relative: float = 0.0
    absolute: float = 1e-7
    epsilon: float = 1e-7
    clip_accumulator: bool = False
    accumulate_first: bool = False
    stacked: tuple[int, ...] = ()

    def slots(self, w: Array) -> Slots:
        """The accumulator's initial value; the last scale."""
        return {"a": np.full(w.shape, self.accumulator), "scale": np.zeros(())}

    def update(self, step: int, w: Array, grad: Array, slots: Slots) -> tuple[Array, Slots]:
        """See the class."""
        a = slots["a"]
        if self.accumulate_first:
            a = a + grad**2
        p = 1 / np.sqrt(a + self.epsilon)
        delta = rate(self.learning_rate, step) * grad * p
        bound = self.relative * np.abs(w) + self.accumulator_relative * p + self.absolute
        scale = least_ratio(bound, delta, self.stacked)
        if not self.accumulate_first:
            a = a + (scale * grad if self.clip_accumulator else grad) ** 2
        return w - scale * delta, {"a": a, "scale": scale}


@dataclass(frozen=True)
class RelativeClip:
    """Clippy's bound on the steps of another optimizer."""

    optimizer: Optimizer
    relative: float = 0.5
    absolute: float = 1e-2
    stacked: tuple[int, ...] = ()

    def slots(self, w: Array) -> Slots:
        """The optimizer's."""
        return self.optimizer.slots(w)

    def update(self, step: int, w: Array, grad: Array, slots: Slots) -> tuple[Array, Slots]:
        """See the class."""
        proposed, slots = self.optimizer.update(step, w, grad, slots)
        bound = self.relative * np.abs(w) + self.absolute
        return w - least_ratio(bound, w - proposed, self.stacked) * (w - proposed), slots


@dataclass(frozen=True)
class BlockClip:
    """Another optimizer, whose gradients have at most this norm."""

    optimizer: Optimizer
    max_norm: float
    stacked: tuple[int, ...] = ()

    def slots(self, w: Array) -> Slots:
        """The optimizer's."""
        return self.optimizer.slots(w)

    def update(self, step: int, w: Array, grad: Array, slots: Slots) -> tuple[Array, Slots]:
        """See the class."""
        factor = self.max_norm / np.maximum(norm(grad, self.stacked), self.max_norm)
        return self.optimizer.update(step, w, grad * factor, slots)


def averages(values: Array, decay: LearningRate, start: int = 0) -> Array:
    """The average after each step, from the values after each: the value itself up to `start`.

    >>> averages(np.array([1.0, 3.0, 4.0]), 0.5).tolist()
    [1.0, 2.0, 3.0]
    """
    found: list[Array] = []
    for step, value in enumerate(values):
        d = rate(decay, step)
        found.append(value if step <= start else d * found[-1] + (1 - d) * value)
    return np.stack(found)
