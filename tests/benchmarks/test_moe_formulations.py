"""Routing against a loop over tokens, and the three ways to experts and back against each other."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from benchmarks.moe_formulations import FORMULATIONS, Experts, Route, race, top_2
from benchmarks.sizes import Sizes

# Few places, so that tokens are dropped: by one expert, and by both.
CROWDED = Sizes(
    batch=3, length=10, group_size=10, experts=4, d_model=5, capacity_factor=1.6, min_capacity=1
)


def probabilities(sizes: Sizes) -> np.ndarray:
    """Random, with experts that are unequally liked."""
    shape = (sizes.groups, sizes.group_size, sizes.experts)
    scores = np.random.default_rng(0).normal(size=shape) + np.arange(sizes.experts)
    return (np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)).astype(np.float32)


def routed_by_hand(probs_gse: np.ndarray, sizes: Sizes) -> tuple[np.ndarray, np.ndarray, float]:
    """One token at a time: gates [g s e c], dispatch [g s e c] and the balance loss."""
    groups, tokens, experts = probs_gse.shape
    gates = np.zeros((groups, tokens, experts, sizes.capacity))
    firsts = np.zeros((groups, experts))
    for g in range(groups):
        taken = np.zeros(experts, int)
        chosen = np.argsort(-probs_gse[g], axis=-1, kind="stable")[:, :2]
        for choice in range(2):
            for s in range(tokens):
                expert = chosen[s, choice]
                gate = probs_gse[g, s, expert] / (probs_gse[g, s, chosen[s]].sum() + 1e-9)
                firsts[g, expert] += choice == 0
                used = {"all": True, "none": False, "threshold": gate > sizes.second_threshold}
                if choice == 1 and not used[sizes.second_expert]:
                    continue
                if taken[expert] < sizes.capacity:
                    gates[g, s, expert, taken[expert]] = gate
                    taken[expert] += 1
    balance = np.mean(firsts / tokens * probs_gse.mean(1)) * experts**2
    return gates, gates > 0, float(balance)


def routed(sizes: Sizes) -> tuple[Route, tf.Tensor]:
    return top_2(tf.constant(probabilities(sizes)), sizes)


@pytest.mark.parametrize("second_expert", ["all", "none", "threshold"])
@pytest.mark.parametrize("formulation", list(FORMULATIONS))
def test_tokens_go_where_a_loop_sends_them(formulation: str, second_expert: str):
    sizes = dataclasses.replace(CROWDED, second_expert=second_expert)
    gates, dispatch, balance = routed_by_hand(probabilities(sizes), sizes)
    assert not gates.any(axis=(2, 3)).all(), "the example drops no token"
    shape_gsd = (sizes.groups, sizes.group_size, sizes.d_model)
    inputs_gsd = np.random.default_rng(1).normal(size=shape_gsd)
    factor_e = np.arange(1.0, 1.0 + sizes.experts)[:, np.newaxis, np.newaxis, np.newaxis]
    expected = np.einsum(
        "gsec,egcd->gsd", gates, factor_e * np.einsum("gsd,gsec->egcd", inputs_gsd, dispatch)
    )
    route, found_balance = routed(sizes)
    found = FORMULATIONS[formulation](
        tf.constant(inputs_gsd, tf.float32), route, lambda x: x * tf.constant(factor_e, x.dtype)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert float(found_balance) == pytest.approx(balance, rel=1e-5)


def test_equal_probabilities_have_a_balance_loss_of_one():
    uniform_gse = tf.fill([3, 10, 4], 0.25)
    assert float(top_2(uniform_gse, CROWDED)[1]) == pytest.approx(1.0)


def test_all_on_one_expert_have_a_balance_loss_of_its_probability_times_experts():
    probs_gse = tf.constant([[[0.7, 0.1, 0.1, 0.1]] * 10] * 3)
    assert float(top_2(probs_gse, CROWDED)[1]) == pytest.approx(4 * 0.7)


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_a_race_compares_equal_results(compute: str):
    sizes = dataclasses.replace(CROWDED, compute=compute)
    taken = race(sizes, seconds=0.01)
    assert list(taken) == list(FORMULATIONS)
    assert all(seconds > 0.0 for runs in taken.values() for seconds in runs)


def test_a_race_refuses_a_formulation_that_computes_something_else(monkeypatch):
    def halved(inputs_gsd: tf.Tensor, route: Route, experts: Experts) -> tf.Tensor:
        return 0.5 * FORMULATIONS["one_hot"](inputs_gsd, route, experts)

    monkeypatch.setitem(FORMULATIONS, "gather", halved)
    with pytest.raises(AssertionError, match=r"^gather: outputs differ by [\d.]+ of [\d.]+$"):
        race(CROWDED, seconds=0.01)
