"""TF_CONFIG: which processes a run has, which of them this one is. Nothing here opens anything."""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from meshlang.errors import ClusterError, message

#: jobs that a cluster may have, in the order in which their tasks are numbered
JOBS = ("chief", "master", "worker")

_FIX = (
    'TF_CONFIG=\'{"cluster": {"worker": ["host:port", ...]}, '
    '"task": {"type": "worker", "index": 0}}\''
)


@dataclass(frozen=True)
class Timeouts:
    """How long processes wait for each other, in seconds.

    Attributes:
        register: for all to have started.
        heartbeat: without a sign of life, until a process counts as gone.
        shutdown: for all to have ended, once one has.
        agree: for all to say what they run, and to have traced it, before a first step.
        hang: for the end of a step, which may wait for what another process does between steps;
            then a process gives up.
    """

    register: float = 600.0
    heartbeat: float = 60.0
    shutdown: float = 60.0
    agree: float = 600.0
    hang: float = 1800.0


@dataclass(frozen=True)
class ClusterSpec:
    """The processes of a run.

    Attributes:
        addresses: "host:port" of each.
        index: which of them this is.
    """

    addresses: tuple[str, ...]
    index: int

    @property
    def order(self) -> tuple[int, ...]:
        """The processes in the order of the processors that they hold.

        TensorFlow ranks the members of a collective by the names of their devices, and there 10
        stands in front of 2. The mesh does the same, so that ranks are in its order.

        >>> ClusterSpec(tuple("abcdefghijkl"), 0).order
        (0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9)
        """
        return tuple(sorted(range(len(self.addresses)), key=str))

    def text(self) -> str:
        """As TF_CONFIG has it.

        >>> ClusterSpec(("a:1", "b:2"), 1).text()
        '{"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 1}}'
        """
        task = {"type": "worker", "index": self.index}
        return json.dumps({"cluster": {"worker": list(self.addresses)}, "task": task})


def from_environment(environ: Mapping[str, str] = os.environ) -> ClusterSpec | None:
    """What TF_CONFIG says; None if it is not set or has no cluster.

    Raises:
        ClusterError: it is malformed.
    """
    text = environ.get("TF_CONFIG", "")
    return parse(text) if text.strip() else None


def parse(text: str) -> ClusterSpec | None:
    """Read TF_CONFIG; None if it names no cluster.

    >>> parse('{"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 1}}')
    ClusterSpec(addresses=('a:1', 'b:2'), index=1)

    Raises:
        ClusterError: it is malformed; the message quotes the part.
    """
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        near = text[max(0, error.pos - 20) : error.pos + 20]
        rows = [("at", f"character {error.pos}: {error.msg}"), ("near", repr(near))]
        raise ClusterError(message("TF_CONFIG is not JSON.", rows, _FIX)) from error
    if not isinstance(config, dict):
        raise _wrong("TF_CONFIG is no JSON object.", config)
    cluster = config.get("cluster") or {}
    if not cluster:
        return None
    if not isinstance(cluster, dict):
        raise _wrong("'cluster' of TF_CONFIG is no JSON object.", cluster)
    jobs = {job: _addresses(job, tasks) for job, tasks in cluster.items()}
    addresses = [address for job in JOBS for address in jobs.get(job, ())]
    for address in addresses:
        if addresses.count(address) > 1:
            raise _wrong("two tasks of TF_CONFIG have the same address.", address)
    return ClusterSpec(tuple(addresses), _index(config.get("task"), jobs))


def check_port(spec: ClusterSpec) -> None:
    """Refuse to start where another program listens on this process's port.

    TensorFlow would share the port with it, without a word.

    Raises:
        ClusterError: the port is taken, or may not be used.
    """
    address = spec.addresses[spec.index]
    port = int(address.rpartition(":")[2])
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as after a run that ended
        try:
            probe.bind(("", port))
            probe.listen()
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            rows = [("address", address), ("reason", error.strerror)]
            raise ClusterError(
                message(
                    f"port {port} is {'in use' if taken else 'not to be had'}.",
                    rows,
                    "end the program that has it, or name another port in TF_CONFIG",
                )
            ) from error


def _addresses(job: str, tasks: Any) -> list[str]:
    """The addresses of one job."""
    if job not in JOBS:
        raise _wrong(f"TF_CONFIG has a job that meshlang does not know: {job!r}.", {job: tasks})
    if isinstance(tasks, Mapping):  # sparse, by index
        tasks = [tasks.get(str(i)) for i in range(len(tasks))]
    if not isinstance(tasks, Sequence) or isinstance(tasks, str) or not tasks:
        raise _wrong(f"job {job!r} of TF_CONFIG is no list of addresses.", tasks)
    for address in tasks:
        if not _is_address(address):
            raise _wrong(f"job {job!r} of TF_CONFIG has an address that is none.", address)
    return list(tasks)


def _is_address(address: Any) -> bool:
    if not isinstance(address, str):
        return False
    host, _, port = address.rpartition(":")
    return bool(host) and port.isdecimal() and 0 < int(port) < 65536


def _index(task: Any, jobs: Mapping[str, Sequence[str]]) -> int:
    """This process's number among all."""
    if not isinstance(task, dict) or "type" not in task or "index" not in task:
        raise _wrong("TF_CONFIG does not say which task this is.", {"task": task})
    job, index = task["type"], task["index"]
    if job not in jobs:
        raise _wrong(f"TF_CONFIG has no job {job!r}, and this task is of it.", {"task": task})
    if isinstance(index, str) and index.isdecimal():
        index = int(index)
    if not isinstance(index, int) or isinstance(index, bool):
        raise _wrong("the index of TF_CONFIG's task is no number.", {"task": task})
    if not 0 <= index < len(jobs[job]):
        headline = f"TF_CONFIG has no task {index} of {job!r}: there are {len(jobs[job])}."
        raise _wrong(headline, {"task": task})
    return sum(len(jobs.get(before, ())) for before in JOBS[: JOBS.index(job)]) + index


def _wrong(headline: str, part: Any) -> ClusterError:
    return ClusterError(message(headline, [("given", json.dumps(part))], _FIX))
