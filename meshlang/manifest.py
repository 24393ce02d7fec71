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
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from meshlang.errors import CheckpointError, message

#: the newest form that this version reads, and the one it writes
FORMAT = 1
MANIFEST = "manifest.json"
COMMITTED = "COMMITTED"

_OLDER = "restore an older checkpoint"
_log = logging.getLogger(__name__)


class NewerFormatError(CheckpointError):
    """A checkpoint was written by a newer version of meshlang: it is good, for others."""


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
    format: int = FORMAT


def read(path: str | os.PathLike[str]) -> Manifest:
    """The manifest of a complete checkpoint. The files' sizes are checked, their contents not.

    Args:
        path: the checkpoint's directory.

    Raises:
        CheckpointError: there is none, it was never completed, its manifest does not parse, or
            files are missing or of other sizes.
        NewerFormatError: a newer version wrote it.
    """
    path = Path(path)
    if not path.is_dir():
        what = "a file, not a directory" if path.exists() else "nothing there"
        raise CheckpointError(message("there is no checkpoint.", [("path", path), ("found", what)]))
    if not (path / COMMITTED).is_file():
        raise _unusable("the checkpoint was never completed", path, [("missing", COMMITTED)])
    found = _checked_manifest(path)
    problems = [(name, _size_problem(path / name, file)) for name, file in found.files.items()]
    if any(problem for _, problem in problems):
        rows = [(name, problem) for name, problem in problems if problem]
        raise _unusable("the checkpoint is damaged", path, rows)
    return found


def damage(path: Path, manifest: Manifest, reason: str) -> CheckpointError:
    """The error for a checkpoint that could not be read, naming the files that have changed.

    Args:
        path: the checkpoint's directory.
        manifest: as `read` gives it.
        reason: what the reader said; used if no file has changed.
    """
    rows = [
        (name, "its contents have changed: the sha256 differs")
        for name, file in manifest.files.items()
        if _digest(path / name) != file.sha256
    ]
    return _unusable("the checkpoint is damaged", path, rows or [("reason", reason)])


def describe(directory: Path) -> dict[str, File]:
    """Sizes and digests of the files in a directory, which are brought to the disk."""
    found = {}
    for path in sorted(directory.iterdir()):
        _to_disk(path)
        found[path.name] = File(path.stat().st_size, _digest(path))
    return found


def commit(manifest: Manifest, written: Path, path: Path) -> None:
    """Complete the checkpoint in the directory `written` and give it its name, `path`.

    What has that name is moved to ``<path>.stale-<uuid>`` and stays there.
    """
    text = json.dumps(asdict(manifest), indent=1, allow_nan=False).encode()
    (written / MANIFEST).write_bytes(text)
    (written / COMMITTED).write_text(hashlib.sha256(text).hexdigest() + "\n")
    for place in (written / MANIFEST, written / COMMITTED, written):
        _to_disk(place)
    if path.exists():
        stale = path.with_name(f"{path.name}.stale-{uuid4().hex}")
        _log.warning("%s was there before; it is now %s", path, stale.name)
        path.rename(stale)
    written.rename(path)
    _to_disk(path.parent)


def _checked_manifest(path: Path) -> Manifest:
    """The manifest, if it is as it was committed."""
    try:
        text = (path / MANIFEST).read_bytes()
        if hashlib.sha256(text).hexdigest() != (path / COMMITTED).read_text().strip():
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
        format=int(data["format"]),
    )


def _size_problem(path: Path, file: File) -> str:
    if not path.is_file():
        return "missing"
    size = path.stat().st_size
    return f"{size} bytes, {file.bytes} in the manifest" if size != file.bytes else ""


def _unusable(what: str, path: Path, rows: list[tuple[str, str]]) -> CheckpointError:
    return CheckpointError(message(f"{what}.", [("path", path), *rows], _OLDER))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _to_disk(path: Path) -> None:
    """Wait until a file, or a directory's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
