"""Checkpoints of several processes: one is stopped, one is killed within the protocol."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from launch.checkpoints import Checkpoints
from launch.watch.metrics import read_metrics
from tests.cluster import check_done, run

HERE = Path(__file__).parent
RUN = ("--module=tests.launch.tiny_model", f"--gin_file={HERE / 'tiny_run.gin'}")
PLACES = ("--mesh=data:2", "--layout=batch:data", "--params=d_model:data")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def command(directory: Path, data_dir: Path, *flags: str) -> list[str]:
    data = f"--gin.PydocText.data_dir='{data_dir}'"
    return ["-m", "launch.train", *RUN, *PLACES, f"--model_dir={directory}", data, *flags]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    """A run of two processes that nothing happened to."""
    at = tmp_path_factory.mktemp("whole")
    check_done(run(at / "logs", command(at / "run", data_dir), 2, 120))
    return at / "run"


def newest(directory: Path) -> int | None:
    found = Checkpoints(directory / "checkpoints").latest()
    return found.step if found else None


def variables(directory: Path) -> dict[str, np.ndarray]:
    path = Checkpoints(directory / "checkpoints").complete()[-1]
    assert path.name == "step_00000006"
    reader = tf.train.load_checkpoint(str(path))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def assert_same_bits(directory: Path, whole: Path) -> None:
    found, wanted = variables(directory), variables(whole)
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert found[name].tobytes() == array.tobytes(), name


@pytest.mark.timeout(300)
def test_one_is_asked_to_stop_and_all_stop_at_one_step(tmp_path, data_dir, whole):
    at = tmp_path / "run"
    asked = {1: {"MESHLANG_FAULT": "run.step@3=term"}}
    ended = run(tmp_path / "logs", command(at, data_dir), 2, 120, env=asked)
    assert [found.code for found in ended.values()] == [75, 75], ended[0].text + ended[1].text
    step = newest(at)
    assert step in (3, 4, 5)
    assert f"stopped after step {step}; the same command goes on from there" in ended[0].text
    # Two parts, one for each process: each wrote the blocks that are its own.
    assert len(list((at / "checkpoints" / f"step_{step:08d}").glob("bundle.data-*"))) == 2
    # It goes on in one process on the same mesh.
    check_done(run(tmp_path / "again", command(at, data_dir), 1, 120))
    found, wanted = (
        [r["loss"] for r in read_metrics(path / "metrics.jsonl") if r["kind"] == "train"]
        for path in (at, whole)
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("victim", "point"),
    [
        (1, "ckpt.after_write"),
        pytest.param(0, "ckpt.after_merge", marks=pytest.mark.slow),
        pytest.param(0, "ckpt.after_rename", marks=pytest.mark.slow),
        pytest.param(1, "ckpt.after_mkdir", marks=pytest.mark.slow),
    ],
)
def test_one_is_killed_within_the_protocol(victim, point, tmp_path, data_dir, whole):
    at = tmp_path / "run"
    killed = {victim: {"MESHLANG_FAULT": f"{point}@4"}}
    flags = ("--heartbeat_timeout=5",)
    ended = run(tmp_path / "logs", command(at, data_dir, *flags), 2, 120, env=killed)
    assert ended[victim].code == -9
    assert ended[1 - victim].code == 75, ended[1 - victim].text
    assert newest(at) == (4 if point == "ckpt.after_rename" else 2)
    check_done(run(tmp_path / "again", command(at, data_dir), 2, 120))
    assert_same_bits(at, whole)
    assert not list((at / "checkpoints").glob("*.tmp-*"))
