"""The transformer against the plain NumPy one, its two forms against each other, its layouts."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import meshlang as ml
from models.errors import ModelError
from models.layers import Attention, FeedForward, NoPositions, RelativeBias, Rotary
from models.moe import MixtureOfExperts, SwitchRouter, Top2Router
from models.protocol import TrainableModel
from models.transformer import Transformer
from tests.harness import Case, Laid, case, check, check_slopes, compare, drawn, floats, ints, run
from tests.models.one_processor import evaluated, lowered
from tests.models.oracle_parameters import ours
from tests.oracles import moe, transformer

CONFIG = transformer.Config(vocab=11, d_model=8, layers=2, heads=2, d_head=4, d_ff=12)
MODEL = Transformer(
    vocab=11,
    layers=2,
    d_model=8,
    attention=Attention(heads=2, d_head=4),
    feed_forward=FeedForward(d_ff=12),
)
RNG = np.random.default_rng(7)
BATCH = {
    "tokens": (RNG.integers(0, 11, (3, 20)).astype(np.int32), "batch length"),
    "targets": (RNG.integers(0, 11, (3, 20)).astype(np.int32), "batch length"),
    "segments": (np.sort(RNG.integers(1, 4, (3, 20)), 1).astype(np.int32), "batch length"),
    "weights": (RNG.integers(0, 3, (3, 20)).astype(np.float64), "batch length"),
}

VARIANTS = {
    "T5": (CONFIG, MODEL),
    "gated, rotary, tied": (
        replace(CONFIG, positions="rotary", activation="silu", gated=True, tied=True, z_loss=0.1),
        replace(
            MODEL,
            position=Rotary(),
            feed_forward=FeedForward(d_ff=12, activation="silu", gated=True),
            tied=True,
            z_loss=0.1,
        ),
    ),
    "no positions": (
        replace(CONFIG, positions="none", activation="gelu", z_loss=0.0),
        replace(
            MODEL,
            position=NoPositions(),
            feed_forward=FeedForward(d_ff=12, activation="gelu"),
            z_loss=0.0,
        ),
    ),
    "few buckets, written out": (
        replace(CONFIG, buckets=6, max_distance=12),
        replace(MODEL, position=RelativeBias(buckets=6, max_distance=12), unroll=True),
    ),
    "top-2 experts in every second layer": (
        replace(
            CONFIG,
            layers=4,
            moe_layers=(1, 3),
            experts=4,
            d_expert=6,
            gated_experts=True,
            group_size=20,
            routing=moe.Settings(second_policy="all", loss_coefficient=0.1),
        ),
        replace(
            MODEL,
            layers=4,
            moe=MixtureOfExperts(
                experts=4,
                d_expert=6,
                router=Top2Router(second_policy="all"),
                group="batch length -> group token:20",
                gated=True,
                balance_loss=0.1,
                capacity_factor_eval=1.25,
            ),
            moe_every=2,
        ),
    ),
    "one expert of four in every layer": (
        replace(
            CONFIG,
            moe_layers=(0, 1),
            experts=4,
            d_expert=6,
            group_size=10,
            routing=moe.Settings("switch", capacity_factor=1.0, z_loss_coefficient=0.01),
        ),
        replace(
            MODEL,
            feed_forward=None,
            moe=MixtureOfExperts(
                experts=4,
                d_expert=6,
                router=SwitchRouter(jitter=0.0),
                group="batch length -> group token:10",
                capacity_factor_train=1.0,
                capacity_factor_eval=1.0,
                z_loss=0.01,
            ),
        ),
    ),
}


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_logits_and_losses_are_the_oracles(variant: str):
    config, model = VARIANTS[variant]
    params = transformer.random_parameters(config, seed=8)

    def fn(**batch: ml.Tensor) -> dict[str, object]:
        return {"logits": model.logits(batch), "sums": model(batch, train=True)}

    found = evaluated(fn, ours(params, model.moe_every), **BATCH)
    arrays = {name: array for name, (array, _) in BATCH.items()}
    outputs = transformer.forward(params, arrays["tokens"], config, segments=arrays["segments"])
    np.testing.assert_allclose(found["logits"], outputs.logits, rtol=0, atol=1e-10)
    wanted = transformer.loss(outputs, arrays["targets"], config, arrays["weights"])
    count = arrays["weights"].sum()
    assert found["sums/count"] == count
    np.testing.assert_allclose(found["sums/auxiliary"], wanted.aux_loss, rtol=1e-10)
    cross_entropy = found["sums/metrics/cross_entropy/0"] / count
    np.testing.assert_allclose(cross_entropy, wanted.cross_entropy, rtol=1e-10)
    total = found["sums/loss"] / count + found["sums/auxiliary"]
    np.testing.assert_allclose(total, wanted.total, rtol=1e-10)
    if model.moe is not None:
        dropped = [routing.fraction_dropped for routing in outputs.routings.values()]
        tokens = found["sums/metrics/fraction_dropped/1"]
        assert tokens == len(dropped) * arrays["tokens"].size
        share = found["sums/metrics/fraction_dropped/0"] / tokens
        np.testing.assert_allclose(share, np.mean(dropped), rtol=1e-10)
        assert share > 0


def test_rows_are_one_text_each_without_segments():
    params = transformer.random_parameters(CONFIG, seed=9)
    tokens = BATCH["tokens"][0]
    found = evaluated(
        lambda tokens, targets: MODEL({"tokens": tokens, "targets": targets}, train=False),
        ours(params),
        tokens=BATCH["tokens"],
        targets=BATCH["targets"],
    )
    outputs = transformer.forward(params, tokens, CONFIG)
    wanted = transformer.loss(outputs, BATCH["targets"][0], CONFIG)
    np.testing.assert_allclose(found["loss"], wanted.total * tokens.size, rtol=1e-10)


def test_a_transformer_is_a_trainable_model():
    model: TrainableModel = MODEL
    assert {name: str(spec.shape) for name, spec in model.inputs(4, 6).items()} == dict.fromkeys(
        ("tokens", "targets", "segments"), "[batch:4 length:6]"
    )


# -- layouts, gradients, and depth written out -----------------------------------------------------

#: sizes that divide by 8 wherever a layout divides
DROPPING = Transformer(
    vocab=16,
    layers=2,
    d_model=8,
    attention=Attention(heads=8, d_head=2, dropout=0.1),
    feed_forward=FeedForward(d_ff=16, gated=True, activation="gelu", dropout=0.1),
    position=RelativeBias(buckets=4, max_distance=6),
    dropout=0.1,
    z_loss=0.01,
)
TURNING = replace(
    DROPPING,
    attention=Attention(heads=8, d_head=8),
    position=Rotary(),
    tied=True,
    dropout=0.0,
    feed_forward=FeedForward(d_ff=16),
)


def training_case(name: str, model: Transformer):
    def losses(tokens: ml.Tensor, targets: ml.Tensor, segments: ml.Tensor, weights: ml.Tensor):
        batch = {"tokens": tokens, "targets": targets, "segments": segments, "weights": weights}
        return model(batch, train=True)

    size = "batch:8 length:8"
    tokens, targets = ints(size, below=16), ints(size, below=16)
    segments, weights = ints(size, low=1, below=3), floats(size, low=0.0)
    return case(name, losses, tokens=tokens, targets=targets, segments=segments, weights=weights)


DROPS, TURNS = training_case("dropping", DROPPING), training_case("turning", TURNING)
FLAGSHIP = "batch:data heads:model d_ff:model vocab:model"
LAYOUTS = (
    Laid("data:8", "batch:data"),
    Laid("model:8", "heads:model d_ff:model vocab:model"),
    Laid("data:2 model:2", FLAGSHIP),
    Laid("data:2 model:4", FLAGSHIP),
    Laid("data:2 model:4", FLAGSHIP, params="d_model:data"),
    Laid("data:4 model:2", "batch:data d_model:model"),
    Laid("data:2 model:4", "batch:data+model"),
    Laid("data:2 model:4", "batch:data length:model"),
    Laid("a:2 b:2 c:2", "batch:a heads:b d_ff:b vocab:b d_model:c"),
    Laid("a:2 b:2 c:2", "batch:a heads:b+c d_ff:c+b vocab:b+c"),
    Laid("a:2 b:2 c:2", "batch:a length:b d_head:c buckets?:c"),
    Laid("a:2 b:2 c:2", "batch:a length:b memory:c"),
)


@pytest.mark.parametrize("laid", drawn("dropping", LAYOUTS, draws=2))
def test_layouts_change_nothing(laid: Laid):
    check(DROPS, laid)


@pytest.mark.parametrize("laid", drawn("turning", LAYOUTS, draws=1))
def test_layouts_change_nothing_of_rotation_and_tied_logits(laid: Laid):
    check(TURNS, laid)


@pytest.mark.parametrize("each", [DROPS, TURNS], ids=lambda each: each.name)
def test_gradients_are_slopes(each: Case):
    check_slopes(each)


def test_depth_written_out_is_the_same():
    """Values, gradients and variables, with dropout on."""
    wanted = run(DROPS, Laid())
    found = run(training_case("dropping", replace(DROPPING, unroll=True)), Laid())
    assert set(found) == set(wanted)
    for path, array in found.items():
        compare(path, array, wanted[path], 1e-12)


def test_layers_drop_different_elements():
    """Each layer adds to the second element, or not, by what it drops.

    Neither, one or both: were the same elements dropped in both layers, there would not be one.
    """
    model = replace(
        DROPPING,
        attention=Attention(heads=1, d_head=1),
        feed_forward=FeedForward(d_ff=1, dropout=0.5),
        position=NoPositions(),
        dropout=0.0,
    )
    tokens = (np.zeros((8, 8), np.int32), "batch length")

    def fn(tokens: ml.Tensor) -> ml.Tensor:
        return model.logits({"tokens": tokens}, train=True)

    variables = lowered(fn, {"tokens": tokens}).plan.variables
    values = {name: np.zeros(value.shape.sizes) for name, value in variables.items()}
    for name in values:
        if "norm" in name:
            values[name][:] = 1.0
    values["embedding"][:, 0] = 1.0
    values["layers/feed_forward/in"][:, 0, 0] = 1.0
    values["layers/feed_forward/out"][:, 0, 1] = 1.0
    values["unembedding"][:] = np.eye(16, 8)
    logits = evaluated(fn, values, tokens=tokens)
    assert len(np.unique((logits[..., 1] / logits[..., 0]).round(9))) == 3


# -- what it costs ---------------------------------------------------------------------------------

#: mesh -> large sums over model; elements over model, large and small; over data; sent in all
GOLDEN = {
    "data:1 model:1": (0, 0, 0, 0, 0),
    "data:4 model:1": (0, 0, 0, 24736, 37104),
    "data:1 model:4": (10, 40960, 384, 0, 62016),
    "data:2 model:2": (10, 20480, 192, 12448, 33120),
    "data:2 model:4": (10, 20480, 192, 6304, 37312),
}


@pytest.mark.parametrize("mesh", list(GOLDEN))
def test_a_step_costs_what_the_table_says(mesh: str):
    """b=8 l=16 d=32 h=4 k=8 f=64 v=128, 2 layers; for each layer 2 sums forward and 2 back."""
    model = Transformer(
        vocab=128,
        layers=2,
        d_model=32,
        attention=Attention(heads=4, d_head=8),
        feed_forward=FeedForward(d_ff=64),
        position=NoPositions(),
        z_loss=0.0,
    )

    def fn(**batch: ml.Tensor) -> list[ml.Tensor]:
        loss = model(batch, train=True).loss
        return [loss, *ml.gradients(loss, ml.trainable_variables())]

    inputs: dict[str, Any] = model.inputs(8, 16)
    plan = ml.plan(ml.trace(fn, **inputs), mesh, FLAGSHIP)
    over_model, over_data = plan.cost.over("model"), plan.cost.over("data")
    large, elements, small, data, sent = GOLDEN[mesh]
    assert over_model.elements == elements + small
    assert over_model.sums == large + (3 if small else 0)
    # The table counts no scalars: the loss is one, summed over data.
    ways = plan.mesh.ways(("data",))
    assert over_data.elements == data + (ways > 1)
    assert over_data.sums == (19 + 1 if data else 0)
    assert plan.cost.all.wire_elements == sent + 2 * (ways - 1) / ways


# -- precision -------------------------------------------------------------------------------------


def test_bfloat16_computes_about_the_same():
    """Within the noise of 8 bits, with variables and losses in float32."""
    arrays = {name: array for name, (array, _) in BATCH.items()}
    arrays["weights"] = arrays["weights"].astype(np.float32)

    def fn(**batch: ml.Tensor) -> dict[str, object]:
        sums = MODEL(batch, train=True)
        slopes = ml.gradients(sums.loss / sums.count, ml.trainable_variables())
        squares = [ml.sum(ml.square(slope)) for slope in slopes]
        return {"loss": sums.loss / sums.count, "norm": ml.sqrt(ml.add_n(squares))}

    found = {}
    for compute in ("float32", "bfloat16"):
        executable = lowered(fn, BATCH, ml.Precision(compute=compute))
        executable.initialize(0)
        results = executable(**arrays)
        assert {executable[name].dtype.name for name in executable.plan.variables} == {"float32"}
        assert results["loss"].numpy().dtype == np.float32
        found[compute] = [float(results["loss"]), float(results["norm"])]
    np.testing.assert_allclose(found["bfloat16"], found["float32"], rtol=0.02)


# -- configurations that cannot be -----------------------------------------------------------------


def test_a_model_needs_a_feed_forward():
    with pytest.raises(ModelError) as caught:
        replace(MODEL, feed_forward=None)
    assert str(caught.value) == (
        "layers without experts need a feed-forward.\n"
        "  feed_forward  None\n"
        "  moe           None\n"
        "  moe_every     1\n"
        "  fix: give feed_forward=FeedForward(d_ff=...)"
    )


def test_layers_are_whole_trips():
    with pytest.raises(ModelError) as caught:
        replace(MODEL, moe=FeedForward(d_ff=4), moe_every=2, layers=3)
    assert str(caught.value) == (
        "every k-th layer has experts, and k leaves a rest.\n"
        "  layers     3\n"
        "  moe_every  2\n"
        "  fix: make layers a multiple of moe_every"
    )
