"""Runs of ``launch.train``, each in a process forked from this one, which imports all they need.

``python forked_runs.py < SCENARIOS.json`` prints a list of what became of each scenario::

    {"argv": [...],           # of launch.train
     "fault": "run.step@3",   # MESHLANG_FAULT
     "signals": [[3, 2]],     # after step 3 was logged, SIGTERM twice
     "bytes": 65536,          # RLIMIT_FSIZE: no file may become larger
     "module": "name"}        # of this folder, imported before
"""

import importlib
import json
import os
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import tensorflow_datasets  # noqa: F401 - so that no child needs to

import launch.train
import launch.trainer
import meshlang.lowering.executable
import meshlang.optim  # noqa: F401
from meshlang import faults

LIMIT = 120.0


def run(scenario: dict[str, Any]) -> dict[str, Any]:
    """Run one scenario to its end; its exit code, or minus the signal, and what it wrote."""
    with tempfile.TemporaryFile() as output:
        began = time.monotonic()
        child = os.fork()
        if child == 0:
            become(scenario, output.fileno())
        status = waited(child, scenario, output.fileno())
        seconds = time.monotonic() - began
        output.seek(0)
        text = output.read().decode(errors="replace")
    return {"code": os.waitstatus_to_exitcode(status), "text": text, "seconds": seconds}


def become(scenario: dict[str, Any], output: int) -> None:
    """In the child: the run, and the end of the process."""
    os.dup2(output, 1)
    os.dup2(output, 2)
    signal.alarm(int(LIMIT))
    if "fault" in scenario:
        os.environ[faults.VARIABLE] = scenario["fault"]
    if "module" in scenario:
        importlib.import_module(scenario["module"])
    if "bytes" in scenario:
        resource.setrlimit(resource.RLIMIT_FSIZE, (scenario["bytes"], scenario["bytes"]))
    code = 99
    try:
        code = launch.train.main(scenario["argv"])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def waited(child: int, scenario: dict[str, Any], output: int) -> int:
    """The child's status, once its signals have been sent and it has ended."""
    signals = [tuple(pair) for pair in scenario.get("signals", [])]
    directory = next(a for a in scenario["argv"] if a.startswith("--model_dir=")).partition("=")[2]
    log = Path(directory) / "metrics.jsonl"
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        if signals and log.exists() and f'{{"step": {signals[0][0]}, ' in log.read_text():
            for _ in range(signals.pop(0)[1]):
                os.kill(child, signal.SIGTERM)
                time.sleep(0.3)
        time.sleep(0.02)


if __name__ == "__main__":
    print(json.dumps([run(scenario) for scenario in json.load(sys.stdin)]))
