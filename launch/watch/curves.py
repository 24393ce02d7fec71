"""Arithmetic of curves that every picture of a run shares."""

from __future__ import annotations

import numpy as np

Curve = tuple[np.ndarray, np.ndarray]

_SMOOTHING = 0.02  # part of a run over which the bold curve of the training loss is averaged


def apart(heights: list[float], *, gap: float, low: float, high: float) -> list[float]:
    """Heights as near as can be to the given ones, in their order, `gap` apart, within bounds.

    >>> apart([2.0, 1.0, 1.0, 9.0], gap=0.5, low=0.0, high=4.0)
    [2.0, 0.75, 1.25, 4.0]
    """
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    clusters: list[list[float]] = []  # [mean height, members], the lowest first
    for i in order:
        clusters.append([min(max(heights[i], low), high), 1])
        while len(clusters) > 1 and _reach(clusters[-2], gap, +1) > _reach(clusters[-1], gap, -1):
            mean, members = clusters.pop()
            below = clusters[-1]
            below[0] = (below[0] * below[1] + mean * members) / (below[1] + members)
            below[1] += members
    placed = [
        mean + gap * (place - (members - 1) / 2)
        for mean, members in clusters
        for place in range(int(members))
    ]
    return [placed[order.index(i)] for i in range(len(heights))]


def _reach(cluster: list[float], gap: float, side: int) -> float:
    """The upper (+1) or lower (-1) end of the room that a cluster takes."""
    mean, members = cluster
    return mean + side * gap * members / 2


def limits(train: np.ndarray, heldout: np.ndarray, baselines: list[float]) -> tuple[float, float]:
    """Bounds that show where curves end, not how far they fell in their first steps."""
    values = np.concatenate([train, heldout, baselines])
    if len(values) == 0:
        return 0.0, 8.0
    ends = [*train[-1:], *heldout[-1:], *baselines]
    top = min(max(values), 1.8 * max(ends))
    margin = 0.06 * (top - min(values)) + 0.1
    return float(min(values) - margin), float(top + margin)


def smoothed(values: np.ndarray) -> np.ndarray:
    """Mean over a window around each point, cut off at the ends.

    >>> smoothed(np.array([1.0] * 100 + [3.0]))[[0, 98, 99, 100]]
    array([1. , 1. , 1.66666667, 2. ])
    """
    places = np.arange(len(values))
    reach = round(_SMOOTHING * len(values) / 2)
    begins, ends = np.maximum(places - reach, 0), np.minimum(places + reach + 1, len(values))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return (sums[ends] - sums[begins]) / (ends - begins)


def finite(steps: np.ndarray, values: np.ndarray) -> Curve:
    finite = np.isfinite(values)
    return steps[finite], values[finite]
