"""Which checkpoints a run keeps, and which of them it goes on from."""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from launch.errors import ConfigError
from meshlang import manifest
from meshlang.errors import CheckpointError, message
from meshlang.manifest import Manifest, NewerFormatError

_STEP = re.compile(r"step_([0-9]+)")
# What a save or a removal that was cut short leaves behind.
_STRAY = re.compile(r"step_[0-9]+\.(tmp|deleting)-[0-9a-f]+")

_log = logging.getLogger(__name__)


class Saveable(Protocol):
    """What has variables to keep; `meshlang.Executable` is one."""

    def save(
        self, path: str | os.PathLike[str], extra: Mapping[str, Any] | None = None
    ) -> Manifest:
        """Write a checkpoint."""
        ...

    def restore(self, path: str | os.PathLike[str]) -> Manifest:
        """Read a checkpoint."""
        ...


class Checkpoints:
    """The checkpoints of a run: directories ``step_00000100`` in one directory.

    Which there are is read from the directory at each call. Only complete ones count.

    Args:
        directory: made at the first save.
        keep: how many of the newest stay; at least two, since the newest may be the damaged one.

    Raises:
        ConfigError: `keep` is too small.
    """

    def __init__(self, directory: str | os.PathLike[str], keep: int = 2) -> None:
        if keep < 2:
            headline = f"{keep} checkpoints are too few to keep: the newest may be the damaged one."
            raise ConfigError(message(headline, fix="keep at least 2"))
        self.directory = Path(directory)
        self.keep = keep

    def save(self, executable: Saveable, step: int, extra: Mapping[str, Any] | None = None) -> Path:
        """Write a checkpoint; when it is complete, remove those that are too many.

        Args:
            executable: whose variables are written.
            step: names the checkpoint.
            extra: noted in its manifest, anything that JSON can hold.

        Returns:
            The checkpoint's directory.

        Raises:
            CheckpointError: it cannot be written. Those that were there are untouched.
        """
        for stray in self._named(_STRAY):
            shutil.rmtree(stray, ignore_errors=True)
        path = self.directory / f"step_{step:08d}"
        executable.save(path, extra)
        for victim in self.complete()[: -self.keep]:
            if victim != path:
                _remove(victim)
        return path

    def complete(self) -> list[Path]:
        """The complete checkpoints, oldest first."""
        return [path for path in self._steps() if _is_complete(path)]

    def latest(self) -> Manifest | None:
        """The manifest of the newest complete checkpoint. Each newer one that is not is logged.

        Raises:
            NewerFormatError: a newer version of meshlang wrote it. Going on from an older one would
                lose what was trained since.
        """
        found = self._newest()
        return found[1] if found else None

    def restore_latest(self, executable: Saveable) -> Manifest | None:
        """Restore the newest complete checkpoint; its manifest, or None if there is none.

        Raises:
            CheckpointError: it is of another model, its contents are damaged, or a newer version
                wrote it.
        """
        found = self._newest()
        return executable.restore(found[0]) if found else None

    def _newest(self) -> tuple[Path, Manifest] | None:
        for path in reversed(self._steps()):
            try:
                return path, manifest.read(path)
            except NewerFormatError:
                raise
            except CheckpointError as error:
                _log.warning("%s is passed over: %s", path.name, error)
        return None

    def _steps(self) -> list[Path]:
        """What is named like a checkpoint, by step."""
        return sorted(self._named(_STEP), key=lambda path: (_step(path), path.name))

    def _named(self, pattern: re.Pattern[str]) -> list[Path]:
        if not self.directory.is_dir():
            return []
        return [path for path in self.directory.iterdir() if pattern.fullmatch(path.name)]


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step_"))


def _is_complete(path: Path) -> bool:
    try:
        manifest.read(path)
    except CheckpointError:
        return False
    return True


def _remove(path: Path) -> None:
    """Remove a checkpoint, which at no time is there in part.

    What cannot be removed is tried again at the next save.
    """
    victim = path.with_name(f"{path.name}.deleting-{uuid4().hex}")
    path.rename(victim)
    shutil.rmtree(victim, ignore_errors=True)
