"""MoE and optimizer oracles against what Mesh-TensorFlow computed, and against examples by hand."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import ArrayLike

from tests.oracles import moe, optimizers

Array = np.ndarray
PARTS = Path(__file__).parents[1] / "golden" / "mesh_tensorflow" / "parts.npz"


@pytest.fixture(scope="module")
def parts() -> dict[str, Array]:
    with np.load(PARTS) as stored:
        return dict(stored)


def assert_close(ours: ArrayLike, theirs: ArrayLike, tolerance: float = 1e-5) -> None:
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)


LAYERS = {
    "top2_all": moe.Settings(second_policy="all"),
    "top2_threshold": moe.Settings(second_policy="threshold"),
    "top2_none": moe.Settings(second_policy="none"),
    "switch": moe.Settings(gating="switch"),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_those_of_mesh_tensorflow(parts: dict[str, Array], name: str) -> None:
    x, gate, wi, wo = (parts[f"{name}/{key}"] for key in ("x", "gate", "wi", "wo"))
    result = moe.layer(x, gate, wi, wo, LAYERS[name])
    assert_close(result.y, parts[f"{name}/y"])
    assert_close(result.aux_loss, parts[f"{name}/loss"], 1e-6)
    # Capacity is felt: some expert is full, and some token found no place.
    assert result.routing.dispatch.sum((1, 3)).max() == 5
    assert result.routing.fraction_dropped > 0


OPTIMIZERS = {
    "adafactor": optimizers.Adafactor(),
    "adafactor_lr": optimizers.Adafactor(0.01, beta1=0.9, multiply_by_parameter_scale=False),
    "adamw_nobias": optimizers.AdamW(0.01, epsilon=1e-6, weight_decay=0.1, bias_correction=False),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_are_those_of_mesh_tensorflow(parts: dict[str, Array], name: str) -> None:
    variables = [key.split("/")[1] for key in parts if key.startswith(f"{name}/") and "w0" in key]
    assert set(variables) >= {"vector", "matrix"}
    for variable in variables:
        w0, grads, w = (parts[f"{name}/{variable}/{key}"] for key in ("w0", "grads", "w"))
        assert_close(optimizers.run(OPTIMIZERS[name], w0, grads), w)


def logits_as_input(logits: ArrayLike) -> tuple[Array, Array]:
    """`x` and `gate` that make a router produce the given `[group token experts]`."""
    return np.asarray(logits, float), np.eye(np.shape(logits)[-1])


# Six tokens, two experts, two places: the first choices are 0 0 0 1 1 0.
SIX = [[[3, 0], [2, 0], [1, 0], [0, 1], [0, 2], [3, 0]]]


def test_top2_by_hand() -> None:
    """First choices fill both experts, so that no second choice finds a place."""
    routing = moe.top2(*logits_as_input(SIX), places=2, policy="all")
    dispatch = np.zeros((1, 6, 2, 2))
    dispatch[0, [0, 1, 3, 4], [0, 0, 1, 1], [0, 1, 0, 1]] = 1
    np.testing.assert_array_equal(routing.dispatch, dispatch)
    p = 1 / (1 + np.exp(-np.array([3.0, 2, 1, 2])))
    assert_close(routing.combine[0, [0, 1, 3, 4]].sum((1, 2)), p, 1e-8)
    assert routing.fraction_dropped == pytest.approx(2 / 6)
    assert routing.load.tolist() == [0.5, 0.5]


def test_top2_second_choices_come_after_all_first_choices() -> None:
    """With three places each: expert 1 has first choices 3 and 4, then one place for token 0."""
    routing = moe.top2(*logits_as_input(SIX), places=3, policy="all")
    taken = np.argwhere(routing.dispatch[0]).tolist()
    first = [[0, 0, 0], [1, 0, 1], [2, 0, 2], [3, 1, 0], [4, 1, 1]]
    assert taken == sorted([*first, [0, 1, 2]])


def test_top2_random_policy_compares_with_the_gate_over_the_threshold() -> None:
    x, gate = logits_as_input([[[np.log(3), 0], [np.log(3), 0], [np.log(9), 0]]])
    uniform = np.array([[0.49, 0.51, 0.21]])
    # The second gates are 1/4, 1/4 and 1/10.
    routing = moe.top2(x, gate, 3, "random", 0.5, uniform)
    assert routing.dispatch[0, :, 1].sum(-1).tolist() == [1, 0, 0]
    sure = moe.top2(x, gate, 3, "random", 0.05, np.full((1, 3), 0.999))
    np.testing.assert_array_equal(sure.combine, moe.top2(x, gate, 3, "all").combine)


def test_switch_by_hand() -> None:
    x, gate = logits_as_input(SIX)
    routing = moe.switch(x, gate, places=2)
    p = 1 / (1 + np.exp(-np.array([3.0, 2, 1, 2])))
    assert_close(routing.combine[0, [0, 1, 3, 4]].sum((1, 2)), p, 1e-12)
    assert routing.dispatch[0, [2, 5]].sum() == 0
    # Jitter changes the router's choice and not what the experts are given.
    swapped = moe.switch(x, gate, 2, jitter=-np.ones(x.shape))
    assert swapped.probabilities.argmax(-1).tolist() == [[1, 1, 1, 0, 0, 1]]
    settings = moe.Settings("switch", activation="silu", capacity_factor=2)
    eye = np.stack([np.eye(2), 10 * np.eye(2)])
    y = moe.layer(x, gate, eye, eye, settings, jitter=-np.ones(x.shape)).y
    act = moe.ACTIVATIONS["silu"]
    assert_close(y[0, 0], 10 * act(10 * x[0, 0]) / (1 + np.exp(-3)))


@pytest.mark.parametrize("experts", [2, 8])
def test_a_uniform_router_has_balance_loss_1(experts: int) -> None:
    x, gate = np.ones((3, 4, 5)), np.zeros((5, experts))
    for routing in (moe.top2(x, gate, 4, "all"), moe.switch(x, gate, 4)):
        assert routing.balance_loss == pytest.approx(1)
        assert routing.router_entropy == pytest.approx(np.log(experts))
        assert routing.z_loss == pytest.approx(np.log(experts) ** 2)


def test_all_tokens_to_one_expert_cost_experts_times_its_probability() -> None:
    x, gate = logits_as_input([[[2, 0, 0, 0]] * 6])
    p = np.exp(2) / (np.exp(2) + 3)
    assert moe.switch(x, gate, 4).balance_loss == pytest.approx(4 * p)


def test_z_loss_has_a_coefficient_of_its_own() -> None:
    rng = np.random.default_rng(0)
    shapes = [(2, 8, 3), (3, 4), (4, 3, 5), (4, 5, 3)]
    x, gate, wi, wo = (rng.standard_normal(shape) for shape in shapes)
    settings = moe.Settings("switch", loss_coefficient=0.5, z_loss_coefficient=0.25)
    result = moe.layer(x, gate, wi, wo, settings)
    routing = result.routing
    assert result.aux_loss == pytest.approx(0.5 * routing.balance_loss + 0.25 * routing.z_loss)
    assert routing.z_loss == pytest.approx(np.mean(np.log(np.exp(x @ gate).sum(-1)) ** 2))


@pytest.mark.parametrize("gated", [False, True])
def test_with_room_for_all_a_layer_is_a_sum_over_chosen_experts(gated: bool) -> None:
    rng = np.random.default_rng(1)
    x, gate, wi, wo, gate_in = (
        rng.standard_normal(s) for s in [(2, 8, 3), (3, 4), (4, 3, 5), (4, 5, 3), (4, 3, 5)]
    )
    settings = moe.Settings(capacity_factor=4, second_policy="all", activation="gelu")
    result = moe.layer(x, gate, wi, wo, settings, gate_in=gate_in if gated else None)
    assert result.routing.fraction_dropped == 0
    p = result.routing.probabilities
    for g, s in np.ndindex(2, 8):
        expected = np.zeros(3)
        chosen = np.argsort(-p[g, s])[:2]
        for e in chosen:
            inner = x[g, s] @ wi[e]
            inner = moe.gelu(x[g, s] @ gate_in[e]) * inner if gated else moe.gelu(inner)
            expected += p[g, s, e] / p[g, s, chosen].sum() * (inner @ wo[e])
        assert_close(result.y[g, s], expected, 1e-7)


def test_unknown_choices_are_errors() -> None:
    x, gate = logits_as_input(SIX)
    eye = np.stack([np.eye(2)] * 2)
    cases = {
        "unknown gating 'top3': use 'top2' or 'switch'": moe.Settings("top3"),
        "unknown policy 'some': use 'all', 'none', 'threshold' or 'random'": moe.Settings(
            second_policy="some"
        ),
        "the policy 'random' needs `uniform`, an array [group token]": moe.Settings(),
    }
    for message, settings in cases.items():
        with pytest.raises(ValueError) as error:
            moe.layer(x, gate, eye, eye, settings)
        assert str(error.value) == message


def test_adafactor_first_step_by_hand() -> None:
    """R = [2.5, 12.5] and C = [5, 10] for the gradient 1 2; 3 4, and nothing to clip."""
    grad = np.array([[1.0, 2.0], [3.0, 4.0]])
    adafactor = optimizers.Adafactor(
        1.0, multiply_by_parameter_scale=False, min_dim_size_to_factor=2
    )
    zeros = np.zeros((2, 2))
    w, slots = adafactor.update(0, zeros, grad, adafactor.slots(zeros))
    # Of two equal dims the first is d0, so vr is the mean over rows: the table's C.
    assert_close(slots["vr"], np.array([5.0, 10.0]))
    assert_close(slots["vc"], np.array([2.5, 12.5]))
    assert_close(-w, np.array([[0.7746, 1.0954], [1.0392, 0.9798]]), 5e-5)


def test_adafactor_default_learning_rate() -> None:
    """Where the update is the gradient's sign, the change of w is the rate itself."""
    zero, grad = np.zeros(1), np.ones(1)
    scaled = optimizers.Adafactor(decay_rate=0.0)
    plain = optimizers.Adafactor(decay_rate=0.0, multiply_by_parameter_scale=False)
    for step, rate in ((0, 0.01), (9_999, 0.01), (39_999, 0.005)):
        assert -plain.update(step, zero, grad, plain.slots(zero))[0] == pytest.approx(0.05 * rate)
        assert -scaled.update(step, zero, grad, scaled.slots(zero))[0] == pytest.approx(1e-3 * rate)


def test_adafactor_keeps_stacked_dims_apart() -> None:
    """Two layers in one variable: the parameter scale is each layer's own; so are the moments."""
    rng = np.random.default_rng(2)
    w0, grads = rng.standard_normal((2, 4, 3)), rng.standard_normal((3, 2, 4, 3))
    w0[1] *= 100
    settings = {"min_dim_size_to_factor": 3, "clipping_threshold": None}
    together = optimizers.run(optimizers.Adafactor(stacked=(0,), **settings), w0, grads)
    for i in range(2):
        alone = optimizers.run(optimizers.Adafactor(**settings), w0[i], grads[:, i])
        assert_close(together[:, i], alone, 1e-12)


def test_adamw_with_bias_correction_first_steps() -> None:
    """The first corrected update is the gradient's sign, and decay is multiplied by the rate."""
    w0, grads = np.array([2.0, -4.0]), np.array([[3.0, -0.1], [3.0, -0.1]])
    w = optimizers.run(optimizers.AdamW(0.1, epsilon=0.0), w0, grads)
    assert_close(w, w0 - np.array([[0.1, -0.1], [0.2, -0.2]]), 1e-12)
    w = optimizers.run(optimizers.AdamW(0.1, epsilon=0.0, weight_decay=0.5), w0, grads[:1])
    assert_close(w[0], w0 - 0.1 * (np.sign(grads[0]) + 0.5 * w0), 1e-12)


def test_sgd_with_momentum_by_hand() -> None:
    w0, grads = np.array([0.0]), np.array([[1.0], [10.0]])
    halving = lambda step: 1.0 / 2**step  # noqa: E731
    assert optimizers.run(optimizers.Sgd(halving), w0, grads).ravel().tolist() == [-1, -6]
    plain = optimizers.Sgd(halving, momentum=0.5)
    assert optimizers.run(plain, w0, grads).ravel().tolist() == [-1, -1 - 10.5 / 2]
    nesterov = optimizers.Sgd(halving, momentum=0.5, nesterov=True)
    assert optimizers.run(nesterov, w0, grads).ravel().tolist() == [-1.5, -1.5 - 15.25 / 2]


def test_global_norm_clipping() -> None:
    grads = {"a": np.array([3.0, 0.0]), "b": np.array([[4.0]])}
    clipped = optimizers.clip_by_global_norm(grads, 1.0)
    assert optimizers.global_norm(clipped) == pytest.approx(1)
    assert_close(clipped["b"], np.array([[0.8]]), 1e-12)
    assert optimizers.clip_by_global_norm(grads, 5.0)["a"].tolist() == [3.0, 0.0]


def test_schedules() -> None:
    def learning_rate(step: int) -> float:
        warm = optimizers.linear_warmup(step, 4)
        return optimizers.constant(step, 0.5) * warm * optimizers.cosine(step, 12, 4, 0.2)

    assert [learning_rate(s) for s in (0, 2, 4)] == [0, 0.25, 0.5]
    assert_close([learning_rate(s) for s in (8, 12, 20)], [0.3, 0.1, 0.1], 1e-12)
    values = [optimizers.rsqrt(s, 4) for s in (0, 4, 16)]
    assert values == [0.5, 0.5, 0.25]
