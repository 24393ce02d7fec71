"""Event files: what is in them, and what happens without the package."""

import sys
from pathlib import Path

import numpy as np
import pytest

from launch.watch.tensorboard import TensorBoard


def events(directory: Path) -> dict[str, dict[int, np.ndarray]]:
    """By tag and step, what the event files hold."""
    import tensorflow as tf
    from tensorflow.core.util.event_pb2 import Event

    found: dict[str, dict[int, np.ndarray]] = {}
    for path in directory.glob("events.*"):
        for record in tf.data.TFRecordDataset(str(path)):
            event = Event.FromString(record.numpy())
            for value in event.summary.value:
                array = tf.make_ndarray(value.tensor)
                found.setdefault(value.tag, {})[event.step] = array
    return found


def test_numbers_texts_and_histograms(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path)
    assert board.writes
    board.texts(0, {"plan": "two\n  lines"})
    board.scalars(3, "train", {"loss": 2.5, "load": [0.25, 0.75]})
    board.histograms(3, {"layers/w": np.arange(8.0)})
    board.close()
    found = events(tmp_path)
    assert set(found) == {"plan", "train/loss", "train/load/0", "train/load/1", "layers/w"}
    assert found["train/loss"] == {3: 2.5}
    assert found["train/load/1"] == {3: 0.75}
    assert found["plan"][0].tolist() == b"    two\n      lines"
    buckets = found["layers/w"][3]
    assert (buckets[0, 0], buckets[-1, 1], buckets[:, 2].sum()) == (0.0, 7.0, 8.0)


def test_without_the_package_it_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.warns(UserWarning) as warned:
        board = TensorBoard(tmp_path / "tensorboard")
        board.scalars(1, "train", {"loss": 1.0})
        board.texts(1, {"plan": "text"})
        board.histograms(1, {"w": np.zeros(2)})
        board.close()
    assert [str(w.message) for w in warned] == [
        "tensorboard is not installed, so no event files are written.\n"
        "  everything is in  metrics.jsonl\n"
        "  fix: pip install 'meshlang[plot]'"
    ]
    assert not board.writes
    assert not (tmp_path / "tensorboard").exists()
