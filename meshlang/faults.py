"""Places where a process can be made to fail, for tests and for drills. Inert otherwise.

``MESHLANG_FAULT=ckpt.after_merge`` kills the process with SIGKILL at that point. More exactly it is
``POINT[@STEP][=ACTION]``: with a step, only that step's passing of the point counts. The action is
one of

- ``kill``: SIGKILL to this process, the default;
- ``term``: SIGTERM to this process, which goes on;
- ``error``: an OSError, as of a full disk;
- ``sleep:SECONDS``: wait.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import time
from dataclasses import dataclass

VARIABLE = "MESHLANG_FAULT"

#: between the lines of the commit protocol of a checkpoint, in their order
CHECKPOINT_POINTS = (
    "ckpt.before",
    "ckpt.after_mkdir",
    "ckpt.within_write",
    "ckpt.after_write",
    "ckpt.after_parts",
    "ckpt.after_merge",
    "ckpt.after_manifest",
    "ckpt.after_committed",
    "ckpt.after_stale",
    "ckpt.after_rename",
    "ckpt.after_result",
    "ckpt.after_victim",
    "ckpt.after_retention",
)

#: in the life of a run
RUN_POINTS = ("run.after_lock", "run.compile", "run.data", "run.step", "run.evaluate")

_SPEC = re.compile(
    r"(?P<point>[a-z_.]+)(@(?P<step>[0-9]+))?(=(?P<action>[a-z]+)(:(?P<seconds>[0-9.]+))?)?"
)
_ACTIONS = ("kill", "term", "error", "sleep")


@dataclass(frozen=True)
class Fault:
    """What is to happen at which point, and at which step; None stands for every one."""

    point: str
    step: int | None = None
    action: str = "kill"
    seconds: float = 0.0


def point(name: str, step: int = 0) -> None:
    """Fail here, if the environment says so.

    Args:
        name: one of `CHECKPOINT_POINTS` or `RUN_POINTS`.
        step: which one this process is at.

    Raises:
        OSError: it was asked for.
    """
    text = os.environ.get(VARIABLE)
    if text is None:
        return
    fault = parse(text)
    if fault.point == name and fault.step in (None, step):
        _fail(fault)


def parse(text: str) -> Fault:
    """Read a fault.

    >>> parse("ckpt.after_merge@20=sleep:1.5")
    Fault(point='ckpt.after_merge', step=20, action='sleep', seconds=1.5)

    Raises:
        ValueError: it is not understood.
    """
    found = _SPEC.fullmatch(text)
    known = found and found["point"] in (*CHECKPOINT_POINTS, *RUN_POINTS)
    if not found or not known or (found["action"] or "kill") not in _ACTIONS:
        raise ValueError(f"{VARIABLE}={text!r} is not understood; see meshlang/faults.py")
    step = None if found["step"] is None else int(found["step"])
    return Fault(found["point"], step, found["action"] or "kill", float(found["seconds"] or 0))


def _fail(fault: Fault) -> None:
    if fault.action == "error":
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} (made at {fault.point})")
    if fault.action == "sleep":
        time.sleep(fault.seconds)
    else:
        sent = signal.SIGKILL if fault.action == "kill" else signal.SIGTERM
        os.kill(os.getpid(), sent)
