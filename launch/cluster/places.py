"""Where this process stands among all of a job, from what a scheduler tells it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from launch.errors import ConfigError
from meshlang.errors import message
from meshlang.tf_config import ClusterSpec

PORT = 7077
"""The port of the first process of a machine; the next ones have the next ports."""

Environment = Mapping[str, str]


def slurm(environ: Environment) -> ClusterSpec:
    """The place that SLURM gives: ``srun --distribution=block`` numbers tasks node by node.

    >>> slurm({
    ...     "SLURM_STEP_NODELIST": "gpu[01-02],big7",
    ...     "SLURM_STEP_TASKS_PER_NODE": "1(x2),2",
    ...     "SLURM_PROCID": "2",
    ... })
    ClusterSpec(addresses=('gpu01:7077', 'gpu02:7077', 'big7:7077', 'big7:7078'), index=2)

    Raises:
        ConfigError: this is not a step of SLURM's.
    """
    nodes = [*hosts(_variable(environ, "SLURM_STEP_NODELIST", "SLURM"))]
    counts = [*_counts(_variable(environ, "SLURM_STEP_TASKS_PER_NODE", "SLURM"))]
    if len(nodes) != len(counts):
        rows = [("nodes", len(nodes)), ("numbers of tasks", len(counts))]
        raise ConfigError(message("SLURM's variables do not fit together.", rows))
    port = int(environ.get("MESHLANG_PORT", PORT))
    pairs = zip(nodes, counts, strict=True)
    addresses = tuple(f"{node}:{port + i}" for node, count in pairs for i in range(count))
    return ClusterSpec(addresses, int(_variable(environ, "SLURM_PROCID", "SLURM")))


def kubernetes(environ: Environment) -> ClusterSpec:
    """The place of a pod of an Indexed Job whose pods a headless Service names.

    >>> kubernetes({
    ...     "MESHLANG_JOB": "train", "MESHLANG_SERVICE": "mesh", "MESHLANG_PROCESSES": "2",
    ...     "JOB_COMPLETION_INDEX": "1",
    ... })
    ClusterSpec(addresses=('train-0.mesh:7077', 'train-1.mesh:7077'), index=1)

    Raises:
        ConfigError: a variable of the job file is missing.
    """
    where = "an Indexed Job of Kubernetes"
    job = _variable(environ, "MESHLANG_JOB", where)
    service = _variable(environ, "MESHLANG_SERVICE", where)
    count = int(_variable(environ, "MESHLANG_PROCESSES", where))
    port = int(environ.get("MESHLANG_PORT", PORT))
    addresses = tuple(f"{job}-{i}.{service}:{port}" for i in range(count))
    return ClusterSpec(addresses, int(_variable(environ, "JOB_COMPLETION_INDEX", where)))


SCHEDULERS: Mapping[str, Callable[[Environment], ClusterSpec]] = {
    "slurm": slurm,
    "kubernetes": kubernetes,
}


def hosts(text: str) -> Iterator[str]:
    """The names in SLURM's short form.

    >>> [*hosts("n[1-3,07],login,r[1-2]c[8-9]")]
    ['n1', 'n2', 'n3', 'n07', 'login', 'r1c8', 'r1c9', 'r2c8', 'r2c9']
    """
    for part in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", text):
        yield from _names(part)


def _names(part: str) -> Iterator[str]:
    """The names that one entry stands for."""
    found = re.search(r"\[([^\]]*)\]", part)
    if found is None:
        yield part
        return
    for entry in found[1].split(","):
        first, _, last = entry.partition("-")
        for number in range(int(first), int(last or first) + 1):
            middle = str(number).zfill(len(first))
            yield from _names(part[: found.start()] + middle + part[found.end() :])


def _counts(text: str) -> Iterator[int]:
    """The numbers in SLURM's short form: ``2(x3),1`` is 2, 2, 2, 1."""
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", text):
        yield from [int(count)] * int(times or 1)


def _variable(environ: Environment, name: str, where: str) -> str:
    if not environ.get(name):
        raise ConfigError(
            message(
                f"{name} is not set.",
                fix=f"start it within {where}; see the pages in launch/cluster",
            )
        )
    return environ[name]
