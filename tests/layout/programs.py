"""Programs with known costs, written in the language alone: what the tests of plans are made of."""

import meshlang as ml
from tests.oracles.communication import Exchange, Transformer


def two_layers(batch: int = 64, d_io: int = 128, d_h: int = 256) -> ml.Program:
    """y = relu(x w) v, and the gradients of x, w and v."""

    def step(x: ml.Tensor, dy: ml.Tensor) -> dict[str, ml.Tensor]:
        w = ml.variable("w", f"d_io:{d_io} d_h:{d_h}", init=ml.zeros_init)
        v = ml.variable("v", f"d_h:{d_h} d_io:{d_io}", init=ml.zeros_init)
        y = ml.einsum(ml.relu(ml.einsum(x, w, reduce="d_io")), v, reduce="d_h")
        dx, dw, dv = ml.gradients(y, [x, *ml.trainable_variables()], cotangents=dy)
        return {"y": y, "dx": dx, "dw": dw, "dv": dv}

    spec = ml.spec(f"batch:{batch} d_io:{d_io}")
    return ml.trace(step, x=spec, dy=spec)


def descend(loss: ml.Tensor) -> dict[str, ml.Tensor]:
    """One step of plain gradient descent for all variables; returns the loss."""
    weights = ml.trainable_variables()
    for weight, gradient in zip(weights, ml.gradients(loss, weights), strict=True):
        ml.assign(weight, weight - 0.1 * gradient)
    return {"loss": loss}


def transformer(model: Transformer, *, unroll: bool) -> ml.Program:
    """A training step of a language model whose layers are a scan, or the same scan written out."""

    def layer(x: ml.Tensor, _: None) -> tuple[ml.Tensor, None]:
        if model.parallel:
            normed = norm(x, "norm")
            return x + (attention(normed, model) + feed_forward(normed, model)), None
        x = x + attention(norm(x, "norm_1"), model)
        return x + feed_forward(norm(x, "norm_2"), model), None

    def step(tokens: ml.Tensor, targets: ml.Tensor) -> dict[str, ml.Tensor]:
        table = weight("embedding", vocab=model.vocab, d_model=model.d_model)
        x = ml.gather(table, tokens, dim="vocab")
        x, _ = ml.scan(layer, x, over=f"layers:{model.layers}", unroll=unroll)
        x = norm(x, "last_norm")
        if not model.tied:
            table = weight("unembedding", vocab=model.vocab, d_model=model.d_model)
        logits = ml.einsum(x, table, reduce="d_model")
        losses = ml.logsumexp(logits, "vocab") - ml.gather(logits, targets, dim="vocab")
        return descend(ml.mean(losses))

    batch = ml.spec(f"batch:{model.batch} length:{model.length}", "int32")
    return ml.trace(step, tokens=batch, targets=batch)


def weight(name: str, **sizes: int) -> ml.Tensor:
    """A matrix or more."""
    dims = " ".join(f"{dim}:{size}" for dim, size in sizes.items())
    return ml.variable(name, dims, init=ml.normal_init(0.1))


def norm(x: ml.Tensor, name: str) -> ml.Tensor:
    """RMS norm with a scale only."""
    with ml.scope(name):
        scale = ml.variable("scale", f"d_model:{x.shape['d_model'].size}", init=ml.ones_init)
        return x * ml.rsqrt(ml.mean(x * x, "d_model") + 1e-6) * scale


def attention(x: ml.Tensor, model: Transformer) -> ml.Tensor:
    """Causal, every head of its own."""
    sizes = {"heads": model.heads, "d_head": model.d_head}
    with ml.scope("attention"):
        q, k, v = (
            ml.einsum(x, weight(name, d_model=model.d_model, **sizes), reduce="d_model")
            for name in "qkv"
        )
        k, v = k.rename(length="memory"), v.rename(length="memory")
        logits = ml.einsum(q, k, reduce="d_head")
        here = ml.range(f"length:{model.length}").expand(memory=model.length)
        there = ml.range(f"memory:{model.length}").expand(length=model.length)
        weights = ml.softmax(ml.where(here >= there, logits, -1e9), "memory")
        mixed = ml.einsum(weights, v, reduce="memory")
        out = weight("o", **sizes, d_model=model.d_model)
        return ml.einsum(mixed, out, reduce="heads d_head")


def feed_forward(x: ml.Tensor, model: Transformer) -> ml.Tensor:
    """Two matrices without biases."""
    with ml.scope("feed_forward"):
        wide = weight("in", d_model=model.d_model, d_ff=model.d_ff)
        back = weight("out", d_ff=model.d_ff, d_model=model.d_model)
        return ml.einsum(ml.relu(ml.einsum(x, wide, reduce="d_model")), back, reduce="d_ff")


def mixture(row: Exchange) -> ml.Program:
    """A training step of one layer of experts, of which each token takes the best one.

    Token rows are put into the places of their experts by index, travel to them, and come back.
    """
    shape = f"group:{row.tokens // row.group_size} token:{row.group_size} d_model:{row.d_model}"
    experts = ml.Shape.parse(f"experts*:{row.experts}")["experts"]

    def step(x: ml.Tensor) -> dict[str, ml.Tensor]:
        x = norm(x, "norm")
        router = ml.variable(
            "router", f"d_model:{row.d_model} experts*:{row.experts}", init=ml.normal_init(0.1)
        )
        gates = ml.softmax(ml.einsum(x, router, reduce="d_model"), "experts")
        best = ml.argmax(gates, "experts")
        chosen = ml.one_hot(best, experts)
        before = ml.sum(ml.cumsum(chosen, "token", exclusive=True) * chosen, "experts")
        slot = ml.cast(before, "int32")
        into: dict[str | ml.Dim, ml.Tensor] = {
            f"experts|group:{row.experts}": best,
            f"slot:{row.capacity}": slot,
        }
        rows = ml.exchange(ml.scatter_add_at(x, into, batch="group"), "group", "experts")
        wide = weight("in", experts=row.experts, d_model=row.d_model, d_expert=64)
        back = weight("out", experts=row.experts, d_expert=64, d_model=row.d_model)
        rows = ml.einsum(ml.relu(ml.einsum(rows, wide, reduce="d_model")), back, reduce="d_expert")
        rows = ml.exchange(rows, "experts", "group")
        y = ml.gather_at(rows, {"experts": best, "slot": slot})
        return descend(ml.sum(y * y * ml.gather(gates, best, dim="experts")))

    return ml.trace(step, x=ml.spec(shape))
