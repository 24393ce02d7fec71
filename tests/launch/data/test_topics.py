"""The help topics: what is kept, where, and what is held out."""

import hashlib
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.data import topics
from launch.data.errors import DataError
from launch.data.topics import Corpus

QUOTE = "A paragraph that has more than thirty bytes."


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return topics.pydoc_corpus()


def long_paragraphs(text: str) -> list[str]:
    return [part for part in text.split("\n\n") if len(part.encode()) >= 30]


def test_no_held_out_paragraph_stands_in_train(corpus):
    train = [topics.words(text.decode()) for text in corpus.train.values()]
    paragraphs = [
        topics.words(part)
        for text in corpus.heldout.values()
        for part in long_paragraphs(text.decode())
    ]
    assert len(paragraphs) > 100
    # Not as a paragraph, and not within a longer one either.
    assert [part for part in paragraphs if any(part in text for text in train)] == []


def test_every_long_paragraph_of_the_topics_is_kept_once_in_the_longest_topic_that_has_it(corpus):
    raw = topics.pydoc_topics()
    owners: dict[str, list[str]] = {}
    for name, text in raw.items():
        for part in long_paragraphs(text):
            owners.setdefault(topics.words(part), []).append(name)
    found: dict[str, list[str]] = {}
    for name, text in topics.drop_repeated(raw).items():
        for part in topics.paragraphs(text):
            found.setdefault(topics.words(part), []).append(name)

    assert sum(len(names) > 1 for names in owners.values()) > 100
    for said, names in owners.items():
        longest = max(len(raw[name].encode()) for name in names)
        owner = min(name for name in names if len(raw[name].encode()) == longest)
        assert found[said] == [owner], said


def test_topics_are_long_enough_and_only_cut(corpus):
    raw = topics.pydoc_topics()
    for name, text in {**corpus.train, **corpus.heldout}.items():
        assert len(text) >= 200
        of_raw = set(topics.paragraphs(raw[name]))
        assert set(topics.paragraphs(text.decode())) <= of_raw
    short = set(raw) - set(corpus.train) - set(corpus.heldout)
    cut = topics.drop_repeated(raw)
    assert short and all(len(cut[name].encode()) < 200 for name in short)


def test_a_tenth_of_the_bytes_is_held_out_in_hash_order(corpus):
    held = sum(map(len, corpus.heldout.values()))
    total = held + sum(map(len, corpus.train.values()))
    by_hash = sorted(
        {*corpus.train, *corpus.heldout},
        key=lambda name: hashlib.sha256(name.encode()).hexdigest(),
    )
    assert list(corpus.heldout) == by_hash[: len(corpus.heldout)]
    last = by_hash[len(corpus.heldout) - 1]
    assert held - len(corpus.heldout[last]) < 0.1 * total <= held
    assert not corpus.train.keys() & corpus.heldout.keys()


def test_among_topics_of_one_length_the_first_by_name_keeps_a_paragraph():
    same = f"{QUOTE}\n\nshort"
    assert topics.drop_repeated({"b": same, "a": same}) == {"a": same, "b": "short"}


def test_within_a_topic_a_paragraph_keeps_its_first_place():
    text = f"one\n\n{QUOTE}\n\none\n\n{QUOTE}\n\ntwo"
    assert topics.drop_repeated({"a": text}) == {"a": f"one\n\n{QUOTE}\n\none\n\ntwo"}


def test_a_paragraph_is_long_if_one_of_its_forms_is():
    short, indented = "twenty-five of its bytes.", "         twenty-five of its bytes."
    assert len(short) < 30 <= len(indented)
    kept = topics.drop_repeated({"longer": f"{short}\n\nand more", "other": indented})
    assert kept == {"longer": f"{short}\n\nand more", "other": ""}


@given(
    st.dictionaries(
        st.sampled_from("abcdef"),
        st.lists(st.sampled_from([QUOTE, QUOTE[::-1], f"  {QUOTE}", "Heading", "A\nB"])),
    )
)
def test_dropping_leaves_each_long_paragraph_once_and_each_short_one_in_place(parts):
    raw = {name: "\n\n".join(each) for name, each in parts.items()}
    kept = {name: topics.paragraphs(text) for name, text in topics.drop_repeated(raw).items()}

    def count(said: str, texts) -> int:
        return sum(topics.words(part) == said for each in texts.values() for part in each)

    for said in (QUOTE, QUOTE[::-1]):
        assert count(said, kept) == min(1, count(said, parts))
    for name, each in parts.items():
        short = [part for part in each if len(part) < 30]
        assert [part for part in kept[name] if len(part) < 30] == short


def test_topics_are_dropped_below_200_bytes_not_characters():
    kept = topics.drop_short({"ascii": "a" * 199, "dashes": "—" * 67})
    assert list(kept) == ["dashes"]


@pytest.mark.parametrize(
    "other",
    [
        Corpus({"a": b"x", "b": b"z"}, {"c": b"w"}),
        Corpus({"a": b"xy"}, {"c": b"w"}),
        Corpus({"a": b"x"}, {"b": b"y", "c": b"w"}),
        Corpus({"ab": b"", "x": b"y"}, {"c": b"w"}),
    ],
)
def test_the_digest_tells_texts_names_and_splits_apart(other):
    assert other.digest != Corpus({"a": b"x", "b": b"y"}, {"c": b"w"}).digest


def test_the_digest_does_not_depend_on_the_order_of_topics():
    one = Corpus({"a": b"x", "b": b"y"}, {})
    other = Corpus({"b": b"y", "a": b"x"}, {})
    assert one.digest == other.digest


def test_a_python_without_its_topics(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(DataError) as caught:
        topics.pydoc_corpus()
    assert str(caught.value) == (
        "this Python has no help topics, which are the text to train on.\n"
        "  import  pydoc_data.topics: import of pydoc_data.topics halted; None in sys.modules\n"
        "  fix: install the whole standard library (on Debian: libpython3-stdlib)"
    )
