"""TensorFlow's servers, and what processes say to each other through its coordination service.

With `meshlang.lowering.runtime` this is where TensorFlow's semi-private interface is used.
"""

from __future__ import annotations

import itertools
import json
import re
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import tensorflow as tf
from tensorflow.core.protobuf import (  # pyright: ignore[reportMissingImports]
    cluster_pb2,
    tensorflow_server_pb2,
)
from tensorflow.python.eager import context  # pyright: ignore[reportMissingImports]

from meshlang.errors import ClusterError, PeerError, message
from meshlang.lowering.peers import Alone, Peers
from meshlang.lowering.quiet import quiet_stderr
from meshlang.lowering.rendezvous import meet
from meshlang.tf_config import ClusterSpec, Timeouts

_JOB = "worker"

#: in what a process tells the others of its end: they need not start again either
MISTAKE = "for a mistake in its configuration or data"

_HEALTH = 10.0  # seconds in which a server that lives answers
_FAILED = "failed"
_GLANCE = 0.1  # for a text that is there or is not
_SLICE = 1.0  # seconds after which one who waits looks whether the others live
_NOISE = re.compile(
    r"Graph execution error|Detected at node|File |node |\[\[|\(\d+\)|\d+ root error|<stack traces|"
    r"The error could be from|Additional GRPC|:UNKNOWN|.*Recv(Async)? is cancelled"
)
_AGAIN = "the run goes on from its last checkpoint when restarted"
_LINES = 8  # of a reason
_GRACE = 10.0  # the others wait so much longer than the chief, who tells them who is missing

WARNING = """\
meshlang: TensorFlow's server listens on port {port} of all of this machine's addresses. It asks \
nobody for a password, encrypts nothing, and does what it is told, reading and writing files \
included: see that only the machines of this run can reach it."""


class ClusterPeers:
    """See `meshlang.lowering.peers.Peers`: the processes of a cluster that is up.

    Args:
        spec: which processes there are.
    """

    def __init__(self, spec: ClusterSpec) -> None:
        self.spec = spec
        self.index = spec.index
        self.count = len(spec.addresses)
        self._lock = threading.Lock()
        self._turns: dict[str, itertools.count[int]] = defaultdict(itertools.count)
        self._alone = False  # whether the chief was found not to answer

    def barrier(self, name: str, seconds: float) -> None:
        self.gather(name, "", seconds)

    def broadcast(self, name: str, text: str, seconds: float) -> str:
        key = self._key("broadcast", name)
        if self.index == 0:
            self._set(key, text)
            return text
        found = self._get(key, seconds, of=0)
        if found is None:
            raise _late(name, [0], seconds)
        return found

    def gather(self, name: str, text: str, seconds: float) -> list[str]:
        key, until = self._key("gather", name), time.monotonic() + seconds
        self._set(f"{key}/{self.index}", text)
        if self.index == 0:
            texts = [
                self._get(f"{key}/{i}", until - time.monotonic(), of=i) for i in range(self.count)
            ]
            verdict = json.dumps(texts)
            self._set(f"{key}/all", verdict)
            self._forget_before(key)
        else:
            found = self._get(f"{key}/all", seconds + _GRACE, of=0)
            if found is None:
                raise _late(name, [0], seconds)
            verdict = found
        texts = json.loads(verdict)
        missing = [i for i, found in enumerate(texts) if found is None]
        if missing:
            raise _late(name, missing, seconds)
        return texts

    def post(self, name: str, text: str) -> None:
        self._set(f"meshlang/post/{name}", text)

    def find(self, name: str, seconds: float) -> str | None:
        return self._get(f"meshlang/post/{name}", seconds)

    def fail(self, text: str) -> None:
        try:
            # TensorFlow passes the text on, but buries it: the others look here for what it was.
            self._check_chief()
            self.post(_FAILED, text)
            context.context().report_error_to_cluster(tf.errors.INTERNAL, text)
        except (tf.errors.OpError, ClusterError, PeerError):
            pass  # then the others already know that something is wrong

    def lost(self, error: tf.errors.OpError) -> ClusterError | PeerError | None:
        """An error of TensorFlow's in this process, if it is another one's end."""
        try:
            self._check_chief()
        except PeerError as chief:
            return chief
        said = self._said(_SLICE)
        if said is not None:
            return _ended(said)
        text = str(error.message)
        named = sorted({int(i) for i in re.findall(r"/task:(\d+)", text)} - {self.index})
        gone = named or self._unreachable(range(self.count))
        return _lost(gone, text) if gone else None

    def _check_chief(self) -> None:
        """Ask the chief for no more texts once it does not answer: it would take for ever."""
        self._alone = self._alone or bool(self._unreachable([0]))
        if self._alone:
            raise _lost([0], "its server does not answer")

    def _said(self, seconds: float) -> str | None:
        """Why a process ended, if one has said so."""
        try:
            return context.context().get_config_key_value(
                f"meshlang/post/{_FAILED}", int(seconds * 1000)
            )
        except tf.errors.OpError:
            return None

    def _unreachable(self, processes: Iterable[int]) -> list[int]:
        """Those of some processes whose servers do not answer."""
        found, patience = [], int(min(_HEALTH, _opened.timeouts.heartbeat) * 1000)
        for i in processes:
            if i != self.index:
                name = f"/job:{_JOB}/replica:0/task:{i}"
                try:
                    context.context().check_collective_ops_peer_health(name, patience)
                except tf.errors.OpError:
                    found.append(i)
        return found

    def _key(self, kind: str, name: str) -> str:
        """Where the texts of one call stand."""
        with self._lock:
            return f"meshlang/{kind}/{name}/{next(self._turns[f'{kind}/{name}'])}"

    def _forget_before(self, key: str) -> None:
        """Drop the texts of the call before this one: who speaks now has read them all."""
        name, _, turn = key.rpartition("/")
        if turn != "0":
            try:
                context.context().delete_config_key_value(f"{name}/{int(turn) - 1}")
            except tf.errors.OpError as error:
                raise _lost([0], str(error.message)) from error

    def _set(self, key: str, text: str) -> None:
        if self._alone:
            raise _lost([0], "its server does not answer")
        try:
            context.context().set_config_key_value(key, text)
        except tf.errors.AlreadyExistsError:
            pass  # of a post, the first stays
        except tf.errors.OpError as error:
            raise _lost([0], str(error.message)) from error

    def _get(self, key: str, seconds: float, *, of: int | None = None) -> str | None:
        """The value of a key when it is there; None if it is not in time.

        Args:
            key: of it.
            seconds: how long at most.
            of: the process that will set it: it is an error if this one is gone.
        """
        until = time.monotonic() + seconds
        while True:
            if self._alone:
                raise _lost([0], "its server does not answer")
            left = max(0.001, min(_SLICE, until - time.monotonic()))
            try:
                return context.context().get_config_key_value(key, int(left * 1000) or 1)
            except tf.errors.DeadlineExceededError as error:
                if time.monotonic() >= until:
                    return None
                if of is not None:
                    said = self._said(_GLANCE)
                    if said is not None:
                        raise _ended(said) from error
                    if self._unreachable([of]):
                        raise _lost([of], "its server does not answer") from error
            except tf.errors.OpError as error:  # the chief, where the texts are, is gone
                raise _lost([0], str(error.message)) from error


class _Opened:
    """The cluster of this process, of which TensorFlow permits one."""

    def __init__(self) -> None:
        self.peers: Peers = Alone()
        self.timeouts = Timeouts()


_opened = _Opened()


def peers() -> Peers:
    """The processes of this run."""
    return _opened.peers


def timeouts() -> Timeouts:
    """How long they wait for each other."""
    return _opened.timeouts


@contextmanager
def watched(peers: Peers) -> Iterator[None]:
    """Around what waits for other processes within TensorFlow: their end is told as such.

    If this process fails where the others do not, TensorFlow does not tell them, and they would
    wait: they are told here.
    """
    try:
        yield
    except tf.errors.OpError as error:
        if not isinstance(peers, ClusterPeers):
            raise
        lost = peers.lost(error)
        if lost is not None:
            raise lost from error
        peers.fail(f"process {peers.index}: {_telling(str(error.message))}")
        raise


def open_servers(spec: ClusterSpec, limits: Timeouts, *, use_nccl: bool) -> None:
    """Open this process's server and wait until all processes have; devices must be configured.

    Raises:
        PeerError: some process did not start in time.
    """
    port = spec.addresses[spec.index].rpartition(":")[2]
    meet(spec, limits.register)
    print(WARNING.format(port=port), file=sys.stderr, flush=True)
    ctx, leader = context.context(), f"/job:{_JOB}/replica:0/task:0"
    ctx.configure_collective_ops(collective_leader=leader, use_nccl_communication=use_nccl)
    ctx.configure_coordination_service(
        service_type="standalone",
        service_leader=leader,
        cluster_register_timeout_in_ms=int(limits.register * 1000),
        heartbeat_timeout_in_ms=int(limits.heartbeat * 1000),
        shutdown_barrier_timeout_in_ms=int(limits.shutdown * 1000),
    )
    cluster = cluster_pb2.ClusterDef()
    cluster.job.add(name=_JOB, tasks=dict(enumerate(spec.addresses)))
    server = tensorflow_server_pb2.ServerDef(
        cluster=cluster,
        default_session_config=context.get_config(),
        job_name=_JOB,
        task_index=spec.index,
        protocol="grpc",
    )
    server.default_session_config.rpc_options.num_channels_per_target = 4
    server.default_session_config.experimental.recv_buf_max_chunk = -1
    ctx.enable_collective_ops(server)
    try:
        with quiet_stderr():
            context.ensure_initialized()
    except tf.errors.OpError as error:
        raise _lost([], str(error.message)) from error
    _opened.peers, _opened.timeouts = ClusterPeers(spec), limits


def _named(processes: Sequence[int]) -> str:
    several = "es" if len(processes) > 1 else ""
    return f"process{several} {', '.join(map(str, processes))}"


def _late(name: str, missing: Sequence[int], seconds: float) -> PeerError:
    waited = f"waited {seconds:g} s at {name!r}"
    return PeerError(
        message(
            f"{_named(missing)} did not come.",
            [("others", waited)],
            "see what those processes do; start the run again",
        )
    )


def _telling(reason: str) -> list[str]:
    """The lines of TensorFlow's message that say something to people."""
    found = []
    for line in reason.splitlines():
        text = line.partition(" [type.googleapis.com")[0].strip()
        if text and not _NOISE.match(text):
            found.append(text)
    return found[:_LINES]


def _ended(said: str) -> ClusterError | PeerError:
    """The error when another process has said why it ends."""
    if MISTAKE in said:
        return ClusterError(message(f"another process ended {MISTAKE}.", [("reason", said)]))
    rows = [("reason", line) for line in said.splitlines()[:_LINES]]
    return PeerError(message("another process ended.", rows, _AGAIN))


def _lost(gone: Sequence[int], reason: str) -> PeerError:
    who = f"{_named(gone)} ended or cannot be reached." if gone else "another process ended."
    rows = [("reason", line) for line in _telling(reason)]
    return PeerError(message(who, rows, _AGAIN))
