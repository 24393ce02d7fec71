"""What can go wrong with a run's checkpoints and directory, and how the run takes it."""

import json
import os
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from launch.checkpoints import Checkpoints
from launch.lock import RunLock
from launch.watch.metrics import read_metrics
from meshlang import manifest

STEP = "step_00000004"


def flip(path: Path) -> None:
    """Another bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def data_file(directory: Path) -> Path:
    return next(directory.glob("bundle.data-*"))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped bit": (
        lambda at: flip(data_file(at)),
        "bundle.data-00000-of-00001: its contents have changed: the sha256 differs",
    ),
    "a truncated shard": (
        lambda at: os.truncate(data_file(at), 100),
        r"bundle.data-00000-of-00001: 100 bytes, \d+ in the manifest",
    ),
    "a deleted shard": (
        lambda at: data_file(at).unlink(),
        "bundle.data-00000-of-00001: missing",
    ),
    "an empty manifest": (
        lambda at: (at / "manifest.json").write_text(""),
        "manifest.json: unreadable: it has changed since it was committed",
    ),
    "no manifest": (lambda at: (at / "manifest.json").unlink(), "manifest.json: missing"),
    "not committed": (lambda at: (at / "COMMITTED").unlink(), "COMMITTED: missing"),
}

# Of these it is tried, too, what is done about them when their step was asked for.
NAMED = ("a flipped bit", "a truncated shard", "not committed")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, forked) -> Path:
    """`whole`, a run of six steps, and `four`, that was stopped after four of them."""
    at = tmp_path_factory.mktemp("runs")
    whole, four = forked((at / "whole", {}), (at / "four", {"fault": "run.step@4=term"}))
    assert (whole["code"], four["code"]) == (0, 75)
    assert steps(at / "four") == [2, 4]
    return at


@pytest.fixture(scope="module")
def damaged(runs: Path, forked) -> dict[str, Any]:
    """What became of `four` when its newest checkpoint was damaged: restarted; named by a flag."""
    asked = []
    for name, (damage, _) in DAMAGES.items():
        named = [(f"{name} named", {"argv": ["--restore_step=4"]})] if name in NAMED else []
        for run, scenario in [(name, {}), *named]:
            shutil.copytree(runs / "four", runs / run)
            damage(runs / run / "checkpoints" / STEP)
            asked.append((runs / run, scenario))
    return dict(zip([path.name for path, _ in asked], forked(*asked), strict=True))


def steps(directory: Path) -> list[int]:
    return [
        int(p.name.partition("_")[2]) for p in Checkpoints(directory / "checkpoints").complete()
    ]


def variables(directory: Path) -> dict[str, bytes]:
    path = Checkpoints(directory / "checkpoints").complete()[-1]
    reader = tf.train.load_checkpoint(str(path))
    names = reader.get_variable_to_shape_map()
    return {"step": path.name.encode(), **{n: reader.get_tensor(n).tobytes() for n in names}}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_taken(
    runs: Path, damaged: dict[str, Any], name: str
):
    found, at = damaged[name], runs / name
    assert found["code"] == 0, found["text"]
    aside = f"{at}/checkpoints/{STEP} is damaged and now called {STEP}.corrupt-1: "
    (line,) = [line for line in found["text"].splitlines() if aside in line]
    assert re.fullmatch(DAMAGES[name][1], line.partition(aside)[2])
    assert "going on from the checkpoint of step 2 in" in found["text"]
    assert (at / "checkpoints" / f"{STEP}.corrupt-1").is_dir()
    assert steps(at) == [4, 6]
    assert variables(at) == variables(runs / "whole")


@pytest.mark.parametrize("name", NAMED)
def test_a_damaged_checkpoint_that_was_named_is_an_error(
    runs: Path, damaged: dict[str, Any], name: str
):
    found, at = damaged[f"{name} named"], runs / f"{name} named"
    assert found["code"] == 1
    label, _, problem = DAMAGES[name][1].partition(": ")
    assert re.search(rf"DamagedError: .*\n  path +{at}/checkpoints/{STEP}\n", found["text"])
    assert re.search(rf"\n  {label}  {problem}\n", found["text"])
    assert {p.name for p in (at / "checkpoints").iterdir()} == {"step_00000002", STEP}


def test_the_step_to_go_on_from(runs: Path, forked, tmp_path: Path):
    shutil.copytree(runs / "four", tmp_path / "two")
    shutil.copytree(runs / "four", tmp_path / "three")
    two, three = forked(
        (tmp_path / "two", {"argv": ["--restore_step=2"]}),
        (tmp_path / "three", {"argv": ["--restore_step=3"]}),
    )
    assert two["code"] == 0
    assert "going on from the checkpoint of step 2 in" in two["text"]
    assert variables(tmp_path / "two") == variables(runs / "whole")
    assert three["code"] == 1
    assert (
        "CheckpointError: there is no checkpoint of step 3.\n"
        f"  directory    {tmp_path}/three/checkpoints\n"
        "  steps there  2 4\n"
    ) in three["text"]


def test_a_checkpoint_of_a_newer_version_is_not_passed_over(runs: Path, forked, tmp_path: Path):
    run = tmp_path / "run"
    shutil.copytree(runs / "four", run)
    path = run / "checkpoints" / STEP
    text = json.dumps({"format": manifest.FORMAT + 1, "meshlang": "7.0"})
    (path / "manifest.json").write_text(text)
    (path / "COMMITTED").write_text(manifest.digest_of(text.encode()))
    (found,) = forked((run, {}))
    assert found["code"] == 1
    assert (
        "NewerFormatError: the checkpoint was written by a newer version of meshlang "
        f"({manifest.FORMAT + 1} > {manifest.FORMAT}).\n"
    ) in found["text"]
    assert path.is_dir()


def test_the_log_says_how_long_steps_stood_still(runs: Path):
    saved = records(runs / "whole", "checkpoint")
    assert [record["step"] for record in saved] == [2, 4, 6]
    for record in saved:
        assert 0 < record["stall_seconds"] <= record["seconds"]
        assert record["bytes"] > 3 * 4 * 8448  # weights and two moments


# -- saves that fail ----------------------------------------------------------------------------


def records(directory: Path, kind: str) -> list[dict[str, Any]]:
    return [r for r in read_metrics(directory / "metrics.jsonl") if r["kind"] == kind]


def test_a_full_disk_costs_checkpoints_and_then_the_run(runs: Path, forked, tmp_path: Path):
    shutil.copytree(runs / "four", tmp_path / "full")
    full, once, soon = forked(
        (tmp_path / "full", {"bytes": 60_000, "argv": ["--steps=12"]}),
        (tmp_path / "once", {"fault": "ckpt.after_mkdir@4=error"}),
        (tmp_path / "soon", {"bytes": 60_000, "argv": ["--gin.Run.max_failed_saves=1"]}),
    )
    assert full["code"] == 1
    assert [r["failures"] for r in records(tmp_path / "full", "failed_save")] == [1, 2, 3]
    assert [r["step"] for r in records(tmp_path / "full", "train")][-1] >= 10
    assert "CheckpointError: the checkpoint could not be written.\n" in full["text"]
    assert "File too large" in full["text"]
    before, after = (tree(at / "checkpoints") for at in (runs / "four", tmp_path / "full"))
    assert after == before
    assert once["code"] == 0
    (failure,) = records(tmp_path / "once", "failed_save")
    assert "No space left on device (made at ckpt.after_mkdir)" in failure["reason"]
    assert steps(tmp_path / "once") == [2, 6]
    assert variables(tmp_path / "once") == variables(runs / "whole")
    assert soon["code"] == 1
    assert steps(tmp_path / "soon") == []


def tree(directory: Path) -> dict[str, bytes]:
    files = [path for path in directory.rglob("*") if path.is_file()]
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def test_a_directory_of_no_use_is_refused_before_the_first_step(forked, tmp_path: Path):
    (tmp_path / "file").write_text("")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").write_text("")
    file, inside, sealed = forked(
        (tmp_path / "file", {}), (tmp_path / "run", {}), (Path("/proc/self"), {})
    )
    for found in (file, inside, sealed):
        assert found["code"] == 1
        assert "ConfigError: the run has no use of its directory.\n" in found["text"]
        assert "fix: choose another --model_dir, one that can be written to\n" in found["text"]
        assert "training" not in found["text"]
    assert "Not a directory" in file["text"]
    assert "File exists" in inside["text"]


# -- two launches -------------------------------------------------------------------------------


def test_a_second_launch_is_refused_and_names_the_first(runs: Path, forked, tmp_path: Path):
    run = tmp_path / "run"
    shutil.copytree(runs / "four", run)
    with RunLock(run):
        (found,) = forked((run, {}))
    assert found["code"] == 1
    assert (
        "ConfigError: another launch works in this directory.\n"
        f"  directory  {run}\n"
        f"  host       {socket.gethostname()}\n"
        f"  pid        {os.getpid()}\n"
        "  fix: wait for it or end it, or choose another --model_dir\n"
    ) in found["text"]
    assert not (run / "LOCK").exists()


def test_the_lock_of_a_launch_that_was_killed_is_taken_over(runs: Path, forked, tmp_path: Path):
    run = tmp_path / "run"
    shutil.copytree(runs / "four", run)
    killed, again = forked((run, {"fault": "run.after_lock"}), (run, {}))
    assert killed["code"] == -9
    assert again["code"] == 0
    assert "the launch that held LOCK is gone; it is taken over: {" in again["text"]
    assert variables(run) == variables(runs / "whole")


def test_a_run_that_is_killed_while_it_saves_goes_on(runs: Path, forked, tmp_path: Path):
    run = tmp_path / "run"
    killed, again = forked((run, {"fault": "ckpt.after_merge@4"}), (run, {}))
    assert (killed["code"], again["code"]) == (-9, 0)
    assert "going on from the checkpoint of step 2 in" in again["text"]
    assert variables(run) == variables(runs / "whole")
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == [STEP, "step_00000006"]
