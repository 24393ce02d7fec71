"""Sums of bfloat16: held and paid in high precision; and casts of weights, done once."""

from typing import Any

import numpy as np
import pytest

import meshlang as ml
from meshlang.layout.cost import transfers
from meshlang.layout.values import Local, Loop
from models.layers import Attention, FeedForward
from models.transformer import Transformer

MIXED = ml.Precision(stored="float32", compute="bfloat16", high="float32")
X, W = ml.spec("b:8 i:16"), ml.spec("i:16 o:32")


def product(x: ml.Tensor, w: ml.Tensor) -> ml.Tensor:
    return ml.einsum(x, w, reduce="i")


def sent(fn: Any, precision: ml.Precision, layout: str = "i:c b:r", **specs: Any) -> list[str]:
    """What is sent, with its dims and dtype."""
    plan = ml.plan(ml.trace(fn, precision=precision, **specs), "r:2 c:4", layout)
    return [f"{t.step.kind} {t.source.shape} {t.source.dtype}" for t in transfers(plan)]


def labels(steps: Any) -> list[str]:
    """Local steps with the dtypes that they make, in order."""
    return [f"{s.op.label} {s.outputs[0].dtype}" for s in steps if isinstance(s, Local)]


def test_a_narrow_sum_is_paid_in_high_where_a_wide_one_would_be():
    def fn(x, w):
        return ml.sum(product(x, w), "o")

    assert sent(fn, MIXED, x=X, w=W) == ["all_reduce [b:8] float32"]


@pytest.mark.parametrize("precision", [MIXED, ml.Precision()], ids=["mixed", "float32"])
def test_narrow_sums_are_added_before_they_are_paid(precision):
    def fn(x, w, y, v):
        return product(x, w) + product(y, v) + product(x, v)

    found = sent(fn, precision, x=X, w=W, y=X, v=W)
    assert found == ["all_reduce [b:8 o:32] float32"]


def test_a_training_step_pays_as_often_in_bfloat16_as_in_float32():
    model = Transformer(
        vocab=32,
        layers=2,
        d_model=16,
        attention=Attention(heads=4, d_head=4),
        feed_forward=FeedForward(d_ff=32),
        residual="high",
    )

    def step(tokens, targets):
        sums = model({"tokens": tokens, "targets": targets}, train=True)
        return ml.gradients(sums.loss, ml.trainable_variables())

    rows = ml.spec("batch:8 length:4", "int32")
    counts = []
    for precision in (MIXED, ml.Precision()):
        program = ml.trace(step, precision=precision, tokens=rows, targets=rows)
        layout = "batch:data heads:model d_ff:model vocab:model"
        counts.append(ml.plan(program, "data:2 model:4", layout).cost.over("model").collectives)
    assert counts[0] == counts[1] > 0


def test_a_weights_gradient_is_not_rounded_after_it_is_paid():
    def fn(x):
        w = ml.variable("w", "i:16 o:32", init=ml.zeros_init)
        return ml.gradients(ml.sum(ml.square(product(x, w))), ml.trainable_variables())

    plan = ml.plan(ml.trace(fn, precision=MIXED, x=X), "r:2", "b:r")
    (paid,) = [i for i, t in enumerate(plan.steps) if getattr(t, "kind", "") == "all_reduce"]
    assert labels(plan.steps[paid:]) == ["reshape float32"]
    assert labels(plan.steps[:paid])[-1] == "einsum float32"


def test_rounding_that_a_program_asks_for_is_done():
    def fn(x):
        return ml.cast(ml.cast(x, "bfloat16"), "float32")

    plan = ml.plan(ml.trace(fn, x=ml.spec("b:8")), "r:2", "b:r")
    assert labels(plan.steps) == ["cast bfloat16", "cast float32"]


def test_weights_of_layers_are_narrowed_once_before_the_loops():
    def fn(x):
        def layer(h, _):
            w = ml.variable("w", "d:8 e:8", init=ml.normal_init(0.3))
            return ml.tanh(ml.einsum(h, w, reduce="d")).rename(e="d"), None

        last, _ = ml.scan(layer, x, over="layers:3")
        return ml.gradients(ml.sum(last), ml.trainable_variables())

    program = ml.trace(fn, precision=MIXED, x=ml.spec("b:8 d:8"))
    plan = ml.plan(program, "r:2", "b:r")
    forward, backward = [s for s in plan.steps if isinstance(s, Loop)]
    before = plan.steps[: plan.steps.index(forward)]
    assert [x for x in labels(before) if "cast" in x] == ["cast bfloat16"]
    for loop in (forward, backward):
        stacks = {str(stack.shape): stack.dtype for stack in loop.given.stacks}
        assert stacks["[layers':3 d':8 e':8]"] == "bfloat16"
    weights, x = np.random.default_rng(0).normal(size=(2, 8, 8)).astype("float32")
    found = []
    for mesh, layout in (("", ""), ("r:2", "b:r")):
        run = ml.lower(ml.plan(program, mesh, layout), backend="simulated")
        run.set("w", np.stack([weights] * 3))
        found.append(run(x=x)[0].numpy())
    np.testing.assert_allclose(found[1], found[0], rtol=0.03, atol=0.03 * np.abs(found[0]).max())


def test_a_stack_that_a_loop_made_is_not_joined_to_narrow_it():
    def fn(x):
        def forth(h, _):
            h = ml.tanh(h)
            return h, h

        _, made = ml.scan(forth, x, over="n:3")

        def back(h, part):
            return h + ml.cast(part, "bfloat16"), None

        return ml.scan(back, ml.cast(x, "bfloat16"), made, over="n")[0]

    plan = ml.plan(ml.trace(fn, x=ml.spec("b:8")), "r:2", "b:r")
    loops = [s for s in plan.steps if isinstance(s, Loop)]
    assert labels(loops[1].steps)[0] == "cast bfloat16"
