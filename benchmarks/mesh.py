"""The measured model in meshlang, from the same weights as the reference, on any mesh.

python -m benchmarks.mesh --mesh='data:2 model:4' --compute=float32
"""

import argparse
from collections.abc import Callable

import numpy as np

import meshlang as ml
from benchmarks.sizes import COMPUTE_DTYPES, Sizes, batch, initial_weights
from benchmarks.timing import serve
from models.layers import Attention, FeedForward, NoPositions
from models.moe import MixtureOfExperts, Top2Router
from models.transformer import Transformer

_BOTH = "batch:data group:data heads:model d_ff:model vocab:model experts:model"
LAYOUTS = {
    "": "",
    "data:2 model:4": _BOTH,
    "data:8": "batch:data group:data",
    "data:16 model:4": _BOTH,
}

_IN_LAYER = {
    "attention_norm": "attention_norm",
    "query": "attention/q",
    "key": "attention/k",
    "value": "attention/v",
    "output": "attention/out",
    "feed_forward_norm": "feed_forward_norm",
    "wi": "feed_forward/in",
    "wo": "feed_forward/out",
    "router": "moe/router",
    "expert_wi": "moe/in",
    "expert_wo": "moe/out",
}
_OUTSIDE = {"embedding": "embedding", "final_norm": "final_norm", "logits": "unembedding"}


def model(sizes: Sizes, *, unroll: bool = False) -> Transformer:
    """The model of `benchmarks.sizes`."""
    return Transformer(
        vocab=sizes.vocab,
        layers=sizes.layers,
        d_model=sizes.d_model,
        attention=Attention(heads=sizes.heads, d_head=sizes.d_head),
        feed_forward=FeedForward(d_ff=sizes.d_ff),
        moe=MixtureOfExperts(
            experts=sizes.experts,
            d_expert=sizes.d_expert,
            router=Top2Router(
                second_policy=sizes.second_expert, second_threshold=sizes.second_threshold
            ),
            group=f"batch length -> group token:{sizes.group_size}",
            capacity_factor_train=sizes.capacity_factor,
            min_capacity=sizes.min_capacity,
            balance_loss=sizes.balance_weight,
        ),
        moe_every=sizes.moe_every,
        position=NoPositions(),
        z_loss=0.0,
        residual="high",
        unroll=unroll,
    )


def step_program(sizes: Sizes, *, unroll: bool = False) -> ml.Program:
    """One step of Adam; returns the loss before it."""
    transformer = model(sizes, unroll=unroll)
    optimizer = ml.optim.AdamW(
        learning_rate=sizes.learning_rate,
        beta1=sizes.beta1,
        beta2=sizes.beta2,
        epsilon=sizes.epsilon,
    )

    def step(tokens: ml.Tensor, targets: ml.Tensor) -> ml.Tensor:
        sums = transformer({"tokens": tokens, "targets": targets}, train=True)
        loss = sums.loss / sums.count + sums.auxiliary
        weights = ml.trainable_variables()
        optimizer.apply(weights, ml.gradients(loss, weights))
        return loss

    ids = ml.spec(f"batch:{sizes.batch} length:{sizes.length}", "int32")
    precision = ml.Precision(compute=sizes.compute)
    return ml.trace(step, precision=precision, tokens=ids, targets=ids)


def model_weights(sizes: Sizes, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The reference's weights under our variables' names: those of layers are stacked by trips."""
    found: dict[str, np.ndarray] = {}
    stacks: dict[str, list[np.ndarray]] = {}
    for name, array in weights.items():
        layer, _, part = name.partition("/")
        if not part:
            found[_OUTSIDE[name]] = array.T if name == "logits" else array
            continue
        within = int(layer.removeprefix("layer_")) % sizes.moe_every
        stacks.setdefault(f"layers/{within}/{_IN_LAYER[part]}", []).append(array)
    return found | {name: np.stack(arrays) for name, arrays in stacks.items()}


def lowered(sizes: Sizes, mesh: str, *, unroll: bool = False) -> ml.Executable:
    """The step on a mesh, traced for its devices."""
    ml.start(devices=ml.Mesh.parse(mesh).size)
    step = ml.lower(ml.plan(step_program(sizes, unroll=unroll), mesh, LAYOUTS[mesh]))
    step.build()
    return step


def filled(
    step: ml.Executable, sizes: Sizes, weights: dict[str, np.ndarray]
) -> Callable[[], float]:
    """Gives the step the reference's weights.

    Returns:
        A function that takes one training step and returns the loss before it.
    """
    step.initialize(seed=0)
    for name, array in model_weights(sizes, weights).items():
        step.set(name, array)
    arrays = batch(sizes, seed=0)
    return lambda: float(step(**arrays))


def main() -> None:
    """Serves training steps of our model to `benchmarks.timing`."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--mesh", choices=list(LAYOUTS), default="data:2 model:4")
    parser.add_argument("--compute", choices=COMPUTE_DTYPES, default="float32")
    parser.add_argument("--unroll", action="store_true")
    flags = parser.parse_args()
    sizes = Sizes(compute=flags.compute)
    weights = initial_weights(sizes, seed=0)
    serve(
        lambda: lowered(sizes, flags.mesh, unroll=flags.unroll),
        lambda step: filled(step, sizes, weights),
    )


if __name__ == "__main__":
    main()
