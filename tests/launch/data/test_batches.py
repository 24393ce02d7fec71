"""Batches: rows are a function of their number, and held-out bytes are counted once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launch.data.batches import BOS, VOCABULARY, BatchSource, eval_windows
from launch.data.errors import DataError

TEXTS = {"b": b"The second text.", "a": b"A first one, longer than it.", "c": b"Third!"}
TEXT_SETS = st.dictionaries(st.text(max_size=3), st.binary(max_size=40), max_size=5)


def equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


def test_shapes_and_dtypes():
    batch = BatchSource(TEXTS, batch=3, length=7).at(5)
    assert {name: (rows.shape, rows.dtype) for name, rows in batch.items()} == {
        "tokens": ((3, 7), np.int32),
        "targets": ((3, 7), np.int32),
        "segments": ((3, 7), np.int32),
    }


@settings(deadline=None)
@given(
    step=st.integers(0, 10**12), batch=st.integers(1, 9), length=st.integers(1, 9), data=st.data()
)
def test_rows_are_a_function_of_step_and_row_alone(step, batch, length, data):
    first = data.draw(st.integers(0, batch - 1))
    count = data.draw(st.integers(1, batch - first))
    source = BatchSource(TEXTS, batch=batch, length=length, seed=3)
    whole = source.at(step)
    source.at(step + 1)
    resumed = BatchSource(dict(reversed(TEXTS.items())), batch=batch, length=length, seed=3)
    assert equal(resumed.at(step), whole)
    part = {name: rows[first : first + count] for name, rows in whole.items()}
    assert equal(resumed.rows(step, first, count), part)


def test_the_batch_size_does_not_change_the_order_of_rows():
    narrow = BatchSource(TEXTS, batch=2, length=5)
    wide = BatchSource(TEXTS, batch=6, length=5)
    for step in range(20):
        parts = [narrow.at(3 * step + i)["tokens"] for i in range(3)]
        assert np.array_equal(np.concatenate(parts), wide.at(step)["tokens"])


def test_an_epoch_has_every_target_once_but_a_few_which_differ():
    text = bytes(range(200))  # every token stands for its place
    source = BatchSource({"a": text}, batch=1, length=9)
    assert source.windows == 201 // 9
    left_out, orders = [], []
    for epoch in range(4):
        rows = [source.at(epoch * source.windows + i) for i in range(source.windows)]
        targets = np.concatenate([row["targets"][0] for row in rows])
        assert len(set(targets.tolist())) == 9 * source.windows
        left_out.append(frozenset(range(201)) - {t % 256 if t < BOS else 200 for t in targets})
        orders.append(targets.tolist())
        for row in rows:
            successor = np.where(row["tokens"] == 199, BOS, (row["tokens"] + 1) % 257)
            assert np.array_equal(row["targets"], successor)
    assert len(set(left_out)) == 4
    assert all(one != other for i, one in enumerate(orders) for other in orders[:i])


def test_seeds_give_other_orders():
    one, other = (BatchSource(TEXTS, batch=8, length=5, seed=seed).at(0) for seed in (0, 1))
    assert not equal(one, other)


@settings(deadline=None)
@given(step=st.integers(0, 1000), length=st.integers(1, 50))
def test_segments_number_the_texts_of_a_row(step, length):
    batch = BatchSource(TEXTS, batch=2, length=length).at(step)
    for tokens, segments in zip(batch["tokens"], batch["segments"], strict=True):
        number = 1
        for place, token in enumerate(tokens):
            if token == BOS and place > 0:
                number += 1
            assert segments[place] == number


def test_less_text_than_a_row():
    with pytest.raises(DataError) as caught:
        BatchSource({"a": b"short", "b": b"text"}, batch=2, length=12)
    assert str(caught.value) == (
        "there is less text than one row takes.\n"
        "  texts   2, 11 tokens in all\n"
        "  length  12 tokens\n"
        "  fix: use longer texts or shorter rows"
    )
    assert BatchSource({"a": b"short", "b": b"text"}, batch=2, length=11).windows == 1


def test_no_text_at_all():
    with pytest.raises(DataError, match=r"texts   0, 0 tokens in all"):
        BatchSource({}, batch=2, length=12)


@pytest.mark.parametrize(("batch", "length"), [(0, 4), (4, 0)])
def test_empty_batches(batch, length):
    with pytest.raises(DataError) as caught:
        BatchSource(TEXTS, batch=batch, length=length)
    assert str(caught.value) == (
        f"a batch needs at least one row of one token, not {batch} x {length}."
    )


@pytest.mark.parametrize(("first", "count"), [(3, 2), (-1, 1), (0, 0)])
def test_rows_that_a_batch_does_not_have(first, count):
    with pytest.raises(DataError) as caught:
        BatchSource(TEXTS, batch=4, length=5).rows(0, first, count)
    assert str(caught.value) == f"a batch of 4 rows has no {count} rows from row {first} on."


@settings(deadline=None)
@given(TEXT_SETS, st.integers(1, 5), st.integers(1, 12))
def test_each_held_out_byte_is_predicted_once_from_the_byte_before_it(texts, batch, length):
    batches = list(eval_windows(texts, batch=batch, length=length))
    assert all(rows.shape == (batch, length) for each in batches for rows in each.values())
    assert sum(int(each["weights"].sum()) for each in batches) == sum(map(len, texts.values()))
    pairs = [
        (token, target)
        for each in batches
        for token, target, weight in zip(
            each["tokens"].ravel(), each["targets"].ravel(), each["weights"].ravel(), strict=True
        )
        if weight == 1
    ]
    expected = [
        pair
        for name in sorted(texts)
        for pair in zip([BOS, *texts[name]], texts[name], strict=False)
    ]
    assert pairs == expected


@settings(deadline=None)
@given(TEXT_SETS, st.integers(1, 5), st.integers(1, 12))
def test_rows_of_an_evaluation_hold_one_text_and_padding_of_zeros(texts, batch, length):
    for each in eval_windows(texts, batch=batch, length=length):
        assert {name: rows.dtype for name, rows in each.items()} == {
            "tokens": np.int32,
            "targets": np.int32,
            "segments": np.int32,
            "weights": np.float32,
        }
        padding = each["weights"] == 0
        assert np.array_equal(each["segments"], ~padding)
        assert not each["tokens"][padding].any() and not each["targets"][padding].any()
        assert not (np.diff(each["weights"], axis=1) > 0).any()  # padding is behind
        assert not (each["tokens"][:, 1:] == BOS).any()
        assert not (each["targets"] == BOS).any()


def test_texts_that_are_no_text():
    """Empty ones, a line of a megabyte, bytes that are no UTF-8: bytes are tokens, whatever."""
    texts = {"empty": b"", "long": b"x" * 2**20, "raw": bytes(range(256)), "lines": b"\n\n\n"}
    source = BatchSource(texts, batch=4, length=64, seed=1)
    assert source.windows * 64 <= 2**20 + 256 + 3 + len(texts) < (source.windows + 1) * 64
    for step in (0, source.windows // 4, source.windows):
        rows = source.at(step)
        assert rows["tokens"].min() >= 0
        assert rows["tokens"].max() < VOCABULARY
    seen = list(eval_windows(texts, batch=4, length=1024))
    assert sum(float(w["weights"].sum()) for w in seen) == 2**20 + 256 + 3
