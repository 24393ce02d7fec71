"""The curves of a run as a picture: loss in training, bits per held-out byte, the n-gram models."""

import importlib.util
import math
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from launch.watch.curves import Curve, apart, finite, limits, smoothed
from launch.watch.metrics import Record, series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK = "#1f2933"
_SOFT = "#7b8794"
_GRID = "#e8ebee"
_TRAIN = "#4a86c5"
_HELDOUT = "#c8452f"


class CurvePlot:
    """Draws the curves of a run into a PNG, anew each time it is asked to.

    Without matplotlib it draws nothing, and says so once, when it is made.
    """

    def __init__(
        self, path: str | Path, *, baselines: Mapping[str, float] | None = None, title: str = ""
    ) -> None:
        """Prepare to draw.

        Args:
            path: the PNG file; its directory is made if needed.
            baselines: bits per byte of other models by name, drawn as horizontal lines.
            title: stands above the curves.
        """
        self.path = Path(path)
        self._baselines = dict(baselines or {})
        self._title = title
        self._can_draw = importlib.util.find_spec("matplotlib") is not None
        if not self._can_draw:
            warnings.warn(
                "matplotlib is not installed, so the curves are not drawn.\n"
                f"  plot  {self.path}\n"
                "  fix: pip install 'meshlang[plot]'",
                stacklevel=2,
            )

    def draw(self, records: Iterable[Record]) -> Path | None:
        """Draw what a log holds so far.

        Args:
            records: of kind "train" with `loss`, in nats per byte; of kind "heldout" with
                `bits_per_byte`. Others, and values that are not finite, are passed over.

        Returns:
            The path of the picture; None without matplotlib.
        """
        if not self._can_draw:
            return None
        records = list(records)
        steps, loss = finite(*series(records, "train", "loss"))
        figure = _curves(
            (steps, loss / math.log(2)),
            finite(*series(records, "heldout", "bits_per_byte")),
            self._baselines,
            self._title,
        )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Beside the file and then in its place, so that nobody sees half a picture.
        beside = self.path.with_name(self.path.name + ".new")
        figure.savefig(beside, format="png")
        beside.replace(self.path)
        return self.path


def _curves(train: Curve, heldout: Curve, baselines: Mapping[str, float], title: str) -> "Figure":
    """The picture, both curves in bits per byte."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), dpi=160, facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    last = max([*train[0][-1:], *heldout[0][-1:], 1])
    axes.set_xlim(0, 1.01 * last)
    axes.set_ylim(*limits(train[1], heldout[1], list(baselines.values())))

    labels: list[tuple[float, str, str]] = []  # height, text, colour
    for name, bits in baselines.items():
        axes.axhline(bits, color=_SOFT, linewidth=1.2, linestyle=(0, (5, 4)), zorder=2)
        labels.append((bits, f"{name}  {bits:.2f}", _SOFT))
    if len(train[0]):
        smooth = smoothed(train[1])
        axes.plot(*train, color=_TRAIN, linewidth=0.8, alpha=0.25, zorder=3)
        axes.plot(train[0], smooth, color=_TRAIN, linewidth=2, zorder=4)
        labels.append((float(smooth[-1]), f"train  {smooth[-1]:.2f}", _TRAIN))
    if len(heldout[0]):
        axes.plot(*heldout, color=_HELDOUT, linewidth=2, marker="o", markersize=4.5, zorder=5)
        labels.append((float(heldout[1][-1]), f"held out  {heldout[1][-1]:.2f}", _HELDOUT))
    _write_at_right(axes, labels)
    _dress(axes, title)
    return figure


def _dress(axes: "Axes", title: str) -> None:
    """Frame, ticks and words, quieter than the curves."""
    from matplotlib.ticker import MaxNLocator

    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_SOFT)
    axes.grid(axis="y", color=_GRID, linewidth=0.9)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_INK, labelsize=10, length=0, pad=6)
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("step", color=_INK, fontsize=10.5, labelpad=8)
    axes.set_title(title, loc="left", color=_INK, fontsize=12.5, fontweight="bold", pad=32)
    axes.annotate(
        "bits per byte",
        (0, 1),
        xycoords="axes fraction",
        xytext=(0, 12),
        textcoords="offset points",
        color=_SOFT,
        fontsize=10.5,
    )


def _write_at_right(axes: "Axes", labels: list[tuple[float, str, str]]) -> None:
    """Name each line at its right end, moved apart where names would touch."""
    low, high = axes.get_ylim()
    heights = apart([bits for bits, _, _ in labels], gap=0.055 * (high - low), low=low, high=high)
    for (_, text, colour), height in zip(labels, heights, strict=True):
        axes.annotate(
            text,
            (1, height),
            xycoords=("axes fraction", "data"),
            xytext=(10, 0),
            textcoords="offset points",
            color=colour,
            fontsize=10.5,
            va="center",
        )
