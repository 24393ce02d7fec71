"""The transformer against the plain NumPy one, its two forms against each other, its layouts."""

from dataclasses import replace

import numpy as np
import pytest

import meshlang as ml
from models.errors import ModelError
from models.layers import Attention, FeedForward, NoPositions, RelativeBias, Rotary
from models.losses import LossSums
from models.protocol import TrainableModel
from models.transformer import Transformer
from tests.harness import DOUBLE, Laid, case, check, check_slopes, compare, drawn, floats, ints, run
from tests.models.one_processor import evaluated, lowered
from tests.models.oracle_parameters import ours
from tests.oracles import transformer

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
}


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_logits_and_losses_are_the_oracles(variant: str):
    config, model = VARIANTS[variant]
    params = transformer.random_parameters(config, seed=8)

    def fn(**batch: ml.Tensor) -> dict[str, object]:
        return {"logits": model.logits(batch), "sums": model(batch, train=True)}

    found = evaluated(fn, ours(params), **BATCH)
    arrays = {name: array for name, (array, _) in BATCH.items()}
    outputs = transformer.forward(params, arrays["tokens"], config, segments=arrays["segments"])
    np.testing.assert_allclose(found["logits"], outputs.logits, rtol=0, atol=1e-10)
    wanted = transformer.loss(outputs, arrays["targets"], config, arrays["weights"])
    count = arrays["weights"].sum()
    assert found["sums/count"] == count
    assert found["sums/auxiliary"] == 0.0
    cross_entropy = found["sums/metrics/cross_entropy/0"] / count
    np.testing.assert_allclose(cross_entropy, wanted.cross_entropy, rtol=1e-10)
    np.testing.assert_allclose(found["sums/loss"] / count, wanted.total, rtol=1e-10)


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


# -- layouts, gradients, and depth written out ------------------------------------------------------

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


CASES = (training_case("dropping", DROPPING), training_case("turning", TURNING))
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
    Laid("a:2 b:2 c:2", "batch:a length:b memory:c d_head:c buckets:c"),
)


@pytest.mark.parametrize("laid", drawn("transformer", LAYOUTS))
def test_layouts_change_nothing(laid: Laid):
    check(CASES, laid)


def test_gradients_are_slopes():
    check_slopes(CASES)


def test_depth_written_out_is_the_same():
    """Values, gradients and variables, with dropout on."""
    wanted = run(CASES[0], Laid())
    found = run(training_case("dropping", replace(DROPPING, unroll=True)), Laid())
    assert set(found) == set(wanted)
    for path, array in found.items():
        compare(path, array, wanted[path], 1e-12)


def test_layers_drop_different_elements():
    """With all layers alike, what the second adds differs from the first only by what is dropped."""
    model = replace(
        DROPPING,
        attention=Attention(heads=1, d_head=2),
        feed_forward=FeedForward(d_ff=1),
        position=NoPositions(),
        dropout=0.5,
    )
    shapes = lowered(lambda **batch: model.logits(batch, train=True), TOKENS).plan.variables
    zeros = {name: np.zeros(value.shape.sizes) for name, value in shapes.items()}
    scale = {name: np.ones_like(value) for name, value in zeros.items() if "norm" in name}
    ones = {"embedding": np.ones((16, 8)), "unembedding": np.eye(16, 8)}
    layer = {
        "layers/feed_forward/in": np.ones((2, 8, 1)),
        "layers/feed_forward/out": np.ones((2, 1, 8)),
    }

    def added(train: bool) -> np.ndarray:
        return evaluated(
            lambda **batch: model.logits(batch, train=train), zeros | scale | ones | layer, **TOKENS
        )

    kept, dropped = added(train=False), added(train=True)
    assert len(np.unique(kept[..., :8].round(9))) == 1
    assert len(np.unique(dropped[..., :8].round(9))) > 4


TOKENS = {"tokens": (np.zeros((2, 4), np.int32), "batch length")}


# -- what it costs ----------------------------------------------------------------------------------

#: mesh -> large sums over model, elements over model (large, small), elements over data, sent in all
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

    plan = ml.plan(ml.trace(fn, **model.inputs(8, 16)), mesh, FLAGSHIP)
    over_model, over_data = plan.cost.over("model"), plan.cost.over("data")
    large, elements, small, data, sent = GOLDEN[mesh]
    assert over_model.elements == elements + small
    assert over_model.sums == large + (3 if small else 0)
    # The table counts no scalars: the loss is one, summed over data.
    ways = plan.mesh.ways(("data",))
    assert over_data.elements == data + (ways > 1)
    assert over_data.sums == (19 + 1 if data else 0)
    assert plan.cost.all.wire_elements == sent + 2 * (ways - 1) / ways


# -- precision --------------------------------------------------------------------------------------


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


# -- configurations that cannot be ------------------------------------------------------------------


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
