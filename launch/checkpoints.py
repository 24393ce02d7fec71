"""Which checkpoints a run keeps, when they are written, and which of them it goes on from."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self
from uuid import uuid4

from launch.errors import ConfigError
from meshlang import faults, manifest
from meshlang.errors import CheckpointError, message
from meshlang.manifest import DamagedError, Manifest, NewerFormatError

if TYPE_CHECKING:
    from meshlang.lowering.peers import Peers

_STEP = re.compile(r"step_([0-9]+)")
# What a save or a removal that was cut short leaves behind.
_STRAY = re.compile(r"step_[0-9]+\.(tmp|deleting)-[0-9a-f]+")

#: seconds that processes wait for the chief's choice
_PATIENCE = 600.0
#: seconds that a run which has failed waits for a checkpoint that needs the other processes
_BRIEF = 5.0

_log = logging.getLogger(__name__)


class Writable(Protocol):
    """A checkpoint to be written; `meshlang.lowering.checkpoint.Saving` is one."""

    def write(self) -> Manifest:
        """Write it."""
        ...


class Saveable(Protocol):
    """What has variables to keep; `meshlang.Executable` is one."""

    def begin_save(
        self, path: str | os.PathLike[str], extra: Mapping[str, Any] | None = None
    ) -> Writable:
        """Copy the variables as they are now, for a checkpoint."""
        ...

    def restore(self, path: str | os.PathLike[str]) -> Manifest:
        """Read a checkpoint."""
        ...


@dataclass(frozen=True, kw_only=True)
class Retention:
    """Which checkpoints stay. What is damaged is never counted among them.

    Attributes:
        last: how many of the newest; at least two, since the newest may be the damaged one.
        every: besides, those whose step this divides; None for no such.
        best: besides, the one whose metric of this name is least; "" for no such.
        largest: the best is the one whose metric is largest.

    Raises:
        ConfigError: `last` or `every` is too small.
    """

    last: int = 2
    every: int | None = None
    best: str = ""
    largest: bool = False

    def __post_init__(self) -> None:
        if self.last < 2:
            headline = (
                f"{self.last} checkpoints are too few to keep: the newest may be the damaged one."
            )
            raise ConfigError(message(headline, fix="keep at least 2"))
        if self.every is not None and self.every < 1:
            raise ConfigError(message(f"every {self.every} steps cannot be.", fix="at least 1"))

    def staying(self, complete: Mapping[Path, Manifest]) -> set[Path]:
        """Those that stay, of all complete ones, which come oldest first."""
        stay = set(list(complete)[-self.last :])
        if self.every is not None:
            stay.update(path for path, m in complete.items() if m.step % self.every == 0)
        scores = {
            path: float(metric)
            for path, m in complete.items()
            if (metric := m.extra.get("metrics", {}).get(self.best)) is not None
        }
        if scores:
            sign = -1 if self.largest else 1
            stay.add(min(scores, key=lambda path: (sign * scores[path], -complete[path].step)))
        return stay


@dataclass(frozen=True)
class Saved:
    """A checkpoint that was written.

    Attributes:
        path: its directory.
        step: which one.
        stall: seconds for which the steps stood still.
        seconds: until it was complete.
        bytes: of its files.
    """

    path: Path
    step: int
    stall: float
    seconds: float
    bytes: int


class Checkpoints:
    """The checkpoints of a run: directories ``step_00000100`` in one directory.

    Which there are is read from the directory at each call. Only complete ones count. In a run of
    several processes all make the same calls; the chief chooses, removes and renames.

    Args:
        directory: made at the first save.
        retention: which stay.
        peers: the processes of the run; None for one alone, which needs no TensorFlow here.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        retention: Retention | None = None,
        peers: Peers | None = None,
    ) -> None:
        self.directory = Path(directory)
        self.retention = retention or Retention()
        self._peers = peers
        self._pending: _Writing | None = None

    # -- writing --------------------------------------------------------------------------------

    def save(self, executable: Saveable, step: int, extra: Mapping[str, Any] | None = None) -> Path:
        """Write a checkpoint; when it is complete, remove those that are too many.

        Args:
            executable: whose variables are written.
            step: names the checkpoint.
            extra: noted in its manifest, anything that JSON can hold. Its "metrics", a mapping,
                are what `Retention.best` looks at.

        Returns:
            The checkpoint's directory.

        Raises:
            CheckpointError: it, or the one before, cannot be written. Those that were there are
                untouched.
        """
        self.begin(executable, step, extra)
        saved = self.finish()
        assert saved is not None
        return saved.path

    def begin(
        self, executable: Saveable, step: int, extra: Mapping[str, Any] | None = None
    ) -> Saved | None:
        """Copy the variables and write them while the steps go on, with what `save` does then.

        The one before is waited for.

        Returns:
            As `finish`.

        Raises:
            CheckpointError: the one before could not be written; this one is not begun.
        """
        began = time.monotonic()
        before = self.finish()
        if self._chief:
            for stray in self._named(_STRAY):
                shutil.rmtree(stray, ignore_errors=True)
        writable = executable.begin_save(self.directory / f"step_{step:08d}", extra)
        stall = time.monotonic() - began
        self._pending = _Writing(lambda: self._write(writable, step, began, stall))
        self._pending.start()
        return before

    def poll(self) -> Saved | None:
        """What was begun, if it has been completed since; None if not.

        Raises:
            CheckpointError: it could not be written.
        """
        return self.finish() if self._pending and not self._pending.is_alive() else None

    def finish(self) -> Saved | None:
        """Wait for what was begun; None if nothing was, or it was reported already.

        Raises:
            CheckpointError: it could not be written.
        """
        pending, self._pending = self._pending, None
        return pending.result() if pending else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait for what was begun; if something else went wrong, its failure is only logged.

        Then other processes may be gone, and no checkpoint of all is waited for long.
        """
        if error is None:
            self.finish()
        elif self._pending:
            self._pending.join(None if self._peers is None or self._peers.count == 1 else _BRIEF)
            if not self._pending.is_alive():
                try:
                    self.finish()
                except CheckpointError as lost:
                    _log.warning("%s", lost)

    # -- reading --------------------------------------------------------------------------------

    def complete(self) -> list[Path]:
        """The complete checkpoints, oldest first."""
        return list(self._complete())

    def latest(self) -> Manifest | None:
        """The manifest of the newest complete checkpoint. Each newer one that is not is logged.

        Raises:
            NewerFormatError: a newer version of meshlang wrote it. Going on from an older one would
                lose what was trained since.
        """
        for path in reversed(self._steps()):
            try:
                return manifest.read(path)
            except NewerFormatError:
                raise
            except CheckpointError as error:
                _log.warning("%s is passed over: %s", path.name, error)
        return None

    def restore_latest(self, executable: Saveable) -> Manifest | None:
        """Restore the newest checkpoint that is good; its manifest, or None if there is none.

        One that is damaged is renamed to ``step_N.corrupt-<n>``, where it stays, with one line in
        the log that names the file; then the one before it is tried.

        Raises:
            CheckpointError: the newest is of another model, or a newer version wrote it.
        """
        while True:
            chosen = self._agreed(self._choose)
            if not chosen:
                return None
            path = self.directory / chosen
            try:
                return executable.restore(path)
            except DamagedError as error:
                self._agreed(lambda path=path, error=error: self._set_aside(path, error))

    def restore_step(self, executable: Saveable, step: int) -> Manifest:
        """Restore the checkpoint of one step, and no other.

        Raises:
            CheckpointError: it is not there, damaged, or of another model.
        """
        path = self.directory / f"step_{step:08d}"
        if not path.is_dir():
            there = " ".join(str(_step(p)) for p in self.complete())
            rows = [("directory", self.directory), ("steps there", there or "none")]
            raise CheckpointError(message(f"there is no checkpoint of step {step}.", rows))
        return executable.restore(path)

    # -- inside ---------------------------------------------------------------------------------

    @property
    def _chief(self) -> bool:
        return self._peers is None or self._peers.index == 0

    def _write(self, writable: Writable, step: int, began: float, stall: float) -> Saved:
        found = writable.write()
        path = self.directory / f"step_{step:08d}"
        if self._chief:
            try:
                self._retain(path, step)
            except OSError as error:
                _log.warning("checkpoints that are too many could not be removed: %s", error)
        size = sum(file.bytes for file in found.files.values())
        return Saved(path, step, stall, time.monotonic() - began, size)

    def _retain(self, written: Path, step: int) -> None:
        complete = self._complete()
        stay = self.retention.staying(complete) | {written}
        for path in complete:
            if path not in stay:
                victim = path.with_name(f"{path.name}.deleting-{uuid4().hex}")
                path.rename(victim)  # so that at no time there is a part of a checkpoint
                faults.point("ckpt.after_victim", step)
                shutil.rmtree(victim, ignore_errors=True)  # what stays is tried at the next save
        faults.point("ckpt.after_retention", step)

    def _agreed(self, choose: Callable[[], str]) -> str:
        """What the chief says; others may see other files."""
        if self._peers is None:
            return choose()
        told = {"text": "", "error": "", "newer": False}
        problem = None
        if self._chief:
            try:
                told["text"] = choose()
            except (CheckpointError, OSError) as error:
                problem = error
                told |= {"error": str(error), "newer": isinstance(error, NewerFormatError)}
        heard = json.loads(self._peers.broadcast("chosen checkpoint", json.dumps(told), _PATIENCE))
        if problem is not None:
            raise problem
        if heard["error"]:
            raise (NewerFormatError if heard["newer"] else CheckpointError)(heard["error"])
        return heard["text"]

    def _choose(self) -> str:
        """The name of the newest checkpoint that seems good; damaged ones are set aside."""
        for path in reversed(self._steps()):
            try:
                manifest.read(path)
            except DamagedError as error:
                self._set_aside(path, error)
            else:
                return path.name
        return ""

    def _set_aside(self, path: Path, error: DamagedError) -> str:
        taken = {p.name for p in self.directory.iterdir()}
        names = (f"{path.name}.corrupt-{n}" for n in range(1, len(taken) + 2))
        aside = next(name for name in names if name not in taken)
        path.rename(path.with_name(aside))
        _log.warning("%s is damaged and now called %s: %s", path, aside, error.line())
        return aside

    def _complete(self) -> dict[Path, Manifest]:
        found = {}
        for path in self._steps():
            try:
                found[path] = manifest.read(path)
            except CheckpointError:
                continue  # it is told of where a checkpoint is chosen
        return found

    def _steps(self) -> list[Path]:
        """What is named like a checkpoint, by step."""
        return sorted(self._named(_STEP), key=lambda path: (_step(path), path.name))

    def _named(self, pattern: re.Pattern[str]) -> list[Path]:
        if not self.directory.is_dir():
            return []
        return [path for path in self.directory.iterdir() if pattern.fullmatch(path.name)]


class _Writing(threading.Thread):
    """Writes one checkpoint; a daemon, since a process that ends need not wait for it."""

    def __init__(self, write: Callable[[], Saved]) -> None:
        super().__init__(name="checkpoint", daemon=True)
        self._write = write
        self._saved: Saved | None = None
        self._error: CheckpointError | None = None

    def run(self) -> None:
        """Write it."""
        try:
            self._saved = self._write()
        except CheckpointError as error:
            self._error = error

    def result(self) -> Saved:
        """Wait for it.

        Raises:
            CheckpointError: it could not be written.
        """
        self.join()
        if self._error is not None:
            raise self._error
        if self._saved is None:  # what ended the thread has been printed
            raise RuntimeError("a fault of meshlang's ended the writing of a checkpoint")
        return self._saved


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step_"))
