"""The feed-forward network against NumPy, and what is refused."""

import numpy as np
import pytest

from models.errors import ModelError
from models.layers import ACTIVATIONS, FeedForward
from tests.models.one_processor import evaluated
from tests.oracles import transformer


@pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated"])
@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_values_are_the_oracles(activation: str, gated: bool):
    rng = np.random.default_rng(2)
    x = rng.normal(size=(2, 3, 4))
    weights = {"in": rng.normal(size=(4, 5)), "out": rng.normal(size=(5, 4))}
    weights |= {"gate": rng.normal(size=(4, 5))} if gated else {}
    layer = FeedForward(d_ff=5, activation=activation, gated=gated)
    found = evaluated(lambda x: layer(x, train=False).y, weights, x=(x, "batch length d_model"))
    own = {f"ff/{name}": value for name, value in weights.items()}
    np.testing.assert_allclose(
        found, transformer.feed_forward(x, own, activation), rtol=0, atol=1e-13
    )


def test_hidden_activations_are_dropped_in_training_alone():
    layer = FeedForward(d_ff=1, dropout=0.25)
    weights = {"in": np.ones((1, 1)), "out": np.ones((1, 1))}
    x = np.ones((1000, 1))
    found = evaluated(
        lambda x: [layer(x, train=train).y for train in (True, False)],
        weights,
        x=(x, "batch d_model"),
    )
    np.testing.assert_array_equal(found["1"], x)
    np.testing.assert_allclose(np.unique(found["0"]), [0, 4 / 3], rtol=1e-12)
    assert 0.2 < (found["0"] == 0).mean() < 0.3


def test_an_unknown_activation_is_refused():
    with pytest.raises(ModelError) as caught:
        FeedForward(d_ff=4, activation="rleu")
    assert str(caught.value) == (
        "FeedForward.activation is 'rleu', which does not exist.\n"
        "  known  relu gelu silu\n"
        "  fix: did you mean 'relu'?"
    )
