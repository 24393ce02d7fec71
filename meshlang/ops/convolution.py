"""Convolution along named dims: strides, dilations, groups, transposed; gradients of any order.

Three ops are one trilinear form of input, filters and result, each of them the gradient of the
other two. What an op names is the role of a dim: dims of the input alone are batch dims, those of
the filters alone are new channels, those of both are summed over or, where the result keeps them,
groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from meshlang.dims import Dim, Shape, check_twins
from meshlang.dtypes import check_kind, check_same
from meshlang.errors import DimError, did_you_mean, message
from meshlang.ops.sliding import Sliding
from meshlang.ops.span import Span, span
from meshlang.program import NARROW, Spec, apply, as_tensor
from meshlang.tensor import Tensor

Padding = str | tuple[int, int]
#: a value for all dims, or for each by its name
PerDim = int | Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Along:
    """A dim of the input, the dim of the filters that slides along it, and how."""

    dim: str
    window: str
    span: Span

    def __str__(self) -> str:
        return f"{self.dim}/{self.window}:{self.span}"


@dataclass(frozen=True, slots=True)
class Roles:
    """The dims of a convolution apart from those along which it slides."""

    batch: tuple[Dim, ...]
    groups: tuple[Dim, ...]
    inputs: tuple[Dim, ...]
    outputs: tuple[Dim, ...]


def roles(along: Sequence[Along], x: Shape, filters: Shape, y: Shape) -> Roles:
    """By where each dim stands."""
    slides = {name for a in along for name in (a.dim, a.window)}
    mine = [d for d in x if d.name not in slides]
    theirs = [d for d in filters if d.name not in slides]
    return Roles(
        batch=tuple(d for d in mine if d not in filters),
        groups=tuple(d for d in mine if d in filters and d in y),
        inputs=tuple(d for d in mine if d in filters and d not in y),
        outputs=tuple(d for d in theirs if d not in x),
    )


@dataclass(frozen=True)
class _Form(Sliding):
    """One of the three; `shape` is that of its result."""

    along: tuple[Along, ...]
    shape: Shape

    @property
    def detail(self) -> str:
        return " ".join(map(str, self.along))

    def shapes(self, xs: Sequence[Any]) -> tuple[Shape, Shape, Shape]:
        """Of the input, the filters and the result of the convolution."""
        raise NotImplementedError

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        return (Spec(self.shape, xs[0].dtype),)

    def creates_pending(self, axes_of, xs):
        return tuple(a for d in self.summed(xs) for a in axes_of(d))

    def summed(self, xs: Sequence[Any]) -> tuple[Dim, ...]:
        """The dims over which the result is a sum."""
        raise NotImplementedError

    def flops(self, sizes: dict[str, int]) -> int:
        """Of all windows; what they reach over does not count."""
        counts = {a.dim: a.span.new for a in self.along if f"{a.dim}.run" not in sizes}
        return 2 * prod(n for name, n in (sizes | counts).items() if not name.endswith(".run"))

    @property
    def slides(self):
        return [(a.dim, a.span) for a in self.along]

    def filters(self, b: Any, filters: Any) -> Any:
        """The filters, whole along what slides."""
        for a in self.along:
            filters = b.gather(filters, a.window)
        return filters

    def partial(self, b: Any, xs: Sequence[Any], dtype: str) -> tuple[tuple[str, ...], str]:
        """The axes over which the result is pending, and in which dtype."""
        made = self.creates_pending(b.axes, xs)
        return made, b.high if made and dtype in NARROW else dtype

    def narrowed(self, b: Any, x: Any, dtype: str) -> Any:
        """A sum made in another dtype is paid before it is narrowed."""
        return x if x.dtype == dtype else b.paid(x, dtype)


@dataclass(frozen=True)
class Conv(_Form):
    """Input and filters to the result."""

    def shapes(self, xs):
        return xs[0].shape, xs[1].shape, self.shape

    def summed(self, xs):
        return roles(self.along, *self.shapes(xs)).inputs

    def vjp(self, xs, ys, gs):
        x, filters = xs
        return (
            apply(ConvInput(self.along, x.shape), gs[0], filters)[0],
            apply(ConvFilters(self.along, filters.shape), x, gs[0])[0],
        )

    def plan(self, b, xs, outs):
        pending, dtype = self.partial(b, xs, outs[0].dtype)
        x, filters = self.reached(b, xs[0], self.shape), self.filters(b, xs[1])
        made = b.local(self, [x, filters], [Spec(self.shape, dtype)], pending=pending)[0]
        return [self.narrowed(b, made, outs[0].dtype)]


@dataclass(frozen=True)
class ConvInput(_Form):
    """Result and filters to the input: the transposed convolution."""

    @property
    def label(self) -> str:
        return "conv_transpose"

    def shapes(self, xs):
        return self.shape, xs[1].shape, xs[0].shape

    def summed(self, xs):
        return roles(self.along, *self.shapes(xs)).outputs

    def vjp(self, xs, ys, gs):
        g, filters = xs
        return (
            apply(Conv(self.along, g.shape), gs[0], filters)[0],
            apply(ConvFilters(self.along, filters.shape), gs[0], g)[0],
        )

    def plan(self, b, xs, outs):
        pending, dtype = self.partial(b, xs, outs[0].dtype)
        operands = [xs[0], self.filters(b, xs[1])]
        x = self.returned(b, operands, Spec(self.shape, dtype), xs[0].shape, pending)
        return [self.narrowed(b, x, outs[0].dtype)]


@dataclass(frozen=True)
class ConvFilters(_Form):
    """Input and result to the filters."""

    def shapes(self, xs):
        return xs[0].shape, self.shape, xs[1].shape

    def summed(self, xs):
        _, _, y = self.shapes(xs)
        slides = tuple(y[a.dim] for a in self.along)
        return (*roles(self.along, *self.shapes(xs)).batch, *slides)

    def vjp(self, xs, ys, gs):
        x, g = xs
        return (
            apply(ConvInput(self.along, x.shape), g, gs[0])[0],
            apply(Conv(self.along, g.shape), x, gs[0])[0],
        )

    def plan(self, b, xs, outs):
        pending, dtype = self.partial(b, xs, outs[0].dtype)
        x, whole = self.reached(b, xs[0], xs[1].shape), tuple(a.window for a in self.along)
        made = b.local(self, [x, xs[1]], [Spec(self.shape, dtype)], pending=pending, whole=whole)[0]
        return [b.move(self.narrowed(b, made, outs[0].dtype), self.shape)]


# -- the public functions ------------------------------------------------------------------------


def conv(
    x: Any,
    filters: Any,
    along: Mapping[str, str],
    *,
    reduce: str,
    strides: PerDim = 1,
    dilations: PerDim = 1,
    padding: Padding | Mapping[str, Padding] = "same",
) -> Tensor:
    """Convolution along one, two or three dims (cross-correlation, as `tf.nn.convolution` is).

    ``ml.conv(images, filters, {"height": "kh", "width": "kw"}, reduce="c_in")``. As in an einsum,
    names say the rest: dims that images and filters share are groups unless they are in `reduce`,
    so a depthwise convolution has the channels in both and ``reduce=""``.

    Along divided dims processors send their neighbours the rows that windows reach over. The sum
    over a divided dim of `reduce` is pending, and so is the filters' gradient over divided batch
    and spatial dims.

    Args:
        x: floats.
        filters: floats of the same dtype.
        along: for each dim of x along which windows slide, the dim of the filters that it meets.
        reduce: the dims that x and filters share and that are summed over; ``""`` for none.
        strides: from one window to the next, for all dims or for each by its name.
        dilations: from one index of a window to the next, likewise.
        padding: "same" or "valid" as TensorFlow has them, or zeros (before, after), likewise.

    Dims:
        x        [batch... groups... spatial... reduce...]
        filters  [groups... windows... reduce... channels...]
        returns  as x; spatial dims keep their names, channels stand where `reduce` stood

    Raises:
        DimError: a dim is missing, stands where it has no meaning, or a window does not fit.
        DtypeError: the operands are no floats of one dtype.

    Example:
        >>> import meshlang as ml
        >>> x = ml.constant([[1.0], [2.0], [4.0]], "time c_in")
        >>> filters = ml.constant([[[1.0]], [[10.0]]], "k c_in c_out")
        >>> ml.conv(x, filters, {"time": "k"}, reduce="c_in", padding="valid").numpy()
        array([[21.],
               [42.]], dtype=float32)
    """
    x, filters = as_tensor(x), as_tensor(filters)
    _check("conv", x, filters, along, reduce)
    asked = _Asked(strides, dilations, padding)
    check_named("conv", along, strides=strides, dilations=dilations, padding=padding)
    made = tuple(
        Along(
            x.shape[dim].name, filters.shape[k].name, asked.span("conv", x.shape[dim], filters, k)
        )
        for dim, k in along.items()
    )
    shape = _channels(x.shape, filters.shape, made, reduce)
    for a in made:
        old = shape[a.dim]
        shape = shape.swap(old, Dim(old.name, a.span.new, old.twin))
    return apply(Conv(made, shape), x, filters)[0]


def conv_transpose(
    x: Any,
    filters: Any,
    along: Mapping[str, str],
    *,
    reduce: str,
    strides: PerDim = 1,
    dilations: PerDim = 1,
    padding: Padding | Mapping[str, Padding] = "same",
    sizes: PerDim | None = None,
) -> Tensor:
    """Transposed convolution: the gradient of `meshlang.conv` with respect to its input.

    Args:
        x: floats.
        filters: floats of the same dtype.
        along: for each dim of x along which windows lie, the dim of the filters that it meets.
        reduce: the dims that x and filters share and that are summed over; ``""`` for none.
        strides: from one window to the next, for all dims or for each by its name.
        dilations: from one index of a window to the next, likewise.
        padding: that of the convolution: what it put outside is cut off here, likewise.
        sizes: of the spatial dims after. By default ``size * stride`` for "same", and for "valid"
            ``size * stride + max(window - stride, 0)``, as Keras has them.

    Dims:
        x        [batch... groups... spatial... reduce...]
        filters  [groups... windows... reduce... channels...]
        returns  as x; spatial dims keep their names, channels stand where `reduce` stood

    Raises:
        DimError: a dim is missing, stands where it has no meaning, or no such convolution gives x.
        DtypeError: the operands are no floats of one dtype.

    Example:
        >>> import meshlang as ml
        >>> x = ml.constant([[1.0], [2.0]], "time c_in")
        >>> filters = ml.constant([[[1.0]], [[10.0]]], "k c_in c_out")
        >>> grown = ml.conv_transpose(x, filters, {"time": "k"}, reduce="c_in", strides=2)
        >>> ml.sum(grown, "c_out").numpy()
        array([ 1., 10.,  2., 20.], dtype=float32)
    """
    x, filters = as_tensor(x), as_tensor(filters)
    _check("conv_transpose", x, filters, along, reduce)
    asked = _Asked(strides, dilations, padding)
    said = {"strides": strides, "dilations": dilations, "padding": padding, "sizes": sizes}
    check_named("conv_transpose", along, **said)
    made, shape = [], x.shape
    for dim, k in along.items():
        old = x.shape[dim]
        new = Dim(old.name, asked.grown(old, filters.shape[k].size, sizes), old.twin)
        lies = asked.span("conv_transpose", new, filters, k)
        if lies.new != old.size:
            raise DimError(
                message(
                    f"conv_transpose: a convolution of {new!r} has {lies.new} windows, "
                    f"and there are {old.size}.",
                    [("operand", x.shape), ("filters", filters.shape), ("along", lies)],
                    "another size, or leave `sizes` out",
                )
            )
        made.append(Along(old.name, filters.shape[k].name, lies))
        shape = shape.swap(old, new)
    shape = _channels(shape, filters.shape, made, reduce)
    return apply(ConvInput(tuple(made), shape), x, filters)[0]


@dataclass(frozen=True, slots=True)
class _Asked:
    """How windows lie, for all dims or by name."""

    strides: PerDim
    dilations: PerDim
    padding: Padding | Mapping[str, Padding]

    def span(self, op: str, dim: Dim, filters: Tensor, window: str) -> Span:
        """Along one dim."""
        stride, dilation = per_dim(self.strides, dim, 1), per_dim(self.dilations, dim, 1)
        size = filters.shape[window].size
        return span(op, dim, size, stride, dilation, per_dim(self.padding, dim, "same"))

    def grown(self, dim: Dim, window: int, sizes: PerDim | None) -> int:
        """The size of a dim before a convolution that has `dim` windows."""
        stride = per_dim(self.strides, dim, 1)
        reach = (window - 1) * per_dim(self.dilations, dim, 1) + 1
        padding = per_dim(self.padding, dim, "same")
        if sizes is not None:
            return per_dim(sizes, dim, dim.size * stride)
        if isinstance(padding, str):
            return dim.size * stride + (max(reach - stride, 0) if padding == "valid" else 0)
        return (dim.size - 1) * stride + reach - sum(padding)


def per_dim(value: Any, dim: Dim, otherwise: Any) -> Any:
    """What is said for one dim: its own entry, or what is said for all."""
    return value.get(dim.name, otherwise) if isinstance(value, Mapping) else value


def check_named(op: str, along: Mapping[str, Any], **said: Any) -> None:
    """Refuse what is said for a dim along which nothing slides."""
    for what, value in said.items():
        for name in value if isinstance(value, Mapping) else ():
            if name not in along:
                raise DimError(
                    message(
                        f"{op}: {what} names {name!r}, along which nothing slides.",
                        [(what, value), ("along", " ".join(along))],
                        did_you_mean(name, along, f"the dims are: {' '.join(along)}"),
                    )
                )


def _channels(shape: Shape, filters: Shape, along: Sequence[Along], reduce: str) -> Shape:
    """The dims of x with the channels that only filters have in the place of reduced ones."""
    gone = shape.pick(reduce)
    slides = {a.window for a in along}
    new = [d for d in filters if d.name not in slides and d not in shape]
    first = min((shape.index(d) for d in gone), default=len(shape))
    rest = [d for d in shape[first:] if d not in gone]
    return Shape((*shape[:first], *new, *rest))


def _check(op: str, x: Tensor, filters: Tensor, along: Mapping[str, str], reduce: str) -> None:
    """Dims stand where they have a meaning, and dtypes agree."""
    rows = [("x", x.shape), ("filters", filters.shape), ("along", dict(along))]
    check_same(op, ["x", "filters"], [x, filters])
    check_kind(op, x, "floats")
    if not 1 <= len(along) <= 3:
        raise DimError(message(f"{op}: along one, two or three dims.", rows))
    for dim, window in along.items():
        if filters.shape[window].name in x.shape.names or x.shape[dim].name in filters.shape.names:
            raise DimError(
                message(
                    f"{op}: {dim!r} and {window!r} are one dim of x and one of the filters.",
                    rows,
                    "rename those of the filters, e.g. filters.rename(height='kh')",
                )
            )
    check_twins(op, [x.shape, filters.shape])
    for dim in x.shape.pick(reduce):
        if dim not in filters.shape:
            raise DimError(
                message(
                    f"{op}: {dim.name!r} is summed over, and the filters lack it.",
                    [*rows, ("reduce", repr(reduce))],
                    "reduce names dims that x and filters share",
                )
            )
