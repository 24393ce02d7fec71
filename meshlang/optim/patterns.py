"""Regular expressions that choose variables by name."""

from __future__ import annotations

import re
from collections.abc import Sequence

from meshlang.errors import MeshlangError, message


def check_patterns(owner: str, what: str, patterns: Sequence[str]) -> None:
    """Refuse what is no sequence of regular expressions."""
    if isinstance(patterns, str):
        raise MeshlangError(
            message(
                f"{owner}: {what} takes several expressions.",
                [("given", repr(patterns))],
                f"{what}=({patterns!r},)",
            )
        )
    for pattern in patterns:
        check_pattern(owner, f"an entry of {what}", pattern)


def check_pattern(owner: str, what: str, pattern: str) -> None:
    """Refuse what is no regular expression."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise MeshlangError(
            message(
                f"{owner}: {what} is no regular expression: {error}.",
                [("pattern", repr(pattern))],
                "put a backslash before characters that stand for themselves",
            )
        ) from None


def found_in(name: str, patterns: Sequence[str]) -> bool:
    """Whether one of them is found in a variable's name."""
    return any(re.search(pattern, name) for pattern in patterns)
