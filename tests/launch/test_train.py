"""Training from the command line: files, results, going on, refusals."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from launch.checkpoints import Checkpoints
from launch.train import main
from launch.watch.metrics import read_metrics

ROOT = Path(__file__).resolve().parents[2]
TINY = f"--gin_file={Path(__file__).parent / 'tiny.gin'}"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the corpus is prepared once for all tests of this file."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    """The directory of a run of six steps."""
    directory = tmp_path_factory.mktemp("runs") / "six"
    assert train(directory, data_dir, "--profile") == 0
    return directory


def train(directory: Path, data_dir: Path, *flags: str) -> int:
    return main(
        [TINY, f"--model_dir={directory}", f"--gin.PydocText.data_dir='{data_dir}'", *flags]
    )


def test_a_run_leaves_its_files(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert names >= {
        "checkpoints",
        "command.txt",
        "config.gin",
        "curves.png",
        "metrics.jsonl",
        "plan.txt",
        "results.json",
        "run.json",
        "samples.txt",
    }
    steps = [r["step"] for r in read_metrics(finished / "metrics.jsonl") if r["kind"] == "train"]
    assert steps == [1, 2, 3, 4, 5, 6]
    results = json.loads((finished / "results.json").read_text())
    assert results["step"] == 6
    assert set(results["baselines"]) == {"trigram", "5-gram"}
    assert len(results["samples"]) == 3


def test_a_profile_of_the_third_step(finished: Path) -> None:
    table = (finished / "profile" / "table.txt").read_text()
    assert "\nlayers/attention " in table
    assert re.search(r"\nall_reduce +layers/moe ", table)
    trace = json.loads((finished / "profile" / "trace.json").read_text())
    seen = [e["args"]["op"] for e in trace["traceEvents"] if e["ph"] == "X"]
    # One step, on eight processors: an update of each variable by each of them.
    assert seen.count("UpdateInPlace") >= 8
    assert "all_reduce" in seen


def test_a_second_start_says_that_it_is_done(
    finished: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (finished / "metrics.jsonl").read_bytes()
    assert train(finished, data_dir) == 0
    said = capsys.readouterr().out
    assert said.startswith("This run is finished.\n")
    assert f"remove {finished} or give another --model_dir" in said
    assert (finished / "metrics.jsonl").read_bytes() == before


def test_it_goes_on_from_the_last_checkpoint_bit_for_bit(
    finished: Path, tmp_path: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The schedule is that of six steps in both; only where it stops differs.
    half = tmp_path / "half"
    assert train(half, data_dir, "--steps=3", "--gin.Cosine.total=6") == 0
    assert train(half, data_dir) == 0
    assert "going on from the checkpoint of step 3" in capsys.readouterr().out
    whole, parts = (losses(directory) for directory in (finished, half))
    assert parts == whole
    for name, value in variables(finished).items():
        np.testing.assert_array_equal(variables(half)[name], value, err_msg=name)


def losses(directory: Path) -> list[float]:
    records = read_metrics(directory / "metrics.jsonl")
    return [record["loss"] for record in records if record["kind"] == "train"]


def variables(directory: Path) -> dict[str, np.ndarray]:
    import tensorflow as tf

    newest = Checkpoints(directory / "checkpoints").complete()[-1]
    reader = tf.train.load_checkpoint(str(newest))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def test_another_text_is_refused(
    finished: Path, tmp_path: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    shutil.copytree(finished, other)
    run = json.loads((other / "run.json").read_text())
    this = run["corpus"]
    (other / "run.json").write_text(json.dumps(run | {"corpus": "0" * 64}))
    assert train(other, data_dir, "--steps=7") == 1
    assert capsys.readouterr().err == (
        "DataError: this run was trained on another text, as another Python version has it.\n"
        f"  model_dir  {other}\n"
        "  its text   0000000000000000\n"
        f"  this text  {this[:16]}\n"
        "  fix: run the Python that began it, or choose another --model_dir\n"
    )


def test_a_checkpoint_of_another_model_is_refused(
    finished: Path, tmp_path: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    shutil.copytree(finished, other)
    assert train(other, data_dir, "--steps=7", "--gin.Transformer.tied=True") == 1
    assert "unembedding" in capsys.readouterr().err


def test_a_model_of_ones_own_outside_of_the_checkout(tmp_path: Path, data_dir: Path) -> None:
    shutil.copy(ROOT / "examples" / "own_model.py", tmp_path)
    command = [
        *(sys.executable, "-m", "launch.train", "--module=own_model"),
        *("--gin_file=runs/pydoc.gin", "--gin.Run.model=@NeuralNgram()"),
        *("--mesh=data:2 model:2", "--layout=batch:data hidden:model"),
        *("--steps=3", "--model_dir=ngram", f"--gin.PydocText.data_dir='{data_dir}'"),
        *("--gin.LinearWarmup.steps=1", "--gin.NeuralNgram.hidden=32"),
    ]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "ngram" / "results.json").read_text())["step"] == 3


def test_bfloat16_is_one_line(tmp_path: Path, data_dir: Path) -> None:
    assert train(tmp_path / "run", data_dir, "--steps=2", "--gin.Run.compute=bfloat16") == 0
    assert all(np.isfinite(losses(tmp_path / "run")))


def test_the_log_has_what_its_page_says(finished: Path) -> None:
    """docs/watching.md names what records of a run with experts have, and nothing else."""
    page = (ROOT / "docs" / "watching.md").read_text()
    records = read_metrics(finished / "metrics.jsonl")
    for kind in ("plan", "train"):
        table = page.split(f"A record of kind `{kind}`")[1].split("\n\n")[1]
        named = {
            name
            for row in table.splitlines()[2:]
            for name in re.findall(r"`(\w+)`", row.split("|")[1])
        }
        (found, *_) = ({*r} - {"step", "kind"} for r in records if r["kind"] == kind)
        assert named - {"utilisation"} == found
    (checkpoint, *_) = (r for r in records if r["kind"] == "checkpoint")
    assert {*checkpoint} == {"step", "kind", "stall_seconds", "seconds", "bytes"}
