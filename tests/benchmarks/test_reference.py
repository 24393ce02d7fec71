"""The reference model: it learns, and neither formulation nor dtype changes what it computes."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from benchmarks.reference import Reference
from benchmarks.sizes import Sizes, batch, initial_weights

SMALL = Sizes(
    batch=4,
    length=6,
    vocab=13,
    layers=4,
    d_model=8,
    heads=2,
    d_head=3,
    d_ff=10,
    experts=4,
    d_expert=7,
    group_size=6,
    capacity_factor=1.5,
    min_capacity=1,
    balance_weight=0.1,
    learning_rate=1e-2,
)


def model(sizes: Sizes, formulation: str) -> Reference:
    return Reference(sizes, initial_weights(sizes, seed=0), formulation=formulation)


def tensors(sizes: Sizes) -> dict[str, tf.Tensor]:
    return {name: tf.constant(array) for name, array in batch(sizes, seed=1).items()}


def loss_by_hand(sizes: Sizes) -> float:
    """The model of `benchmarks.sizes` in NumPy, token by token where tokens meet experts."""
    weights = initial_weights(sizes, seed=0)
    ids = batch(sizes, seed=1)

    def norm(x: np.ndarray) -> np.ndarray:
        return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-6)

    def softmax(x: np.ndarray) -> np.ndarray:
        e = np.exp(x - x.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    x = weights["embedding"][ids["tokens"]].astype(np.float64)
    balance = 0.0
    for layer in range(sizes.layers):
        own = {name.split("/")[-1]: w for name, w in weights.items() if f"layer_{layer}/" in name}
        q, k, v = [
            np.einsum("bld,dhk->bhlk", norm(x), own[name]) for name in ("query", "key", "value")
        ]
        scores = q @ k.swapaxes(2, 3) / np.sqrt(sizes.d_head)
        scores[:, :, ~np.tri(sizes.length, dtype=bool)] = -np.inf
        x = x + np.einsum("bhlk,hkd->bld", softmax(scores) @ v, own["output"])
        if not sizes.is_mixture(layer):
            x = x + np.maximum(norm(x) @ own["wi"], 0.0) @ own["wo"]
            continue
        tokens_gsd = norm(x).reshape(sizes.groups, sizes.group_size, sizes.d_model)
        probs_gse = softmax(tokens_gsd @ own["router"])
        answers_gsd = np.zeros_like(tokens_gsd)
        firsts_ge = np.zeros((sizes.groups, sizes.experts))
        for g in range(sizes.groups):
            chosen = np.argsort(-probs_gse[g], -1)[:, :2]
            taken = np.zeros(sizes.experts, int)
            for choice in range(2):
                for s in range(sizes.group_size):
                    e = chosen[s, choice]
                    firsts_ge[g, e] += choice == 0
                    if taken[e] < sizes.capacity:
                        taken[e] += 1
                        hidden = np.maximum(tokens_gsd[g, s] @ own["expert_wi"][e], 0.0)
                        gate = probs_gse[g, s, e] / probs_gse[g, s, chosen[s]].sum()
                        answers_gsd[g, s] += gate * hidden @ own["expert_wo"][e]
        balance += np.mean(firsts_ge / sizes.group_size * probs_gse.mean(1)) * sizes.experts**2
        x = x + answers_gsd.reshape(x.shape)
    probs = softmax(norm(x) @ weights["logits"])
    picked = np.take_along_axis(probs, ids["targets"][..., np.newaxis], -1)
    return float(-np.log(picked).mean() + sizes.balance_weight * balance)


@pytest.mark.parametrize("formulation", ["one_hot", "segment_sum", "gather"])
def test_the_loss_is_that_of_numpy(formulation: str):
    loss = model(SMALL, formulation).loss(**tensors(SMALL))
    assert float(loss) == pytest.approx(loss_by_hand(SMALL), rel=1e-5)


@pytest.mark.parametrize("formulation", ["segment_sum", "gather"])
def test_formulations_have_equal_losses_and_gradients(formulation: str):
    loss, gradients = model(SMALL, "one_hot").gradients(**tensors(SMALL))
    other_loss, others = model(SMALL, formulation).gradients(**tensors(SMALL))
    assert float(other_loss) == pytest.approx(float(loss), rel=1e-5)
    for name, one, other in zip(initial_weights(SMALL, seed=0), gradients, others, strict=True):
        assert np.abs(one).max() > 0.0, f"{name} has no gradient"
        np.testing.assert_allclose(other, one, atol=1e-5 * max(1.0, np.abs(one).max()), rtol=0.0)


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
@pytest.mark.parametrize("formulation", ["one_hot", "gather"])
def test_the_loss_falls(formulation: str, compute: str):
    trained = model(dataclasses.replace(SMALL, compute=compute), formulation)
    losses = [float(trained.step(**tensors(SMALL))) for _ in range(5)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.8 * losses[0]


def test_bfloat16_computes_nearly_the_same_from_float32_variables():
    wide = model(SMALL, "gather")
    narrow = model(dataclasses.replace(SMALL, compute="bfloat16"), "gather")
    assert {variable.dtype for variable in narrow.variables.values()} == {tf.float32}
    loss, narrow_loss = [float(each.loss(**tensors(SMALL))) for each in (wide, narrow)]
    assert narrow_loss == pytest.approx(loss, rel=2e-2)
    assert narrow_loss != loss


def test_the_first_step_of_adam_moves_weights_by_nearly_the_learning_rate():
    """Both averages are corrected to the gradient and its size, so what moves is the sign, but
    for epsilon, which TensorFlow adds before the correction."""
    trained = model(SMALL, "gather")
    _, gradients = trained.gradients(**tensors(SMALL))
    trained.step(**tensors(SMALL))
    epsilon = SMALL.epsilon / np.sqrt(1.0 - SMALL.beta2)
    befores = initial_weights(SMALL, seed=0).items()
    for (name, before), gradient in zip(befores, gradients, strict=True):
        moved = trained.variables[name].numpy() - before
        expected = -SMALL.learning_rate * gradient / (np.abs(gradient) + epsilon)
        clear = np.abs(gradient) > 1e-5  # not the rounding of a zero
        assert clear.any(), name
        np.testing.assert_allclose(moved[clear], expected[clear], rtol=1e-3, err_msg=name)


@pytest.mark.slow
def test_as_a_program_it_answers_with_seconds():
    gather = "gather bfloat16=-m benchmarks.reference --formulation=gather --compute=bfloat16"
    found = subprocess.run(
        [sys.executable, "-m", "benchmarks.timing", "--rounds=1", "--steps=1", gather],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "\n| gather bfloat16 | " in found.stdout
