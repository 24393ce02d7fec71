"""Windows along a dim as a new dim, halos of neighbours among them; and their transpose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from meshlang.dims import Dim, Shape
from meshlang.dtypes import check_kind
from meshlang.errors import DimError, message
from meshlang.ops.runs import check_fill
from meshlang.ops.span import Span, span
from meshlang.program import FLOATS, Op, Spec, apply, as_tensor
from meshlang.tensor import Tensor

Padding = str | tuple[int, int]


@dataclass(frozen=True)
class Windows(Op):
    """``[dim]`` to ``[dim into]``: window i of a `Span` at index i."""

    dim: str
    into: Dim
    span: Span
    fill: float = 0

    @property
    def detail(self) -> str:
        return f"{self.dim} into {self.into.label}:{self.span}"

    def passes(self, i: int) -> str:
        return "no" if self.fill else "alone"

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        old = xs[0].shape[self.dim]
        shape = xs[0].shape.swap(old, Dim(old.name, self.span.new, old.twin), self.into)
        return (Spec(shape, xs[0].dtype),)

    def vjp(self, xs, ys, gs):
        if xs[0].dtype not in FLOATS:
            return (None,)
        old = xs[0].shape[self.dim]
        return (apply(AddWindows(old, self.into.name, self.span), gs[0])[0],)

    def plan(self, b, xs, outs):
        layer = self.span.reach(b.tables.mesh.ways(b.axes(outs[0].shape[self.dim])))
        x = b.reach(xs[0], self.dim, layer, self.fill)
        made = b.local(self, [x], outs, whole=(self.into.name,))
        return [b.move(made[0], outs[0].shape)]


@dataclass(frozen=True)
class AddWindows(Op):
    """The transpose: windows are added up where they came from, what lay outside is lost."""

    dim: Dim
    window: str
    span: Span

    @property
    def detail(self) -> str:
        return f"{self.window} to {self.dim!r}:{self.span}"

    def passes(self, i: int) -> str:
        return "alone"

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        check_kind("add_windows", xs[0], "numbers")
        shape = Shape(d for d in xs[0].shape if d.name != self.window)
        return (Spec(shape.swap(shape[self.dim.name], self.dim), xs[0].dtype),)

    def vjp(self, xs, ys, gs):
        return (apply(Windows(self.dim.name, xs[0].shape[self.window], self.span), gs[0])[0],)

    def plan(self, b, xs, outs):
        new = xs[0].shape[self.dim.name]
        order = Shape(d for d in xs[0].shape if d.name != self.window)
        order = order.swap(new, new, xs[0].shape[self.window])
        x = b.arrange(b.gather(xs[0], self.window), order)
        ways = b.tables.mesh.ways(b.axes(new))
        long = Dim(f"{self.dim.name}.run", self.span.rows(new.size // ways) * ways)
        shape = outs[0].shape.swap(self.dim, long)
        made = b.local_at(self, [x], Spec(shape, xs[0].dtype), {long: b.axes(new)})
        return [b.give_back(made, self.dim, self.span.reach(ways))]


def windows(
    x: Any,
    dim: str,
    *,
    into: str | Dim,
    stride: int = 1,
    dilation: int = 1,
    padding: Padding = "valid",
    wrap: bool = False,
    fill: float = 0,
) -> Tensor:
    """Windows along a dim, the indices of each along a new dim.

    Along a divided dim a processor sends its neighbours the rows that their windows reach over, and
    no more; the plan shows it.

    Args:
        x: any tensor.
        dim: along which. It keeps its name, and counts windows after.
        into: the new dim; its size is that of a window.
        stride: from one window to the next.
        dilation: from one index of a window to the next.
        padding: "valid", "same" as TensorFlow has it, or how many indices before and after.
        wrap: indices outside of the dim go round.
        fill: otherwise, what stands there.

    Dims:
        x        [dim rest...]
        returns  [dim into rest...]

    Raises:
        DimError: a window does not fit into the dim, or a number is below 1.
        DtypeError: the fill is no whole number, and the tensor holds only those.

    Example:
        >>> import meshlang as ml
        >>> ml.windows(ml.range("n:6"), "n", into="w:3", stride=2, padding=(1, 0)).numpy()
        array([[0, 0, 1],
               [1, 2, 3],
               [3, 4, 5]], dtype=int32)
    """
    x = as_tensor(x)
    (new,) = Shape.parse(into if isinstance(into, str) else (into,))
    check_fill("windows", fill, x)
    lies = span("windows", x.shape[dim], new.size, stride, dilation, padding, wrap)
    return apply(Windows(x.shape[dim].name, new, lies, 0 if wrap else fill), x)[0]


def halo_exchange(
    x: Any,
    dim: str,
    *,
    before: int = 0,
    after: int = 0,
    into: str = "halo",
    wrap: bool = False,
    fill: float = 0,
) -> Tensor:
    """Each index of a dim with its neighbours, which stand along a new dim.

    There are no dims for blocks: ``halo_exchange(x, "length", before=1)`` is legal whether or not
    `length` is divided, and where it is, each processor receives the one row it lacks. At index i
    of `dim` and index k of the new dim stands index ``i + k - before``.

    Args:
        x: any tensor.
        dim: along which.
        before: how many neighbours in front.
        after: how many behind.
        into: the name of the new dim, whose size is ``before + 1 + after``.
        wrap: the first index and the last one are neighbours.
        fill: otherwise, what stands outside of the dim.

    Dims:
        x        [dim rest...]
        returns  [dim into rest...]

    Raises:
        DimError: `before` or `after` is negative.
        DtypeError: the fill is no whole number, and the tensor holds only those.

    Example:
        >>> import meshlang as ml
        >>> ml.halo_exchange(ml.range("n:3"), "n", before=1, after=1, wrap=True).numpy()
        array([[2, 0, 1],
               [0, 1, 2],
               [1, 2, 0]], dtype=int32)
    """
    x = as_tensor(x)
    if min(before, after) < 0:
        rows = [("operand", x.shape), ("before", before), ("after", after)]
        raise DimError(message("halo_exchange: before and after are not below 0.", rows))
    new = f"{into}:{before + 1 + after}"
    return windows(x, dim, into=new, padding=(before, after), wrap=wrap, fill=fill)
