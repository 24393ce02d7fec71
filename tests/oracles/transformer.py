"""A decoder-only transformer in plain NumPy, float64: logits and loss.

The oracle for the models. Depth is written out, nothing is fused, masks are arrays of booleans.

Parameters are a dict; `parameter_shapes` gives the exact shapes for a `Config`:

| name | dims | when |
|---|---|---|
| `embedding` | vocab d_model | always |
| `unembedding` | vocab d_model | not tied |
| `relative_bias` | buckets heads | positions "relative"; one table for all layers |
| `layer_i/attention_norm` | d_model | every layer i from 0 |
| `layer_i/attention/q`, `k`, `v` | d_model heads d_head | every layer |
| `layer_i/attention/out` | heads d_head d_model | every layer |
| `layer_i/ff_norm` | d_model | every layer, before the feed-forward or the MoE |
| `layer_i/ff/in` | d_model d_ff | layers without experts |
| `layer_i/ff/gate` | d_model d_ff | the same, gated |
| `layer_i/ff/out` | d_ff d_model | layers without experts |
| `layer_i/moe/gate` | d_model experts | layers in `moe_layers`: the router |
| `layer_i/moe/in` | experts d_model d_expert | the same |
| `layer_i/moe/gate_in` | experts d_model d_expert | the same, gated experts |
| `layer_i/moe/out` | experts d_expert d_model | the same |
| `final_norm` | d_model | always |

No biases. In gated layers the activation is on the gate: `activation(x gate) * (x in)`; so T5's
`wi_0` is our gate and its `wi_1` our in.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from tests.oracles import moe

Array = np.ndarray
Parameters = Mapping[str, Array]


@dataclass(frozen=True)
class Config:
    """The model's sizes and choices.

    Attributes:
        positions: "relative" (T5's buckets), "rotary" or "none".
        activation: of the feed-forward: "relu", "gelu" (tanh form) or "silu".
        gated, gated_experts: with a gate; an expert's activation is in `routing`.
        tied: the logits use the embedding table, and the last activations times `d_model^-0.5`.
        scale_attention: queries times `d_head^-0.5`. T5 folds it into the initial values instead.
        z_loss: the coefficient of the mean of logsumexp(logits)^2.
        moe_layers: which layers have experts instead of a feed-forward.
        group_size: tokens in a routing group; `batch length` is cut in row-major order.
    """

    vocab: int
    d_model: int
    layers: int
    heads: int
    d_head: int
    d_ff: int
    positions: str = "relative"
    activation: str = "relu"
    gated: bool = False
    tied: bool = False
    scale_attention: bool = True
    buckets: int = 32
    max_distance: int = 128
    rotary_base: float = 10_000.0
    norm_epsilon: float = 1e-6
    z_loss: float = 1e-4
    moe_layers: tuple[int, ...] = ()
    routing: moe.Settings = field(default_factory=moe.Settings)
    experts: int = 0
    d_expert: int = 0
    gated_experts: bool = False
    group_size: int = 0


@dataclass(frozen=True)
class Outputs:
    """What the model computes.

    Attributes:
        logits: `[batch length vocab]`.
        aux_losses: one number for each MoE layer, with its coefficients.
        routings: layer number -> routing.
    """

    logits: Array
    aux_losses: dict[int, float]
    routings: dict[int, moe.Routing]


@dataclass(frozen=True)
class Loss:
    """`total = cross_entropy + z_loss + aux_loss`, in nats, all with their coefficients."""

    total: float
    cross_entropy: float
    z_loss: float
    aux_loss: float


def parameter_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """The names and shapes of all parameters."""
    d, h, k, f = config.d_model, config.heads, config.d_head, config.d_ff
    shapes: dict[str, tuple[int, ...]] = {"embedding": (config.vocab, d)}
    if not config.tied:
        shapes["unembedding"] = (config.vocab, d)
    if config.positions == "relative":
        shapes["relative_bias"] = (config.buckets, h)
    for i in range(config.layers):
        layer: dict[str, tuple[int, ...]] = {"attention_norm": (d,)}
        layer |= {f"attention/{name}": (d, h, k) for name in "qkv"}
        layer |= {"attention/out": (h, k, d), "ff_norm": (d,)}
        if i in config.moe_layers:
            e, x = config.experts, config.d_expert
            layer |= {"moe/gate": (d, e), "moe/in": (e, d, x), "moe/out": (e, x, d)}
            layer |= {"moe/gate_in": (e, d, x)} if config.gated_experts else {}
        else:
            layer |= {"ff/in": (d, f), "ff/out": (f, d)}
            layer |= {"ff/gate": (d, f)} if config.gated else {}
        shapes |= {f"layer_{i}/{name}": shape for name, shape in layer.items()}
    return shapes | {"final_norm": (d,)}


def random_parameters(config: Config, seed: int) -> dict[str, Array]:
    """Values that exercise everything: norms near 1, matrices that keep activations near 1."""
    rng = np.random.default_rng(seed)
    values = {}
    for name, shape in parameter_shapes(config).items():
        normal = rng.standard_normal(shape)
        if name.endswith("norm"):
            values[name] = 1 + 0.1 * normal
        elif name in ("embedding", "unembedding", "relative_bias"):
            values[name] = normal if name == "embedding" else 0.3 * normal
        else:
            values[name] = normal / np.sqrt(_fan_in(name, shape))
    return values


def _fan_in(name: str, shape: tuple[int, ...]) -> int:
    if name.endswith("attention/out"):
        return shape[0] * shape[1]
    return shape[-2] if "/moe/" in name else shape[0]


def forward(
    params: Parameters,
    tokens: Array,
    config: Config,
    *,
    segments: Array | None = None,
    uniform: Mapping[int, Array] | None = None,
    jitter: Mapping[int, Array] | None = None,
) -> Outputs:
    """Logits for the token after each position.

    Args:
        params: as in the module's table.
        tokens: `[batch length]`, whole numbers below vocab.
        config: sizes and choices.
        segments: `[batch length]`; a position sees only earlier ones of its own segment, and
            itself.
        uniform: layer -> `[group token]`, for the second policy "random".
        jitter: layer -> `[group token d_model]`, for Switch.

    Raises:
        KeyError: a parameter, or numbers for a layer, are missing.
    """
    params = {name: value.astype(np.float64) for name, value in params.items()}
    x = params["embedding"][tokens]
    mask = attention_mask(tokens.shape[1], segments)
    bias = np.zeros(())
    if config.positions == "relative":
        bias = relative_bias(params["relative_bias"], tokens.shape[1], config.max_distance)
    aux_losses, routings = {}, {}
    for i in range(config.layers):
        own = {n.split("/", 1)[1]: v for n, v in params.items() if n.startswith(f"layer_{i}/")}
        normed = rms_norm(x, own["attention_norm"], config.norm_epsilon)
        x = x + attention(normed, own, mask, bias, config)
        normed = rms_norm(x, own["ff_norm"], config.norm_epsilon)
        if i not in config.moe_layers:
            x = x + feed_forward(normed, own, config.activation)
            continue
        noise = {
            "uniform": uniform[i] if uniform else None,
            "jitter": jitter[i] if jitter else None,
        }
        weights = own["moe/gate"], own["moe/in"], own["moe/out"]
        groups = normed.reshape(-1, config.group_size, config.d_model)
        result = moe.layer(
            groups, *weights, config.routing, gate_in=own.get("moe/gate_in"), **noise
        )
        x = x + result.y.reshape(x.shape)
        aux_losses[i], routings[i] = result.aux_loss, result.routing
    x = rms_norm(x, params["final_norm"], config.norm_epsilon)
    if config.tied:
        logits = (x * config.d_model**-0.5) @ params["embedding"].T
    else:
        logits = x @ params["unembedding"].T
    return Outputs(logits, aux_losses, routings)


def loss(outputs: Outputs, targets: Array, config: Config, weights: Array | None = None) -> Loss:
    """Weighted mean of the cross entropy and of the z-loss, plus the MoE layers' auxiliary losses.

    Args:
        outputs: what `forward` returned.
        targets: `[batch length]`, whole numbers below vocab.
        config: for the coefficient of the z-loss.
        weights: `[batch length]`, 1 for each position without it; the sum of weights divides.
    """
    weights = np.ones(targets.shape) if weights is None else weights
    log_p, log_z = moe.log_softmax(outputs.logits)
    of_target = np.take_along_axis(log_p, targets[..., None], -1)[..., 0]
    cross_entropy = float(-(weights * of_target).sum() / weights.sum())
    z_loss = config.z_loss * float((weights * log_z[..., 0] ** 2).sum() / weights.sum())
    aux_loss = sum(outputs.aux_losses.values())
    return Loss(cross_entropy + z_loss + aux_loss, cross_entropy, z_loss, aux_loss)


def rms_norm(x: Array, scale: Array, epsilon: float = 1e-6) -> Array:
    """`x * scale / sqrt(mean(x^2) + epsilon)` over the last dim; nothing is subtracted."""
    return x * scale / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon)


def attention_mask(length: int, segments: Array | None = None) -> Array:
    """`[batch 1 query memory]`, true where a query sees a memory; batch is 1 without segments."""
    causal = np.tril(np.ones((length, length), bool))[None, None]
    if segments is None:
        return causal
    return causal & (segments[:, None, :, None] == segments[:, None, None, :])


def relative_buckets(distance: Array, buckets: int = 32, max_distance: int = 128) -> Array:
    """T5's bucket for looking back by `distance`: query position minus memory position.

    Half of the buckets are exact, the others grow as the logarithm, the last holds all from
    `max_distance` on. Looking forward is bucket 0; the causal mask hides it.

    >>> relative_buckets(np.array([-3, 0, 15, 16, 18, 19, 32, 64, 112, 113, 128, 900])).tolist()
    [0, 0, 15, 16, 16, 17, 21, 26, 30, 31, 31, 31]
    """
    exact = buckets // 2
    distance = np.maximum(distance, 0)
    growth = np.log(np.maximum(distance, exact) / exact) / np.log(max_distance / exact)
    far = np.minimum(exact + (growth * (buckets - exact)).astype(int), buckets - 1)
    return np.where(distance < exact, distance, far)


def relative_bias(table: Array, length: int, max_distance: int = 128) -> Array:
    """`[heads query memory]` to add to the attention logits, from `table` `[buckets heads]`."""
    position = np.arange(length)
    rows = relative_buckets(position[:, None] - position, table.shape[0], max_distance)
    return np.moveaxis(table[rows], -1, 0)


def rotary(x: Array, base: float = 10_000.0) -> Array:
    """Rotate `x` `[batch length heads d_head]` by its position.

    Pair j is `(x[j], x[j + d_head/2])`; it turns by `position * base^(-2j/d_head)`. The position is
    the index along length, also in packed rows: attention depends on differences only.
    """
    half = x.shape[-1] // 2
    angle = np.arange(x.shape[1])[:, None] * base ** (-np.arange(half) / half)
    sin, cos = np.sin(angle)[:, None], np.cos(angle)[:, None]
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def attention(x: Array, own: Parameters, mask: Array, bias: Array, config: Config) -> Array:
    """Multi-head attention of `x` `[batch length d_model]` with itself.

    Args:
        x: the normed activations.
        own: the layer's parameters, `attention/q` and so on.
        mask: `[batch-or-1 1 query memory]`.
        bias: `[heads query memory]`, or a scalar 0; it is added after the scaling.
        config: for `positions`, `scale_attention` and `rotary_base`.
    """
    q, k, v = (np.einsum("bld,dhk->blhk", x, own[f"attention/{name}"]) for name in "qkv")
    if config.positions == "rotary":
        q, k = rotary(q, config.rotary_base), rotary(k, config.rotary_base)
    if config.scale_attention:
        q = q * config.d_head**-0.5
    logits = np.where(mask, np.einsum("blhk,bmhk->bhlm", q, k) + bias, -np.inf)
    weights = np.exp(moe.log_softmax(logits)[0])
    mixed = np.einsum("bhlm,bmhk->blhk", weights, v)
    return np.einsum("blhk,hkd->bld", mixed, own["attention/out"])


def feed_forward(x: Array, own: Parameters, activation: str) -> Array:
    """`activation(x in) out`, or with `ff/gate` `(activation(x gate) * (x in)) out`."""
    act = moe.ACTIVATIONS[activation]
    hidden = x @ own["ff/in"]
    hidden = act(x @ own["ff/gate"]) * hidden if "ff/gate" in own else act(hidden)
    return hidden @ own["ff/out"]
