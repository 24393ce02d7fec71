"""The log of a run: whole lines, cut back where a run resumes."""

import json
import math

import numpy as np
import pytest

from launch.watch.metrics import MetricsLog, read_metrics, series


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "metrics.jsonl"


def log_steps(path, steps, **options) -> None:
    with MetricsLog(path, **options) as log:
        for step in steps:
            log.write(step, "train", loss=10.0 - step)


def test_each_record_is_in_the_file_when_write_returns(path):
    log = MetricsLog(path)
    for step in (1, 2):
        log.write(step, "train", loss=0.5 * step, name="tokens\nand more")
        assert path.read_text().count("\n") == step
        assert read_metrics(path)[-1] == {
            "step": step,
            "kind": "train",
            "loss": 0.5 * step,
            "name": "tokens\nand more",
        }
    log.close()


def test_numpy_and_numbers_that_are_not_finite(path):
    with MetricsLog(path) as log:
        log.write(
            1,
            "train",
            loss=np.float32(np.nan),
            load=np.array([1.5, np.inf]),
            skipped=np.int64(3),
            nested={"low": (-math.inf, True, None)},
        )
    strict = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert strict == {
        "step": 1,
        "kind": "train",
        "loss": "NaN",
        "load": [1.5, "Infinity"],
        "skipped": 3,
        "nested": {"low": ["-Infinity", True, None]},
    }
    (record,) = read_metrics(path)
    assert math.isnan(record["loss"])
    assert record["load"] == [1.5, math.inf]
    assert record["nested"] == {"low": [-math.inf, True, None]}


def test_what_json_cannot_hold_is_refused_before_anything_is_written(path):
    with MetricsLog(path) as log, pytest.raises(TypeError, match="not JSON serializable"):
        log.write(1, "train", loss=object())
    assert path.read_text() == ""


def test_resuming_drops_the_records_of_later_steps(path):
    log_steps(path, [1, 2, 3, 4])
    log_steps(path, [3, 4, 5], resume_step=2)
    assert [record["step"] for record in read_metrics(path)] == [1, 2, 3, 4, 5]
    assert [file.name for file in path.parent.iterdir()] == ["metrics.jsonl"]


def test_resuming_without_a_log_begins_one(path):
    log_steps(path, [3], resume_step=2)
    assert [record["step"] for record in read_metrics(path)] == [3]


def test_without_a_step_to_resume_from_the_log_begins_anew(path):
    log_steps(path, [1, 2])
    log_steps(path, [1])
    assert [record["step"] for record in read_metrics(path)] == [1]


def test_records_that_are_not_finite_survive_resuming(path):
    with MetricsLog(path) as log:
        log.write(1, "train", loss=math.inf)
    before = path.read_text()
    MetricsLog(path, resume_step=1).close()
    assert path.read_text() == before


@pytest.mark.parametrize("torn", ['{"step": 3, "ki', '{"step": 3, "kind": "train"}'])
def test_a_last_line_without_its_end_is_left_out_and_cut_off(path, torn):
    log_steps(path, [1, 2])
    with path.open("a") as file:
        file.write(torn)
    assert [record["step"] for record in read_metrics(path)] == [1, 2]
    log_steps(path, [3], resume_step=3)
    assert [record["step"] for record in read_metrics(path)] == [1, 2, 3]


@pytest.mark.parametrize("line", ["{", "[1]", '{"step": 1}', ""])
def test_a_line_that_is_no_record(path, line):
    log_steps(path, [1])
    with path.open("a") as file:
        file.write(line + "\n")
    before = path.read_text()
    for read in (read_metrics, lambda path: MetricsLog(path, resume_step=1)):
        with pytest.raises(ValueError) as caught:
            read(path)
        assert str(caught.value) == (
            f"{path}:2 is not a record of a run's log.\n"
            '  expected  {"step": ..., "kind": ..., ...}\n'
            "  fix: delete the line"
        )
    assert path.read_text() == before


def test_series_picks_one_curve():
    records = [
        {"step": 1, "kind": "train", "loss": 3.0},
        {"step": 1, "kind": "heldout", "loss": 9.0},
        {"step": 2, "kind": "train"},
        {"step": 3, "kind": "train", "loss": math.nan},
    ]
    steps, values = series(records, "train", "loss")
    assert steps.tolist() == [1, 3]
    np.testing.assert_array_equal(values, [3.0, math.nan])
    steps, values = series(records, "train", "absent")
    assert (steps.dtype, steps.shape, values.dtype, values.shape) == (int, (0,), float, (0,))
