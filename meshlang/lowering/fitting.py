"""Which tensor of a checkpoint each variable is read from, and all that does not fit."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from meshlang.errors import CheckpointError, message
from meshlang.manifest import Entry

# For each variable that is to be read: the name of the tensor, and its dtype.
Sources = dict[str, tuple[str, str]]

_FLOATS = ("float16", "bfloat16", "float32", "float64")


def sources(
    ours: Mapping[str, Entry],
    theirs: Mapping[str, Entry],
    path: Path,
    *,
    only: str = "",
    names: Mapping[str, str] | None = None,
    cast: bool = False,
) -> Sources:
    """Find each variable's tensor; see `meshlang.lowering.checkpoint.restore`.

    Args:
        ours: the variables.
        theirs: the tensors of the checkpoint.
        path: of the checkpoint, for the error.
        only: which variables; all, if it is empty.
        names: what they are called in the checkpoint.
        cast: whether floats of another dtype fit.

    Raises:
        CheckpointError: something does not fit, or an expression matches nothing. All is listed.
    """
    wanted = {name: entry for name, entry in ours.items() if not only or matches(only, name)}
    renamed = {name: renamed_as(name, names or {}) for name in wanted}
    _check_expressions(ours, only, list(names or {}), wanted)
    rows = _problems(wanted, renamed, theirs, whole=not only, cast=cast)
    if rows:
        headline = f"the checkpoint is of another model: {_count(rows)} not fit."
        fix = "restore into the program that wrote it, or start anew in another directory"
        if not _problems(wanted, renamed, theirs, whole=not only, cast=True):
            fix = "restore with cast=True: only the dtypes of floats differ"
        raise CheckpointError(message(headline, [("path", path), *rows], fix))
    return {name: (renamed[name], theirs[renamed[name]].dtype) for name in wanted}


def _problems(
    wanted: Mapping[str, Entry],
    renamed: Mapping[str, str],
    theirs: Mapping[str, Entry],
    *,
    whole: bool,
    cast: bool,
) -> list[tuple[str, str]]:
    """What is missing, unexpected (if the whole is read) and differing."""
    lacking = [name for name in wanted if renamed[name] not in theirs]
    rows = [("missing", _called(name, renamed[name], wanted[name])) for name in lacking]
    if whole:
        taken = set(renamed.values())
        rows += [("unexpected", f"{n} {theirs[n]}") for n in theirs if n not in taken]
    for name, entry in wanted.items():
        found = theirs.get(renamed[name])
        if found is not None and not _fits(entry, found, cast):
            text = f"{renamed[name]} {found} in the checkpoint, {entry} in the program"
            rows.append(("differing", text))
    return rows


def _fits(entry: Entry, found: Entry, cast: bool) -> bool:
    if cast and entry.dtype in _FLOATS and found.dtype in _FLOATS:
        found = Entry(found.dims, found.shape, entry.dtype)
    return entry.fits(found)


def matches(pattern: str, name: str) -> re.Match[str] | None:
    """Match a whole name.

    Raises:
        CheckpointError: the expression does not parse.
    """
    try:
        return re.fullmatch(pattern, name)
    except re.error as error:
        rows = [("expression", pattern), ("reason", error)]
        raise CheckpointError(message("a regular expression does not parse.", rows)) from error


def renamed_as(name: str, names: Mapping[str, str]) -> str:
    """What `names`, from regular expressions, make of a name: the first that matches counts.

    >>> renamed_as("encoder/w", {"decoder/(.*)": r"d/\\1", "encoder/(.*)": r"e/\\1"})
    'e/w'
    """
    for pattern, new in names.items():
        if match := matches(pattern, name):
            return match.expand(new)
    return name


def _called(name: str, source: str, entry: Entry) -> str:
    return f"{source} {entry}" + (f", for {name}" if source != name else "")


def _check_expressions(
    ours: Mapping[str, Entry], only: str, patterns: list[str], wanted: Mapping[str, Entry]
) -> None:
    """Refuse expressions without effect: what was meant by them would silently not be done."""
    idle = [("only", only)] if not wanted and only else []
    idle += [("names", p) for p in patterns if not any(matches(p, name) for name in wanted)]
    if idle:
        some = ", ".join(list(ours)[:4]) + (", ..." if len(ours) > 4 else "")
        raise CheckpointError(
            message(
                "no variable matches.",
                [*idle, ("variables", some or "none")],
                "a name must match as a whole: 'encoder/.*', not 'encoder'",
            )
        )


def _count(rows: list[tuple[str, str]]) -> str:
    return f"{len(rows)} tensor{'s do' if len(rows) > 1 else ' does'}"
