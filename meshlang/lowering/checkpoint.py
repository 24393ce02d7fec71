"""Checkpoints: every distinct block is written once, and read back under any layout.

The tensors are a bundle in TensorFlow's own format, with slices: `tf.train.load_checkpoint` opens
the directory and shows whole tensors. Around them stands what `meshlang.manifest` describes.

A checkpoint is written by these lines, each by the process that is named; a process may be killed
between any two of them, and what has the checkpoint's name is all of it or nothing::

    1  a directory PATH.tmp-<uuid> is made                                       chief
    2  each process writes the blocks that are its to write, to the disk         all
    3  they tell each other what they wrote, or why they could not               all
    4  the parts are merged into one bundle, by renaming and one index           chief
    5  manifest.json                                                             chief
    6  COMMITTED; files and directory are brought to the disk                    chief
    7  the directory is renamed to PATH: from here on the checkpoint is there    chief
    8  all learn how it went                                                     all
"""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import tensorflow as tf

import meshlang
from meshlang import faults, manifest
from meshlang.errors import CheckpointError, PeerError, message
from meshlang.layout.layout import Tables
from meshlang.lowering import slices
from meshlang.lowering.fitting import Sources, sources
from meshlang.manifest import DamagedError, Entry, Manifest, Part

if TYPE_CHECKING:
    from meshlang.lowering.executable import Store

#: TensorFlow ends the process, without an exception, at a slice of a tensor with more
_MOST_DIMS = 8

#: seconds that processes wait for each other's parts
_PATIENCE = 600.0

_log = logging.getLogger(__name__)


def save(
    store: Store,
    path: str | os.PathLike[str],
    *,
    tables: Tables,
    extra: Mapping[str, Any] | None = None,
) -> Manifest:
    """Write all variables, the step and the seed as one checkpoint, which appears complete.

    A checkpoint that has this name already is moved to ``<path>.stale-<uuid>`` and stays there.
    float16 and uint32 tensors are written as int16 and int32 of the same bits: with
    `tf.train.load_checkpoint`, view them (``array.view("float16")``). In a run of several
    processes all call it, and the path is the same directory for all of them.

    Args:
        store: the variables.
        path: the directory to make; its parents are made if need be.
        tables: the mesh and the layout, noted for readers.
        extra: noted in the manifest, anything that JSON can hold.

    Raises:
        CheckpointError: it cannot be written.
        VariableError: a variable has no value yet.
    """
    return Saving(store, path, tables=tables, extra=extra, copied=False).write()


class Saving:
    """A checkpoint to be written, of the variables as they are when it is made.

    Args:
        store: see `save`; so for `path`, `tables` and `extra`.
        path: the directory to make.
        tables: the mesh and the layout.
        extra: noted in the manifest.
        copied: copy the blocks that this process writes into the host's memory at once, so that
            training may go on while `write` runs in another thread. Else no step may be taken
            before `write` has returned.
    """

    def __init__(
        self,
        store: Store,
        path: str | os.PathLike[str],
        *,
        tables: Tables,
        extra: Mapping[str, Any] | None = None,
        copied: bool = True,
    ) -> None:
        self.path = Path(path)
        self.step = int(store.step)
        store.check_ready()
        tensors = _tensors(store)
        _check_dims(tensors)
        self._manifest = Manifest(
            meshlang=meshlang.__version__,
            step=self.step,
            seed=int(store.seed),
            mesh=str(tables.mesh),
            layout=str(tables.layout),
            params=str(tables.params),
            slots=str(tables.slots),
            tensors=tensors,
            files={},
            extra=json.loads(json.dumps(dict(extra or {}), allow_nan=False)),
            versions={"python": platform.python_version(), "tensorflow": tf.__version__},
        )
        self._peers = store.machine.peers
        self._pieces = slices.pieces(store, copied=copied)

    def write(self) -> Manifest:
        """Write it; in any thread, once.

        Raises:
            CheckpointError: it cannot be written, on this process or another.
        """
        faults.point("ckpt.before", self.step)
        written = self.path.with_name(f"{self.path.name}.tmp-{uuid4().hex}")
        try:
            written = written.with_name(self._make(written))
            parts = self._write_parts(written)
            return self._commit(written, parts)
        except (OSError, tf.errors.OpError, PeerError) as error:
            rows = [("path", self.path), ("reason", _reason(error))]
            raise CheckpointError(message("the checkpoint could not be written.", rows)) from error
        finally:
            if self._chief:
                shutil.rmtree(written, ignore_errors=True)

    @property
    def _chief(self) -> bool:
        return self._peers.index == 0

    def _make(self, written: Path) -> str:
        """Line 1. The name that the chief chose."""
        told: dict[str, str] = {"name": written.name, "error": ""}
        if self._chief:
            try:
                written.mkdir(parents=True)
            except OSError as error:
                told["error"] = _reason(error)
        heard = self._peers.broadcast("checkpoint directory", json.dumps(told), _PATIENCE)
        told = json.loads(heard)
        if told["error"]:
            raise OSError(told["error"])
        faults.point("ckpt.after_mkdir", self.step)
        return told["name"]

    def _write_parts(self, written: Path) -> list[Part]:
        """Lines 2 and 3. The parts of all processes, in the order of their names."""
        mine: dict[str, Any] = {"parts": [], "error": ""}
        try:
            parts = slices.write_parts(self._pieces, written, self.step)
            mine["parts"] = [(part.name, part.bytes, part.sha256) for part in parts]
        except (OSError, tf.errors.OpError) as error:
            mine["error"] = _reason(error)
        self._pieces = {}
        faults.point("ckpt.after_write", self.step)
        name = f"checkpoint parts {written.name}"
        heard = [json.loads(h) for h in self._peers.gather(name, json.dumps(mine), _PATIENCE)]
        for index, told in enumerate(heard):
            if told["error"]:
                raise OSError(f"{self._who(index)}{told['error']}")
        faults.point("ckpt.after_parts", self.step)
        return sorted((Part(*p) for told in heard for p in told["parts"]), key=lambda p: p.name)

    def _commit(self, written: Path, parts: list[Part]) -> Manifest:
        """Lines 4 to 8."""
        problem = ""
        if self._chief:
            try:
                slices.merge(parts, written)
                faults.point("ckpt.after_merge", self.step)
                files = manifest.describe(written, parts)
                self._manifest = replace(self._manifest, files=files)
                manifest.commit(self._manifest, written, self.path)
            except (OSError, tf.errors.OpError) as error:
                problem = _reason(error)
        told = self._peers.broadcast(f"checkpoint result {written.name}", problem, _PATIENCE)
        faults.point("ckpt.after_result", self.step)
        if told:
            raise OSError(told)
        return self._manifest if self._chief else manifest.read(self.path)

    def _who(self, index: int) -> str:
        return f"process {index}: " if self._peers.count > 1 else ""


def restore(
    store: Store,
    path: str | os.PathLike[str],
    *,
    only: str = "",
    names: Mapping[str, str] | None = None,
    cast: bool = False,
) -> Manifest:
    """Read the variables of a store, the step and the seed from a checkpoint.

    Each processor's block is read from the file, whatever the mesh and layout it was saved under;
    no processor's memory holds a whole tensor that it keeps divided. If reading fails half-way, the
    store's variables have no value until they are restored or initialized. In a run of several
    processes all call it; if it fails on one, it fails on all.

    Args:
        store: the variables; the checkpoint must hold these and no others.
        path: the directory of a checkpoint.
        only: a regular expression. Variables whose names match it whole are read; others stay as
            they are, and so do the step and the seed. The checkpoint may hold more.
        names: from regular expressions of variables' names to the names of the checkpoint, which
            may use groups: ``{r"encoder/(.*)": r"old/\\1"}``. The first that matches counts; what
            none matches has its own name.
        cast: read floats of another dtype too, rounded to the variable's; else they differ.

    Raises:
        CheckpointError: it is missing, damaged, or of another model (all differences are listed);
            or a regular expression matches nothing.
    """
    path, problem, found = Path(path), None, None
    try:
        found = manifest.read(path)
        wanted = sources(_tensors(store), found.tensors, path, only=only, names=names, cast=cast)
        _read(store, path, found, wanted)
        if not only:
            store.seed, store.step = found.seed, found.step
        left = [name for name in store.variables if name not in wanted]
        _log.info("%d variables restored from %s; others: %s", len(wanted), path, left or "none")
    except CheckpointError as error:
        problem = error
    _all_restored(store, path, problem)
    assert found is not None
    return found


def _read(store: Store, path: Path, found: Manifest, wanted: Sources) -> None:
    store.ready.difference_update(wanted)
    try:
        for name, source in wanted.items():
            value = store.find(name)
            store.write_parts(name, value, slices.read_parts(store, path, name, value, source))
    except tf.errors.OpError as error:
        store.ready.difference_update(wanted)
        raise manifest.damage(path, found, _reason(error)) from error


def _all_restored(store: Store, path: Path, problem: CheckpointError | None) -> None:
    """Fail on all processes if one failed."""
    told = ["", ""] if problem is None else [str(problem), getattr(problem, "problems", [])]
    heard = store.machine.peers.gather(f"restored {path.name}", json.dumps(told), _PATIENCE)
    if problem is not None:
        raise problem
    for text, problems in map(json.loads, heard):
        if text:
            store.ready.difference_update(store.variables)
            raise DamagedError(text, problems) if problems else CheckpointError(text)


def _tensors(store: Store) -> dict[str, Entry]:
    return {
        name: Entry(value.shape.names, value.shape.sizes, value.dtype)
        for name, (_, value) in store.variables.items()
    }


def _reason(error: Any) -> str:
    """One line of what the system or TensorFlow said; TensorFlow's exceptions have a message."""
    return str(getattr(error, "message", error)).partition("\n")[0]


def _check_dims(tensors: Mapping[str, Entry]) -> None:
    """Refuse what TensorFlow's format cannot hold."""
    rows = [(name, entry) for name, entry in tensors.items() if len(entry.shape) > _MOST_DIMS]
    if rows:
        headline = f"a checkpoint holds variables of at most {_MOST_DIMS} dims."
        raise CheckpointError(message(headline, rows, "merge dims of these variables"))
