"""Runs that begin with the weights of another: of its checkpoint, or of a safetensors file."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from launch import export
from launch.checkpoints import Checkpoints


def variables(directory: Path, which: int) -> dict[str, np.ndarray]:
    reader = tf.train.load_checkpoint(str(Checkpoints(directory / "checkpoints").complete()[which]))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, forked) -> dict[str, Any]:
    """`first`; and of those that begin with its weights what they have after no step."""
    at = tmp_path_factory.mktemp("runs")
    (first,) = forked((at / "first", {}))
    assert first["code"] == 0, first["text"]
    assert export.main([str(at / "first"), str(at / "first.safetensors")]) == 0
    checkpoint = Checkpoints(at / "first" / "checkpoints").complete()[-1]
    initial = "--gin.Run.initial=@Initial()"
    from_checkpoint = [initial, f"--gin.Initial.path='{checkpoint}'"]
    from_file = [initial, f"--gin.Initial.path='{at / 'first.safetensors'}'"]
    part = "--gin.Initial.only='embedding'"
    at_once = {"fault": "run.compile=term"}
    names = ("checkpoint", "file", "part", "nothing")
    flags = (from_checkpoint, from_file, [*from_checkpoint, part])
    none = [*from_file, "--gin.Initial.only='embeding'"]
    found = forked(
        *[(at / n, {"argv": f, **at_once}) for n, f in zip(names, (*flags, none), strict=True)]
    )
    shutil.copytree(at / "part", at / "again")
    again = forked((at / "again", {"argv": [*from_checkpoint, part]}))
    return dict(zip(names, found, strict=True)) | {"at": at, "again": again[0]}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name, taken", [("checkpoint", "all"), ("file", "all"), ("part", "one")])
def test_it_begins_with_them_at_step_0(runs: dict[str, Any], name: str, taken: str):
    assert runs[name]["code"] == 75, runs[name]["text"]
    at = runs["at"]
    first, found = variables(at / "first", -1), variables(at / name, 0)
    np.testing.assert_array_equal(found["embedding"], first["embedding"])
    equal = np.array_equal(found["unembedding"], first["unembedding"])
    assert equal == (taken == "all")


def test_its_own_checkpoints_come_first(runs: dict[str, Any]):
    assert runs["again"]["code"] == 0, runs["again"]["text"]
    assert "going on from" not in runs["again"]["text"]  # of step 0, which says nothing
    steps = [path.name for path in Checkpoints(runs["at"] / "again" / "checkpoints").complete()]
    assert steps == ["step_00000004", "step_00000006"]


def test_an_expression_that_matches_nothing(runs: dict[str, Any]):
    found = runs["nothing"]
    assert found["code"] == 1
    assert "CheckpointError: no variable matches.\n  only       embeding\n" in found["text"]
