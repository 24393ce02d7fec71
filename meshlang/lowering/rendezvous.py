"""All processes of a run find each other before TensorFlow opens its servers.

TensorFlow waits an hour for a process that never starts, and cannot be told otherwise. So each
process first says to the chief, at the port that the chief's server will have, that it is there;
when all have, or time is up, the chief tells all of them.
"""

from __future__ import annotations

import hashlib
import json
import socket
import time
from collections.abc import Sequence
from contextlib import ExitStack

from meshlang.errors import ClusterError, PeerError, message
from meshlang.tf_config import ClusterSpec

_BETWEEN = 0.1  # seconds between two tries to reach the chief
_TRY = 5.0  # seconds of one
_GRACE = 5.0  # the others wait so much longer than the chief, who tells them who is missing
_MOST = 65536  # bytes of a word


def meet(spec: ClusterSpec, seconds: float) -> None:
    """Wait until all processes have started.

    Args:
        spec: which there are.
        seconds: how long at most.

    Raises:
        ClusterError: this process was given other addresses than the chief.
        PeerError: some have not started; it names them.
    """
    until = time.monotonic() + seconds
    missing = _receive(spec, until) if spec.index == 0 else _announce(spec, until + _GRACE)
    if missing:
        raise PeerError(
            message(
                f"not all of {len(spec.addresses)} processes have started within {seconds:g} s.",
                [("missing", f"process {i} at {spec.addresses[i]}") for i in missing],
                "see why they did not start; their machines must reach each other's ports",
            )
        )


def _receive(spec: ClusterSpec, until: float) -> list[int]:
    """The chief's part: hear from all, answer all. Returns who is missing."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("", int(spec.addresses[0].rpartition(":")[2])))
        server.listen(len(spec.addresses))
        there: dict[int, socket.socket] = {}
        while len(there) < len(spec.addresses) - 1 and time.monotonic() < until:
            server.settimeout(max(0.01, until - time.monotonic()))
            try:
                link, _ = server.accept()
            except TimeoutError:
                break
            stack.enter_context(link)
            index = _heard(spec, link)
            if index is not None:
                there[index] = link
        missing = [i for i in range(1, len(spec.addresses)) if i not in there]
        for link in there.values():
            _say(link, {"missing": missing})
    return missing


def _heard(spec: ClusterSpec, link: socket.socket) -> int | None:
    """Which process calls; None if it is none of this run."""
    link.settimeout(_TRY)
    try:
        word = _hear(link)
        if word.get("run") != _digest(spec):
            _say(link, {"refused": True})
            return None
        return int(word["index"])
    except (OSError, ValueError, KeyError):
        return None


def _announce(spec: ClusterSpec, until: float) -> list[int]:
    """Another process's part: tell the chief, hear its answer. Returns who is missing."""
    host, _, port = spec.addresses[0].rpartition(":")
    while time.monotonic() < until:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=_TRY) as link:
                _say(link, {"run": _digest(spec), "index": spec.index})
                link.settimeout(max(0.01, until - time.monotonic()))
                answer = _hear(link)
        except (OSError, ValueError):  # not there yet, or gone again
            time.sleep(_BETWEEN)
            continue
        if answer.get("refused"):
            rows = [("process", spec.index), ("its addresses", " ".join(spec.addresses))]
            fix = "give all processes the same 'cluster' in TF_CONFIG"
            raise ClusterError(message("the chief has other addresses in TF_CONFIG.", rows, fix))
        return answer["missing"]
    return [0]


def _digest(spec: ClusterSpec) -> str:
    return hashlib.sha256(" ".join(spec.addresses).encode()).hexdigest()


def _say(link: socket.socket, word: dict[str, str | int | bool | Sequence[int]]) -> None:
    try:
        link.sendall(json.dumps(word).encode() + b"\n")
    except OSError:
        pass  # it will find out by itself


def _hear(link: socket.socket) -> dict:
    """One word: a line of JSON."""
    heard = b""
    while not heard.endswith(b"\n") and len(heard) < _MOST:
        more = link.recv(4096)
        if not more:
            raise ConnectionError("the other side has gone")
        heard += more
    return json.loads(heard)
