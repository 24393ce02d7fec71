"""The small notations: ``"batch:16 length"``, ``"batch:data+model"``, ``"batch length -> token"``.

Errors point at the place with a caret. Entries may be separated by spaces, commas or semicolons,
as in Mesh-TensorFlow.
"""

import re

from meshlang.errors import NotationError

_SEPARATORS = re.compile(r"[\s,;]+")
_NAME = r"[A-Za-z_][A-Za-z0-9_.]*"
_ENTRY = re.compile(rf"({_NAME}\??):([A-Za-z0-9_.+]+)\Z")
_DIM = re.compile(rf"({_NAME})(\*|'|\|{_NAME})?(?::([0-9]+))?\Z")


def fail(text: str, at: int, why: str) -> NotationError:
    """The error for a notation that breaks at character `at`."""
    return NotationError(f"{why}\n  {text}\n  {' ' * at}^")


def words(text: str) -> list[tuple[str, int]]:
    """The words of a notation with the places where they begin."""
    found, at = [], 0
    for piece in _SEPARATORS.split(text):
        if piece:
            at = text.index(piece, at)
            found.append((piece, at))
            at += len(piece)
    return found


def entries(text: str, what: str) -> list[tuple[str, str]]:
    """Read ``name:value`` entries.

    >>> entries("rows:2;cols:4", "mesh")
    [('rows', '2'), ('cols', '4')]
    """
    found = []
    for word, at in words(text):
        match = _ENTRY.match(word)
        if match is None:
            raise fail(text, at, f"an entry of a {what} reads name:value.")
        found.append((match[1], match[2]))
    return found


def dim_words(text: str) -> list[tuple[str, str, int | None]]:
    """Read dims: names with an optional twin mark and an optional size.

    >>> dim_words("batch:16 experts* experts|group d_model")
    [('batch', '', 16), ('experts', '*', None), ('experts', '|group', None), ('d_model', '', None)]
    """
    found = []
    for word, at in words(text):
        match = _DIM.match(word)
        if match is None:
            raise fail(
                text, at, "a dim reads name, name:size, or a twin: name*, name|other, name'."
            )
        size = None if match[3] is None else int(match[3])
        if size == 0:
            raise fail(text, at, "a dim has a positive size.")
        found.append((match[1], match[2] or "", size))
    return found


def arrow(text: str) -> tuple[str, str]:
    """Split a pattern ``"a b -> c"`` at its one arrow.

    >>> arrow("batch length -> token")
    ('batch length ', ' token')
    """
    if text.count("->") != 1:
        at = text.find("->", text.find("->") + 1) if "->" in text else len(text)
        raise fail(text, at, "a pattern has one '->'.")
    left, right = text.split("->")
    return left, right
