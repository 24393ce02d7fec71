"""Permutations by number: one to one, keyed, and as mixed as shuffles are."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launch.data.permutation import Permutation


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5000), st.text())
def test_it_is_a_permutation_of_any_size_under_any_key(size, key):
    assert np.array_equal(np.sort(Permutation(size, key)(np.arange(size))), np.arange(size))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 2**62), st.data())
def test_one_element_alone_is_the_same_as_among_others(size, data):
    places = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=20))
    shuffled = Permutation(size, "key")
    together = shuffled(np.array(places))
    assert [int(shuffled(np.array(place))) for place in places] == together.tolist()
    assert len(set(together.tolist())) == len(set(places))
    assert together.min() >= 0 and together.max() < size


def test_values_are_settled():
    # A change here would change the data order of every run that resumes.
    assert Permutation(10, "0 0")(np.arange(10)).tolist() == [6, 4, 2, 5, 8, 3, 7, 1, 0, 9]


def test_keys_give_unrelated_orders():
    size = 2000
    first, second = (Permutation(size, key)(np.arange(size)) for key in ("7 0", "7 1"))
    assert np.count_nonzero(first == second) < 15  # 1 is expected by chance
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.1
    assert abs(np.corrcoef(first, np.arange(size))[0, 1]) < 0.1


def test_every_order_of_a_few_elements_comes_up():
    orders = {tuple(Permutation(4, str(key))(np.arange(4)).tolist()) for key in range(1000)}
    assert len(orders) == 24


@pytest.mark.parametrize("size", [0, 2**62 + 1])
def test_sizes_out_of_range(size):
    with pytest.raises(ValueError) as caught:
        Permutation(size, "key")
    assert str(caught.value) == f"a permutation needs 1 to 2**62 elements, not {size}."
