"""Byte n-gram language models: the bar that a trained model has to be under.

The smoothing is interpolated modified Kneser-Ney (Chen and Goodman, "An Empirical Study of
Smoothing Techniques for Language Modeling", 1999, section 3), the best of the standard ones
there and on our text, where a 5-gram model with it needs 0.2 bits per byte less than with
Witten-Bell smoothing. A model is a sorted table per order; fitting and scoring take well under a
second for a megabyte.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

_START = 256  # stands, as often as needed, for what precedes a text
_BASE = 257  # an n-gram is a number with these digits, its last byte the lowest
_MAX_ORDER = 7  # as many digits fit an int64


@dataclass(frozen=True, eq=False)
class _Order:
    """What one order adds to the probabilities of the order below.

    With discounted counts c' of an n-gram h w, p(w | h) = c'(h w) / c(h) + share(h) p(w | h').
    """

    grams: np.ndarray  # int64 [grams], sorted: the n-grams that were seen
    gains: np.ndarray  # float64 [grams]: c'(h w) / c(h)
    contexts: np.ndarray  # int64 [contexts], sorted: their first n-1 bytes
    shares: np.ndarray  # float64 [contexts]: what is left for the order below


@dataclass(frozen=True, eq=False)
class NgramModel:
    """An interpolated byte n-gram model; `fit` makes one.

    Attributes:
        order: n, the length of the longest n-grams: each byte is predicted from the n-1 before it.
        orders: the tables of all lengths from 1 to n.
    """

    order: int
    orders: tuple[_Order, ...]


def fit(texts: Iterable[bytes], order: int) -> NgramModel:
    """Count the n-grams of some texts and discount the counts.

    Args:
        texts: what to learn from; n-grams do not reach from one to the next.
        order: n, from 1 to 7.

    Raises:
        ValueError: the order is out of range.

    >>> round(bits_per_byte(fit([b"abc" * 100], 3), [b"abcabc"]), 2)
    0.07
    """
    if not 1 <= order <= _MAX_ORDER:
        raise ValueError(f"the order of an n-gram model is 1 to {_MAX_ORDER}, not {order}.")
    grams, counts = np.unique(_grams(texts, order), return_counts=True)
    orders = [_discounted(grams, counts)]
    for length in range(order - 1, 0, -1):
        # A shorter n-gram counts once for each byte that has been seen in front of it.
        grams, counts = np.unique(grams % _BASE**length, return_counts=True)
        orders.append(_discounted(grams, counts))
    return NgramModel(order, tuple(reversed(orders)))


def bits_per_byte(model: NgramModel, texts: Iterable[bytes]) -> float:
    """Mean of -log2 p over all bytes of some texts, each text from its start.

    >>> bits_per_byte(fit([], 3), [b"nothing was learned"])
    8.0
    """
    return float(-np.log2(probabilities(model, texts)).mean())


def probabilities(model: NgramModel, texts: Iterable[bytes]) -> np.ndarray:
    """Probability of each byte of some texts, given the bytes of its text before it.

    Returns:
        float64 [bytes of all texts].
    """
    grams = _grams(texts, model.order)
    result = np.full(len(grams), 1 / 256)
    for length, order in enumerate(model.orders, start=1):
        seen = grams % _BASE**length
        gains = _look_up(order.grams, order.gains, seen, missing=0.0)
        shares = _look_up(order.contexts, order.shares, seen // _BASE, missing=1.0)
        result = gains + shares * result
    return result


def _grams(texts: Iterable[bytes], order: int) -> np.ndarray:
    """int64 [bytes of all texts]: the n-gram that ends with each byte."""
    parts = [np.zeros(0, np.int64)]
    for text in texts:
        padded = np.concatenate([np.full(order - 1, _START), np.frombuffer(text, np.uint8)])
        number = np.zeros(len(text), np.int64)
        for place in range(order):
            number = number * _BASE + padded[place : place + len(text)]
        parts.append(number)
    return np.concatenate(parts)


def _discounted(grams: np.ndarray, counts: np.ndarray) -> _Order:
    """Take a little from every count, more from larger ones, and give it to the order below."""
    discounts = _discounts(counts)[np.minimum(counts, 3)]
    contexts, of = np.unique(grams // _BASE, return_inverse=True)
    totals = np.bincount(of, weights=counts, minlength=len(contexts))
    saved = np.bincount(of, weights=discounts, minlength=len(contexts))
    return _Order(grams, (counts - discounts) / totals[of], contexts, saved / totals)


def _discounts(counts: np.ndarray) -> np.ndarray:
    """float64 [4]: what counts of 0, 1, 2, and 3 or more lose, by Chen and Goodman's equation 26.

    Where there are too few n-grams for it (none of a count, or a loss that leaves nothing for the
    order below and so makes some byte impossible), each loses one half.
    """
    once, twice, thrice, four = (np.count_nonzero(counts == count) for count in (1, 2, 3, 4))
    if min(once, twice, thrice, four) > 0:
        y = once / (once + 2 * twice)
        losses = [1 - 2 * y * twice / once, 2 - 3 * y * thrice / twice, 3 - 4 * y * four / thrice]
        if min(losses) > 0:
            return np.array([0.0, *losses])
    return np.array([0.0, 0.5, 0.5, 0.5])


def _look_up(
    keys: np.ndarray, values: np.ndarray, wanted: np.ndarray, *, missing: float
) -> np.ndarray:
    """The value of each wanted key, among sorted keys."""
    if len(keys) == 0:
        return np.full(len(wanted), missing)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], missing)
