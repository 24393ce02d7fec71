"""Relative bias and rotation against NumPy, and what is refused."""

import numpy as np
import pytest

from models.errors import ModelError
from models.layers import NoPositions, PositionTerms, RelativeBias, Rotary
from tests.models.one_processor import evaluated
from tests.oracles import transformer


@pytest.mark.parametrize(("buckets", "max_distance"), [(32, 128), (8, 64), (2, 5), (7, 20)])
def test_buckets_are_the_oracles(buckets: int, max_distance: int):
    position = RelativeBias(buckets=buckets, max_distance=max_distance)
    found = [position.bucket(distance) for distance in range(300)]
    assert found == transformer.relative_buckets(np.arange(300), buckets, max_distance).tolist()


def test_relative_bias_is_the_oracles():
    table = np.random.default_rng(0).normal(size=(8, 3))
    position = RelativeBias(buckets=8, max_distance=16)
    found = evaluated(
        lambda: position.prepare(length=24, heads=3, d_head=4).bias, {"relative_bias": table}
    )
    np.testing.assert_array_equal(found, transformer.relative_bias(table, 24, 16))


def test_rotation_is_the_oracles():
    x = np.random.default_rng(0).normal(size=(2, 9, 3, 6))
    position = Rotary(base=100.0)
    found = evaluated(
        lambda x: position.prepare(length=9, heads=3, d_head=6).turn(x),
        {},
        x=(x, "batch length heads d_head"),
    )
    np.testing.assert_allclose(found, transformer.rotary(x, 100.0), rtol=0, atol=1e-14)


def test_without_positions_nothing_is_made():
    assert NoPositions().prepare(length=4, heads=2, d_head=3) == PositionTerms()


def test_a_rotation_of_an_odd_width_is_refused():
    with pytest.raises(ModelError) as caught:
        Rotary().prepare(length=4, heads=2, d_head=3)
    assert str(caught.value) == (
        "Rotary turns pairs, and d_head is odd.\n  d_head  3\n  fix: make it even"
    )


def test_buckets_that_cannot_grow_are_refused():
    with pytest.raises(ModelError) as caught:
        RelativeBias(buckets=32, max_distance=16)
    assert str(caught.value) == (
        "RelativeBias has no room to grow.\n"
        "  buckets       32\n"
        "  max_distance  16\n"
        "  fix: choose 2 buckets or more, and a max_distance above half of their number"
    )
