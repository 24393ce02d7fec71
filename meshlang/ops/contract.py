"""Contractions: einsum over named dims."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from meshlang.dims import Dim, Shape, check_twins
from meshlang.dtypes import check_kind, check_same
from meshlang.errors import DimError, DtypeError, ProgramError, did_you_mean, message
from meshlang.notation import dim_words
from meshlang.ops.contraction_order import cheapest_pair
from meshlang.program import FLOATS, NARROW, Op, Spec, apply, as_tensor, dtype_name
from meshlang.tensor import Tensor


@dataclass(frozen=True)
class Einsum(Op):
    """The product of two tensors, summed over the dims that `keep` lacks. Both have those."""

    keep: Shape
    #: of the result, and of the sums that make it; that of the operands if left out
    dtype: str | None = None

    @property
    def detail(self) -> str:
        kept = "keep=" + ",".join(d.label for d in self.keep)
        return kept if self.dtype is None else f"{kept} {self.dtype}"

    def passes(self, i: int) -> str:
        return "alone"

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        x, y = xs
        check_twins("einsum", [x.shape, y.shape])
        return (Spec(self.keep, self.dtype or x.dtype),)

    def reduced(self, xs) -> list[Dim]:
        """The dims summed over."""
        return [d for d in xs[0].shape if d not in self.keep]

    def creates_pending(self, axes_of, xs):
        return tuple(a for d in self.reduced(xs) for a in axes_of(d))

    def vjp(self, xs, ys, gs):
        from meshlang.ops.elementwise import cast

        (x, y), g = xs, gs[0]
        back = (
            einsum_onto(g, cast(y, g.dtype), x.shape),
            einsum_onto(g, cast(x, g.dtype), y.shape),
        )
        return tuple(cast(b, x.dtype) for b in back)

    def plan(self, b, xs, outs):
        made = self.creates_pending(b.axes, xs)
        if made and outs[0].dtype in NARROW:
            outs = [Spec(outs[0].shape, b.high)]
        return b.local(self, xs, outs, pending=made)

    def flops(self, sizes: dict[str, int]) -> int:
        return 2 * prod(sizes.values())


def einsum(
    *xs: Any, reduce: str | None = None, keep: str | None = None, dtype: str | None = None
) -> Tensor:
    """Multiply tensors and sum over dims; of several, in the order with the fewest multiplications.

    Args:
        *xs: one tensor or more; dims of one name are the same dim.
        reduce: the dims to sum over, e.g. ``"d_model"``; the others are kept.
        keep: the dims of the result, in its order. One of the two is always given; both are
            checked against each other.
        dtype: in which products are added, and of the result: "high" for float32 sums of bfloat16
            operands. That of the operands if left out.

    Dims:
        xs       each any of the dims; one dtype, floats or signed integers
        returns  `keep`, or all dims in order of appearance without `reduce`

    Raises:
        DimError: neither is given, a dim is unknown, or they contradict each other.
        DtypeError: the operands have several dtypes, or are no signed numbers; or `dtype` is given
            and something is no float.
        ProgramError: there are no operands.

    Example:
        >>> import meshlang as ml
        >>> x, w = ml.constant([[1.0, 2.0]], "batch d"), ml.constant([[1.0], [10.0]], "d out")
        >>> ml.einsum(x, w, reduce="d").numpy()
        array([[21.]], dtype=float32)
    """
    if not xs:
        raise ProgramError(message("einsum: no operands.", fix="give one tensor or more"))
    tensors = [as_tensor(x) for x in xs]
    check_twins("einsum", [x.shape for x in tensors])
    check_same("einsum", [f"operand {i}" for i in range(len(xs))], tensors)
    check_kind("einsum", tensors[0], "signed numbers")
    made = _result_dtype(tensors, dtype)
    out = _result_shape(tensors, reduce, keep)
    tensors = [_sum_alone(i, tensors, out, made) for i in range(len(tensors))]
    if len(tensors) == 1:
        from meshlang.ops.elementwise import cast
        from meshlang.ops.rearrange import arrange

        return arrange(cast(tensors[0], made), out)
    while len(tensors) > 2:
        tensors = _contract_first(tensors, out, made)
    return einsum_onto(tensors[0], tensors[1], out, made)


def einsum_onto(x: Tensor, y: Tensor, out: Shape, dtype: str | None = None) -> Tensor:
    """The product of two tensors summed onto the dims `out`, of which each is in x or in y.

    The sums are in `dtype`, as is the result; in that of the tensors if it is left out.
    """
    from meshlang.ops.elementwise import cast, multiply
    from meshlang.ops.rearrange import arrange, expand_to

    dtype = dtype or x.dtype
    x, y = _sum_alone(0, [x, y], out, dtype), _sum_alone(1, [x, y], out, dtype)
    there = Shape(d for d in out if d in x.shape or d in y.shape)
    shared_reduced = [d for d in x.shape if d in y.shape and d not in there]
    contained = set(x.shape) <= set(y.shape) or set(y.shape) <= set(x.shape)
    multiplied = contained and not shared_reduced
    if multiplied or x.dtype != y.dtype:
        x, y = cast(x, dtype), cast(y, dtype)
    if multiplied:
        result = arrange(multiply(x, y), there)
    else:
        result = apply(Einsum(there, None if dtype == x.dtype else dtype), x, y)[0]
    return arrange(expand_to(result, out), out)


def _result_dtype(xs: list[Tensor], dtype: str | None) -> str:
    if dtype is None:
        return xs[0].dtype
    made = dtype_name(dtype)
    if made not in FLOATS or xs[0].dtype not in FLOATS:
        raise DtypeError(
            message(
                "einsum: sums have a dtype of their own for floats only.",
                [*((f"operand {i}", x.dtype) for i, x in enumerate(xs)), ("dtype", made)],
                "leave dtype out, or ml.cast the operands",
            )
        )
    return made


def _result_shape(xs: list[Tensor], reduce: str | None, keep: str | None) -> Shape:
    every = Shape(dict.fromkeys(d for x in xs for d in x.shape))
    operands = [(f"operand {i}", x.shape) for i, x in enumerate(xs)]
    if reduce is None and keep is None:
        raise DimError(
            message(
                "einsum: say what is summed over, or what is kept.",
                operands,
                "einsum(x, w, reduce='d_model'), or keep='batch d_ff'",
            )
        )
    named = {}
    for what, text in (("reduce", reduce), ("keep", keep)):
        if text is None:
            continue
        for name, mark, _ in dim_words(text):
            if every.find(name + mark) is None:
                raise DimError(
                    message(
                        f"einsum: no operand has a dim named {name!r}.",
                        [*operands, (what, repr(text))],
                        did_you_mean(name, every.names, f"the dims are: {' '.join(every.names)}"),
                    )
                )
        named[what] = every.pick(text)
    kept = Shape(named["keep"]) if keep is not None else every - Shape(named["reduce"])
    if reduce is not None and set(kept) != set(every) - set(named["reduce"]):
        raise DimError(
            message(
                "einsum: reduce and keep contradict each other.",
                [*operands, ("reduce", repr(reduce)), ("keep", repr(keep))],
                "give one of them",
            )
        )
    return kept


def _sum_alone(i: int, xs: list[Tensor], out: Shape, dtype: str) -> Tensor:
    """Sum an operand over the dims that only it has and the result lacks."""
    from meshlang.ops.elementwise import cast
    from meshlang.ops.reduce import sum_dims

    others = {d for j, x in enumerate(xs) if j != i for d in x.shape}
    alone = [d for d in xs[i].shape if d not in others and d not in out]
    return sum_dims(cast(xs[i], dtype), alone) if alone else xs[i]


def _contract_first(xs: list[Tensor], out: Shape, dtype: str) -> list[Tensor]:
    """Contract the pair that the cheapest order of all begins with."""
    i, j = cheapest_pair([x.shape for x in xs], out)
    rest = [x for n, x in enumerate(xs) if n not in (i, j)]
    needed = {*out, *(d for x in rest for d in x.shape)}
    dims = dict.fromkeys((*xs[i].shape, *xs[j].shape))
    return [einsum_onto(xs[i], xs[j], Shape(d for d in dims if d in needed), dtype), *rest]
