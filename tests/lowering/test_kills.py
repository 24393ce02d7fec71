"""kill -9 between any two lines of the commit protocol: nothing is lost that was there before."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from meshlang import faults

ROOT = Path(__file__).resolve().parents[2]
DRIVER = Path(__file__).parent / "killed_runs.py"

# A kill before line 7 has happened leaves the step before; from then on the new one is there.
COMMITTED_AT = faults.CHECKPOINT_POINTS.index("ckpt.after_rename")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What became of a run for each point: killed there, and started again."""
    directory = tmp_path_factory.mktemp("kills")
    done = subprocess.run(
        [sys.executable, str(DRIVER), str(directory), *faults.CHECKPOINT_POINTS],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("point", faults.CHECKPOINT_POINTS)
def test_a_killed_run_goes_on_to_the_same_bits(runs: dict, point: str):
    found, whole = runs[point], runs["uninterrupted"]
    assert found["killed"] == {"signal": signal.SIGKILL}
    committed = faults.CHECKPOINT_POINTS.index(point) >= COMMITTED_AT
    assert found["again"]["began"] == (4 if committed else 2)
    assert found["again"]["digest"] == whole["digest"]
    steps = [name for name in found["again"]["left"] if ".stale" not in name]
    assert steps == whole["left"] == ["step_00000004", "step_00000006"]


def test_the_points_are_where_their_names_say(runs: dict):
    there = {point: found["there"] for point, found in runs.items() if "there" in found}
    before = ["step_00000001", "step_00000002"]
    assert there["ckpt.before"] == before
    for point in faults.CHECKPOINT_POINTS[1:COMMITTED_AT]:
        stale = ["step_00000004.stale"] if point == "ckpt.after_stale" else []
        assert there[point] == [*before, *stale, "step_00000004.tmp"], point
    assert there["ckpt.after_rename"] == [*before, "step_00000004"]
    assert there["ckpt.after_victim"] == [
        "step_00000001.deleting",
        "step_00000002",
        "step_00000004",
    ]
    assert there["ckpt.after_retention"] == ["step_00000002", "step_00000004"]


@pytest.mark.parametrize("text", ["ckpt.after_merg", "ckpt.after_merge=explode", "", "run.step@x"])
def test_a_fault_that_is_misspelled_is_an_error(monkeypatch: pytest.MonkeyPatch, text: str):
    monkeypatch.setenv(faults.VARIABLE, text)
    with pytest.raises(ValueError, match=f"MESHLANG_FAULT='{text}' is not understood"):
        faults.point("run.step")


def test_a_fault_of_another_point_or_step_is_none(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(faults.VARIABLE, "run.step@3=error")
    faults.point("run.step", 2)
    faults.point("run.evaluate", 3)
    with pytest.raises(OSError, match=r"No space left on device \(made at run.step\)"):
        faults.point("run.step", 3)
