"""`local_map`: a TensorFlow function on the blocks of each processor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from meshlang.dims import Dim, Shape, is_kept, twin_of
from meshlang.errors import DimError, LayoutError, did_you_mean, message
from meshlang.notation import dim_words
from meshlang.ops.create import zeros
from meshlang.program import FLOATS, InputSpec, Op, Spec, as_tensor, dtype_name, tracing
from meshlang.structure import leaves, rebuild
from meshlang.tensor import Tensor


@dataclass(frozen=True, eq=False)
class Slope:
    """The cotangent of operand `i` of a function: from its operands, and its results' cotangents.

    Attributes:
        of: the function of blocks, or another slope.
        grad: what was declared as its gradient; otherwise TensorFlow derives it.
        i: the operand.
        operands: how many there are.
    """

    of: Any
    grad: Callable[..., Any] | None
    i: int
    operands: int


@dataclass(frozen=True, eq=False)
class LocalMap(Op):
    """A function of blocks. Its results are sums over the processors along `sums`."""

    fn: Any
    specs: tuple[Spec, ...]
    sums: tuple[Dim, ...] = ()
    grad: Callable[..., Any] | None = None

    @property
    def detail(self) -> str:
        fn = self.fn
        while isinstance(fn, Slope):
            fn = fn.of
        slope = "gradient of " if fn is not self.fn else ""
        return slope + getattr(fn, "__name__", type(fn).__name__)

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        return self.specs

    def creates_pending(self, axes_of, xs):
        return tuple(a for d in self.sums for a in axes_of(d))

    def plan(self, b, xs, outs):
        _check_axes(b, xs, outs, self.sums)
        return b.local(self, xs, outs, pending=self.creates_pending(b.axes, xs))

    def vjp(self, xs, ys, gs):
        """For each operand its own op: a sum along the dims that it lacks and others have."""
        slopes = [
            zeros(y.shape, y.dtype) if g is None else g
            for y, g in zip(ys, gs, strict=True)
            if y.dtype in FLOATS
        ]
        everywhere = dict.fromkeys(d for t in (*xs, *ys) for d in t.shape)
        program = tracing("a gradient")
        made: list[Tensor | None] = []
        for i, x in enumerate(xs):
            if x.dtype not in FLOATS:
                made.append(None)
                continue
            lacking = tuple(d for d in everywhere if d not in x.shape)
            fn = Slope(self.fn, self.grad, i, len(xs))
            op = LocalMap(fn, (Spec(x.shape, x.dtype),), lacking)
            made.append(program.add(op, *xs, *slopes)[0])
        return made


def local_map(
    fn: Callable[..., Any],
    xs: Any,
    *,
    out: Any,
    sums: str = "",
    grad: Callable[..., Any] | None = None,
) -> Any:
    """A TensorFlow function on blocks: what each processor holds, and nothing moves.

    For what the language cannot say. The function is given one block for each operand, with their
    dims in order, and returns one for each of `out`. Blocks have static shapes; on one processor
    they are whole. It must not depend on where it runs, and not use variables or collectives. The
    gradient is derived by TensorFlow, unless you declare one.

    Args:
        fn: from blocks, ``tf.Tensor``, to a block or a tuple of blocks.
        xs: a tensor, or several.
        out: the dims of the result, ``"batch d"``, with sizes where no operand has them; or
            `meshlang.spec` for another dtype than that of the first operand; or a tuple of them.
        sums: dims over which the function sums: where they are divided, each processor's result is
            a part of the sum, which is paid after.
        grad: from the tuple of blocks and the tuple of cotangents of float results to a tuple with
            a block for each operand. Where an operand lacks a dim of others, it is a part of a sum.

    Dims:
        xs       [dims...] each
        returns  [out...]

    Raises:
        DimError: a dim of `out` has no size; or, when lowered, `fn` returns other blocks.
        LayoutError: when planned, if a result is whole over an axis that divides an operand, and
            not declared a sum; or divided where no operand is.
        ProgramError: nothing is being traced.

    Example:
        >>> import tensorflow as tf
        >>> import meshlang as ml
        >>> def fn(x):
        ...     return ml.local_map(tf.math.lgamma, x, out="batch d")
        >>> ml.run(fn, x=ml.constant([[1.0, 4.0]], "batch d")).round(3)
        array([[0.   , 1.792]], dtype=float32)
    """
    program = tracing("ml.local_map")
    operands = [program.own(as_tensor(x)) for x in leaves(xs)]
    known: dict[str, Dim] = {}
    for dim in (dim for x in operands for dim in x.shape):
        known.setdefault(dim.name, dim)
    dtype = operands[0].dtype if operands else "compute"
    specs = tuple(_spec(one, known, dtype) for one in leaves(out))
    summed = tuple(_known(name + mark, known) for name, mark, _ in dim_words(sums))
    for spec in specs:
        for dim in summed:
            if dim in spec.shape:
                raise DimError(
                    message(
                        f"local_map: dim {dim.name!r} is summed over, and a result has it.",
                        [("out", spec.shape), ("sums", sums)],
                        "leave it out of one of them",
                    )
                )
    made = iter(program.add(LocalMap(fn, specs, summed, grad), *operands))
    return rebuild(out, lambda _: next(made))


def _spec(out: Any, known: dict[str, Dim], dtype: str) -> Spec:
    if isinstance(out, InputSpec):
        return Spec(out.shape, dtype_name(out.dtype))
    if isinstance(out, Shape):
        return Spec(out, dtype_name(dtype))
    dims = []
    for name, mark, size in dim_words(out):
        dims.append(_known(name + mark, known) if size is None else Dim(name, size, twin_of(mark)))
    return Spec(Shape(dims), dtype_name(dtype))


def _known(label: str, known: dict[str, Dim]) -> Dim:
    for dim in known.values():
        if label in (dim.label, dim.name) and (label == dim.label or not is_kept(Shape((dim,)))):
            return dim
    listed = f"give its size: {label}:8"
    raise DimError(
        message(
            f"local_map: no operand has a dim named {label!r}.",
            [("dims", " ".join(map(str, known)) or "none")],
            did_you_mean(label, list(known), listed),
        )
    )


def _check_axes(b: Any, xs: Sequence[Any], outs: Sequence[Spec], sums: tuple[Dim, ...]) -> None:
    """No result is whole, undeclared, where an operand is divided; nor the other way around."""
    summed = {a for d in sums for a in b.axes(d)}
    rows = [(f"operand {i}", x) for i, x in enumerate(xs)]
    dividing = {
        a: d for x in xs for d, axes in zip(x.shape, x.placement, strict=True) for a in axes
    }
    for spec in outs:
        held = {a: d for d in spec.shape for a in b.axes(d)}
        for axis, dim in dividing.items():
            if axis not in held and axis not in summed:
                raise LayoutError(
                    message(
                        f"local_map: axis {axis!r} divides dim {dim.label!r} of an operand, and a "
                        "result is whole over it.",
                        [*rows, ("result", spec.shape), *b.tables.rows()],
                        f"sums={dim.name!r} if it is a sum over {dim.name}, or hold it whole: "
                        f"ml.whole(x, {dim.name!r})",
                    )
                )
        for axis, dim in held.items():
            if axis not in dividing:
                raise LayoutError(
                    message(
                        f"local_map: axis {axis!r} divides dim {dim.label!r} of a result, and no "
                        "operand: which block is it?",
                        [*rows, ("result", spec.shape), *b.tables.rows()],
                        f"give an operand that has it, or a result '{dim.name}*:{dim.size}'",
                    )
                )
