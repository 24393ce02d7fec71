"""Lookup and logits against NumPy, tied and not."""

import numpy as np

from models.layers import Embedding
from tests.models.one_processor import evaluated

TABLE = np.random.default_rng(3).normal(size=(7, 4))
TOKENS = np.array([[0, 6, 3], [3, 3, 1]], np.int32)
X = np.random.default_rng(4).normal(size=(2, 3, 4))


def test_lookup_reads_rows():
    layer = Embedding(vocab=7, d_model=4)
    found = evaluated(layer.lookup, {"embedding": TABLE}, tokens=(TOKENS, "batch length"))
    np.testing.assert_array_equal(found, TABLE[TOKENS])


def test_tied_logits_use_the_same_table():
    layer = Embedding(vocab=7, d_model=4, tied=True)
    found = evaluated(layer.logits, {"embedding": TABLE}, x=(X, "batch length d_model"))
    np.testing.assert_allclose(found, X / 2 @ TABLE.T, rtol=0, atol=1e-14)


def test_untied_logits_have_a_table_of_their_own():
    layer = Embedding(vocab=7, d_model=4)
    found = evaluated(layer.logits, {"unembedding": TABLE}, x=(X, "batch length d_model"))
    np.testing.assert_allclose(found, X @ TABLE.T, rtol=0, atol=1e-14)
