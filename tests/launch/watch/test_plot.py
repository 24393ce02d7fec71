"""The picture of a run: what is drawn where, and what happens without matplotlib."""

import importlib.util
import math
import sys
import warnings

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from launch.watch import plot
from launch.watch.plot import CurvePlot

RECORDS = [
    *({"step": step, "kind": "train", "loss": 6.0 / step**0.3} for step in range(1, 101)),
    {"step": 60, "kind": "train", "loss": math.nan},
    {"step": 50, "kind": "heldout", "bits_per_byte": 2.9},
    {"step": 100, "kind": "heldout", "bits_per_byte": 2.25},
    {"step": 100, "kind": "event", "text": "finished"},
]
BASELINES = {"trigram": 2.5, "5-gram": 1.9}


def curves(records, baselines=None):
    """The axes of the picture that would be drawn."""
    train = plot.finite(*plot.series(records, "train", "loss"))
    heldout = plot.finite(*plot.series(records, "heldout", "bits_per_byte"))
    bits = (train[0], train[1] / math.log(2))
    return plot._curves(bits, heldout, baselines or {}, "title").axes[0]


def test_a_png_is_drawn_in_place_of_the_one_before(tmp_path):
    path = tmp_path / "run" / "curves.png"
    picture = CurvePlot(path, baselines=BASELINES, title="tiny")
    red = []
    for records in ([], RECORDS[:1], RECORDS):
        assert picture.draw(iter(records)) == path
        assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
        pixels = imread(path)
        assert pixels.shape == (800, 1440, 4)
        red.append(np.isclose(pixels[..., :3], to_rgb(plot._HELDOUT), atol=0.01).all(-1).sum())
    assert red[:2] == [0, 0] and red[2] > 1000
    assert [file.name for file in path.parent.iterdir()] == ["curves.png"]


def test_the_lines_are_those_of_the_log_in_bits_per_byte():
    lines = curves(RECORDS, BASELINES).get_lines()
    trigram, fivegram, train, smooth, heldout = (np.asarray(line.get_xydata()) for line in lines)
    assert set(trigram[:, 1]) == {2.5} and set(fivegram[:, 1]) == {1.9}
    steps = np.arange(1, 101)
    np.testing.assert_array_equal(train[:, 0], steps)
    np.testing.assert_allclose(train[:, 1], 6.0 / steps**0.3 / math.log(2))
    np.testing.assert_allclose(smooth[49, 1], np.mean(train[48:51, 1]))
    np.testing.assert_array_equal(heldout, [[50, 2.9], [100, 2.25]])


def test_every_line_is_named_with_its_last_value():
    axes = curves(RECORDS, BASELINES)
    texts = [text.get_text() for text in axes.texts]
    assert texts == [
        "trigram  2.50",
        "5-gram  1.90",
        "train  2.18",
        "held out  2.25",
        "bits per byte",
    ]


def test_the_first_steps_do_not_squeeze_the_rest():
    low, high = curves(RECORDS, BASELINES).get_ylim()
    assert low < 1.9
    assert 1.8 * 2.5 <= high < 1.8 * 2.5 + 0.4
    assert curves(RECORDS[:1], BASELINES).get_ylim()[1] > 6.0 / math.log(2)  # else it is unseen


def test_names_of_lines_never_touch():
    heights = plot.apart([2.0, 2.01, 1.99, 2.3, 5.0], gap=0.2, low=1.0, high=4.0)
    assert np.all(np.diff(np.sort(heights)) >= 0.2 - 1e-9)
    assert np.argsort(heights).tolist() == [2, 0, 1, 3, 4]


def test_without_matplotlib_there_is_one_warning_and_no_picture(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert importlib.util.find_spec("matplotlib") is None
    path = tmp_path / "curves.png"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        picture = CurvePlot(path)
        assert [picture.draw(RECORDS) for _ in range(3)] == [None, None, None]
    assert [str(warning.message) for warning in caught] == [
        "matplotlib is not installed, so the curves are not drawn.\n"
        f"  plot  {path}\n"
        "  fix: pip install 'meshlang[plot]'"
    ]
    assert caught[0].filename == __file__
    assert not path.exists()


def test_drawing_needs_no_window_system(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it would fail
    assert CurvePlot(tmp_path / "curves.png").draw(RECORDS) is not None
