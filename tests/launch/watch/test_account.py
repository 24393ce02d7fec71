"""What a step is worth: model FLOPs by their definition, bytes by axis, utilisation."""

from typing import Any

import pytest

import meshlang as ml
from launch.watch.account import account, memory_per_processor
from models.layers import Attention, FeedForward
from models.transformer import Transformer

ROWS, LENGTH, LAYERS, D_MODEL, HEADS, D_HEAD, D_FF, VOCAB = 4, 16, 3, 8, 4, 5, 32, 64


def model(*, unroll: bool = False) -> Transformer:
    return Transformer(
        vocab=VOCAB,
        layers=LAYERS,
        d_model=D_MODEL,
        attention=Attention(heads=HEADS, d_head=D_HEAD),
        feed_forward=FeedForward(d_ff=D_FF),
        unroll=unroll,
    )


def program(*, train: bool, unroll: bool = False) -> ml.Program:
    transformer = model(unroll=unroll)

    def step(**batch: ml.Tensor) -> ml.Tensor:
        loss = transformer(batch, train=train).loss
        if train:
            weights = ml.trainable_variables()
            ml.optim.Sgd(learning_rate=0.1).apply(weights, ml.gradients(loss, weights))
        return loss

    inputs: dict[str, Any] = dict(transformer.inputs(ROWS, LENGTH))
    return ml.trace(step, **inputs)


@pytest.mark.parametrize("unroll", [False, True], ids=["scan", "written out"])
def test_model_flops_are_the_formula(unroll: bool) -> None:
    """6 N tokens + 12 L l h k tokens, whatever the mesh, and however often processors repeat."""
    plan = ml.plan(program(train=True), "data:2 model:4", "batch:data d_ff:model")
    found = account(plan, program(train=False, unroll=unroll), tokens=ROWS * LENGTH)
    matrices = LAYERS * (4 * D_MODEL * HEADS * D_HEAD + 2 * D_MODEL * D_FF) + D_MODEL * VOCAB
    tokens = ROWS * LENGTH
    attention = 12 * LAYERS * LENGTH * HEADS * D_HEAD * tokens
    assert found.model_flops == 6 * matrices * tokens + attention
    assert plan.cost.flops * 8 > found.model_flops  # attention is not divided along "model"


def test_utilisation_is_of_all_processors() -> None:
    plan = ml.plan(program(train=True), "data:2 model:4", "batch:data d_ff:model")
    found = account(plan, program(train=False), tokens=ROWS * LENGTH, peak_flops=1e9)
    assert found.utilisation(2.0) == found.model_flops / 2.0 / 8 / 1e9
    assert account(plan, program(train=False), tokens=1).utilisation(2.0) is None


def test_bytes_and_memory_are_the_plans() -> None:
    plan = ml.plan(program(train=True), "data:2 model:4", "batch:data d_ff:model")
    found = account(plan, program(train=False), tokens=ROWS * LENGTH)
    assert found.sent_bytes == {
        "data": plan.cost.over("data").wire_bytes,
        "model": plan.cost.over("model").wire_bytes,
    }
    assert min(found.sent_bytes.values()) > 0
    assert (found.variable_bytes, found.activation_bytes) == (
        plan.cost.variable_bytes,
        plan.cost.peak_bytes,
    )


def test_memory_of_a_process_is_shared_by_its_processors() -> None:
    alone = memory_per_processor(["/CPU:0"])
    assert 50e6 < alone < 100e9
    assert memory_per_processor(["/CPU:0", "/CPU:1"]) == pytest.approx(alone / 2, rel=0.2)
