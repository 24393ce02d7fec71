"""Runs of indices: what a piece of a result is put together from. Windows along one dim."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from meshlang.errors import DimError, message

#: the operand of a run that stands for as many fills
FILL = -1


@dataclass(frozen=True, slots=True)
class Run:
    """Indices `start`, `start + step`, ... of one operand along a dim.

    Attributes:
        operand: which one, or `FILL`.
        start: the first index.
        size: how many.
        step: 1, or -1 for backwards.
    """

    operand: int
    start: int
    size: int
    step: int = 1

    def part(self, begin: int, end: int) -> Run:
        """From the `begin`-th of its indices up to the `end`-th."""
        if self.operand == FILL:
            return Run(FILL, 0, end - begin)
        return replace(self, start=self.start + self.step * begin, size=end - begin)

    def follows(self, other: Run) -> bool:
        """Whether `other` and this one are one run."""
        if self.operand == FILL or other.operand == FILL:
            return self.operand == other.operand
        return (
            self.operand == other.operand
            and self.step == other.step
            and self.start == other.start + other.step * other.size
        )


Runs = tuple[Run, ...]


def joined(runs: Sequence[Run]) -> Runs:
    """Runs that go on are one; empty ones are left out.

    >>> joined([Run(0, 1, 2), Run(0, 3, 1), Run(FILL, 0, 0)])
    (Run(operand=0, start=1, size=3, step=1),)
    """
    found: list[Run] = []
    for run in runs:
        if run.size and found and run.follows(found[-1]):
            found[-1] = replace(found[-1], size=found[-1].size + run.size)
        elif run.size:
            found.append(run)
    return tuple(found)


def cut(runs: Sequence[Run], begin: int, end: int) -> Runs:
    """The part of a row of runs from one place to another.

    >>> cut([Run(0, 5, 4), Run(FILL, 0, 4)], 2, 6)
    (Run(operand=0, start=7, size=2, step=1), Run(operand=-1, start=0, size=2, step=1))
    """
    found, at = [], 0
    for run in runs:
        low, high = max(begin - at, 0), min(end - at, run.size)
        if low < high:
            found.append(run.part(low, high))
        at += run.size
    return tuple(found)


def blocks(runs: Sequence[Run], ways: int) -> tuple[Runs, ...]:
    """A row of runs in equal blocks."""
    size = sum(run.size for run in runs) // ways
    return tuple(cut(runs, i * size, (i + 1) * size) for i in range(ways))


def around(start: int, size: int, of: int, wrap: bool = False) -> Runs:
    """A run that may leave a dim of size `of`: fills stand outside, or it goes round.

    >>> around(-1, 3, 4), around(-1, 3, 4, wrap=True)[0]
    ((Run(operand=-1, start=0, size=1, step=1), Run(operand=0, start=0, size=2, step=1)), \
Run(operand=0, start=3, size=1, step=1))
    """
    found, at, end = [], start, start + size
    while at < end:
        if wrap:
            run = Run(0, at % of, min(end - at, of - at % of))
        elif at < 0:
            run = Run(FILL, 0, min(end, 0) - at)
        elif at < of:
            run = Run(0, at, min(end, of) - at)
        else:
            run = Run(FILL, 0, end - at)
        found.append(run)
        at += run.size
    return joined(found)


@dataclass(frozen=True, slots=True)
class Span:
    """How windows lie along a dim: window i begins at index ``i * stride - before``.

    Attributes:
        window: how many indices stand in one.
        stride: from one window to the next.
        dilation: from one index of a window to the next.
        before: how far the first window begins before the dim.
        old: the size of the dim.
        new: how many windows.
        wrap: indices outside of the dim go round; otherwise there is a fill.
    """

    window: int
    stride: int
    dilation: int
    before: int
    old: int
    new: int
    wrap: bool = False

    def __str__(self) -> str:
        words = [str(self.window)]
        words += [f"stride {self.stride}"] if self.stride > 1 else []
        words += [f"dilation {self.dilation}"] if self.dilation > 1 else []
        words += [f"before {self.before}"] if self.before else []
        return " ".join([*words, *(["wrap"] if self.wrap else [])])

    @property
    def is_valid(self) -> bool:
        """Whether this is what TensorFlow calls valid padding."""
        return self == replace(self, before=0, new=(self.old - self.rows(1)) // self.stride + 1)

    @property
    def is_same(self) -> bool:
        """Whether this is what TensorFlow calls same padding."""
        new = -(-self.old // self.stride)
        lacking = max(self.rows(new) - self.old, 0)
        return self == replace(self, before=lacking // 2, new=new)

    def rows(self, count: int) -> int:
        """How many indices `count` windows in a row reach over."""
        return (count - 1) * self.stride + (self.window - 1) * self.dilation + 1

    def reach(self, ways: int) -> tuple[Runs, ...]:
        """What each of so many equal parts of the windows reaches over."""
        count = self.new // ways
        return tuple(
            around(i * count * self.stride - self.before, self.rows(count), self.old, self.wrap)
            for i in range(ways)
        )


def as_tensorflow(spans: Sequence[Span]) -> str:
    """The word that TensorFlow has for the padding of all dims, or none.

    >>> as_tensorflow([Span(3, 1, 1, 1, 8, 8), Span(1, 1, 1, 0, 8, 8)])
    'SAME'
    >>> as_tensorflow([Span(3, 1, 1, 0, 8, 6)]), as_tensorflow([Span(3, 1, 1, 2, 8, 8)])
    ('VALID', '')
    """
    if any(span.wrap for span in spans):
        return ""
    if all(span.is_valid for span in spans):
        return "VALID"
    return "SAME" if all(span.is_same for span in spans) else ""


def span(
    op: str,
    dim: Any,
    window: int,
    stride: int = 1,
    dilation: int = 1,
    padding: str | tuple[int, int] = "valid",
    wrap: bool = False,
) -> Span:
    """Windows over a dim, padded as TensorFlow pads.

    Args:
        op: whose error it is.
        dim: along which.
        window: how many indices stand in one.
        stride: from one window to the next.
        dilation: from one index of a window to the next.
        padding: "same", "valid", or how many indices before and after.
        wrap: indices outside go round.
    """
    rows = [("dim", dim), ("window", window), ("stride", stride), ("dilation", dilation)]
    if min(window, stride, dilation) < 1:
        raise DimError(message(f"{op}: window, stride and dilation are 1 or more.", rows))
    reach = (window - 1) * dilation + 1
    if padding == "same":
        new = -(-dim.size // stride)
        before = max((new - 1) * stride + reach - dim.size, 0) // 2
        return Span(window, stride, dilation, before, dim.size, new, wrap)
    if padding == "valid":
        before, after = 0, 0
    elif not isinstance(padding, str) and len(padding) == 2 and min(padding) >= 0:
        before, after = padding
    else:
        raise DimError(
            message(
                f"{op}: no padding {padding!r}.",
                [("dim", dim)],
                "'same', 'valid', or (before, after) with numbers from 0 on",
            )
        )
    new = (dim.size + before + after - reach) // stride + 1
    if new < 1:
        raise DimError(
            message(
                f"{op}: a window reaches over {reach} indices, and {dim!r} padded has "
                f"{dim.size + before + after}.",
                [*rows, ("padding", padding)],
                "padding='same', or a shorter window",
            )
        )
    return Span(window, stride, dilation, before, dim.size, new, wrap)
