"""``launch.export``: the newest checkpoint of a run, one of its steps, a part, the averages."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import meshlang as ml
from launch.checkpoints import Checkpoints
from launch.export import main


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run with checkpoints of steps 1 and 2."""

    def step(x):
        w = ml.variable("encoder/w", "d:4", init=ml.zeros_init)
        ml.variable("head", "d:4", init=ml.ones_init, trainable=False)
        optimizer = ml.optim.Ema(optimizer=ml.optim.Sgd(learning_rate=1.0), decay=0.5)
        optimizer.apply([w], ml.gradients(ml.sum(w * x), [w]))

    executable = ml.lower(ml.plan(ml.trace(step, x=ml.spec("d:4"))))
    executable.initialize(0)
    directory = tmp_path_factory.mktemp("run")
    checkpoints = Checkpoints(directory / "checkpoints")
    for done in (1, 2):
        executable(x=[-1.0] * 4)
        checkpoints.save(executable, done)
    return directory


def exported(run: Path, out: Path, *flags: str) -> dict[str, list[float]]:
    assert main([str(run), str(out), *flags]) == 0
    return {name: np.unique(a).tolist() for name, a in safetensors.numpy.load_file(out).items()}


@pytest.mark.parametrize(
    "flags, wanted",
    [
        ((), {"encoder/w": [2.0], "encoder/w/ema": [1.5], "head": [1.0]}),
        (("--step=1",), {"encoder/w": [1.0], "encoder/w/ema": [1.0], "head": [1.0]}),
        (("--only=(encoder/)?[a-z]*",), {"encoder/w": [2.0], "head": [1.0]}),
        (("--only=.*d", r"--rename=(.*)ad=\1.x"), {"he.x": [1.0]}),
        (("--averaged",), {"encoder/w": [1.5]}),
    ],
)
def test_what_is_written(run: Path, tmp_path: Path, flags: tuple[str, ...], wanted: dict):
    assert exported(run, tmp_path / "out.safetensors", *flags) == wanted


def test_one_checkpoint(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    checkpoint = run / "checkpoints" / "step_00000001"
    assert exported(checkpoint, tmp_path / "out")["encoder/w"] == [1.0]
    assert capsys.readouterr().out == f"{tmp_path}/out: 3 tensors of {checkpoint}\n"


@pytest.mark.parametrize(
    "flags, told",
    [
        (["--step=7"], "the run has no such checkpoint.\n  run          {run}\n  steps there  1 2"),
        (
            ["--rename=x"],
            "--rename lacks a name.\n  given  --rename=x\n  fix: --rename='REGEX=NAME'",
        ),
        (
            ["--averaged", "--only=x"],
            "--averaged chooses tensors and names itself.\n  fix: leave out --only and --rename",
        ),
    ],
)
def test_what_cannot_be(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], told: str
):
    assert main([str(run), str(tmp_path / "out"), *flags]) == 1
    assert capsys.readouterr().err == f"ConfigError: {told.format(run=run)}\n"
