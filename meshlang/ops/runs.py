"""Runs of indices along one dim: joined, cut out, padded.

Along a divided dim, processors send what others lack, and no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from meshlang.dims import Dim, check_twins
from meshlang.dtypes import check_same
from meshlang.errors import DimError, DtypeError, message
from meshlang.ops.rearrange import arrange
from meshlang.ops.span import FILL, Run
from meshlang.program import INTEGERS, Op, Spec, apply, as_tensor
from meshlang.tensor import Tensor


@dataclass(frozen=True)
class Concat(Op):
    """Join along one dim."""

    dim: str

    @property
    def detail(self) -> str:
        return self.dim

    def passes(self, i: int) -> str:
        return "together"

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        shapes = [x.shape for x in xs]
        dim = shapes[0][self.dim]
        check_twins(
            "concat", [s.swap(s[self.dim], _with_size(s[self.dim], 1)) for s in shapes], shapes
        )
        _check_alike(self.dim, xs)
        total = sum(s[self.dim].size for s in shapes)
        return (Spec(shapes[0].swap(dim, _with_size(dim, total)), xs[0].dtype),)

    def vjp(self, xs, ys, gs):
        starts = [sum(x.shape[self.dim].size for x in xs[:i]) for i in range(len(xs))]
        return tuple(
            arrange(slice(gs[0], self.dim, start=s, size=x.shape[self.dim].size), x.shape)
            for s, x in zip(starts, xs, strict=True)
        )

    def plan(self, b, xs, outs):
        runs = [Run(i, 0, x.shape[self.dim].size) for i, x in enumerate(xs)]
        return [b.reblock(self, xs, self.dim, runs, outs[0], 0)]


@dataclass(frozen=True)
class Slice(Op):
    """A run of indices of one dim, which keeps its name."""

    dim: str
    start: int
    size: int

    @property
    def detail(self) -> str:
        return f"{self.dim} from {self.start}"

    def passes(self, i: int) -> str:
        return "alone"

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        dim = xs[0].shape[self.dim]
        if not 0 <= self.start < self.start + self.size <= dim.size:
            raise DimError(
                message(
                    f"slice: {self.start} to {self.start + self.size} is not within {dim!r}.",
                    [("operand", xs[0].shape)],
                    f"take at least one index, from 0 to {dim.size}",
                )
            )
        return (Spec(xs[0].shape.swap(dim, _with_size(dim, self.size)), xs[0].dtype),)

    def vjp(self, xs, ys, gs):
        after = xs[0].shape[self.dim].size - self.start - self.size
        return (pad(gs[0], self.dim, before=self.start, after=after),)

    def plan(self, b, xs, outs):
        return [b.reblock(self, xs, self.dim, [Run(0, self.start, self.size)], outs[0], 0)]


@dataclass(frozen=True)
class Pad(Op):
    """A value before and after along one dim, which keeps its name."""

    dim: str
    before: int
    after: int
    value: float = 0

    @property
    def detail(self) -> str:
        return f"{self.dim} {self.before}+{self.after}" + (f" {self.value}" if self.value else "")

    def passes(self, i: int) -> str:
        return "no" if self.value else "alone"

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        dim = xs[0].shape[self.dim]
        if self.before < 0 or self.after < 0:
            raise DimError(
                message(
                    f"pad: {self.before} before and {self.after} after {dim!r}: not below 0.",
                    [("operand", xs[0].shape)],
                    f"to shorten it: ml.slice(x, {dim.name!r}, start=..., size=...)",
                )
            )
        grown = _with_size(dim, dim.size + self.before + self.after)
        return (Spec(xs[0].shape.swap(dim, grown), xs[0].dtype),)

    def vjp(self, xs, ys, gs):
        return (slice(gs[0], self.dim, start=self.before, size=xs[0].shape[self.dim].size),)

    def plan(self, b, xs, outs):
        size = xs[0].shape[self.dim].size
        runs = [Run(FILL, 0, self.before), Run(0, 0, size), Run(FILL, 0, self.after)]
        return [b.reblock(self, xs, self.dim, runs, outs[0], self.value)]


def _with_size(dim: Dim, size: int) -> Dim:
    return Dim(dim.name, size, dim.twin)


def _check_alike(dim: str, xs: Sequence[Tensor]) -> None:
    """All operands of a concat have one dtype, and apart from `dim` one set of dims."""
    labels = [f"operand {i}" for i in range(len(xs))]
    check_same("concat", labels, xs)
    first = {d for d in xs[0].shape if d.name != dim}
    for x in xs:
        if {d for d in x.shape if d.name != dim} != first:
            raise DimError(
                message(
                    f"concat: apart from {dim!r} all must have the same dims.",
                    zip(labels, (x.shape for x in xs), strict=True),
                    "x.expand, or ml.sum over, what only some of them have",
                )
            )


# -- the public functions ------------------------------------------------------------------------


def concat(xs: Sequence[Any], dim: str) -> Tensor:
    """Join tensors along one dim; their other dims agree, in any order.

    Args:
        xs: one tensor or more, of one dtype.
        dim: the dim that is joined. Where it is divided, rows go to those whose they become.

    Dims:
        xs       [dim rest...] each, sizes of dim may differ
        returns  [dim rest...], in the first one's order

    Raises:
        DimError: there is nothing to join, or other dims than `dim` differ.
        DtypeError: dtypes differ.

    Example:
        >>> import meshlang as ml
        >>> ml.concat([ml.constant([1, 2], "n"), ml.constant([3], "n")], "n").numpy()
        array([1, 2, 3], dtype=int32)
    """
    tensors = [as_tensor(x) for x in xs]
    if not tensors:
        raise DimError(message("concat: nothing to join.", [("dim", repr(dim))]))
    names = [x.shape[dim].name for x in tensors]
    return apply(Concat(names[0]), *tensors)[0]


def slice(x: Any, dim: str, *, start: int = 0, size: int) -> Tensor:
    """A run of indices of one dim, which keeps its name.

    Args:
        x: any tensor.
        dim: along which. Where it is divided, rows go to those whose they become.
        start: the first index.
        size: how many indices.

    Dims:
        x        [dim rest...]
        returns  [dim:size rest...]

    Raises:
        DimError: the run is empty or leaves the dim.

    Example:
        >>> import meshlang as ml
        >>> ml.slice(ml.range("n:5"), "n", start=1, size=3).numpy()
        array([1, 2, 3], dtype=int32)
    """
    x = as_tensor(x)
    return apply(Slice(x.shape[dim].name, start, size), x)[0]


def pad(x: Any, dim: str, *, before: int = 0, after: int = 0, value: float = 0) -> Tensor:
    """A value before and after along one dim, which keeps its name.

    Args:
        x: any tensor.
        dim: along which. Where it is divided, rows go to those whose they become.
        before: how many indices in front.
        after: how many behind.
        value: what stands there; zero, which is False for bools, by default.

    Dims:
        x        [dim rest...]
        returns  [dim rest...], before + after longer

    Raises:
        DimError: one of the two is negative.
        DtypeError: the value is no whole number, and the tensor holds only those.

    Example:
        >>> import meshlang as ml
        >>> ml.pad(ml.constant([1, 2], "n"), "n", before=1, after=2).numpy()
        array([0, 1, 2, 0, 0], dtype=int32)
    """
    x = as_tensor(x)
    check_fill("pad", value, x)
    return apply(Pad(x.shape[dim].name, before, after, value), x)[0]


def check_fill(op: str, value: float, x: Tensor) -> None:
    """Refuse a number that the dtype of a tensor does not hold."""
    whole = value in (0, 1) if x.dtype == "bool" else float(value).is_integer()
    if x.dtype in (*INTEGERS, "bool") and not whole:
        rows = [("operand", f"{x.shape} {x.dtype}"), ("value", value)]
        fix = "ml.cast(x, 'compute') first, or another value"
        raise DtypeError(message(f"{op}: {x.dtype} does not hold {value}.", rows, fix))
