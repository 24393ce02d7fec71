"""Ten steps straight are four and six: with dropout, jitter, accumulation, averages, data order."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from launch.checkpoints import Checkpoints
from launch.watch.metrics import read_metrics

TWO = ["--mesh=data:2", "--layout=batch:data experts:data"]
FOUR = ["--mesh=data:2 model:2", "--layout=batch:data experts:data heads:model"]
GIN = ["--gin_file=tiny.gin", "--gin_file=resume.gin"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, forked) -> Path:
    """`straight` and `again` of ten steps; `parts` and `elsewhere` of four and six."""
    at = tmp_path_factory.mktemp("resumed")
    first = forked(
        (at / "straight", {"argv": [*GIN, *TWO]}),
        (at / "parts", {"argv": [*GIN, *TWO], "fault": "run.step@4=term"}),
        (at / "again", {"argv": [*GIN, *TWO]}),
    )
    assert [found["code"] for found in first] == [0, 75, 0], first
    shutil.copytree(at / "parts", at / "elsewhere")
    second = forked(
        (at / "parts", {"argv": [*GIN, *TWO]}),
        (at / "elsewhere", {"argv": [*GIN, *FOUR]}),
    )
    assert [found["code"] for found in second] == [0, 0], second
    assert all("going on from the checkpoint of step 4 in" in found["text"] for found in second)
    return at


def variables(directory: Path) -> dict[str, np.ndarray]:
    path = Checkpoints(directory / "checkpoints").complete()[-1]
    assert path.name == "step_00000010"
    reader = tf.train.load_checkpoint(str(path))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def curve(directory: Path) -> list[tuple[int, str, Any]]:
    """All that the log says of what was computed, and nothing of how fast."""
    names = ("loss", "gradient_norm", "bits_per_byte")
    records = read_metrics(directory / "metrics.jsonl")
    return [(r["step"], name, r[name]) for r in records for name in names if name in r]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["parts", "again"])
def test_the_same_bits(runs: Path, name: str):
    """In `parts` four and six steps; in `again` the same program twice."""
    straight, other = variables(runs / "straight"), variables(runs / name)
    assert straight.keys() == other.keys()
    assert any(name.endswith("/ema") for name in straight)
    for variable, array in straight.items():
        assert other[variable].tobytes() == array.tobytes(), variable
    assert curve(runs / name) == curve(runs / "straight")
    assert len(curve(runs / name)) == 10 + 10 + 2


def test_on_another_mesh_the_same_but_for_the_order_of_sums(runs: Path):
    straight, other = curve(runs / "straight"), curve(runs / "elsewhere")
    assert [entry[:2] for entry in other] == [entry[:2] for entry in straight]
    found, wanted = ([entry[2] for entry in c] for c in (other, straight))
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_held_out_text_is_read_with_averaged_weights(forked, tmp_path: Path):
    """With averages the losses are those without; the bits per byte of held-out text are not."""
    ema = ["--gin.Run.optimizer=@Ema()", "--gin.Ema.optimizer=@AdamW()", "--gin.Ema.decay=0.9"]
    found = forked((tmp_path / "plain", {}), (tmp_path / "averaged", {"argv": ema}))
    assert [run["code"] for run in found] == [0, 0], found
    plain, averaged = curve(tmp_path / "plain"), curve(tmp_path / "averaged")
    assert [e for e in averaged if e[1] == "loss"] == [e for e in plain if e[1] == "loss"]
    bits = [[e[2] for e in c if e[1] == "bits_per_byte"] for c in (plain, averaged)]
    assert all(trained < mean for trained, mean in zip(*bits, strict=True))
