"""The transformer oracle against loops over scalars, and what must hold of any such model."""

from dataclasses import replace

import numpy as np
import pytest

from tests.oracles import moe, transformer

Array = np.ndarray
DENSE = transformer.Config(vocab=11, d_model=8, layers=2, heads=2, d_head=4, d_ff=12)
ROTARY = replace(DENSE, positions="rotary", activation="silu", gated=True, tied=True)
SWITCH = moe.Settings("switch", capacity_factor=1.0, z_loss_coefficient=1e-3)
EXPERTS = replace(
    DENSE, moe_layers=(1,), experts=4, d_expert=6, gated_experts=True, group_size=8, routing=SWITCH
)


def tokens(batch: int = 2, length: int = 8, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, DENSE.vocab, (batch, length))


def test_parameter_names_and_shapes() -> None:
    layer = {"attention_norm": (8,), "ff_norm": (8,), "attention/out": (2, 4, 8)}
    layer |= {f"attention/{name}": (8, 2, 4) for name in "qkv"}
    dense = layer | {"ff/in": (8, 12), "ff/out": (12, 8)}
    experts = layer | {"moe/gate": (8, 4), "moe/out": (4, 6, 8)}
    experts |= {"moe/in": (4, 8, 6), "moe/gate_in": (4, 8, 6)}
    expected = {"embedding": (11, 8), "unembedding": (11, 8), "relative_bias": (32, 2)}
    expected |= {f"layer_0/{name}": shape for name, shape in dense.items()}
    expected |= {f"layer_1/{name}": shape for name, shape in experts.items()}
    assert transformer.parameter_shapes(EXPERTS) == expected | {"final_norm": (8,)}
    names = set(transformer.parameter_shapes(ROTARY))
    assert "layer_0/ff/gate" in names
    assert not names & {"unembedding", "relative_bias"}


def test_attention_is_what_loops_over_scalars_compute() -> None:
    params = transformer.random_parameters(DENSE, 1)
    own = {n.removeprefix("layer_0/"): v for n, v in params.items() if n.startswith("layer_0/")}
    x = np.random.default_rng(2).standard_normal((1, 20, 8))
    bias = transformer.relative_bias(params["relative_bias"], 20)
    mask = transformer.attention_mask(20)
    ours = transformer.attention(x, own, mask, bias, DENSE)
    q, k, v = (np.tensordot(x[0], own[f"attention/{t}"], 1) for t in "qkv")
    for position in (0, 7, 19):
        expected = np.zeros(8)
        for head in range(2):
            back = [0, *range(1, 16), 16, 16, 16, 17][: position + 1][::-1]
            scores = [q[position, head] @ k[m, head] / 2 for m in range(position + 1)]
            scores = np.exp(scores + params["relative_bias"][back, head])
            mixed = (scores / scores.sum()) @ v[: position + 1, head]
            expected += mixed @ own["attention/out"][head]
        np.testing.assert_allclose(ours[0, position], expected, rtol=1e-12)


def test_rotary_turns_pairs_of_the_two_halves() -> None:
    turned = transformer.rotary(np.tile([1.0, 0, 0, 2], (1, 3, 1, 1)))[0, :, 0]
    for position in range(3):
        slow = position / 100
        expected = np.cos(position), -2 * np.sin(slow), np.sin(position), 2 * np.cos(slow)
        np.testing.assert_allclose(turned[position], expected, rtol=1e-12)


def test_buckets_do_not_depend_on_the_precision_of_the_logarithm() -> None:
    distance = np.arange(16, 3000)
    ratio = np.log(distance.astype(np.float32) / np.float32(16)) / np.float32(np.log(8))
    single = np.minimum(16 + (ratio * np.float32(16)).astype(int), 31)
    np.testing.assert_array_equal(transformer.relative_buckets(distance), single)


@pytest.mark.parametrize("config", [DENSE, ROTARY])
def test_later_tokens_change_nothing_before_them(config: transformer.Config) -> None:
    params, first, second = transformer.random_parameters(config, 3), tokens(), tokens()
    second[:, 5] = (second[:, 5] + 1) % DENSE.vocab
    a, b = (transformer.forward(params, t, config).logits for t in (first, second))
    np.testing.assert_array_equal(a[:, :5], b[:, :5])
    assert np.abs(a[:, 5:] - b[:, 5:]).max(-1).min() > 1e-3


@pytest.mark.parametrize("config", [DENSE, ROTARY])
def test_packed_segments_are_rows_of_their_own(config: transformer.Config) -> None:
    params, packed = transformer.random_parameters(config, 4), tokens()
    segments = np.array([[1, 1, 1, 2, 2, 2, 2, 2], [1, 1, 1, 1, 1, 1, 1, 1]])
    logits = transformer.forward(params, packed, config, segments=segments).logits
    for row, columns in ((0, slice(0, 3)), (0, slice(3, 8)), (1, slice(0, 8))):
        alone = transformer.forward(params, packed[row : row + 1, columns], config).logits
        np.testing.assert_allclose(logits[row, columns], alone[0], rtol=1e-10, atol=1e-12)


def test_tied_logits_use_the_scaled_embedding() -> None:
    params = transformer.random_parameters(replace(DENSE, tied=True), 5)
    untied = params | {"unembedding": params["embedding"] / np.sqrt(8)}
    ours = transformer.forward(params, tokens(), replace(DENSE, tied=True)).logits
    theirs = transformer.forward(untied, tokens(), DENSE).logits
    np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)


def test_gated_feed_forward_activates_the_gate() -> None:
    own = {"ff/in": np.array([[3.0]]), "ff/gate": np.array([[-1.0]]), "ff/out": np.array([[2.0]])}
    x = np.array([[[1.0], [-4.0]]])
    assert transformer.feed_forward(x, own, "relu").ravel().tolist() == [0, 4 * -12 * 2]
    del own["ff/gate"]
    assert transformer.feed_forward(x, own, "relu").ravel().tolist() == [6, 0]


def test_rms_norm_by_hand() -> None:
    normed = transformer.rms_norm(np.array([3.0, 4.0]), np.array([1.0, 2.0]), 0.0)
    np.testing.assert_allclose(normed, np.array([3, 8]) / np.sqrt(12.5), rtol=1e-12)
    tiny = transformer.rms_norm(np.array([1e-3]), np.ones(1))
    np.testing.assert_allclose(tiny, [np.sqrt(0.5)], rtol=1e-12)


def test_one_expert_with_room_for_all_is_a_feed_forward() -> None:
    settings = replace(SWITCH, capacity_factor=2.0)
    config = replace(EXPERTS, experts=1, d_expert=12, gated_experts=False, routing=settings)
    params = transformer.random_parameters(config, 6)
    dense = {n.replace("layer_1/moe", "layer_1/ff"): v for n, v in params.items()}
    del dense["layer_1/ff/gate"]
    dense |= {f"layer_1/ff/{t}": params[f"layer_1/moe/{t}"][0] for t in ("in", "out")}
    ours = transformer.forward(params, tokens(), config)
    theirs = transformer.forward(dense, tokens(), DENSE)
    np.testing.assert_allclose(ours.logits, theirs.logits, rtol=1e-10)
    z_loss = 1e-3 * ours.routings[1].z_loss
    assert ours.aux_losses == {1: pytest.approx(1e-2 + z_loss)}


def test_groups_are_cut_in_row_major_order() -> None:
    """With one expert, four places and groups of six, tokens 4 and 5 of each group find none."""
    settings = replace(SWITCH, capacity_factor=4 / 6)
    config = replace(EXPERTS, experts=1, group_size=6, moe_layers=(1,), routing=settings)
    params = transformer.random_parameters(config, 7)
    ours = transformer.forward(params, tokens(2, 9), config)
    params["layer_1/moe/out"] = np.zeros_like(params["layer_1/moe/out"])
    without = transformer.forward(params, tokens(2, 9), config)
    same = np.isclose(ours.logits, without.logits, rtol=1e-12).all(-1).ravel()
    assert np.flatnonzero(same).tolist() == [4, 5, 10, 11, 16, 17]


def test_jitter_and_uniform_numbers_reach_their_layer() -> None:
    params = transformer.random_parameters(EXPERTS, 8)
    plain = transformer.forward(params, tokens(), EXPERTS)
    jitter = {1: np.full((2, 8, 8), -1.0)}
    turned = transformer.forward(params, tokens(), EXPERTS, jitter=jitter)
    assert plain.routings[1].dispatch.tolist() != turned.routings[1].dispatch.tolist()
    settings = moe.Settings(second_policy="random", second_threshold=0.5, capacity_factor=4)
    config = replace(EXPERTS, routing=settings)
    all_second, no_second = (
        transformer.forward(params, tokens(), config, uniform={1: np.full((2, 8), u)}).routings[1]
        for u in (0.0, 0.9999)
    )
    assert all_second.dispatch.sum() == 2 * 16
    assert no_second.dispatch.sum() < all_second.dispatch.sum()


def test_loss_of_equal_logits() -> None:
    outputs = transformer.Outputs(np.zeros((2, 8, 11)), {1: 0.25, 3: 0.5}, {})
    loss = transformer.loss(outputs, tokens(), replace(DENSE, z_loss=0.1))
    assert loss.cross_entropy == pytest.approx(np.log(11))
    assert loss.z_loss == pytest.approx(0.1 * np.log(11) ** 2)
    assert loss.aux_loss == 0.75
    assert loss.total == pytest.approx(loss.cross_entropy + loss.z_loss + 0.75)


def test_loss_is_a_weighted_mean() -> None:
    logits = np.random.default_rng(9).standard_normal((2, 8, 11))
    outputs, targets = transformer.Outputs(logits, {}, {}), tokens()
    weights = np.zeros((2, 8))
    weights[0, 3], weights[1, 6] = 1, 3
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = -np.log(p[0, 3, targets[0, 3]]) - 3 * np.log(p[1, 6, targets[1, 6]])
    loss = transformer.loss(outputs, targets, replace(DENSE, z_loss=0.0), weights)
    assert loss.total == pytest.approx(expected / 4)
