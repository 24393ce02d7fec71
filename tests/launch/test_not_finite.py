"""Steps that are not finite: skipped by all processors alike, counted, and too many are an end."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import meshlang as ml
from launch.watch.metrics import read_metrics

# -- on one processor of several ----------------------------------------------------------------


def step(x: ml.Tensor) -> dict[str, Any]:
    w = ml.variable("w", "d_io:8 d_h:16", init=ml.normal_init(0.3))
    y = ml.einsum(x, w, reduce="d_io")
    loss = ml.mean(y * y)
    variables = ml.trainable_variables()
    optimizer = ml.optim.Ema(optimizer=ml.optim.AdamW(learning_rate=0.1), decay=0.5)
    applied = ml.optim.apply_guarded(optimizer, loss, variables, ml.gradients(loss, variables))
    return {"loss": loss, "applied": applied.applied, "skipped": applied.skipped_steps}


def blocks(executable: ml.Executable) -> dict[str, list[bytes]]:
    """What each device holds of each variable but the counter."""
    machine, store = executable.store.machine, executable.store
    return {
        name: [block.numpy().tobytes() for block in machine.blocks(store.parts(name, value))]
        for name, value in executable.plan.variables.items()
        if name != "skipped_steps"
    }


@pytest.mark.parametrize(
    "layout, tables",
    [("batch:a", {}), ("batch:a", {"params": "d_io:a"}), ("batch:a", {"slots": "d_h:a"})],
)
def test_a_nan_on_one_device_is_skipped_by_all(layout: str, tables: dict[str, str]):
    program = ml.trace(step, x=ml.spec("batch:16 d_io:8"))
    executable = ml.lower(ml.plan(program, "a:8", layout, **tables))
    executable.initialize(1)
    good = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)
    bad = good.copy()
    bad[2 * 3] = np.nan  # rows 6 and 7 lie on device 3
    executable(x=good)
    before = blocks(executable)
    found = executable(x=bad)
    assert (bool(found["applied"]), int(found["skipped"]), executable.step) == (False, 1, 2)
    assert blocks(executable) == before
    found = executable(x=good)
    assert (bool(found["applied"]), int(found["skipped"]), executable.step) == (True, 1, 3)
    after = blocks(executable)
    assert after["w"] != before["w"]
    if not tables:
        assert all(len(set(held)) == 1 for held in after.values())


# -- in a run -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, forked) -> dict[str, Any]:
    """One run whose loss is never finite from step 4 on, and one for which it is again at 5."""
    at = tmp_path_factory.mktemp("runs")
    from_four = "--gin.TinyModel.bad_from=3"
    found = forked(
        (at / "lost", {"argv": [from_four, "--gin.Run.max_not_finite=2"]}),
        (at / "borne", {"argv": [from_four, "--gin.TinyModel.bad_until=5"]}),
    )
    return dict(zip(("lost", "borne"), found, strict=True)) | {"at": at}


def test_too_many_steps_in_a_row_end_the_run(runs: dict[str, Any]):
    assert runs["lost"]["code"] == 1
    assert (
        "NotFiniteError: 2 steps in a row had a loss or a gradient that is not finite.\n"
        "  step                  5\n"
        "  loss                  nan\n"
        "  gradient norm         nan\n"
        "  last good checkpoint  step 4\n"
        "  fix: lower the learning rate, or look at the data of these steps; "
        "Run.max_not_finite is how many are borne\n"
    ) in runs["lost"]["text"]


def test_a_few_are_skipped_and_counted(runs: dict[str, Any]):
    assert runs["borne"]["code"] == 0
    records = read_metrics(runs["at"] / "borne" / "metrics.jsonl")
    steps = [r for r in records if r["kind"] == "train"]
    assert [r["skipped_steps"] for r in steps] == [0, 0, 0, 1, 2, 2]
    assert [bool(np.isfinite(r["loss"])) for r in steps] == [True] * 3 + [False] * 2 + [True]
    assert Path(runs["at"] / "borne" / "results.json").exists()
    assert all(r["logits_square"] > 0 for r in steps)  # a summary of the model's
