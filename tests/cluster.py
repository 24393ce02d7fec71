"""Runs of several processes on this machine, for tests: started, watched, ended by their ids."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.processes import free_ports
from meshlang.tf_config import ClusterSpec

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class Ended:
    """How a process ended: its exit code, negative for a signal; what it wrote; when.

    Attributes:
        code: None if it had to be killed, since it did not end in time.
        text: stdout and stderr.
        seconds: since the start of all.
    """

    code: int | None
    text: str
    seconds: float


class Cluster:
    """Processes with TF_CONFIG, each with a log of its own; killed when the block ends.

    Example:
        with Cluster(tmp_path, ["-m", "launch.train", ...], processes=2) as cluster:
            cluster.signal(1, signal.SIGKILL)
            ended = cluster.wait(60)

    Args:
        directory: for the logs.
        arguments: behind the name of the Python that runs this.
        processes: how many.
        started: of them, those that are started; all if not given.
        more: arguments for one of them alone, by its number.
        env: of one of them, by its number, besides this process's.
    """

    def __init__(
        self,
        directory: Path,
        arguments: Sequence[str],
        processes: int,
        *,
        started: Sequence[int] | None = None,
        more: Mapping[int, Sequence[str]] | None = None,
        env: Mapping[int, Mapping[str, str]] | None = None,
    ) -> None:
        addresses = tuple(f"localhost:{port}" for port in free_ports(processes))
        self.began = time.monotonic()
        self._logs: dict[int, Path] = {}
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        directory.mkdir(parents=True, exist_ok=True)
        for i in range(processes) if started is None else started:
            placed = {"PYTHONPATH": str(ROOT), "TF_CONFIG": ClusterSpec(addresses, i).text()}
            self._logs[i] = directory / f"process{i}.log"
            with self._logs[i].open("wb") as log:
                self._running[i] = subprocess.Popen(
                    [sys.executable, *arguments, *(more or {}).get(i, ())],
                    env={**os.environ, **placed, **(env or {}).get(i, {})},
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                )

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._running.values():
            if process.poll() is None:
                process.kill()
                process.wait()

    def signal(self, process: int, number: signal.Signals) -> None:
        """Send a signal to one of them."""
        self._running[process].send_signal(number)

    def poll(self, process: int) -> int | None:
        """The exit code of one of them, if it has ended."""
        return self._running[process].poll()

    def text(self, process: int) -> str:
        """What one of them has written so far."""
        return self._logs[process].read_text(errors="replace")

    def wait_for(self, text: str, process: int = 0, seconds: float = 60.0) -> None:
        """Wait until one of them has written something."""
        until = time.monotonic() + seconds
        while text not in self.text(process):
            ended = self._running[process].poll() is not None
            if ended or time.monotonic() > until:
                raise AssertionError(f"no {text!r} from process {process}:\n{self.text(process)}")
            time.sleep(0.05)

    def wait(self, seconds: float) -> dict[int, Ended]:
        """How each of them ended; those that do not in so many seconds from now on are killed."""
        until = time.monotonic() + seconds
        found: dict[int, Ended] = {}
        while len(found) < len(self._running):
            late = time.monotonic() > until
            for i, process in self._running.items():
                if i in found or (process.poll() is None and not late):
                    continue
                code = process.poll()
                if code is None:
                    process.kill()
                    process.wait()
                found[i] = Ended(code, self.text(i), time.monotonic() - self.began)
            time.sleep(0.02)
        return dict(sorted(found.items()))


def run(
    directory: Path,
    arguments: Sequence[str],
    processes: int,
    seconds: float = 120.0,
    **rest: Any,
) -> dict[int, Ended]:
    """Start processes and wait for them; anew if another program took one of their ports."""
    for turn in range(3):
        with Cluster(directory, arguments, processes, **rest) as cluster:
            ended = cluster.wait(seconds)
        if turn == 2 or not any("is in use" in found.text for found in ended.values()):
            return ended
    raise AssertionError("the last turn returns")


def check_done(ended: Mapping[int, Ended]) -> None:
    """All ended with exit code 0."""
    for i, found in ended.items():
        assert found.code == 0, f"process {i} ended with {found.code}:\n{found.text[-5000:]}"
