"""The mixture-of-experts layer."""

from dataclasses import dataclass
from typing import ClassVar

import meshlang as ml
from models.errors import ModelError, one_of
from models.layers import ACTIVATIONS, matrix_init
from models.moe.dispatch import combine, dispatch
from models.moe.routers import Route, Router, Top2Router


@dataclass(frozen=True)
class MoeResult:
    """What the layer returns.

    Attributes:
        y: of the dims of the layer's input.
        auxiliary: "high" scalar, to add to the model's loss; its coefficients are in it.
        metrics: name -> (sum, count), in "high"; the mean is their quotient. "fraction_dropped" of
            tokens that no expert took; "load" [experts*], each expert's share of what was taken;
            "router_entropy" in nats.
    """

    __parts__: ClassVar[bool] = True

    y: ml.Tensor
    auxiliary: ml.Tensor
    metrics: dict[str, tuple[ml.Tensor, ml.Tensor]]


@dataclass(frozen=True, kw_only=True)
class MixtureOfExperts:
    """Many feed-forward networks, of which each token goes through one or two.

    Tokens are cut into groups. In a group each expert has so many places, its capacity; a token
    that finds none gets zeros there, which leaves it to the residual connection. Groups are the
    model's own: on every mesh and layout the same tokens compete for the same places.

    Variables: ``router`` [d_model experts*]; ``in`` and, gated, ``gate``
    [experts d_model d_expert]; ``out`` [experts d_expert d_model]. No biases.

    A layout may put `experts` and `group` on one axis: tokens then travel by two all_to_alls. Where
    one of them lies along a further axis too, let the shared axis be its last, as in
    ``group:model+data experts:data``; otherwise tokens travel twice.

    Attributes:
        experts: how many.
        d_expert: hidden width of an expert.
        router: `Top2Router` or `SwitchRouter`.
        group: how the input's dims become `group` and `token`. Neighbours share a group, and where
            the size of `token` divides that of a row, a group lies within one row.
        capacity_factor_train: places of all experts together for each token of a group, in
            training. Top-2 asks for two.
        capacity_factor_eval: the same when not training.
        min_capacity: an expert has no fewer places than this.
        activation: "relu", "gelu" (the tanh form) or "silu".
        gated: experts are ``(activation(x gate) * (x in)) out`` instead of
            ``activation(x in) out``.
        balance_loss: coefficient of the balance loss.
        z_loss: coefficient of the router z-loss, the mean of logsumexp(logits) ** 2.
        init_scale: of the initial variance of the experts' matrices, not of the router's; see
            `models.layers.matrix_init`.

    Raises:
        ModelError: the activation is unknown, there are fewer experts than two, or `group` makes
            other dims.
    """

    experts: int
    d_expert: int
    router: Router = Top2Router()  # noqa: RUF009  (frozen)
    group: str = "batch length -> group token:128"
    capacity_factor_train: float = 1.25
    capacity_factor_eval: float = 2.0
    min_capacity: int = 4
    activation: str = "relu"
    gated: bool = False
    balance_loss: float = 1e-2
    z_loss: float = 0.0
    init_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise ModelError(one_of("MixtureOfExperts.activation", self.activation, ACTIVATIONS))
        if self.experts < 2:
            raise ModelError(
                ml.errors.message(
                    "a mixture has two experts or more.",
                    [("experts", self.experts)],
                    "use models.layers.FeedForward for one",
                )
            )
        made = [word.split(":")[0] for word in self.group.partition("->")[2].split()]
        if made != ["group", "token"]:
            raise ModelError(
                ml.errors.message(
                    "MixtureOfExperts.group must make the dims group and token.",
                    [("group", repr(self.group))],
                    "group='batch length -> group token:128'",
                )
            )

    def capacity(self, tokens: int, *, train: bool) -> int:
        """Places of an expert for a group of so many tokens.

        Rounded down, no more than there are tokens, and then no fewer than `min_capacity`.

        >>> layer = MixtureOfExperts(experts=8, d_expert=64)
        >>> layer.capacity(64, train=True), layer.capacity(64, train=False)
        (10, 16)
        """
        factor = self.capacity_factor_train if train else self.capacity_factor_eval
        return max(min(tokens, int(tokens * factor / self.experts)), self.min_capacity)

    def __call__(self, x: ml.Tensor, *, train: bool) -> MoeResult:
        """Send each token through its experts.

        Args:
            x: activations; the dims named in `group`, and d_model.
            train: chooses the capacity and the second experts' policy, and turns on jitter.

        Dims:
            x        [batch length d_model]
            returns  y of the same dims

        Example:
            >>> import meshlang as ml
            >>> layer = MixtureOfExperts(
            ...     experts=4, d_expert=16, group="batch length -> group token:8")
            >>> fn = lambda x: layer(x, train=True).y
            >>> ml.trace(fn, x=ml.spec("batch:4 length:8 d_model:6")).outputs
            [Tensor[batch:4 length:8 d_model:6] float32]
        """
        grouped = ml.regroup(x, self.group)
        route = self.router(grouped, experts=self.experts, train=train)
        places = self.capacity(grouped.shape["token"].size, train=train)
        rows = dispatch(grouped, route, experts=self.experts, capacity=places)
        rows = ml.exchange(rows, "group", "experts")
        rows = ml.exchange(self._answers(rows), "experts", "group")
        y = ml.regroup(combine(rows, route), self._back(x.shape))
        auxiliary = self.balance_loss * route.balance
        if self.z_loss:
            auxiliary = auxiliary + self.z_loss * route.z
        return MoeResult(ml.arrange(y, x.shape), auxiliary, self._metrics(route, places))

    def _answers(self, rows: ml.Tensor) -> ml.Tensor:
        """Each expert's network on its own rows.

        Dims:
            rows     [experts group|experts capacity d_model]
            returns  the same
        """
        experts, d_model = rows.shape["experts"], rows.shape["d_model"]
        d_expert = ml.Dim("d_expert", self.d_expert)
        widen = ml.Shape([experts, d_model, d_expert])
        into = ml.variable("in", widen, init=matrix_init(d_model.size, self.init_scale))
        activate = ACTIVATIONS[self.activation]
        hidden = ml.einsum(rows, into, reduce="d_model")
        if self.gated:
            gate = ml.variable("gate", widen, init=matrix_init(d_model.size, self.init_scale))
            hidden = activate(ml.einsum(rows, gate, reduce="d_model")) * hidden
        else:
            hidden = activate(hidden)
        narrow = ml.Shape([experts, d_expert, d_model])
        out = ml.variable("out", narrow, init=matrix_init(self.d_expert, self.init_scale))
        return ml.einsum(hidden, out, reduce="d_expert")

    def _back(self, shape: ml.Shape) -> str:
        """The pattern that undoes `group`."""
        dims = shape.pick(self.group.partition("->")[0])
        return f"group token -> {' '.join(map(repr, dims))}"

    def _metrics(self, route: Route, places: int) -> dict[str, tuple[ml.Tensor, ml.Tensor]]:
        taken = ml.any((route.expert < self.experts) & (route.place < places), "choice")
        tokens = ml.constant(float(taken.shape.size), "", "high")
        # An expert's places of a group fill from the first on.
        load = ml.sum(ml.minimum(route.demand, float(places)), "group")
        return {
            "fraction_dropped": (ml.sum(ml.cast(~taken, "high")), tokens),
            "load": (load, ml.sum(load)),
            "router_entropy": (ml.sum(route.entropy), tokens),
        }
