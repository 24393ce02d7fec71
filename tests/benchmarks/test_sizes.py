"""The measured model's sizes, weights and batches."""

import numpy as np
import pytest

from benchmarks.sizes import Sizes, batch, initial_weights, weights_of
from meshlang.errors import MeshlangError

SMALL = Sizes(vocab=11, layers=2, d_model=6, heads=2, d_head=3, d_ff=5, d_expert=7)


def test_weights_have_the_dims_that_are_listed():
    weights = initial_weights(SMALL, seed=0)
    listed = weights_of(SMALL)
    assert list(weights) == list(listed)
    for name, weight in listed.items():
        assert weights[name].shape == tuple(getattr(SMALL, dim) for dim in weight.dims)
        assert weights[name].dtype == np.float32


def test_every_second_layer_is_a_mixture():
    names = weights_of(SMALL)
    assert "layer_0/wi" in names and "layer_0/router" not in names
    assert "layer_1/router" in names and "layer_1/wi" not in names


def test_a_product_with_a_weight_keeps_the_variance():
    sizes = Sizes()
    weights = initial_weights(sizes, seed=0)
    for name, weight in weights_of(sizes).items():
        if len(weight.dims) > 1:
            inputs = np.prod([getattr(sizes, dim) for dim in weight.inputs.split()])
            assert np.var(weights[name]) * inputs == pytest.approx(1.0, rel=0.1), name


def test_a_weight_depends_on_seed_and_name_alone():
    deeper = Sizes(vocab=11, layers=4, d_model=6, heads=2, d_head=3, d_ff=5, d_expert=7)
    few, many = initial_weights(SMALL, seed=3), initial_weights(deeper, seed=3)
    for name, weight in few.items():
        np.testing.assert_array_equal(weight, many[name])
    assert (few["layer_0/query"] != few["layer_0/key"]).all()
    assert (few["logits"] != initial_weights(SMALL, seed=4)["logits"]).any()


def test_targets_are_the_next_tokens():
    drawn = batch(SMALL, seed=0)
    np.testing.assert_array_equal(drawn["tokens"][:, 1:], drawn["targets"][:, :-1])
    assert drawn["tokens"].max() < SMALL.vocab


@pytest.mark.parametrize(("factor", "expected"), [(2.5, 40), (1.25, 20), (0.01, 4), (100.0, 128)])
def test_capacity(factor: float, expected: int):
    assert Sizes(capacity_factor=factor).capacity == expected


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        (
            {"group_size": 100},
            "the batch is no whole number of groups.\n"
            "  batch x length  16 x 128 = 2048\n"
            "  group_size      100\n"
            "  fix: choose a group_size that divides batch x length",
        ),
        (
            {"second_expert": "random"},
            "second_expert is 'random', which does not exist.\n"
            "  fix: use one of: all, none, threshold",
        ),
        (
            {"compute": "float16"},
            "compute is 'float16', which does not exist.\n  fix: use one of: float32, bfloat16",
        ),
    ],
)
def test_impossible_sizes_are_refused(wrong: dict, expected: str):
    with pytest.raises(MeshlangError) as error:
        Sizes(**wrong)
    assert str(error.value) == expected
