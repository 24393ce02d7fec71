"""Initial values keep the size of what passes through."""

from collections.abc import Callable
from typing import Any

import numpy as np

import meshlang as ml
from models.layers import Attention, Embedding, FeedForward, PositionTerms, matrix_init
from models.layers.attention import causal_mask


def initial_values(fn: Callable[..., Any], **specs: Any) -> ml.Executable:
    executable = ml.lower(ml.plan(ml.trace(fn, **specs)), backend="simulated")
    executable.initialize(0)
    return executable


def test_deviation_is_that_of_the_cut_distribution():
    found = initial_values(lambda: ml.variable("w", "a:300 b:300", init=matrix_init(25)))["w"]
    assert abs(found.std() - 0.2) < 2e-3
    assert abs(found.mean()) < 2e-3
    assert 0.9 < np.abs(found).max() / (0.4 / 0.8796256610342398) <= 1.0


def test_every_matrix_is_drawn_for_the_number_of_its_inputs():
    attention, feed_forward = Attention(heads=8, d_head=32), FeedForward(d_ff=512, gated=True)
    embedding = Embedding(vocab=300, d_model=64, deviation=0.5)

    def fn(tokens: ml.Tensor) -> ml.Tensor:
        x = embedding.lookup(tokens)
        with ml.scope("attention"):
            x = attention(x, mask=causal_mask(2), positions=PositionTerms(), train=False)
        with ml.scope("ff"):
            x = feed_forward(x, train=False).y
        return embedding.logits(x)

    found = initial_values(fn, tokens=ml.spec("batch:1 length:2", "int32"))
    wanted = {"embedding": 0.5, "unembedding": 64**-0.5}
    wanted |= {f"attention/{name}": 64**-0.5 for name in "qkv"} | {"attention/out": 256**-0.5}
    wanted |= {"ff/in": 64**-0.5, "ff/gate": 64**-0.5, "ff/out": 512**-0.5}
    assert set(found.plan.variables) == set(wanted)
    for name, deviation in wanted.items():
        np.testing.assert_allclose(found[name].std(), deviation, rtol=0.03, err_msg=name)
