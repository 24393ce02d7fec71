"""Runs of ``launch.train`` in processes that may be killed; see `forked_runs`."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent

Forked = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="session")
def forked(tmp_path_factory: pytest.TempPathFactory) -> Forked:
    """``forked([directory, {"argv": [...], ...}], ...)``: what became of each run, in order.

    Runs are of `tiny_run.gin`, and share the data that the first one prepares.
    """
    data = tmp_path_factory.mktemp("data")
    flags = ["--module=tiny_model", "--gin_file=tiny_run.gin"]
    flags.append(f"--gin.PydocText.data_dir='{data}'")

    def call(*scenarios: tuple[Path, dict[str, Any]]) -> list[dict[str, Any]]:
        full = [
            {**more, "argv": [*flags, f"--model_dir={directory}", *more.get("argv", [])]}
            for directory, more in scenarios
        ]
        done = subprocess.run(
            [sys.executable, "forked_runs.py"],
            input=json.dumps(full),
            cwd=HERE,
            env={**os.environ, "PYTHONPATH": str(HERE.parents[1])},
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return call
