"""Mixture-of-experts layers in plain NumPy, float64, by one-hot tensors.

The oracle for the language's MoE layers, which gather and scatter rows instead. Everything here is
the textbook form: a `dispatch` and a `combine` tensor of group x token x experts x capacity, and
einsums with them. `top2` and `switch` follow the rules of Mesh-TensorFlow 0.1.21 exactly, as its
results in tests/golden/mesh_tensorflow show (see test_oracles.py):

- The router works on x as it is: `logits = x @ gate`, no bias, `p = softmax(logits)` over experts.
- Ties go to the lower expert. Every comparison is strict: a position is kept if `< capacity`, a
  second expert if `gate2 > threshold` (policy threshold) or `uniform < gate2 / threshold` (random).
- An expert is `wo(activation(wi(x)))`, no bias, the activation is relu unless said otherwise.
- The auxiliary loss that the original returns is `loss_coefficient * balance` with
  `balance = experts^2 * mean over groups and experts of density * proxy`, where density is the mean
  over the group's tokens of the first choice's mask and proxy the mean of p over the same tokens.
  It is 1 when the router is uniform. The mask is the one *before* the cut at capacity, and second
  choices do not enter.
- The router z-loss is the mean over all tokens of `logsumexp(logits)^2`, of the same logits (for
  Switch, those of the jittered input). Its coefficient here is its own. The original multiplies
  its `moe_z_loss` by the loss coefficient too: `z_loss_coefficient = moe_loss_coef * moe_z_loss`.

Dims are written `[group token d_model]`; one group is one row of routing: positions, capacity and
the densities of the balance loss never look beyond it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Routing:
    """Which tokens go to which experts, and how their results are weighed.

    Attributes:
        dispatch: `[group token experts capacity]`, 1 where the token takes that place of the
            expert.
        combine: the same dims, the weight of the expert's result for the token; 0 off `dispatch`.
        probabilities: `[group token experts]`, the router's softmax.
        balance_loss: scalar, before any coefficient.
        z_loss: scalar, before any coefficient.
    """

    dispatch: Array
    combine: Array
    probabilities: Array
    balance_loss: float
    z_loss: float

    @property
    def fraction_dropped(self) -> float:
        """The share of tokens that no expert takes."""
        return float(1 - np.minimum(self.dispatch.sum((2, 3)), 1).mean())

    @property
    def load(self) -> Array:
        """`[experts]`: of all (token, expert) pairs that were dispatched, each expert's share."""
        taken = self.dispatch.sum((0, 1, 3))
        return taken / taken.sum()

    @property
    def router_entropy(self) -> float:
        """Mean over tokens of the entropy of the router's softmax, in nats."""
        p = self.probabilities
        return float(-(p * np.log(np.where(p > 0, p, 1))).sum(-1).mean())


@dataclass(frozen=True)
class Result:
    """What a layer returns: `y` `[group token d_model]`, `aux_loss` scalar, and the routing."""

    y: Array
    aux_loss: float
    routing: Routing


@dataclass(frozen=True)
class Settings:
    """A layer's numbers. The defaults are Mesh-TensorFlow's for training.

    Attributes:
        gating: "top2" or "switch".
        capacity_factor: places per expert, in units of group size / experts;
            top-2 does not double it.
        min_capacity: no expert has fewer places than this, even where the group is smaller.
        second_policy: "all", "none", "threshold" or "random"; top-2 only.
        second_threshold: the renormalised gate that the last two policies compare with.
        loss_coefficient: of the balance loss.
        z_loss_coefficient: of the router z-loss; not multiplied by `loss_coefficient`.
        activation: "relu", "gelu" (tanh form) or "silu".
    """

    gating: str = "top2"
    capacity_factor: float = 1.25
    min_capacity: int = 4
    second_policy: str = "random"
    second_threshold: float = 0.2
    loss_coefficient: float = 1e-2
    z_loss_coefficient: float = 0.0
    activation: str = "relu"


def gelu(x: Array) -> Array:
    """The tanh form of the Gaussian error linear unit, which T5 uses (not the erf form)."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": lambda x: np.maximum(x, 0),
    "gelu": gelu,
    "silu": lambda x: x / (1 + np.exp(-x)),
}


def capacity(tokens: int, experts: int, factor: float, minimum: int = 4) -> int:
    """Places of an expert for one group of `tokens`.

    `max(min(tokens, int(tokens * factor / experts)), minimum)`: rounded down, and the minimum wins.

    >>> capacity(64, 8, 1.25), capacity(64, 4, 2.0), capacity(38, 8, 1.25), capacity(2, 4, 1.25)
    (10, 32, 5, 4)
    """
    return max(min(tokens, int(tokens * factor / experts)), minimum)


def log_softmax(logits: Array) -> tuple[Array, Array]:
    """`(log softmax, logsumexp)` over the last dim; the second keeps that dim with size 1."""
    top = logits.max(-1, keepdims=True)
    log_z = top + np.log(np.exp(logits - top).sum(-1, keepdims=True))
    return logits - log_z, log_z


def one_hot(index: Array, size: int) -> Array:
    """`index[...]` as `[... size]`; an index outside gives a row of zeros."""
    return (index[..., None] == np.arange(size)).astype(np.float64)


def top2(
    x: Array,
    gate: Array,
    places: int,
    policy: str = "random",
    threshold: float = 0.2,
    uniform: Array | None = None,
) -> Routing:
    """Route each token to its two best experts.

    1. `first = argmax(p)`; `second = argmax(p without first)`.
    2. `gate1, gate2 = p[first], p[second]`, both divided by `gate1 + gate2 + 1e-9`.
    3. The policy drops some second choices, by the renormalised `gate2`. A first gate is never
       raised when its second was dropped, here or in step 4.
    4. A first choice's position is the number of earlier tokens of the group with the same first
       choice; it is kept if below `places`. A second choice's position is the number of earlier
       tokens with the same second choice (that the policy kept, whether or not they found a place),
       plus the number of first choices of that expert that were kept in the whole group.

    Args:
        x: `[group token d_model]`.
        gate: `[d_model experts]`.
        places: the capacity of an expert for one group.
        policy: which second choices are tried: "all", "none", "threshold" or "random".
        threshold: for the last two policies.
        uniform: `[group token]`, uniform numbers in [0, 1), needed by the policy "random".

    Raises:
        ValueError: the policy is unknown, or "random" without `uniform`.
    """
    p, z_loss = _router(x, gate)
    experts = gate.shape[1]
    mask1 = one_hot(p.argmax(-1), experts)
    others = p * (1 - mask1)
    mask2 = one_hot(others.argmax(-1), experts)
    gate1, gate2 = (p * mask1).sum(-1), (p * mask2).sum(-1)
    total = gate1 + gate2 + 1e-9
    gate1, gate2 = gate1 / total, gate2 / total
    balance = _balance(mask1, p)

    mask2 = mask2 * _tried(policy, gate2, threshold, uniform)[..., None]
    position1 = (_earlier(mask1) * mask1).sum(-1)
    mask1 = mask1 * (position1 < places)[..., None]
    position2 = ((_earlier(mask2) + mask1.sum(1, keepdims=True)) * mask2).sum(-1)
    mask2 = mask2 * (position2 < places)[..., None]

    place1 = mask1[..., None] * one_hot(position1, places)[:, :, None]
    place2 = mask2[..., None] * one_hot(position2, places)[:, :, None]
    combine = gate1[..., None, None] * place1 + gate2[..., None, None] * place2
    return Routing(place1 + place2, combine, p, balance, z_loss)


def switch(x: Array, gate: Array, places: int, jitter: Array | None = None) -> Routing:
    """Route each token to its best expert, weighed by that expert's probability, not renormalised.

    Args:
        x: `[group token d_model]`.
        gate: `[d_model experts]`.
        places: the capacity of an expert for one group.
        jitter: factors of the router's input, near 1, with the dims of `x`. They do not touch what
            the experts are given.
    """
    p, z_loss = _router(x if jitter is None else x * jitter, gate)
    mask = one_hot(p.argmax(-1), gate.shape[1])
    balance = _balance(mask, p)
    position = (_earlier(mask) * mask).sum(-1)
    mask = mask * (position < places)[..., None]
    dispatch = mask[..., None] * one_hot(position, places)[:, :, None]
    return Routing(dispatch, dispatch * p[..., None], p, balance, z_loss)


def layer(
    x: Array,
    gate: Array,
    wi: Array,
    wo: Array,
    settings: Settings,
    *,
    gate_in: Array | None = None,
    uniform: Array | None = None,
    jitter: Array | None = None,
) -> Result:
    """Route the tokens of `x`, apply the experts, bring the results back.

    A token without a place gets zeros, which leaves it to the residual connection.

    Args:
        x: `[group token d_model]`.
        gate: `[d_model experts]`.
        wi: `[experts d_model d_expert]`.
        wo: `[experts d_expert d_model]`.
        settings: the layer's numbers.
        gate_in: `[experts d_model d_expert]`: with it an expert's hidden values are
            `activation(x @ gate_in) * (x @ wi)`, else `activation(x @ wi)`.
        uniform: `[group token]` for the second policy "random".
        jitter: `[group token d_model]` for Switch.

    Raises:
        ValueError: the gating or policy is unknown, or "random" without `uniform`.
    """
    x = x.astype(np.float64)
    places = capacity(x.shape[1], gate.shape[1], settings.capacity_factor, settings.min_capacity)
    if settings.gating == "top2":
        policy, threshold = settings.second_policy, settings.second_threshold
        routing = top2(x, gate, places, policy, threshold, uniform)
    elif settings.gating == "switch":
        routing = switch(x, gate, places, jitter)
    else:
        raise ValueError(f"unknown gating {settings.gating!r}: use 'top2' or 'switch'")
    rows = np.einsum("gsd,gsec->egcd", x, routing.dispatch)
    activation = ACTIVATIONS[settings.activation]
    hidden = np.einsum("egcd,edh->egch", rows, wi)
    if gate_in is None:
        hidden = activation(hidden)
    else:
        hidden = activation(np.einsum("egcd,edh->egch", rows, gate_in)) * hidden
    results = np.einsum("egch,ehd->egcd", hidden, wo)
    y = np.einsum("egcd,gsec->gsd", results, routing.combine)
    aux_loss = settings.loss_coefficient * routing.balance_loss
    return Result(y, aux_loss + settings.z_loss_coefficient * routing.z_loss, routing)


def _router(x: Array, gate: Array) -> tuple[Array, float]:
    log_p, log_z = log_softmax(x.astype(np.float64) @ gate.astype(np.float64))
    return np.exp(log_p), float((log_z**2).mean())


def _balance(mask: Array, p: Array) -> float:
    return float((mask.mean(1) * p.mean(1)).mean() * mask.shape[-1] ** 2)


def _earlier(mask: Array) -> Array:
    return np.cumsum(mask, 1) - mask


def _tried(policy: str, gate2: Array, threshold: float, uniform: Array | None) -> Array:
    if policy == "all":
        return np.ones_like(gate2)
    if policy == "none":
        return np.zeros_like(gate2)
    if policy == "threshold":
        return (gate2 > threshold).astype(np.float64)
    if policy != "random":
        raise ValueError(f"unknown policy {policy!r}: use 'all', 'none', 'threshold' or 'random'")
    if uniform is None:
        raise ValueError("the policy 'random' needs `uniform`, an array [group token]")
    return (uniform < gate2 / max(threshold, 1e-9)).astype(np.float64)
