"""One launch at a time in a run's directory."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
from pathlib import Path
from types import TracebackType
from typing import Self

from launch.errors import ConfigError
from meshlang.errors import message

NAME = "LOCK"

_log = logging.getLogger(__name__)


class RunLock:
    """Held while a launch works in a directory; the file ``LOCK`` there says whose it is.

    The system holds the lock for this process and lets go of it however the process ends, so that
    one that was killed leaves only a file, which the next launch takes over. Over a network file
    system that knows locks (NFS does) it holds between machines.

    Args:
        directory: of the run.

    Raises:
        ConfigError: another launch works there.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / NAME
        self._file = -1

    def __enter__(self) -> Self:
        while True:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                text = self._taken()
                os.close(self._file)
                raise ConfigError(text) from None
            except OSError as error:
                if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                    raise
                _log.warning("%s cannot be locked (%s): start no second launch", self.path, error)
            if self._is_there():
                break
            os.close(self._file)  # its holder removed it meanwhile: this is no longer the file
        self._write()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.path.unlink(missing_ok=True)
        os.close(self._file)

    def _is_there(self) -> bool:
        try:
            there = self.path.stat()
        except FileNotFoundError:
            return False
        held = os.fstat(self._file)
        return (there.st_dev, there.st_ino) == (held.st_dev, held.st_ino)

    def _write(self) -> None:
        before = os.pread(self._file, 4096, 0).decode(errors="replace").strip()
        if before:
            _log.warning("the launch that held %s is gone; it is taken over: %s", NAME, before)
        mine = {"host": socket.gethostname(), "pid": os.getpid()}
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, (json.dumps(mine) + "\n").encode(), 0)

    def _taken(self) -> str:
        text = os.pread(self._file, 4096, 0).decode(errors="replace").strip()
        try:
            holder = json.loads(text)
            rows = [(name, holder[name]) for name in ("host", "pid")]
        except (ValueError, KeyError, TypeError):
            rows = [(NAME, text or "empty")]
        return message(
            "another launch works in this directory.",
            [("directory", self.path.parent), *rows],
            "wait for it or end it, or choose another --model_dir",
        )
