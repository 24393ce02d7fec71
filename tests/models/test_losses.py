"""Losses against NumPy, their sums over parts of a batch, and how they travel."""

import numpy as np
import pytest

import meshlang as ml
from models.losses import LossSums, token_losses, weight_count
from tests.harness import DOUBLE, Laid, case, check, drawn, floats, ints
from tests.models.one_processor import evaluated

RNG = np.random.default_rng(5)
LOGITS = RNG.normal(size=(2, 3, 7))
TARGETS = RNG.integers(0, 7, (2, 3)).astype(np.int32)
WEIGHTS = np.array([[1.0, 0.0, 2.0], [0.5, 1.0, 0.0]])


def losses(logits: ml.Tensor, targets: ml.Tensor, weights: ml.Tensor | None = None) -> LossSums:
    return token_losses(logits, targets, weights=weights, z_loss=0.01)


def plain(weights: np.ndarray) -> dict[str, float]:
    """What the sums should be."""
    log_z = np.log(np.exp(LOGITS).sum(-1))
    cross_entropy = log_z - np.take_along_axis(LOGITS, TARGETS[..., None], -1)[..., 0]
    sums = {"cross": (weights * cross_entropy).sum(), "z": 0.01 * (weights * log_z**2).sum()}
    return {
        "loss": sums["cross"] + sums["z"],
        "count": weights.sum(),
        "auxiliary": 0.0,
        "metrics/cross_entropy/0": sums["cross"],
        "metrics/cross_entropy/1": weights.sum(),
        "metrics/z_loss/0": sums["z"],
        "metrics/z_loss/1": weights.sum(),
    }


@pytest.mark.parametrize("weighted", [False, True], ids=["all alike", "weighted"])
def test_sums_are_those_of_numpy(weighted: bool):
    inputs = {"logits": (LOGITS, "batch length vocab"), "targets": (TARGETS, "batch length")}
    weights = np.ones((2, 3))
    if weighted:
        weights = WEIGHTS
        inputs["weights"] = (WEIGHTS, "batch length")
    found = evaluated(losses, {}, **inputs)
    wanted = plain(weights)
    assert list(found) == list(wanted)
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-13, err_msg=name)


def test_what_layers_say_joins_in():
    def fn(logits: ml.Tensor, targets: ml.Tensor) -> LossSums:
        two, three = ml.full("", 2.0, "high"), ml.full("", 3.0, "high")
        return token_losses(logits, targets, auxiliary=two, metrics={"dropped": (two, three)})

    found = evaluated(
        fn, {}, logits=(LOGITS, "batch length vocab"), targets=(TARGETS, "batch length")
    )
    assert found["auxiliary"] == 2.0
    assert [name for name in found if name.startswith("metrics")] == [
        "metrics/cross_entropy/0",
        "metrics/cross_entropy/1",
        "metrics/dropped/0",
        "metrics/dropped/1",
    ]


def test_parts_of_a_batch_add_up():
    """Sums and counts of microbatches are those of the batch, and so is the gradient."""
    arrays = {
        "logits": (RNG.normal(size=(4, 3, 7)), "batch length vocab"),
        "targets": (RNG.integers(0, 7, (4, 3)).astype(np.int32), "batch length"),
        "weights": (RNG.integers(0, 3, (4, 3)).astype(np.float64), "batch length"),
    }

    def fn(parts: int):
        def one(part, count):
            shift = ml.variable("shift", "vocab:7", init=0.0)
            sums = losses(part["logits"] + shift, part["targets"], part["weights"])
            return sums, ml.gradients(sums.loss / count, ml.trainable_variables())

        def traced(**batch):
            count = weight_count(batch)
            if parts == 1:
                return one(batch, count)
            cut = {n: x.split(batch=f"batch micro:{parts}") for n, x in batch.items()}
            return ml.accumulate(lambda part: one(part, count), cut, over="micro")

        return traced

    shift = {"shift": RNG.normal(size=7)}
    whole, parts = evaluated(fn(1), shift, **arrays), evaluated(fn(2), shift, **arrays)
    assert list(whole) == list(parts)
    for name, value in whole.items():
        np.testing.assert_allclose(parts[name], value, rtol=1e-13, err_msg=name)


CASE = case(
    "losses",
    losses,
    logits="batch:8 length:4 vocab:16",
    targets=ints("batch:8 length:4", below=16),
    weights=floats("batch:8 length:4", low=0.0),
)
LAYOUTS = (
    Laid("data:8", "batch:data"),
    Laid("model:8", "vocab:model"),
    Laid("data:2 model:4", "batch:data vocab:model"),
    Laid("data:2 model:4", "vocab:data+model"),
    Laid("a:2 b:2 c:2", "batch:a length:b vocab:c"),
)


@pytest.mark.parametrize("laid", drawn("losses", LAYOUTS))
def test_layouts_change_nothing(laid: Laid):
    check(CASE, laid)


def test_logits_of_a_divided_vocabulary_stay_where_they_are():
    """A maximum, a sum and the target's logit travel, each of 32 numbers."""
    specs = {name: ml.spec(wanted.shape, wanted.dtype) for name, wanted in CASE.inputs.items()}

    def fn(**tensors: ml.Tensor) -> ml.Tensor:
        return losses(**tensors).loss

    plan = ml.plan(ml.trace(fn, precision=DOUBLE, **specs), "model:4", "vocab:model")
    cost = plan.cost.all
    assert (cost.sums, cost.elements) == (3, 3 * 32)
