"""How blocks travel, without devices."""

from itertools import permutations, product

import pytest
import tensorflow as tf

from meshlang.lowering.wire import pair_rounds, radices, to_move, to_reduce


def some_receive_nothing(sources):
    """A permutation, and the same with every set of members that receive nothing."""
    for without in product([False, True], repeat=len(sources)):
        yield [-1 if w else s for w, s in zip(without, sources, strict=True)]


@pytest.mark.parametrize("size", range(1, 6))
def test_pair_rounds_of_every_permutation_and_part_of_one(size):
    for sources in (some for p in permutations(range(size)) for some in some_receive_nothing(p)):
        found = pair_rounds(sources)
        if found is None:
            assert size > 2
            continue
        rounds, when = found
        for partners in rounds:
            assert sorted(partners) == list(range(size))
            assert all(partners[partners[i]] == i != partners[i] for i in range(size))
        for member, source in enumerate(sources):
            if when[member] < 0:
                assert source in (member, -1)
            else:
                assert source == rounds[when[member]][member]


@pytest.mark.parametrize("size", [2, 4, 6])
def test_a_shift_that_does_not_wrap_is_always_pairs(size):
    for by in range(1, size):
        assert pair_rounds([max(i - by, -1) for i in range(size)]) is not None


@pytest.mark.parametrize("size", [2, 4, 6, 8, 64])
def test_neighbour_shifts_on_an_even_axis_take_at_most_two_rounds(size):
    for step in (1, -1):
        found = pair_rounds([(i + step) % size for i in range(size)])
        assert found is not None
        assert len(found[0]) == (1 if size == 2 else 2)


def test_radices_multiply_and_stay_below_the_collision():
    for members in range(1, 300):
        steps = radices(members)
        if steps is None:
            largest = max(p for p in range(2, members + 1) if members % p == 0 and _prime(p))
            assert largest > 11
            continue
        product = 1
        for step in steps:
            assert step <= 11
            product *= step
        assert product == members


def _prime(number: int) -> bool:
    return all(number % k for k in range(2, number))


def test_what_cannot_travel_says_so():
    with pytest.raises(TypeError, match="blocks of complex64 do not travel"):
        to_move(tf.zeros([1], tf.complex64))
    with pytest.raises(TypeError, match="there is no sum of bool"):
        to_reduce(tf.zeros([1], tf.bool), "sum")
    with pytest.raises(TypeError, match="there is no max of complex64"):
        to_reduce(tf.zeros([1], tf.complex64), "max")


@pytest.mark.parametrize("dtype", [tf.uint8, tf.uint32])
def test_short_integers_travel_as_long_ones_and_wrap_around(dtype):
    sent, back = to_reduce(tf.constant([dtype.max], dtype), "sum")
    assert sent.dtype == tf.int64
    assert back(sent + sent).numpy().tolist() == [dtype.max - 1]
    sent, back = to_reduce(tf.constant([dtype.max], dtype), "max")
    assert back(sent).numpy().tolist() == [dtype.max]
