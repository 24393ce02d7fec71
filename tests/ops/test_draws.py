"""Integers, permutations, categories, Gumbel and truncated normal numbers: bits, shares, errors."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import meshlang as ml
from tests.harness import (
    Laid,
    case,
    check,
    collectives,
    drawn,
    ints,
    layouts,
    trace_error,
)

SHAPE = "batch:8 d:16 f:24"
RANDOM = (
    case("truncated", lambda: ml.random_truncated_normal(SHAPE), exact=True),
    case("gumbel", lambda: ml.random_gumbel("f:24 batch:8"), exact=True),
    case("integers", lambda: ml.random_integers(SHAPE, -5, 1000), exact=True),
    case("bytes", lambda: ml.random_integers("f:24 d:16", 0, 256, "uint8"), exact=True),
    case("order", lambda: [ml.random_permutation(f"{d}:24") for d in ("f", "g")], exact=True),
    case("category", lambda x: ml.random_categorical(x, "d"), exact=True, x=SHAPE),
    case(
        "categories",
        lambda x: ml.random_categorical(x, "f", samples="batch:8", temperature=0.5),
        exact=True,
        x="d:16 f:24",
    ),
)


@pytest.mark.parametrize("laid", drawn("draws", layouts("batch d f"), draws=5))
def test_bits_are_equal_on_every_mesh_and_layout(laid: Laid):
    check(RANDOM, laid)


MANY = 100_000


def off(counts: np.ndarray, shares: np.ndarray) -> float:
    """Chi squared less its mean, in its deviations."""
    wanted = shares * counts.sum()
    freedom = len(counts) - 1
    return float((((counts - wanted) ** 2 / wanted).sum() - freedom) / np.sqrt(2 * freedom))


def test_integers_are_equally_likely():
    found = ml.run(lambda: [ml.random_integers(f"n:{MANY}", -3, 7) for _ in range(2)])
    for one in found:
        assert one.dtype == np.int32
        assert abs(off(np.bincount(one + 3, minlength=10), np.full(10, 0.1))) < 4.0
    pairs = np.bincount(found[0] * 10 + found[1] + 33, minlength=100)
    assert abs(off(pairs, np.full(100, 0.01))) < 4.0


def test_all_of_a_dtype_may_be_drawn():
    def draws() -> list[ml.Tensor]:
        lowest = ml.random_integers(f"n:{MANY}", -(2**31), 0)
        return [lowest, ml.random_integers(f"n:{MANY}", 2**40, 2**40 + 2**31, "int64")]

    for found, low in zip(ml.run(draws), (-(2**31), 2**40), strict=True):
        share = (found.astype("float64") - low) / 2**31
        assert 0.0 <= share.min() < 1e-3
        assert 0.999 < share.max() < 1.0
        assert abs(share.mean() - 0.5) < 4.0 / np.sqrt(12 * MANY)


def test_orders_are_equally_likely():
    def draws() -> ml.Tensor:
        trip = lambda c, x: (c, ml.random_permutation("d:3"))  # noqa: E731
        return ml.scan(trip, 0.0, over="trip:6000")[1]

    codes = ml.run(draws) @ np.array([9, 3, 1])
    counts = np.bincount(codes, minlength=27)
    assert sorted(np.flatnonzero(counts)) == [5, 7, 11, 15, 19, 21]
    assert abs(off(counts[counts > 0], np.full(6, 1 / 6))) < 4.0


def test_categories_are_drawn_by_softmax():
    logits = np.array([0.0, 1.0, -1.0, 2.0, -np.inf])
    for temperature in (1.0, 2.0):
        found = ml.run(
            lambda x, t=temperature: ml.random_categorical(
                x, "d", samples=f"n:{MANY}", temperature=t
            ),
            x=ml.constant(logits, "d"),
        )
        shares = np.exp(logits / temperature)[:4]
        counts = np.bincount(found, minlength=5)
        assert counts[4] == 0
        assert abs(off(counts[:4], shares / shares.sum())) < 4.0


def test_the_temperature_0_takes_the_largest():
    made = case(
        "largest",
        lambda x: ml.random_categorical(x, "d", temperature=0.0) - ml.argmax(x, "d"),
        lambda x: np.zeros(8, "int32"),
        x="batch:8 d:16",
    )
    check(made, Laid("r:2", "d:r"))


def test_gumbel_numbers():
    found = ml.run(lambda: ml.random_gumbel(f"n:{MANY}"))
    assert np.isfinite(found).all()
    below = np.exp(-np.exp(-np.sort(found.astype("float64"))))
    steps = np.arange(1, MANY + 1) / MANY
    assert np.abs(below - steps).max() * np.sqrt(MANY) < 1.95


def test_what_moves():
    drawn_from = {"x": "batch:8 d:16"}
    pick: Callable[..., Any] = lambda x: ml.random_categorical(x, "d")  # noqa: E731
    assert collectives(pick, "r:2", "batch:r", **drawn_from) == []
    assert collectives(pick, "r:2", "d:r", **drawn_from) == ["all_reduce over r"] * 2
    assert collectives(lambda: ml.random_integers("d:8", 0, 9), "r:2", "d:r") == []
    assert collectives(lambda: ml.random_permutation("d:8"), "r:2", "d:r") == ["all_gather over r"]


# -- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("truncated", lambda: ml.random_truncated_normal("d:2")),
        ("gumbel", lambda: ml.random_gumbel("d:2")),
        ("integers", lambda: ml.random_integers("d:2", 0, 2)),
        ("permutation", lambda: ml.random_permutation("d:2")),
        ("categorical", lambda: ml.random_categorical(ml.constant([1.0], "d"), "d")),
    ],
)
def test_they_need_a_program(name: str, call: Callable[[], Any]):
    with pytest.raises(ml.ProgramError) as caught:
        call()
    assert str(caught.value).startswith(f"ml.random_{name} belongs to a program")


@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [(3, 3, "int32"), (0, 2**31 + 1, "int64"), (0, 257, "uint8"), (-1, 4, "uint32")],
)
def test_ranges_that_cannot_be_drawn(low: int, high: int, dtype: str):
    assert (
        trace_error(ml.ArrayError, lambda: ml.random_integers("d:2", low, high, dtype))
        == f"""\
random_integers: low and high are not the ends of a range that can be drawn.
  low    {low}
  high   {high}
  dtype  {dtype}
  fix: 1 to 2 ** 31 values that the dtype holds"""
    )


def test_integers_have_an_integer_dtype():
    assert (
        trace_error(ml.DtypeError, lambda: ml.random_integers("d:2", 0, 2, "float32"))
        == """\
random_integers makes integers, not float32.
  fix: one of int64, int32, uint32, uint8"""
    )


def test_a_permutation_orders_one_dim():
    assert (
        trace_error(ml.DimError, lambda: ml.random_permutation("a:2 b:3"))
        == "random_permutation: it orders one dim.\n  dims  [a:2 b:3]\n  fix: 'token:128'"
    )


def test_what_categories_are_drawn_from():
    def draw(x: ml.Tensor) -> ml.Tensor:
        return ml.random_categorical(x, "d", temperature=-1.0)

    assert (
        trace_error(ml.ArrayError, draw, x="d:2")
        == "random_categorical: temperature -1.0 is negative."
    )
    assert (
        trace_error(ml.DtypeError, draw, x=ints("d:2", 5))
        == "random_categorical takes floats.\n  operand  [d:2] int32\n  fix: ml.cast(x, 'compute')"
    )


def test_the_dim_is_there():
    assert (
        trace_error(ml.DimError, lambda x: ml.random_categorical(x, "m"), x="n:8 d:16")
        == "no dim named 'm'.\n  shape  [n:8 d:16]\n  fix: the dims are: n d"
    )
