"""What stands in a checkpoint beside its tensors, and how a checkpoint comes to be. No TensorFlow.

A checkpoint is a directory. It is written under another name and appears by one rename, so that
under its own name there is all of it or nothing. Inside::

    bundle.index  bundle.data-*   the tensors, as TensorFlow writes them
    checkpoint                    for tf.train.load_checkpoint(directory)
    manifest.json                 what the tensors are, sizes and digests of the files, step, seed
    COMMITTED                     the digest of manifest.json, written last
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from meshlang import faults
from meshlang.errors import CheckpointError, message

#: the newest form that this version reads, and the one it writes
FORMAT = 1
MANIFEST = "manifest.json"
COMMITTED = "COMMITTED"

_OLDER = "restore an older checkpoint"
_log = logging.getLogger(__name__)


class NewerFormatError(CheckpointError):
    """A checkpoint was written by a newer version of meshlang: it is good, for others."""


class DamagedError(CheckpointError):
    """A checkpoint was never completed, or is not what it was when it was.

    Attributes:
        problems: names of files, and what is wrong with each.
    """

    def __init__(self, text: str, problems: Sequence[tuple[str, str]]) -> None:
        super().__init__(text)
        self.problems = list(problems)

    def line(self) -> str:
        """All problems in one line, for a log."""
        return "; ".join(f"{name}: {what}" for name, what in self.problems)


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor of a checkpoint.

    >>> print(Entry(("d_in", "d_out"), (4, 8), "float32"))
    [d_in:4 d_out:8] float32
    """

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str

    def fits(self, other: Entry) -> bool:
        """Whether one can be read as the other: dims may have new names, but no other order."""
        swapped = self.dims != other.dims and sorted(self.dims) == sorted(other.dims)
        return (self.shape, self.dtype) == (other.shape, other.dtype) and not swapped

    def __str__(self) -> str:
        dims = zip(self.dims, self.shape, strict=True)
        return f"[{' '.join(f'{name}:{size}' for name, size in dims)}] {self.dtype}"


@dataclass(frozen=True, slots=True)
class File:
    """A file of a checkpoint: its size in bytes and its digest in hexadecimal."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Part:
    """What one place wrote: a name, which the merged bundle no longer has, and its data file."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a checkpoint holds.

    Attributes:
        meshlang: the version that wrote it.
        step: how many updates there had been.
        seed: of random numbers.
        mesh, layout, params, slots: under which it was written; any others can read it.
        tensors: the variables, whole, by name.
        files: those that hold the tensors, by name.
        extra: what the writer added, anything that JSON can hold.
        versions: of Python and TensorFlow, which wrote it.
        format: of this manifest.
    """

    meshlang: str
    step: int
    seed: int
    mesh: str
    layout: str
    params: str
    slots: str
    tensors: Mapping[str, Entry]
    files: Mapping[str, File]
    extra: Mapping[str, Any]
    versions: Mapping[str, str] = field(default_factory=dict)
    format: int = FORMAT


def read(path: str | os.PathLike[str]) -> Manifest:
    """The manifest of a complete checkpoint. The files' sizes are checked, their contents not.

    Args:
        path: the checkpoint's directory.

    Raises:
        CheckpointError: there is none.
        DamagedError: it was never completed, its manifest does not parse, or files are missing or
            of other sizes.
        NewerFormatError: a newer version wrote it.
    """
    path = Path(path)
    if not path.is_dir():
        what = "a file, not a directory" if path.exists() else "nothing there"
        raise CheckpointError(message("there is no checkpoint.", [("path", path), ("found", what)]))
    if not (path / COMMITTED).is_file():
        raise _unusable("the checkpoint was never completed", path, [(COMMITTED, "missing")])
    found = _checked_manifest(path)
    problems = [(name, _size_problem(path / name, file)) for name, file in found.files.items()]
    if any(problem for _, problem in problems):
        rows = [(name, problem) for name, problem in problems if problem]
        raise _unusable("the checkpoint is damaged", path, rows)
    return found


def damage(path: Path, manifest: Manifest, reason: str) -> DamagedError:
    """The error for a checkpoint that could not be read, naming the files that have changed.

    Args:
        path: the checkpoint's directory.
        manifest: as `read` gives it.
        reason: what the reader said; used if no file has changed.
    """
    rows = [
        (name, "its contents have changed: the sha256 differs")
        for name, file in manifest.files.items()
        if not (path / name).is_file() or _digest(path / name) != file.sha256
    ]
    return _unusable("the checkpoint is damaged", path, rows or [("reason", reason)])


def describe_part(directory: Path, name: str) -> Part:
    """What was written as a part of a bundle; it is brought to the disk."""
    path = directory / f"{name}.data-00000-of-00001"
    to_disk(path)
    return Part(name, path.stat().st_size, _digest(path))


def describe(directory: Path, parts: Sequence[Part] = ()) -> dict[str, File]:
    """Sizes and digests of the files in a directory, which are brought to the disk.

    Args:
        directory: it has no files but those of the checkpoint.
        parts: whose data files a bundle was merged of, in order: they are on the disk already.

    Raises:
        OSError: what a part is here is not what its writer says it is.
    """
    count, known = len(parts), {}
    for i, part in enumerate(parts):
        known[f"bundle.data-{i:05d}-of-{count:05d}"] = File(part.bytes, part.sha256)
    found = {}
    for path in sorted(directory.iterdir()):
        size = path.stat().st_size
        if path.name not in known:
            to_disk(path)
            found[path.name] = File(size, _digest(path))
        elif size != known[path.name].bytes:
            raise OSError(f"{path.name} has {size} bytes, {known[path.name].bytes} were written")
    if missing := known.keys() - {path.name for path in directory.iterdir()}:
        raise OSError(f"{', '.join(sorted(missing))} cannot be seen from here")
    return dict(sorted({**found, **known}.items()))


def commit(manifest: Manifest, written: Path, path: Path) -> None:
    """Complete the checkpoint in the directory `written` and give it its name, `path`.

    What has that name is moved to ``<path>.stale-<uuid>`` and stays there.
    """
    text = json.dumps(asdict(manifest), indent=1, allow_nan=False).encode()
    (written / MANIFEST).write_bytes(text)
    faults.point("ckpt.after_manifest", manifest.step)
    (written / COMMITTED).write_text(digest_of(text) + "\n")
    for place in (written / MANIFEST, written / COMMITTED, written):
        to_disk(place)
    faults.point("ckpt.after_committed", manifest.step)
    if path.exists():
        stale = path.with_name(f"{path.name}.stale-{uuid4().hex}")
        _log.warning("%s was there before; it is now %s", path, stale.name)
        path.rename(stale)
        faults.point("ckpt.after_stale", manifest.step)
    written.rename(path)
    to_disk(path.parent)
    faults.point("ckpt.after_rename", manifest.step)


def _checked_manifest(path: Path) -> Manifest:
    """The manifest, if it is as it was committed."""
    try:
        text = (path / MANIFEST).read_bytes()
        if digest_of(text) != (path / COMMITTED).read_text().strip():
            raise ValueError("it has changed since it was committed")
        data = json.loads(text)
        version = int(data["format"])
        if version <= FORMAT:
            return _manifest(data)
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        reason = "missing" if isinstance(error, FileNotFoundError) else f"unreadable: {error}"
        raise _unusable("the checkpoint is damaged", path, [(MANIFEST, reason)]) from error
    headline = f"the checkpoint was written by a newer version of meshlang ({version} > {FORMAT})"
    rows = [("path", path), ("meshlang", data.get("meshlang", "unknown"))]
    raise NewerFormatError(message(f"{headline}.", rows, "install that version, or a later one"))


def _manifest(data: dict[str, Any]) -> Manifest:
    tensors = {
        name: Entry(tuple(map(str, e["dims"])), tuple(map(int, e["shape"])), str(e["dtype"]))
        for name, e in dict(data["tensors"]).items()
    }
    files = {n: File(int(f["bytes"]), str(f["sha256"])) for n, f in dict(data["files"]).items()}
    for name in files:
        if Path(name).name != name:
            raise ValueError(f"{name!r} is not the name of a file")
    return Manifest(
        meshlang=str(data["meshlang"]),
        step=int(data["step"]),
        seed=int(data["seed"]),
        mesh=str(data["mesh"]),
        layout=str(data["layout"]),
        params=str(data["params"]),
        slots=str(data["slots"]),
        tensors=tensors,
        files=files,
        extra=dict(data["extra"]),
        versions={str(k): str(v) for k, v in dict(data.get("versions", {})).items()},
        format=int(data["format"]),
    )


def _size_problem(path: Path, file: File) -> str:
    if not path.is_file():
        return "missing"
    size = path.stat().st_size
    return f"{size} bytes, {file.bytes} in the manifest" if size != file.bytes else ""


def _unusable(what: str, path: Path, rows: list[tuple[str, str]]) -> DamagedError:
    return DamagedError(message(f"{what}.", [("path", path), *rows], _OLDER), rows)


def digest_of(text: bytes) -> str:
    """What ``COMMITTED`` holds for a manifest."""
    return hashlib.sha256(text).hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def to_disk(path: Path) -> None:
    """Wait until a file, or a directory's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
