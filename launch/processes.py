"""Several processes on this machine, and runs that start again: the parent of what trains."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import IO

from launch.flags import DONE, INTERNAL_ERROR, RETRY, USERS_ERROR
from meshlang.errors import MeshlangError, PeerError
from meshlang.tf_config import ClusterSpec, Timeouts

_LAST = 5.0  # seconds that the chief waits for the others to read why all end
_GRACE = 30.0  # beyond what the others need to find out that one has ended


def supervise(command: Sequence[str], processes: int, max_restarts: int, timeouts: Timeouts) -> int:
    """Run a command in so many processes, again if one of them is lost. Returns the exit code.

    Every start goes on from the last committed checkpoint, which is the command's own doing.

    Args:
        command: what each process runs; it finds its place in TF_CONFIG.
        processes: how many; of one, TF_CONFIG stays as it is.
        max_restarts: starts after the first.
        timeouts: of the processes, which end on their own within these after one has.
    """
    with _Children(timeouts) as children:
        for turn in range(max_restarts + 1):
            code = children.run(command, processes)
            if code != RETRY or children.stopped or turn == max_restarts:
                return code
            left = max_restarts - turn - 1
            print(
                f"meshlang: the run ended with exit code {code}, and starts again ({left} more "
                f"restart{'' if left == 1 else 's'})",
                file=sys.stderr,
                flush=True,
            )
    raise AssertionError("the last turn returns")


def code_of(codes: Sequence[int]) -> int:
    """The exit code of a run from those of its processes, which are negative for signals.

    >>> code_of([0, 0]), code_of([75, 1]), code_of([75, -9]), code_of([75, 70])
    (0, 1, 75, 70)
    """
    if not any(codes):
        return DONE
    for code in (USERS_ERROR, INTERNAL_ERROR):
        if code in codes:
            return code
    return RETRY if all(code in (DONE, RETRY) or code < 0 for code in codes) else INTERNAL_ERROR


class _Children:
    """The processes of one start, to which signals are passed on.

    Attributes:
        stopped: whether a signal asked for the end of all.
    """

    def __init__(self, timeouts: Timeouts) -> None:
        self.stopped = False
        self._patience = timeouts.heartbeat + timeouts.shutdown + _GRACE
        self._running: list[subprocess.Popen[bytes]] = []
        self._before: dict[int, object] = {}

    def __enter__(self) -> _Children:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._pass_on)
        return self

    def __exit__(self, *_: object) -> None:
        self._kill()
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def run(self, command: Sequence[str], processes: int) -> int:
        """Start all, wait for all."""
        readers = []
        for i, env in enumerate(_environments(processes)):
            out, errors = (subprocess.PIPE, subprocess.STDOUT) if i else (None, None)
            child = subprocess.Popen(command, env=env, stdout=out, stderr=errors)
            self._running.append(child)
            if child.stdout:
                readers.append(threading.Thread(target=_show, args=(i, child.stdout), daemon=True))
                readers[-1].start()
        self._wait()
        codes = [child.returncode for child in self._running]
        for reader in readers:
            reader.join(timeout=5.0)
        self._running.clear()
        for i, code in enumerate(codes):
            if processes > 1 and code:
                how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended: {code}"
                print(f"meshlang: process {i} {how}", file=sys.stderr, flush=True)
        return code_of(codes)

    def _wait(self) -> None:
        """Until all have ended; soon after the first one, those that have not are killed."""
        until = float("inf")
        while any(child.poll() is None for child in self._running):
            if any(child.poll() is not None for child in self._running):
                until = min(until, time.monotonic() + self._patience)
            if time.monotonic() > until:
                self._kill()
            time.sleep(0.05)

    def _kill(self) -> None:
        for child in self._running:
            if child.poll() is None:
                child.kill()
                child.wait()

    def _pass_on(self, number: int, _: FrameType | None) -> None:
        self.stopped = True
        for child in self._running:
            if child.poll() is None:
                child.send_signal(number)


def _environments(processes: int) -> list[Mapping[str, str]]:
    """The environment of each process; of several, with TF_CONFIG."""
    if processes == 1:
        return [os.environ]
    addresses = tuple(f"localhost:{port}" for port in free_ports(processes))
    specs = [ClusterSpec(addresses, i) for i in range(processes)]
    return [{**os.environ, "TF_CONFIG": spec.text()} for spec in specs]


def free_ports(count: int) -> list[int]:
    """Ports that nobody listened on just now."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("", 0))
        return [probe.getsockname()[1] for probe in probes]


def _show(process: int, lines: IO[bytes]) -> None:
    """What a process other than the chief writes, with its number in front."""
    for line in lines:
        text = line.decode(errors="replace").rstrip()
        print(f"process {process}: {text}", file=sys.stderr, flush=True)


def leave(code: int) -> int:
    """The exit code; a process of several that has failed ends here and now.

    TensorFlow's own end waits for the others or aborts when some are lost. The chief, where the
    texts of all are kept, goes last.
    """
    cluster = sys.modules.get("meshlang.lowering.cluster")  # not there if nothing was started
    if cluster is None or code == DONE or cluster.peers().count == 1:
        return code
    peers = cluster.peers()
    try:
        until = time.monotonic() + _LAST
        for i in range(1, peers.count) if peers.index == 0 else ():
            peers.find(f"left/{i}", max(0.01, until - time.monotonic()))
        if peers.index:
            peers.post(f"left/{peers.index}", "")
    except PeerError:
        pass  # the chief is gone
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@contextmanager
def told_to_peers() -> Iterator[None]:
    """Tell the other processes why this one ends: they would wait for it in a collective.

    Of a user's mistake they make their own error, so that all end with exit code 1.
    """
    from meshlang.lowering import cluster

    try:
        yield
    except PeerError as error:
        cluster.peers().fail(str(error))  # the first one's text stays, whoever finds out
        raise
    except Exception as error:
        peers, text = cluster.peers(), f"{type(error).__name__}: {error}"
        mistake = f" {cluster.MISTAKE}" if isinstance(error, MeshlangError) else ""
        peers.fail(f"process {peers.index}{mistake}: {text}")
        raise
