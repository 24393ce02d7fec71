"""Initial values keep the size of what passes through."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import meshlang as ml
from models.errors import ModelError
from models.layers import Attention, Embedding, FeedForward, PositionTerms, matrix_init
from models.layers.attention import causal_mask
from models.moe import MixtureOfExperts, SwitchRouter, Top2Router


def initial_values(fn: Callable[..., Any], **specs: Any) -> ml.Executable:
    executable = ml.lower(ml.plan(ml.trace(fn, **specs)), backend="simulated")
    executable.initialize(0)
    return executable


def test_deviation_is_that_of_the_cut_distribution():
    found = initial_values(lambda: ml.variable("w", "a:300 b:300", init=matrix_init(25)))["w"]
    assert abs(found.std() - 0.2) < 2e-3
    assert abs(found.mean()) < 2e-3
    assert 0.9 < np.abs(found).max() / (0.4 / 0.8796256610342398) <= 1.0


def test_scale_is_of_the_variance():
    def fn() -> None:
        for name, scale in (("whole", 1.0), ("tenth", 0.1)):
            ml.variable(name, "a:300 b:300", init=matrix_init(25, scale))

    found = initial_values(fn)
    assert abs(found["tenth"].std() - 0.2 * 0.1**0.5) < 1e-3
    assert abs(found["whole"].std() - 0.2) < 2e-3
    assert matrix_init(25, 1.0) == matrix_init(25)


def test_scale_is_above_0():
    with pytest.raises(ModelError) as caught:
        matrix_init(25, 0.0)
    assert str(caught.value) == "matrix_init: scale is 0.0, and must be above 0."


def test_layers_and_routers_have_a_scale_of_their_own():
    attention = Attention(heads=8, d_head=32, init_scale=0.25)
    feed_forward = FeedForward(d_ff=512, gated=True, init_scale=0.04)

    def fn(x: ml.Tensor) -> None:
        attention(x, mask=causal_mask(4), positions=PositionTerms(), train=False)
        with ml.scope("ff"):
            feed_forward(x, train=False)
        for name, router in (
            ("top2", Top2Router(init_scale=4.0)),
            ("switch", SwitchRouter(init_scale=9.0)),
        ):
            with ml.scope(name):
                MixtureOfExperts(
                    experts=64,
                    d_expert=32,
                    router=router,
                    group="batch length -> group token:4",
                    gated=True,
                    init_scale=0.1,
                )(x, train=False)

    found = initial_values(fn, x=ml.spec("batch:1 length:4 d_model:64"))
    wanted = dict.fromkeys("qkv", 0.5 * 64 ** (-0.5)) | {"out": 0.5 * 256**-0.5}
    wanted |= {"ff/in": 0.2 * 64**-0.5, "ff/gate": 0.2 * 64**-0.5, "ff/out": 0.2 * 512**-0.5}
    for router, factor in (("top2", 2.0), ("switch", 3.0)):
        wanted[f"{router}/router"] = factor * 64**-0.5
        wanted |= {f"{router}/{name}": (0.1 / 64) ** 0.5 for name in ("in", "gate")}
        wanted[f"{router}/out"] = (0.1 / 32) ** 0.5
    assert set(found.plan.variables) == set(wanted)
    for name, deviation in wanted.items():
        np.testing.assert_allclose(found[name].std(), deviation, rtol=0.04, err_msg=name)


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
