"""Routers: to which experts each token goes, and how much each expert's answer counts.

All arithmetic is in "high" precision. Experts are held whole here (`experts*`): every processor
routes its own groups, and the same tokens go to the same experts on every layout.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import meshlang as ml
from models.errors import ModelError, one_of
from models.layers import matrix_init

SECOND_POLICIES = ("all", "none", "threshold", "random")


@dataclass(frozen=True, kw_only=True)
class Route:
    """Where the tokens of each group go. A place is filled by one token of a group at most.

    Attributes:
        expert: [group choice token], int32; the number of experts where a choice is given up.
        place: [group choice token], int32, how many earlier choices of the group the expert has;
            where that is its capacity or more, the choice is dropped.
        gate: [group choice token], "high", what the expert's answer is multiplied with.
        demand: [group experts*], "high", how many tokens of a group want each expert.
        balance: "high" scalar, the balance loss: 1 where the router is uniform.
        z: "high" scalar, the mean over tokens of logsumexp(logits) ** 2.
        entropy: [group token], "high", of the router's softmax, in nats.
    """

    __parts__: ClassVar[bool] = True

    expert: ml.Tensor
    place: ml.Tensor
    gate: ml.Tensor
    demand: ml.Tensor
    balance: ml.Tensor
    z: ml.Tensor
    entropy: ml.Tensor


class Router(Protocol):
    """What chooses experts: `Top2Router`, `SwitchRouter`, or a class of your own."""

    def __call__(self, x: ml.Tensor, *, experts: int, train: bool) -> Route:
        """Activations [group token d_model] to a route. The variable is called ``router``."""
        ...


@dataclass(frozen=True, kw_only=True)
class Top2Router:
    """Each token goes to its two most probable experts: the rules of Mesh-TensorFlow.

    Gates are the two probabilities divided by their sum; the first one is not raised where the
    second expert is given up or full. All first choices of a group take their places before any
    second choice does; within a choice, earlier tokens come first.

    Attributes:
        second_policy: which second choices are tried, by their gate g: "all", "none", "threshold"
            (g > second_threshold), or "random" (with probability g / second_threshold).
        second_policy_eval: the same when not training; None takes `second_policy`.
        second_threshold: see `second_policy`.
        init_scale: of the initial variance of ``router``; see `models.layers.matrix_init`.

    Raises:
        ModelError: a policy is unknown.

    Source: Lepikhin et al., GShard, 2020; Shazeer et al., Mesh-TensorFlow, 2018.
    """

    second_policy: str = "random"
    second_policy_eval: str | None = None
    second_threshold: float = 0.2
    init_scale: float = 1.0

    def __post_init__(self) -> None:
        for name in ("second_policy", "second_policy_eval"):
            policy = getattr(self, name)
            if policy is not None and policy not in SECOND_POLICIES:
                raise ModelError(one_of(f"Top2Router.{name}", policy, SECOND_POLICIES))

    def __call__(self, x: ml.Tensor, *, experts: int, train: bool) -> Route:
        """Choose two experts for each token.

        Dims:
            x        [group token d_model]
            returns  a route with choice:2
        """
        logits = _logits(ml.cast(x, "high"), experts, self.init_scale)
        p = ml.softmax(logits, "experts")
        first = ml.argmax(p, "experts")
        is_first = ml.one_hot(first, f"experts*:{experts}", "high")
        # Below all probabilities, where a first expert has left nothing for the others as well.
        second = ml.argmax(p - 2.0 * is_first, "experts")
        is_second = ml.one_hot(second, f"experts*:{experts}", "high")
        gate1, gate2 = ml.sum(p * is_first, "experts"), ml.sum(p * is_second, "experts")
        total = gate1 + gate2 + 1e-9
        gate1, gate2 = gate1 / total, gate2 / total
        tried = self._tried(gate2, train)
        if tried is not None:
            second = ml.where(tried, second, experts)
            is_second = is_second * ml.cast(tried, "high")
        return _route(logits, p, is_first, [first, second], [is_first, is_second], [gate1, gate2])

    def _tried(self, gate: ml.Tensor, train: bool) -> ml.Tensor | None:
        """Which second choices are tried; None for all of them."""
        policy = self.second_policy
        if not train and self.second_policy_eval is not None:
            policy = self.second_policy_eval
        if policy == "all":
            return None
        if policy == "none":
            return gate < 0.0
        if policy == "threshold":
            return gate > self.second_threshold
        uniform = ml.random_uniform(gate.shape, dtype="high")
        return uniform < gate * (1.0 / max(self.second_threshold, 1e-9))


@dataclass(frozen=True, kw_only=True)
class SwitchRouter:
    """Each token goes to its most probable expert, weighed by that probability as it is.

    Attributes:
        jitter: in training the router's input is multiplied by uniform numbers in
            [1 - jitter, 1 + jitter). What the experts are given is not.
        init_scale: of the initial variance of ``router``; see `models.layers.matrix_init`.

    Source: Fedus et al., Switch Transformers, 2021.
    """

    jitter: float = 1e-2
    init_scale: float = 1.0

    def __call__(self, x: ml.Tensor, *, experts: int, train: bool) -> Route:
        """Choose an expert for each token.

        Dims:
            x        [group token d_model]
            returns  a route with choice:1
        """
        x = ml.cast(x, "high")
        if train and self.jitter:
            x = x * ml.random_uniform(x.shape, 1.0 - self.jitter, 1.0 + self.jitter, "high")
        logits = _logits(x, experts, self.init_scale)
        p = ml.softmax(logits, "experts")
        first = ml.argmax(p, "experts")
        is_first = ml.one_hot(first, f"experts*:{experts}", "high")
        gate = ml.sum(p * is_first, "experts")
        return _route(logits, p, is_first, [first], [is_first], [gate])


def _logits(x: ml.Tensor, experts: int, scale: float) -> ml.Tensor:
    """[group token experts*], without a bias."""
    d_model = x.shape["d_model"].size
    shape = f"d_model:{d_model} experts*:{experts}"
    weight = ml.variable("router", shape, init=matrix_init(d_model, scale), use="high")
    return ml.einsum(x, weight, reduce="d_model")


def _route(
    logits: ml.Tensor,
    p: ml.Tensor,
    is_first: ml.Tensor,
    chosen: list[ml.Tensor],
    wanted: list[ml.Tensor],
    gates: list[ml.Tensor],
) -> Route:
    """Find the places, and what is asked of the router besides.

    Dims:
        logits, p, is_first   [group token experts*]
        chosen, gates         [group token], for each choice
        wanted                [group token experts*], for each choice: 1 where it is tried
    """
    wants = _joined(wanted)
    # A first choice comes before every second one, whether or not it found a place: where some did
    # not, the expert is full. Whole numbers are exact in float32 up to 2 ** 24.
    place = ml.sum(ml.cumsum(wants, "token", exclusive=True) * wants, "experts")
    log_z = ml.logsumexp(logits, "experts")
    experts = logits.shape["experts"].size
    density = ml.mean(is_first, "token") * ml.mean(p, "token")
    return Route(
        expert=_by_choice(chosen),
        place=ml.split(ml.cast(place, "int32"), token=f"choice:{len(chosen)} token"),
        gate=_by_choice(gates),
        demand=ml.sum(wants, "token"),
        balance=ml.mean(density) * float(experts**2),
        z=ml.mean(ml.square(log_z)),
        entropy=log_z - ml.sum(p * logits, "experts"),
    )


def _joined(parts: list[ml.Tensor]) -> ml.Tensor:
    """One choice after the other along `token`, which becomes so much longer."""
    return parts[0] if len(parts) == 1 else ml.concat(parts, "token")


def _by_choice(parts: list[ml.Tensor]) -> ml.Tensor:
    """[group token] of each choice to [group choice token]."""
    return ml.split(_joined(parts), token=f"choice:{len(parts)} token")
