"""Pooling: the largest value or the mean of windows along one dim or two at once.

Over more dims: a largest value of largest values, and a mean of means, are those of a box.
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
from meshlang.ops.sliding import Sliding
from meshlang.ops.span import Span, span
from meshlang.program import Spec, apply, as_tensor
from meshlang.tensor import Tensor

#: TensorFlow's kernels pool images
_AT_ONCE = 2


@dataclass(frozen=True)
class _Form(Sliding):
    """One of the three; `along` is in the order of the tensor's dims."""

    kind: str
    along: tuple[tuple[str, Span], ...]

    @property
    def detail(self) -> str:
        return " ".join(f"{dim}:{lies}" for dim, lies in self.along)

    @property
    def slides(self):
        return self.along

    @property
    def fill(self) -> float:
        """What stands outside of a dim."""
        return -inf if self.kind == "max" else 0


@dataclass(frozen=True)
class Pool(_Form):
    """The largest value ("max") or the mean ("mean") of what of each window lies inside."""

    @property
    def label(self) -> str:
        return f"{self.kind}_pool"

    def passes(self, i: int) -> str:
        return "alone" if self.kind == "mean" else "no"

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        check_kind(self.label, xs[0], "floats")
        shape = xs[0].shape
        for name, lies in self.along:
            old = shape[name]
            shape = shape.swap(old, Dim(old.name, lies.new, old.twin))
        return (Spec(shape, xs[0].dtype),)

    def vjp(self, xs, ys, gs):
        operands = (xs[0], ys[0], gs[0]) if self.kind == "max" else (gs[0],)
        return (apply(PoolSlope(self.kind, self.along, xs[0].shape), *operands)[0],)

    def plan(self, b, xs, outs):
        return b.local(self, [self.reached(b, xs[0], outs[0].shape, self.fill)], outs)


@dataclass(frozen=True)
class PoolSlope(_Form):
    """The gradient: (x, y, g) of "max", of which the first largest value has it; (g,) of "mean"."""

    shape: Shape

    @property
    def label(self) -> str:
        return f"{self.kind}_pool_slope"

    def passes(self, i: int) -> str:
        return "alone" if self.kind == "mean" or i == 2 else "no"

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        return (Spec(self.shape, xs[-1].dtype),)

    def vjp(self, xs, ys, gs):
        if self.kind == "mean":
            return (apply(Pool(self.kind, self.along), gs[0])[0],)
        x, y, _ = xs
        return None, None, apply(PoolPick(self.kind, self.along), x, y, gs[0])[0]

    def plan(self, b, xs, outs):
        y = xs[-1].shape
        operands = [*(self.reached(b, x, y, self.fill) for x in xs[:-2]), *xs[-2:]]
        return [self.returned(b, operands, outs[0], y)]


@dataclass(frozen=True)
class PoolPick(_Form):
    """(x, y, z): z where x has the first largest value of each window; `PoolSlope` transposed."""

    @property
    def label(self) -> str:
        return "max_pool_pick"

    def passes(self, i: int) -> str:
        return "alone" if i == 2 else "no"

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        return (Spec(xs[1].shape, xs[2].dtype),)

    def vjp(self, xs, ys, gs):
        x, y, _ = xs
        slope = PoolSlope(self.kind, self.along, x.shape)
        return None, None, apply(slope, x, y, gs[0])[0]

    def plan(self, b, xs, outs):
        x, y, z = xs
        x, z = self.reached(b, x, y.shape, self.fill), self.reached(b, z, y.shape)
        return b.local(self, [x, y, z], outs)


def max_pool(
    x: Any,
    windows: Mapping[str, int],
    *,
    strides: PerDim | None = None,
    padding: Padding | Mapping[str, Padding] = "valid",
) -> Tensor:
    """The largest value of each window; of equal ones the first has the gradient.

    The first in the order of x's dims. A window that holds nothing above -inf may have no gradient.
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
    return _pooled("mean", as_tensor(x), _spans("mean_pool", x, windows, strides, padding))


def _pooled(kind: str, x: Tensor, spans: Mapping[str, Span]) -> Tensor:
    """The last dims first: then ties go to the first index in the order of the dims."""
    along = tuple((d.name, spans[d.name]) for d in x.shape if d.name in spans)
    for end in range(len(along), 0, -_AT_ONCE):
        x = apply(Pool(kind, along[max(end - _AT_ONCE, 0) : end]), x)[0]
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
        if inside(lies).min() < 1:
            raise DimError(
                message(
                    f"{op}: a window along {dim!r} lies outside of it.",
                    [("x", x.shape), ("window", lies), ("padding", padding)],
                    "less padding than a window is long",
                )
            )
        found[dim.name] = lies
    return found


def inside(lies: Span) -> np.ndarray:
    """How many indices of each window lie inside of the dim."""
    first = np.arange(lies.new) * lies.stride - lies.before
    return np.minimum(first + lies.window, lies.old) - np.maximum(first, 0)
