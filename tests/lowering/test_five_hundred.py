"""Five hundred and twelve processors on this machine: a step of a mixture of experts, simulated."""

import numpy as np
import pytest

import meshlang as ml
from meshlang.lowering.counting import Ran
from models.layers import Attention, FeedForward
from models.moe import MixtureOfExperts, Top2Router
from models.transformer import Transformer

ROWS, LENGTH, VOCAB = 32, 32, 256
LAYOUT = "batch:data group:data experts:data heads:model d_ff:model vocab:model d_expert:model"


def training() -> ml.Program:
    """A step of Adam, with clipping; two of four layers have sixteen experts."""
    model = Transformer(
        vocab=VOCAB,
        layers=4,
        d_model=64,
        attention=Attention(heads=32, d_head=2),
        feed_forward=FeedForward(d_ff=128),
        moe=MixtureOfExperts(
            experts=16,
            d_expert=64,
            router=Top2Router(),
            group="batch length -> group token:32",
        ),
        moe_every=2,
    )
    optimizer = ml.optim.AdamW(learning_rate=1e-2)

    def step(tokens: ml.Tensor, targets: ml.Tensor) -> ml.Tensor:
        sums = model({"tokens": tokens, "targets": targets}, train=True)
        loss = sums.loss / sums.count + sums.auxiliary
        weights = ml.trainable_variables()
        gradients = ml.gradients(loss, weights)
        ml.optim.apply_guarded(optimizer, loss, weights, gradients, max_norm=1.0)
        return loss

    ids = ml.spec(f"batch:{ROWS} length:{LENGTH}", "int32")
    return ml.trace(step, tokens=ids, targets=ids)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_step_of_512_processors_sends_what_the_plan_says() -> None:
    """16x32, parameters divided besides: 13 s and 1.7 GB for the process, on two shared cores."""
    program = training()
    plan = ml.plan(program, "data:16 model:32", LAYOUT, params="d_model:data")
    large = ml.lower(plan, backend="simulated", counted=True)
    large.initialize(seed=0)
    text = np.random.default_rng(0).integers(0, VOCAB, (ROWS, LENGTH + 1), np.int32)
    arrays = {"tokens": text[:, :-1], "targets": text[:, 1:]}
    loss = float(large(**arrays))
    traffic = plan.cost.traffic
    assert {kind for kind, _ in traffic} == {
        "all_reduce",
        "all_gather",
        "reduce_scatter",
        "all_to_all",
    }
    assert large.ran() == {k: Ran(t.collectives, t.elements, t.bytes) for k, t in traffic.items()}
    alone = ml.lower(ml.plan(program))
    alone.initialize(seed=0)
    np.testing.assert_allclose(loss, float(alone(**arrays)), rtol=1e-5)
