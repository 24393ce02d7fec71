"""SIGTERM in every phase of a run: a checkpoint, exit code 75, and no bit lost."""

import re
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from launch.checkpoints import Checkpoints
from launch.watch.metrics import read_metrics

# What is asked of a run, and the steps one of which its newest checkpoint then is of.
PHASES: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "compile": ({"fault": "run.compile=term"}, (0,)),
    "step": ({"fault": "run.step@3=term"}, (3,)),
    "evaluation": ({"fault": "run.evaluate@3=term"}, (3,)),
    # The step loop goes on while a checkpoint is written.
    "save": ({"fault": "ckpt.after_merge@2=term"}, (2, 3, 4)),
    "wait for data": ({"fault": "run.data@4=sleep:60", "signals": [[3, 1]]}, (3,)),
}
GRACE = 10.0


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, forked) -> dict[str, Any]:
    """What became of each run: stopped, and started again."""
    at = tmp_path_factory.mktemp("stops")
    asked = [(at / name, scenario) for name, (scenario, _) in PHASES.items()]
    first = forked((at / "whole", {}), *asked)
    found = dict(zip(["whole", *PHASES], first, strict=True))
    for name in PHASES:
        found[name]["newest"] = newest(at / name)
        found[name]["records"] = read_metrics(at / name / "metrics.jsonl")
    again = forked(*[(at / name, {}) for name in PHASES])
    for name, result in zip(PHASES, again, strict=True):
        found[name]["again"] = result
    return found | {"at": at}


def newest(directory: Path) -> int | None:
    found = Checkpoints(directory / "checkpoints").latest()
    return found.step if found else None


def variables(directory: Path) -> dict[str, bytes]:
    path = Checkpoints(directory / "checkpoints").complete()[-1]
    reader = tf.train.load_checkpoint(str(path))
    names = reader.get_variable_to_shape_map()
    return {"step": path.name, **{n: reader.get_tensor(n).tobytes() for n in names}}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("phase", PHASES)
def test_a_run_that_is_stopped_has_saved_and_goes_on(stopped: dict[str, Any], phase: str):
    found, at = stopped[phase], stopped["at"]
    assert found["code"] == 75, found["text"]
    assert found["newest"] in PHASES[phase][1]
    assert (
        f"\nstopped after step {found['newest']}; the same command goes on from there\n"
        in (found["text"])
    )
    assert "SIGTERM: saving, then exiting; another one exits at once\n" in found["text"]
    assert found["seconds"] < GRACE
    assert found["again"]["code"] == 0, found["again"]["text"]
    assert variables(at / phase) == variables(at / "whole")
    assert losses(at / phase) == losses(at / "whole")


def losses(directory: Path) -> list[float]:
    records = read_metrics(directory / "metrics.jsonl")
    return [r["loss"] for r in records if r["kind"] == "train"]


def test_an_evaluation_is_left_unfinished(stopped: dict[str, Any]):
    kinds = {(r["kind"], r["step"]) for r in stopped["evaluation"]["records"]}
    assert ("train", 3) in kinds
    assert ("heldout", 3) not in kinds
    assert ("heldout", 3) in {
        (r["kind"], r["step"]) for r in read_metrics(stopped["at"] / "whole" / "metrics.jsonl")
    }


def test_a_second_signal_ends_it_at_once(forked, tmp_path: Path):
    run = tmp_path / "run"
    (found,) = forked((run, {"fault": "run.evaluate@3=sleep:60", "signals": [[3, 2]]}))
    assert found["code"] == 75
    assert found["seconds"] < GRACE
    assert "SIGTERM again: exiting at once\n" in found["text"]
    for path in (run / "checkpoints").iterdir():
        assert re.fullmatch(r"step_00000002(\.tmp-[0-9a-f]{32})?", path.name)
