"""Routes against the one-hot oracle, and against examples by hand."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import meshlang as ml
from models.errors import ModelError
from models.moe import Router, SwitchRouter, Top2Router
from tests.models.one_processor import evaluated
from tests.oracles import moe

Array = np.ndarray
Found = dict[str, Array]

RNG = np.random.default_rng(3)
X, GATE = RNG.standard_normal((2, 16, 5)), RNG.standard_normal((5, 4))
# Six tokens, two experts: the first choices are 0 0 0 1 1 0.
SIX = np.array([[[3.0, 0], [2, 0], [1, 0], [0, 1], [0, 2], [3, 0]]])


def routed(router: Router, x: Array, gate: Array | None = None, train: bool = True) -> Found:
    """The parts of a route. Without a matrix, x itself is the logits."""
    gate = np.eye(x.shape[-1]) if gate is None else gate
    experts = gate.shape[1]

    def fn(x: ml.Tensor) -> Any:
        return router(x, experts=experts, train=train)

    return evaluated(fn, {"router": gate}, x=(x, "group token d_model"))


def tensors(found: Found, places: int, experts: int) -> tuple[Array, Array]:
    """`dispatch` and `combine` [group token experts capacity], as the oracle has them."""
    groups, choices, tokens = found["expert"].shape
    dispatch = np.zeros((groups, tokens, experts, places))
    combine = np.zeros_like(dispatch)
    for g, c, t in np.ndindex(groups, choices, tokens):
        expert, place = found["expert"][g, c, t], found["place"][g, c, t]
        if expert < experts and place < places:
            dispatch[g, t, expert, place] += 1
            combine[g, t, expert, place] += found["gate"][g, c, t]
    return dispatch, combine


def assert_is(found: Found, routing: moe.Routing) -> None:
    """Dispatch equal, the rest to rounding."""
    *_, experts, places = routing.dispatch.shape
    dispatch, combine = tensors(found, places, experts)
    np.testing.assert_array_equal(dispatch, routing.dispatch)
    np.testing.assert_allclose(combine, routing.combine, rtol=0, atol=1e-14)
    np.testing.assert_allclose(found["balance"], routing.balance_loss, rtol=1e-13)
    np.testing.assert_allclose(found["z"], routing.z_loss, rtol=1e-13)
    np.testing.assert_allclose(found["entropy"].mean(), routing.router_entropy, rtol=1e-13)


@pytest.fixture(scope="module")
def uniform() -> Array:
    """The numbers that the policy "random" draws: those of a program's first random op."""
    return evaluated(lambda: ml.random_uniform("group:2 token:16", dtype="high"), {})


@pytest.mark.parametrize("policy", ["all", "none", "threshold", "random"])
def test_top2_is_the_oracle(policy: str, uniform: Array) -> None:
    router = Top2Router(second_policy=policy, second_threshold=0.3)
    found = routed(router, X, GATE)
    for places in (1, 3, 5, 16):
        assert_is(found, moe.top2(X, GATE, places, policy, 0.3, uniform))


def test_top2_has_a_policy_of_its_own_for_evaluation() -> None:
    router = Top2Router(second_policy="random", second_policy_eval="none")
    assert (routed(router, X, GATE, train=False)["expert"][:, 1] == 4).all()
    kept = routed(router, X, GATE, train=True)["expert"][:, 1] < 4
    assert 0 < kept.sum() < kept.size
    same = Top2Router(second_policy="all")
    assert (routed(same, X, GATE, train=False)["expert"] < 4).all()


def test_switch_is_the_oracle() -> None:
    """With the jitter that it drew, and without it when not training."""
    jitter = evaluated(
        lambda: ml.random_uniform("group:2 token:16 d_model:5", 0.5, 1.5, "high"), {}
    )
    router = SwitchRouter(jitter=0.5)
    for train, drawn in ((True, jitter), (False, None)):
        found = routed(router, X, GATE, train)
        for places in (2, 5):
            assert_is(found, moe.switch(X, GATE, places, drawn))
    assert 0.5 <= jitter.min() < 0.6 and 1.4 < jitter.max() < 1.5


def test_top2_by_hand() -> None:
    """First choices fill both experts' two places, so that no second choice finds one."""
    found = routed(Top2Router(second_policy="all"), SIX)
    np.testing.assert_array_equal(found["expert"], [[[0, 0, 0, 1, 1, 0], [1, 1, 1, 0, 0, 1]]])
    np.testing.assert_array_equal(found["place"], [[[0, 1, 2, 0, 1, 3], [2, 3, 4, 4, 5, 5]]])
    dispatch, combine = tensors(found, 2, 2)
    np.testing.assert_array_equal(
        np.argwhere(dispatch[0]), [[0, 0, 0], [1, 0, 1], [3, 1, 0], [4, 1, 1]]
    )
    first = 1 / (1 + np.exp(-np.array([3.0, 2, 1, 2])))
    np.testing.assert_allclose(combine[0, [0, 1, 3, 4]].sum((1, 2)), first, atol=1e-8)
    np.testing.assert_array_equal(found["demand"], [[6, 6]])


def test_a_uniform_router_has_balance_loss_1() -> None:
    zeros = np.zeros((3, 8, 4))
    for router in (Top2Router(second_policy="all"), SwitchRouter(jitter=0.0)):
        found = routed(router, zeros)
        assert found["balance"] == pytest.approx(1, abs=1e-14)
        assert found["z"] == pytest.approx(np.log(4) ** 2)
        np.testing.assert_allclose(found["entropy"], np.log(4))


def test_all_tokens_to_one_expert_cost_experts_times_its_probability() -> None:
    logits = np.tile([0.0, 0, 2, 0], (1, 6, 1))
    found = routed(SwitchRouter(jitter=0.0), logits)
    assert found["balance"] == pytest.approx(4 * np.exp(2) / (np.exp(2) + 3))
    np.testing.assert_array_equal(found["place"][0, 0], range(6))
    np.testing.assert_array_equal(found["demand"], [[0, 0, 6, 0]])


def test_a_sure_router_still_has_a_second_expert_and_no_nan() -> None:
    """The other probabilities are zero: the second expert is another one, with gate zero."""
    logits = np.tile([1e4, -1e4, 0.0], (1, 4, 1))
    found = routed(Top2Router(second_policy="all"), logits)
    np.testing.assert_array_equal(found["expert"][0], [[0] * 4, [1] * 4])
    np.testing.assert_array_equal(found["gate"][0], [[1 / (1 + 1e-9)] * 4, [0] * 4])
    assert all(np.isfinite(part).all() for part in found.values())


def test_an_unknown_policy_is_an_error() -> None:
    for name in ("second_policy", "second_policy_eval"):
        with pytest.raises(ModelError) as error:
            replace(Top2Router(), **{name: "treshold"})
        assert str(error.value) == (
            f"Top2Router.{name} is 'treshold', which does not exist.\n"
            "  known  all none threshold random\n"
            "  fix: did you mean 'threshold'?"
        )
