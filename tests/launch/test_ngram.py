"""N-gram models: probabilities that sum to one, equal to a model written plainly, and good."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest

from launch import ngram
from launch.data.topics import pydoc_corpus

PANGRAM = b"the quick brown fox jumps over the lazy dog. the five boxing wizards jump quickly. "


def small_text(seed: int, length: int = 3000) -> bytes:
    """Bytes with few values and some order: each drawn near the one before."""
    walk = np.cumsum(np.random.default_rng(seed).integers(-2, 3, length))
    return (97 + walk % 11).astype(np.uint8).tobytes()


def plain_kneser_ney(texts: list[bytes], order: int):
    """Modified Kneser-Ney by dictionaries, following the paper line by line."""
    counts = [Counter() for _ in range(order + 1)]
    for text in texts:
        padded = [256] * (order - 1) + list(text)
        for end in range(order, len(padded) + 1):
            counts[order][tuple(padded[end - order : end])] += 1
    for length in range(order - 1, 0, -1):
        counts[length] = Counter(gram[1:] for gram in counts[length + 1])

    discounts: list[tuple[float, ...]] = [()]
    after: list[dict[tuple[int, ...], dict[int, int]]] = [{}]
    for length in range(1, order + 1):
        n1, n2, n3, n4 = (list(counts[length].values()).count(i) for i in (1, 2, 3, 4))
        discounts.append((0, 0.5, 0.5, 0.5))
        if 0 not in (n1, n2, n3, n4):
            y = n1 / (n1 + 2 * n2)
            three = [1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3]
            if all(loss > 0 for loss in three):
                discounts[-1] = (0, *three)
        continuations: dict[tuple[int, ...], dict[int, int]] = defaultdict(dict)
        for gram, count in counts[length].items():
            continuations[gram[:-1]][gram[-1]] = count
        after.append(continuations)

    def probability(byte: int, context: tuple[int, ...]) -> float:
        below = 1 / 256
        for length in range(1, order + 1):
            seen = after[length].get(context[len(context) - length + 1 :], {})
            if not seen:
                continue
            total = sum(seen.values())
            discount = discounts[length]
            own = seen.get(byte, 0)
            left = sum(discount[min(count, 3)] for count in seen.values())
            below = (own - discount[min(own, 3)]) / total + left / total * below
        return below

    return probability


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_it_equals_a_model_written_plainly(order):
    train, text = [small_text(0), PANGRAM * 3, b"", b"x"], b"jumps " + small_text(1, 100) + b"\xff"
    probability = plain_kneser_ney(train, order)
    padded = (256,) * (order - 1) + tuple(text)
    expected = [
        probability(byte, padded[place : place + order - 1]) for place, byte in enumerate(text)
    ]
    found = ngram.probabilities(ngram.fit(train, order), [text])
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    bits = ngram.bits_per_byte(ngram.fit(train, order), [text])
    assert bits == pytest.approx(-sum(map(math.log2, expected)) / len(text), rel=1e-12)


@pytest.mark.parametrize("order", range(1, 8))
@pytest.mark.parametrize("context", [b"", b"the", b"the quic", b"never seen \x00\xff"])
def test_the_bytes_after_a_context_have_probability_one_together(order, context):
    model = ngram.fit([PANGRAM, small_text(2)], order)
    last = [ngram.probabilities(model, [context + bytes([byte])])[-1] for byte in range(256)]
    assert min(last) > 0
    assert sum(last) == pytest.approx(1, abs=1e-12)


def test_ngrams_do_not_reach_from_one_text_to_the_next():
    apart, joined = ngram.fit([b"ab" * 9, b"cd" * 9], 3), ngram.fit([b"ab" * 9 + b"cd" * 9], 3)
    after_b = [ngram.probabilities(model, [b"abc"])[-1] for model in (apart, joined)]
    assert after_b[0] < after_b[1]
    together = ngram.probabilities(joined, [b"ab", b"cd"])
    each = [ngram.probabilities(joined, [text]) for text in (b"ab", b"cd")]
    assert np.array_equal(together, np.concatenate(each))


def test_on_the_help_topics():
    corpus = pydoc_corpus()
    train, heldout = corpus.train.values(), corpus.heldout.values()
    trigram, fivegram = (ngram.bits_per_byte(ngram.fit(train, order), heldout) for order in (3, 5))
    # Python 3.11 to 3.13; Witten-Bell smoothing, for comparison, needs 2.57 and 2.09.
    assert 2.4 < trigram < 2.6
    assert 1.7 < fivegram < 1.95


@pytest.mark.parametrize("order", [0, 8])
def test_orders_out_of_range(order):
    with pytest.raises(ValueError) as caught:
        ngram.fit([b"text"], order)
    assert str(caught.value) == f"the order of an n-gram model is 1 to 7, not {order}."
