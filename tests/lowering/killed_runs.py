"""Runs of six steps that are killed at a point of the commit protocol, and go on; a process each.

Run by `test_kills.py`: ``python killed_runs.py DIRECTORY POINT...``. This process imports
TensorFlow and starts nothing of it, so that it may fork a child for every run. It prints one JSON
object.
"""

import hashlib
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np

import meshlang as ml
import meshlang.lowering.executable
from launch.checkpoints import Checkpoints, Retention
from meshlang import faults

STEPS, SAVES = 6, (1, 2, 4, 6)


def step(x):
    w = ml.variable("w", "d_io:8 d_h:16", init=ml.normal_init(0.3))
    y = ml.dropout(ml.einsum(x, w, reduce="d_io"), 0.5)
    loss = ml.mean(y * y)
    variables = ml.trainable_variables()
    optimizer = ml.optim.AdamW(learning_rate=0.1)
    optimizer.apply(variables, ml.gradients(loss, variables))
    return loss


def train(directory: Path, beside: str = "") -> dict:
    """Go on from where the directory stands, to the last step.

    Args:
        directory: of the checkpoints.
        beside: a directory that someone makes there meanwhile.
    """
    program = ml.trace(step, x=ml.spec("batch:8 d_io:8"))
    executable = ml.lower(ml.plan(program, "r:2", "batch:r", params="d_h:r"))
    executable.initialize(3)
    checkpoints = Checkpoints(directory, Retention(last=2))
    found = checkpoints.restore_latest(executable)
    began = found.step if found else 0
    if beside:
        (directory / beside).mkdir(parents=True)
    rng = np.random.default_rng(0)
    batches = rng.normal(size=(STEPS, 8, 8)).astype(np.float32)
    for done in range(began + 1, STEPS + 1):
        executable(x=batches[done - 1])
        if done in SAVES:
            checkpoints.save(executable, done)
    digest = hashlib.sha256()
    for name in sorted(executable.plan.variables):
        digest.update(executable[name].tobytes())
    return {"began": began, "digest": digest.hexdigest(), "left": left(directory)}


def left(directory: Path) -> list[str]:
    """The names in a directory, those with a uuid cut at it."""
    return sorted(path.name.partition("-")[0] for path in directory.iterdir())


def in_child(fn: Callable[[], dict], fault: str | None = None) -> dict:
    """What a forked child returns, or the signal that ended it."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        if fault:
            os.environ[faults.VARIABLE] = fault
        try:
            os.write(writing, json.dumps(fn()).encode())
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read()
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return {"signal": os.WTERMSIG(status)}
    assert status == 0, "the child failed"
    return json.loads(told)


def main(directory: Path, points: list[str]) -> None:
    found = {"uninterrupted": in_child(lambda: train(directory / "uninterrupted"))}
    for point in points:
        here = directory / point
        beside = "step_00000004" if point == "ckpt.after_stale" else ""
        killed = in_child(lambda here=here, beside=beside: train(here, beside), f"{point}@4")
        there = left(here)
        again = in_child(lambda here=here: train(here))
        found[point] = {"killed": killed, "there": there, "again": again}
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
