"""Pooling: the largest, the mean or the sum of windows, one dim after the other.

A largest value of largest values, and a sum of sums, are those of a box, so that each dim is pooled
alone and moves alone what its windows reach over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np

from meshlang.dims import Dim, Shape
from meshlang.dtypes import check_kind
from meshlang.errors import DimError, message
from meshlang.ops.convolution import Padding, PerDim, check_named, per_dim
from meshlang.ops.halos import AddWindows, Windows
from meshlang.ops.span import Span, as_tensorflow, span
from meshlang.program import Op, Spec, apply, as_tensor
from meshlang.tensor import Tensor


@dataclass(frozen=True)
class Pool(Op):
    """The largest value ("max") or the sum ("sum") of each window."""

    kind: str
    dim: str
    span: Span

    @property
    def label(self) -> str:
        return f"{self.kind}_pool"

    @property
    def detail(self) -> str:
        return f"{self.dim}:{self.span}"

    def passes(self, i: int) -> str:
        return "alone" if self.kind == "sum" else "no"

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        check_kind(self.label, xs[0], "floats")
        old = xs[0].shape[self.dim]
        return (Spec(xs[0].shape.swap(old, Dim(old.name, self.span.new, old.twin)), xs[0].dtype),)

    @property
    def fill(self) -> float:
        """What stands outside of the dim."""
        return -inf if self.kind == "max" else 0

    def vjp(self, xs, ys, gs):
        from meshlang.ops.rearrange import expand_to

        old = xs[0].shape[self.dim]
        window = Dim(f"{self.dim}.window", self.span.window)
        wide = gs[0].shape.swap(gs[0].shape[self.dim], gs[0].shape[self.dim], window)
        spread = expand_to(gs[0], wide)
        if self.kind == "max":
            spread = self._first(xs[0], ys[0], window, spread)
        return (apply(AddWindows(old, window.name, self.span), spread)[0],)

    def _first(self, x: Tensor, y: Tensor, window: Dim, g: Tensor) -> Tensor:
        """Of equal largest values of a window, the first one has the gradient."""
        from meshlang.ops.elementwise import cast, equal, where
        from meshlang.ops.running import cumsum

        found = apply(Windows(self.dim, window, self.span, self.fill), x)[0]
        same = cast(equal(found, y), "int32")
        first = same * cast(equal(cumsum(same, window.name), 1), "int32")
        return where(equal(first, 1), g, 0.0)

    def plan(self, b, xs, outs):
        axes = b.axes(outs[0].shape[self.dim])
        if not axes and self.padding:
            return b.local(self, xs, outs)
        layer = self.span.reach(b.tables.mesh.ways(axes))
        return b.local(self, [b.reach(xs[0], self.dim, layer, self.fill)], outs)

    @property
    def padding(self) -> str:
        """What TensorFlow calls it; its means leave out what is outside, sums would not."""
        word = as_tensorflow([self.span])
        return "" if word == "SAME" and self.kind == "sum" else word


def max_pool(
    x: Any,
    windows: Mapping[str, int],
    *,
    strides: PerDim | None = None,
    padding: Padding | Mapping[str, Padding] = "valid",
) -> Tensor:
    """The largest value of each window; of equal ones the first has the gradient.

    Along divided dims processors send their neighbours the rows that windows reach over.

    Args:
        x: floats.
        windows: the size of a window along each dim that is pooled.
        strides: from one window to the next, for all dims or by name; the window's size by default.
        padding: "valid" or "same" as TensorFlow has them, or how many (before, after), likewise.

    Dims:
        x        [dims... rest...]
        returns  the same, with fewer indices of the pooled dims

    Raises:
        DimError: a window does not fit, or nothing is pooled.
        DtypeError: x holds no floats.

    Example:
        >>> import meshlang as ml
        >>> ml.max_pool(ml.constant([1.0, 3.0, 2.0, 0.0], "n"), {"n": 2}).numpy()
        array([3., 2.], dtype=float32)
    """
    return _pooled("max", as_tensor(x), _spans("max_pool", x, windows, strides, padding))


def mean_pool(
    x: Any,
    windows: Mapping[str, int],
    *,
    strides: PerDim | None = None,
    padding: Padding | Mapping[str, Padding] = "valid",
) -> Tensor:
    """The mean of each window, over what of it lies inside, as TensorFlow has it.

    Along divided dims processors send their neighbours the rows that windows reach over.

    Args:
        x: floats.
        windows: the size of a window along each dim that is pooled.
        strides: from one window to the next, for all dims or by name; the window's size by default.
        padding: "valid" or "same" as TensorFlow has them, or how many (before, after), likewise.

    Dims:
        x        [dims... rest...]
        returns  the same, with fewer indices of the pooled dims

    Raises:
        DimError: a window does not fit or would lie outside alone, or nothing is pooled.
        DtypeError: x holds no floats.

    Example:
        >>> import meshlang as ml
        >>> x = ml.constant([1.0, 3.0, 2.0], "n")
        >>> ml.mean_pool(x, {"n": 2}, padding="same").numpy()
        array([2., 2.], dtype=float32)
    """
    from meshlang.ops.create import constant

    x = as_tensor(x)
    spans = _spans("mean_pool", x, windows, strides, padding)
    y = _pooled("sum", x, spans)
    for dim, lies in spans.items():
        counts = _inside(lies)
        if (counts == counts[0]).all():
            y = y * (1.0 / float(counts[0]))
        else:
            y = y * constant(1.0 / counts, Shape((y.shape[dim],)), y.dtype)
    return y


def _pooled(kind: str, x: Tensor, spans: Mapping[str, Span]) -> Tensor:
    """The last dim first: then ties go to the first index in the order of the dims."""
    for dim, lies in reversed(list(spans.items())):
        x = apply(Pool(kind, dim, lies), x)[0]
    return x


def _spans(
    op: str,
    x: Any,
    windows: Mapping[str, int],
    strides: PerDim | None,
    padding: Padding | Mapping[str, Padding],
) -> dict[str, Span]:
    x = as_tensor(x)
    check_kind(op, x, "floats")
    if not windows:
        raise DimError(message(f"{op}: nothing is pooled.", [("x", x.shape)], "{'height': 2, ...}"))
    check_named(op, windows, strides=strides, padding=padding)
    found = {}
    for name, size in windows.items():
        dim = x.shape[name]
        stride = size if strides is None else per_dim(strides, dim, size)
        lies = span(op, dim, size, stride, 1, per_dim(padding, dim, "valid"))
        if _inside(lies).min() < 1:
            raise DimError(
                message(
                    f"{op}: a window along {dim!r} lies outside of it.",
                    [("x", x.shape), ("window", lies), ("padding", padding)],
                    "less padding than a window is long",
                )
            )
        found[dim.name] = lies
    return found


def _inside(lies: Span) -> np.ndarray:
    """How many indices of each window lie inside of the dim."""
    first = np.arange(lies.new) * lies.stride - lies.before
    return np.minimum(first + lies.window, lies.old) - np.maximum(first, 0)
