"""The text that every machine has: the help topics of CPython's own `pydoc_data.topics`.

Topics quote each other, and a language model is good at repeating what it has read. So that bits
on held-out text measure more than that, every paragraph is kept in one topic alone, and topics are
held out whole. All functions here are pure: results depend on nothing but the text.
"""

import functools
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from launch.data.errors import DataError

MIN_PARAGRAPH = 30
"""Paragraphs of so many bytes or more stand in one topic only. Shorter ones are headings."""

MIN_TOPIC = 200
"""Topics of fewer bytes, after that, are dropped."""

HELDOUT_PART = 0.1
"""Topics are held out until they make this part of all bytes."""


@dataclass(frozen=True)
class Corpus:
    """Texts by the name of their topic: to train on, and held out.

    >>> Corpus({"a": b"xyz"}, {"b": b"w"}).digest[:16]
    'f81a2294af832e62'
    """

    train: Mapping[str, bytes]
    heldout: Mapping[str, bytes]

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256, in hexadecimal digits, of all names and texts and of what is held out."""
        sha = hashlib.sha256()
        for split, texts in (("train", self.train), ("heldout", self.heldout)):
            for name in sorted(texts):
                for part in (split.encode(), name.encode(), texts[name]):
                    sha.update(len(part).to_bytes(8, "big") + part)
        return sha.hexdigest()


def pydoc_corpus() -> Corpus:
    """The help topics of the Python that runs, cleaned and split.

    Raises:
        DataError: this Python came without its help topics.
    """
    topics = drop_short(drop_repeated(pydoc_topics()))
    encoded = {name: text.encode() for name, text in topics.items()}
    heldout = hold_out(encoded)
    return Corpus(
        train={name: text for name, text in encoded.items() if name not in heldout},
        heldout={name: encoded[name] for name in heldout},
    )


def pydoc_topics() -> dict[str, str]:
    """The help topics of the Python that runs, as they are: name to text.

    Raises:
        DataError: this Python came without them, as some stripped-down images do.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise DataError(
            "this Python has no help topics, which are the text to train on.\n"
            f"  import  pydoc_data.topics: {error}\n"
            "  fix: install the whole standard library (on Debian: libpython3-stdlib)"
        ) from error
    return dict(topics)


def paragraphs(text: str) -> list[str]:
    r"""Cut a text at its blank lines.

    >>> paragraphs("one\ntwo\n\n  \nthree\n")
    ['one\ntwo', 'three\n']
    """
    return [part for part in re.split(r"\n(?:[ \t]*\n)+", text) if part.strip()]


def words(paragraph: str) -> str:
    r"""A paragraph without its indentation and line breaks, by which two of them are compared.

    >>> words("   * one\n     two")
    '* one two'
    """
    return " ".join(paragraph.split())


def drop_repeated(topics: Mapping[str, str]) -> dict[str, str]:
    r"""Keep every long paragraph once, in the longest topic that has it.

    Paragraphs are the same if their words are, however indented or wrapped, and long if one of
    these forms has `MIN_PARAGRAPH` bytes. A topic is as long as it came, in bytes; among topics of
    one length the first by name keeps the paragraph, and within a topic the first place does.

    >>> quote = "a paragraph of more than thirty bytes"
    >>> drop_repeated({"long": f"{quote}\n\nand more", "short": f"  {quote}\n\nmore"})
    {'long': 'a paragraph of more than thirty bytes\n\nand more', 'short': 'more'}
    """
    cut = {name: paragraphs(text) for name, text in topics.items()}
    long = {
        words(paragraph)
        for parts in cut.values()
        for paragraph in parts
        if len(paragraph.encode()) >= MIN_PARAGRAPH
    }
    seen: set[str] = set()
    kept: dict[str, str] = {}
    for name in sorted(topics, key=lambda name: (-len(topics[name].encode()), name)):
        parts = []
        for paragraph in cut[name]:
            said = words(paragraph)
            if said not in seen:
                parts.append(paragraph)
            if said in long:
                seen.add(said)
        kept[name] = "\n\n".join(parts)
    return {name: kept[name] for name in sorted(kept)}


def drop_short(topics: Mapping[str, str]) -> dict[str, str]:
    """Leave out topics of fewer than `MIN_TOPIC` bytes."""
    return {name: text for name, text in topics.items() if len(text.encode()) >= MIN_TOPIC}


def hold_out(topics: Mapping[str, bytes]) -> list[str]:
    """Names of the topics to hold out: in hash order, until they make `HELDOUT_PART` of the bytes.

    The order is that of the SHA-256 of the names, so it looks random, is the same everywhere, and
    changes little between Python versions. The last topic is held out whole too, so that the
    part may be larger than `HELDOUT_PART` by up to one topic.

    >>> hold_out({"assert": b"x" * 50, "break": b"x" * 30, "class": b"x" * 20})
    ['class']
    """
    enough = HELDOUT_PART * sum(map(len, topics.values()))
    names: list[str] = []
    held = 0
    for name in sorted(topics, key=lambda name: hashlib.sha256(name.encode()).hexdigest()):
        if held >= enough:
            break
        names.append(name)
        held += len(topics[name])
    return names
