"""Optimizers, clipping and schedules in plain NumPy, float64.

The oracle for `meshlang.optim`. Each optimizer is a frozen record of its numbers with two methods:
`slots(w)` gives the initial slots of one variable, and `update(step, w, grad, slots)` the new value
and slots. Steps count from 0: the first update has `step == 0`. A learning rate is a number or a
function of the step. Adafactor and AdamW without bias correction compute what Mesh-TensorFlow
0.1.21 computes, as its results in tests/golden/mesh_tensorflow show (see test_oracles.py).

Schedules are factors: a learning rate is a product of them, as
`lambda step: 0.01 * linear_warmup(step, 100) * cosine(step, 1000, start=100)`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import cos, pi, sqrt
from typing import Protocol

import numpy as np

Array = np.ndarray
Slots = dict[str, Array]
LearningRate = float | Callable[[int], float]


class Optimizer(Protocol):
    """What `run` needs."""

    def slots(self, w: Array) -> Slots:
        """The slots of a variable before the first step."""
        ...

    def update(self, step: int, w: Array, grad: Array, slots: Slots) -> tuple[Array, Slots]:
        """The variable and its slots after step number `step`."""
        ...


def rate(learning_rate: LearningRate, step: int) -> float:
    """The learning rate at `step`."""
    return learning_rate(step) if callable(learning_rate) else learning_rate


def rms(x: Array, axis: tuple[int, ...] | None = None) -> Array:
    """Root of the mean square over `axis` (all dims without it), sizes of 1 kept."""
    return np.sqrt(np.mean(np.square(x), axis=axis, keepdims=True))


@dataclass(frozen=True)
class Adafactor:
    """Adafactor with Mesh-TensorFlow's defaults.

    At step t, in this order, with g the gradient and w the variable before the update:

    1. `b2 = decay_rate`, or `1 - (t+1)^-0.8` without one: 0 at the first step.
    2. `s = g^2 + epsilon1`.
    3. Factored when at least two dims (stacked ones not counted) have `min_dim_size_to_factor` or
       more. d0 is the largest dim and d1 the second largest; of equal sizes the earlier dim comes
       first. `vr = b2 vr + (1-b2) mean_d0(s)`, `vc = b2 vc + (1-b2) mean_d1(s)`; all other dims
       stay in both. `u = g * rsqrt(vr / mean_d1(vr)) * rsqrt(vc)`.
       Else `v = b2 v + (1-b2) s`, `u = g * rsqrt(v)`.
    4. `u = u / max(1, rms(u) / clipping_threshold)`, rms over all dims, stacked ones too.
    5. `scale = lr(t) * max(rms(w), epsilon2)`, rms over all dims but stacked ones; `scale = lr(t)`
       with `multiply_by_parameter_scale=False`. The default lr(t) is `min((t+1)^-0.5, 0.01)`, and
       0.05 times that when the parameter scale is off. A variable that is excluded from the scale
       by its name has `scale = lr(t)` with the default of those that are not.
    6. `u = u * scale`; with beta1: `m = beta1 m + (1-beta1) u; u = m`, no bias correction: the
       momentum is of scaled updates, so the rate at the time of each gradient counts.
    7. `w = w - u`.

    Slots: `vr` (dims of w without d0), `vc` (without d1), or `v` (dims of w); `m` with
    beta1.
    """

    learning_rate: LearningRate | None = None
    decay_rate: LearningRate | None = None
    beta1: float = 0.0
    clipping_threshold: float | None = 1.0
    factored: bool = True
    multiply_by_parameter_scale: bool = True
    epsilon1: float = 1e-30
    epsilon2: float = 1e-3
    min_dim_size_to_factor: int = 128
    stacked: tuple[int, ...] = ()
    parameter_scale_excluded: bool = False

    def factored_dims(self, shape: Sequence[int]) -> tuple[int, int] | None:
        """The positions of d0 and d1 in a variable's dims, or None when it is not factored."""
        dims = [d for d in range(len(shape)) if d not in self.stacked]
        dims.sort(key=lambda d: -shape[d])
        if not self.factored or len(dims) < 2 or shape[dims[1]] < self.min_dim_size_to_factor:
            return None
        return dims[0], dims[1]

    def slots(self, w: Array) -> Slots:
        """All slots start at 0."""
        pair = self.factored_dims(w.shape)
        slots = {"v": np.zeros(w.shape)}
        if pair:
            d0, d1 = pair
            slots = {"vr": np.zeros(w.shape).mean(d0), "vc": np.zeros(w.shape).mean(d1)}
        return slots | ({"m": np.zeros(w.shape)} if self.beta1 else {})

    def update(self, step: int, w: Array, grad: Array, slots: Slots) -> tuple[Array, Slots]:
        """See the class."""
        u, new = self._direction(step, grad, slots)
        if self.clipping_threshold is not None:
            u = u / np.maximum(1.0, rms(u) / self.clipping_threshold)
        u = u * self._scale(step, w)
        if self.beta1:
            u = new["m"] = self.beta1 * slots["m"] + (1 - self.beta1) * u
        return w - u, new

    def _direction(self, step: int, grad: Array, slots: Slots) -> tuple[Array, Slots]:
        default = 1 - (step + 1.0) ** -0.8
        b2 = default if self.decay_rate is None else rate(self.decay_rate, step)
        square = grad**2 + self.epsilon1
        pair = self.factored_dims(grad.shape)
        if pair is None:
            v = b2 * slots["v"] + (1 - b2) * square
            return grad / np.sqrt(v), {"v": v}
        d0, d1 = pair
        vr = b2 * slots["vr"] + (1 - b2) * square.mean(d0)
        vc = b2 * slots["vc"] + (1 - b2) * square.mean(d1)
        wide_vr, wide_vc = np.expand_dims(vr, d0), np.expand_dims(vc, d1)
        rows = wide_vr / wide_vr.mean(d1, keepdims=True)
        return grad / np.sqrt(rows) / np.sqrt(wide_vc), {"vr": vr, "vc": vc}

    def _scale(self, step: int, w: Array) -> Array:
        if self.learning_rate is None:
            learning_rate = min((step + 1.0) ** -0.5, 0.01)
            learning_rate *= 1.0 if self.multiply_by_parameter_scale else 0.05
        else:
            learning_rate = rate(self.learning_rate, step)
        if not self.multiply_by_parameter_scale or self.parameter_scale_excluded:
            return np.asarray(learning_rate)
        kept = tuple(d for d in range(w.ndim) if d not in self.stacked)
        return learning_rate * np.maximum(rms(w, kept), self.epsilon2)


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay.

    At step t: `m = beta1 m + (1-beta1) g`, `v = beta2 v + (1-beta2) g^2`; with bias correction
    `m' = m / (1 - beta1^(t+1))`, `v' = v / (1 - beta2^(t+1))`, without it `m' = m`, `v' = v`;
    `u = m' / (sqrt(v') + epsilon) + weight_decay * w`; `w = w - lr(t) * u`.

    The decay is of the value before the step, is multiplied by the learning rate, and touches
    neither m nor v. The slots are the uncorrected m and v, both 0 at first. Mesh-TensorFlow's
    AdamWeightDecayOptimizer is `bias_correction=False, epsilon=1e-6`.
    """

    learning_rate: LearningRate
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    bias_correction: bool = True

    def slots(self, w: Array) -> Slots:
        """Both moments start at 0."""
        return {"m": np.zeros(w.shape), "v": np.zeros(w.shape)}

    def update(self, step: int, w: Array, grad: Array, slots: Slots) -> tuple[Array, Slots]:
        """See the class."""
        m = self.beta1 * slots["m"] + (1 - self.beta1) * grad
        v = self.beta2 * slots["v"] + (1 - self.beta2) * grad**2
        fair_m, fair_v = m, v
        if self.bias_correction:
            fair_m = m / (1 - self.beta1 ** (step + 1))
            fair_v = v / (1 - self.beta2 ** (step + 1))
        u = fair_m / (np.sqrt(fair_v) + self.epsilon) + self.weight_decay * w
        return w - rate(self.learning_rate, step) * u, {"m": m, "v": v}


@dataclass(frozen=True)
class Sgd:
    """Gradient descent with momentum.

    `v = momentum v + g`; `u = v`, or with nesterov `u = g + momentum v` (the new v);
    `w = w - lr(t) * u`. The learning rate is not part of v, so a change of it acts on the whole
    velocity at once. Mesh-TensorFlow keeps `lr * v` as its slot: the same while the rate is
    constant. Slots: `v`, 0 at first; none without momentum.
    """

    learning_rate: LearningRate
    momentum: float = 0.0
    nesterov: bool = False

    def slots(self, w: Array) -> Slots:
        """The velocity, 0 at first."""
        return {"v": np.zeros(w.shape)} if self.momentum else {}

    def update(self, step: int, w: Array, grad: Array, slots: Slots) -> tuple[Array, Slots]:
        """See the class."""
        learning_rate = rate(self.learning_rate, step)
        if not self.momentum:
            return w - learning_rate * grad, {}
        v = self.momentum * slots["v"] + grad
        u = grad + self.momentum * v if self.nesterov else v
        return w - learning_rate * u, {"v": v}


def run(optimizer: Optimizer, w0: Array, grads: Array) -> Array:
    """The values `[step ...]` after each step with `grads` `[step ...]`, from `w0`."""
    w, values = w0.astype(np.float64), []
    slots = optimizer.slots(w)
    for step, grad in enumerate(grads.astype(np.float64)):
        w, slots = optimizer.update(step, w, grad, slots)
        values.append(w)
    return np.stack(values)


def global_norm(grads: Mapping[str, Array]) -> float:
    """The Euclidean norm of all gradients together; each element counts once, wherever it lies.

    >>> global_norm({"a": np.array([3.0]), "b": np.array([[4.0]])})
    5.0
    """
    return sqrt(sum(float(np.sum(np.square(grad))) for grad in grads.values()))


def clip_by_global_norm(grads: Mapping[str, Array], max_norm: float) -> dict[str, Array]:
    """Every gradient times `max_norm / max(norm, max_norm)`: unchanged up to `max_norm`."""
    factor = max_norm / max(global_norm(grads), max_norm)
    return {name: grad * factor for name, grad in grads.items()}


def constant(step: int, value: float = 1.0) -> float:
    """Always `value`."""
    return value


def linear_warmup(step: int, steps: int) -> float:
    """From 0 at step 0 in a straight line to 1 at step `steps`, then 1: `min(1, step / steps)`.

    >>> linear_warmup(0, 4), linear_warmup(1, 4), linear_warmup(9, 4)
    (0.0, 0.25, 1.0)
    """
    return min(1.0, step / steps)


def rsqrt(step: int, warmup: int = 10_000) -> float:
    """`1 / sqrt(max(step, warmup))`: flat at first, not rising.

    >>> rsqrt(0, 100), rsqrt(400, 100)
    (0.1, 0.05)
    """
    return 1 / sqrt(max(step, warmup))


def cosine(step: int, total: int, start: int = 0, final: float = 0.0) -> float:
    """1 until step `start`, half a cosine down to `final` at step `total`, then `final`.

    >>> cosine(0, 10), round(cosine(5, 10, final=0.1), 12), cosine(10, 10), cosine(99, 10, 5, 0.1)
    (1.0, 0.55, 0.0, 0.1)
    """
    done = min(max((step - start) / (total - start), 0.0), 1.0)
    return final + (1 - final) * 0.5 * (1 + cos(pi * done))
