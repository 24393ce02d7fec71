"""RMS norm against NumPy."""

import numpy as np

import meshlang as ml
from models.layers import rms_norm
from tests.models.one_processor import evaluated
from tests.oracles import transformer


def test_values_are_the_oracles():
    rng = np.random.default_rng(0)
    x, scale = rng.normal(size=(2, 3, 5)), rng.normal(size=5)
    found = evaluated(lambda x: rms_norm(x, "norm"), {"norm": scale}, x=(x, "batch length d_model"))
    np.testing.assert_allclose(found, transformer.rms_norm(x, scale), rtol=1e-13)


def test_it_works_along_any_dim():
    x, scale = np.array([[3.0, 1.0], [4.0, 1.0]]), np.array([1.0, 2.0])
    found = evaluated(
        lambda x: rms_norm(x, "norm", over="d_head", epsilon=0.0),
        {"norm": scale},
        x=(x, "d_head batch"),
    )
    np.testing.assert_allclose(found, [[3 / 12.5**0.5, 1], [8 / 12.5**0.5, 2]], rtol=1e-14)


def test_statistics_do_not_round_to_bfloat16():
    """The mean of 512 squares in bfloat16 would stop growing at 256."""
    x = ml.constant(np.ones(512, np.float32), "d_model", "bfloat16")
    policy = ml.Precision(compute="bfloat16")
    found = ml.run(lambda x: rms_norm(x, "norm"), precision=policy, x=x)
    assert found.dtype.name == "bfloat16"
    np.testing.assert_array_equal(found.astype("float32"), np.ones(512))
