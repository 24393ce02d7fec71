"""What the processes of a run make sure of, together, before the first step."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import numpy as np

import meshlang as ml
from launch.data.batches import BatchSource
from launch.flags import Devices
from meshlang.errors import ClusterError, MeshlangError, message
from meshlang.lowering.peers import Peers

T = TypeVar("T")


def start_devices(mesh: ml.Mesh, devices: Devices) -> Peers:
    """Start this process's share of the processors of a mesh; the processes that have the rest.

    CPUs unless told otherwise; as many as the mesh needs.

    Raises:
        ClusterError: the mesh cannot be shared among the processes, or they do not fit together.
    """
    from meshlang import tf_config
    from meshlang.lowering import cluster, runtime

    spec = tf_config.from_environment()
    processes = len(spec.addresses) if spec else 1
    share, rest = divmod(mesh.size, processes)
    if rest or not share:
        headline = f"{processes} processes cannot share {mesh.size} processors."
        rows = [("mesh", mesh or "(of one)"), ("processes", processes)]
        fix = "choose a mesh whose size is a multiple of the number of processes"
        raise ClusterError(message(headline, rows, fix))
    kind = devices.kind
    if kind == "auto":
        kind = "gpu" if runtime.has_gpus(share) else "cpu"
    ml.start(devices=devices.count or share, kind=kind, timeouts=devices.timeouts)
    return cluster.peers()


def facts(config_text: str, program: ml.Program, plan: ml.Plan) -> dict[str, str]:
    """What must be equal in all processes, by name."""
    import tensorflow as tf

    versions = {
        "python": platform.python_version(),
        "meshlang": ml.__version__,
        "tensorflow": tf.__version__,
        "numpy": np.__version__,
    }
    return {
        "versions": "\n".join(f"{name} {version}" for name, version in versions.items()),
        "configuration": config_text,
        "program": str(program),
        "plan": plan.text(),
    }


def agree(peers: Peers, mine: Mapping[str, str], seconds: float) -> None:
    """Refuse to start where processes differ in anything that must be equal.

    Digests are compared first; of what differs the chief's text is compared line by line.

    Raises:
        ClusterError: they differ; it shows the first line that does.
        PeerError: some process did not come.
    """
    if peers.count == 1:
        return
    digests = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in mine.items()}
    found = [json.loads(text) for text in peers.gather("agreement", json.dumps(digests), seconds)]
    for name in mine:
        others = [i for i, theirs in enumerate(found) if theirs.get(name) != found[0].get(name)]
        if others:
            texts = peers.gather(f"agreement/{name}", mine[name], seconds)
            raise _difference(name, others[0], texts[0], texts[others[0]])


def _difference(name: str, other: int, chiefs: str, theirs: str) -> ClusterError:
    """The first line in which a process differs from the chief."""
    pairs = zip_longest(chiefs.splitlines(), theirs.splitlines(), fillvalue="(nothing)")
    number, (first, second) = next((i, p) for i, p in enumerate(pairs, 1) if p[0] != p[1])
    rows = [("line", number), ("process 0", first.strip()), (f"process {other}", second.strip())]
    fix = "start all processes with the same command line, files and versions"
    return ClusterError(message(f"the processes differ in their {name}.", rows, fix))


def check_shared(peers: Peers, directory: Path, seconds: float) -> None:
    """Refuse a directory that is not one and the same for all processes.

    Raises:
        ClusterError: the chief does not see what the others wrote there.
        PeerError: some process did not come.
    """
    if peers.count == 1:
        return
    mine = f".shared-{uuid4().hex}"
    reason = ""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / mine).write_text(str(peers.index))
    except OSError as error:
        reason = str(error)
    try:
        written = peers.gather("directory", json.dumps([mine, reason]), seconds)
        problems = _unseen(directory, [json.loads(text) for text in written])
        found = json.loads(peers.gather("seen", json.dumps(problems), seconds)[0])
    finally:
        (directory / mine).unlink(missing_ok=True)
    if found:
        rows = [("directory", directory), *((who, why) for who, why in found)]
        fix = "put --model_dir on a file system that all processes share"
        raise ClusterError(message("the processes do not share their directory.", rows, fix))


def _unseen(directory: Path, written: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """What this process does not see of what each wrote."""
    found = []
    for process, (name, reason) in enumerate(written):
        if reason:
            found.append((f"process {process}", reason))
        elif not (directory / name).exists():
            found.append((f"process {process}", "the chief does not see what it wrote there"))
    return found


def chief_first(peers: Peers, what: str, do: Callable[[], T], seconds: float) -> T:
    """What `do` gives, on every process, after the chief has done it alone.

    Raises:
        ClusterError: the chief could not, for a mistake of the user's.
        PeerError: the chief is gone.
    """
    if peers.index == 0:
        try:
            done = do()
        except MeshlangError as error:
            peers.broadcast(what, f"{type(error).__name__}: {error}", seconds)
            raise
        peers.broadcast(what, "", seconds)
        return done
    failed = peers.broadcast(what, "", seconds)
    if failed:
        headline = f"process 0 could not prepare the {what}."
        raise ClusterError(message(headline, [("reason", failed)]))
    return do()


def batch_of(source: BatchSource, train: ml.Executable, step: int) -> dict[str, Any]:
    """The arrays of one step; of several processes, each reads the rows that its devices hold."""
    inputs = train.plan.inputs
    boxes = [train.needed(name)[0] for name in inputs]
    first, last = min(b.start for b in boxes), max(b.stop for b in boxes)
    rows = source.rows(step, first, last - first)
    found = {}
    for name in inputs:
        if name in rows:
            array = np.empty((source.batch, *rows[name].shape[1:]), rows[name].dtype)
            array[first:last] = rows[name]
            found[name] = array
    return found
