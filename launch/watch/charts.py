"""Charts as inline SVG: they take their colours from the page, in light and in dark."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from launch.watch.curves import apart, limits, smoothed

_POINTS = 400  # a curve of more points is drawn by means of neighbours
_COLUMNS = 60  # of a heat map


@dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
        name: stands at its end, and is its class in the page's styles.
        steps, values: its points; all values are finite.
        noisy: drawn faintly, with its running mean over it.
    """

    name: str
    steps: np.ndarray
    values: np.ndarray
    noisy: bool = False


@dataclass(frozen=True)
class _Frame:
    """From steps and values to pixels."""

    left: float
    top: float
    width: float
    height: float
    first: float
    last: float
    low: float
    high: float

    def x(self, step: float) -> float:
        return self.left + self.width * (step - self.first) / max(self.last - self.first, 1)

    def y(self, value: float) -> float:
        value = min(max(value, self.low), self.high)
        return self.top + self.height * (1 - (value - self.low) / (self.high - self.low))


def line_chart(
    title: str, lines: Sequence[Line], levels: Mapping[str, float], *, unit: str = ""
) -> str:
    """Curves over steps, named at their right ends, with horizontal levels to compare them with.

    Args:
        title: for those who do not see it.
        lines: at least one has points.
        levels: values by name, drawn dashed.
        unit: of the values, written above them.
    """
    values = {line.name: line.values for line in lines if len(line.values)}
    ends = {n: float((smoothed(v) if _noisy(lines, n) else v)[-1]) for n, v in values.items()}
    none = np.zeros(0)
    train, other = [*values.values(), none, none][:2]
    low, high = limits(train, other, list(levels.values()))
    last = max(float(line.steps[-1]) for line in lines if len(line.steps))
    frame = _Frame(44, 30, 620, 270, 0, last, low, high)
    parts = [f'<text class="soft" x="0" y="14">{escape(unit)}</text>', *_axes(frame)]
    parts += [
        f'<line class="level" x1="{frame.left}" x2="{frame.left + frame.width}" '
        f'y1="{frame.y(v):.1f}" y2="{frame.y(v):.1f}"/>'
        for v in levels.values()
    ]
    for line in lines:
        parts.extend(_drawn(frame, line))
    names = [(name, value, "soft") for name, value in levels.items()]
    names += [(name, value, _css(name)) for name, value in ends.items()]
    heights = apart([v for _, v, _ in names], gap=0.068 * (high - low), low=low, high=high)
    for (name, value, style), height in zip(names, heights, strict=True):
        y = frame.y(height) + 4
        parts.append(
            f'<text class="{style}" x="{frame.left + frame.width + 10:.0f}" y="{y:.1f}">'
            f"{escape(name)} {value:.2f}</text>"
        )
    return _svg(title, 800, 335, parts)


def small_chart(title: str, steps: np.ndarray, values: np.ndarray) -> str:
    """One curve with its lowest and highest value; nothing but its shape is meant to be read."""
    low, high = float(values.min()), float(values.max())
    room = 0.08 * (high - low) or max(abs(high), 1e-9) * 0.1
    frame = _Frame(2, 6, 226, 64, float(steps[0]), float(steps[-1]), low - room, high + room)
    parts = [f'<path class="train" d="{_path(frame, steps, values)}"/>']
    return _svg(title, 230, 76, parts)


def heat_map(title: str, steps: np.ndarray, rows: np.ndarray) -> str:
    """How shares move over time: one row each, the mean share half-way between both colours.

    Args:
        title: for those who do not see it.
        steps: int [points].
        rows: [points shares], each point's of sum 1.
    """
    groups = np.array_split(np.arange(len(steps)), min(len(steps), _COLUMNS))
    columns = [(int(steps[g[0]]), int(steps[g[-1]]), rows[g].mean(0)) for g in groups]
    count = rows.shape[1]
    across, down = 620 / len(columns), max(4.0, min(22.0, 320 / count))
    parts = []
    for i, (first, last, shares) in enumerate(columns):
        for expert, share in enumerate(shares.tolist()):
            ratio = share * count
            side = "more" if ratio > 1 else "less"
            depth = min(abs(math.log2(max(ratio, 1e-3))) / 2, 1.0)
            when = f"step {first}" if first == last else f"steps {first} to {last}"
            parts.append(
                f'<rect class="{side}" x="{44 + i * across:.1f}" y="{10 + expert * down:.1f}" '
                f'width="{across + 0.3:.1f}" height="{down - 1:.1f}" fill-opacity="{depth:.2f}">'
                f"<title>expert {expert}, {when}: {share:.1%}</title></rect>"
            )
    if down >= 12 or count <= 16:
        parts += [
            f'<text class="soft end" x="36" y="{10 + (e + 0.5) * down + 4:.1f}">{e}</text>'
            for e in range(count)
        ]
    if down >= 12:
        parts += [
            f'<text class="soft" x="674" y="{10 + (e + 0.5) * down + 4:.1f}">{share:.1%}</text>'
            for e, share in enumerate(columns[-1][2].tolist())
        ]
    bottom = 10 + count * down
    frame = _Frame(44, 10, 620, count * down, float(steps[0]), float(steps[-1]), 0, 1)
    parts += _step_ticks(frame, bottom + 18)
    return _svg(title, 800, bottom + 26, parts)


def _noisy(lines: Iterable[Line], name: str) -> bool:
    return any(line.noisy for line in lines if line.name == name)


def _drawn(frame: _Frame, line: Line) -> list[str]:
    """A curve, with its points to point at where they are few."""
    if not len(line.values):
        return []
    style = _css(line.name)
    if line.noisy:
        faint = _path(frame, line.steps, line.values)
        bold = _path(frame, line.steps, smoothed(line.values))
        return [
            f'<path class="{style} faint" d="{faint}"/>',
            f'<path class="{style}" d="{bold}"/>',
        ]
    parts = [f'<path class="{style}" d="{_path(frame, line.steps, line.values)}"/>']
    if len(line.values) <= 60:
        points = zip(line.steps.tolist(), line.values.tolist(), strict=True)
        parts += [
            f'<circle class="{style}" cx="{frame.x(s):.1f}" cy="{frame.y(v):.1f}" r="3">'
            f"<title>step {s}: {v:.4g}</title></circle>"
            for s, v in points
        ]
    return parts


def _path(frame: _Frame, steps: np.ndarray, values: np.ndarray) -> str:
    """The `d` of a path."""
    groups = np.array_split(np.arange(len(steps)), min(len(steps), _POINTS))
    points = [(frame.x(steps[g].mean()), frame.y(values[g].mean())) for g in groups]
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _axes(frame: _Frame) -> list[str]:
    """Lines across at round values, and numbers of steps below."""
    parts = []
    for value in ticks(frame.low, frame.high, 6):
        y = frame.y(value)
        parts.append(
            f'<line class="grid" x1="{frame.left}" x2="{frame.left + frame.width}" '
            f'y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="soft end" x="{frame.left - 8}" y="{y + 4:.1f}">{value:g}</text>'
        )
    return parts + _step_ticks(frame, frame.top + frame.height + 20)


def _step_ticks(frame: _Frame, y: float) -> list[str]:
    whole = [t for t in ticks(frame.first, frame.last, 7) if t == int(t)]
    return [
        f'<text class="soft middle" x="{frame.x(t):.1f}" y="{y:.1f}">{int(t):,}</text>'
        for t in whole
    ]


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers between two bounds, so many at most.

    >>> ticks(0.3, 2.6, 6), ticks(0, 900, 7)
    ([0.5, 1.0, 1.5, 2.0, 2.5], [0.0, 200.0, 400.0, 600.0, 800.0])
    """
    if not high > low:
        return [low]
    rough = (high - low) / most
    scale = 10.0 ** math.floor(math.log10(rough))
    by = next(m * scale for m in (1, 2, 5, 10) if m * scale >= rough)
    first, last = math.ceil(low / by - 1e-9), math.floor(high / by + 1e-9)
    return [round(i * by, 12) for i in range(first, last + 1)]


def _css(name: str) -> str:
    return name.replace(" ", "-")


def _svg(title: str, width: float, height: float, parts: Iterable[str]) -> str:
    inside = "\n".join(parts)
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(title)}">\n'
        f"{inside}\n</svg>"
    )
