"""Attention and its mask against NumPy; dropped weights."""

import numpy as np
import pytest

import meshlang as ml
from models.layers import Attention, PositionTerms
from models.layers.attention import causal_mask
from tests.models.one_processor import evaluated
from tests.oracles import transformer

CONFIG = transformer.Config(vocab=11, d_model=8, layers=1, heads=3, d_head=4, d_ff=5)
SEGMENTS = np.array([[1, 1, 2, 2, 2], [7, 7, 7, 7, 0]], np.int32)


@pytest.mark.parametrize("segments", [None, SEGMENTS], ids=["one text", "segments"])
def test_the_mask_hides_what_the_oracle_hides(segments: np.ndarray | None):
    if segments is None:
        found = evaluated(lambda: causal_mask(5), {})
        assert found.shape == (5, 5)
    else:
        found = evaluated(
            lambda segments: causal_mask(5, segments), {}, segments=(segments, "batch length")
        )
        assert found.shape == (2, 5, 5)
    seen = np.squeeze(transformer.attention_mask(5, segments))
    np.testing.assert_array_equal(found, np.where(seen, 0.0, -1e9))


@pytest.mark.parametrize("segments", [None, SEGMENTS], ids=["one text", "segments"])
def test_values_are_the_oracles(segments: np.ndarray | None):
    rng = np.random.default_rng(1)
    x, bias = rng.normal(size=(2, 5, 8)), rng.normal(size=(3, 5, 5))
    weights = {name: rng.normal(size=(8, 3, 4)) for name in "qkv"}
    weights["out"] = rng.normal(size=(3, 4, 8))
    layer = Attention(heads=3, d_head=4)
    shown = SEGMENTS if segments is None else segments

    def fn(x: ml.Tensor, bias: ml.Tensor, segments: ml.Tensor) -> ml.Tensor:
        mask = causal_mask(5, None if shown is not SEGMENTS else segments)
        return layer(x, mask=mask, positions=PositionTerms(bias=bias), train=False)

    found = evaluated(
        fn,
        weights,
        x=(x, "batch length d_model"),
        bias=(bias, "heads length memory"),
        segments=(shown, "batch length"),
    )
    own = {f"attention/{name}": value for name, value in weights.items()}
    mask = transformer.attention_mask(5, shown)
    np.testing.assert_allclose(
        found, transformer.attention(x, own, mask, bias, CONFIG), rtol=0, atol=1e-12
    )


def test_weights_are_dropped_in_training_alone():
    """One head, values of ones: what comes out is the sum of the weights that are left."""
    layer = Attention(heads=1, d_head=2, dropout=0.5)
    weights = {name: np.zeros((2, 1, 2)) for name in "qk"}
    weights["v"] = np.ones((2, 1, 2))
    weights["out"] = np.array([[[1.0, 0.0], [0.0, 1.0]]])

    def fn(x: ml.Tensor) -> list[ml.Tensor]:
        mask, none = causal_mask(64), PositionTerms()
        return [layer(x, mask=mask, positions=none, train=train) for train in (True, False)]

    x = np.ones((4, 64, 2)) / 2
    found = evaluated(fn, weights, x=(x, "batch length d_model"))
    np.testing.assert_allclose(found["1"], np.ones((4, 64, 2)), rtol=1e-12)
    # A query that sees n memories keeps each with probability 1/2 and doubles it.
    kept = found["0"][..., 0] * np.arange(1, 65) / 2
    np.testing.assert_allclose(kept, np.round(kept), rtol=0, atol=1e-9)
    assert 0.45 < kept.sum() / (4 * 64 * 65 / 2) < 0.55
