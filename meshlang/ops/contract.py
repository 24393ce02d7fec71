"""Contractions: einsum over named dims."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from meshlang.dims import Dim, Shape, check_twins
from meshlang.dtypes import check_kind, check_same
from meshlang.errors import DimError, ProgramError, did_you_mean, message
from meshlang.notation import dim_words
from meshlang.program import Op, Spec, apply, as_tensor
from meshlang.tensor import Tensor


@dataclass(frozen=True)
class Einsum(Op):
    """The product of two tensors, summed over the dims that `keep` lacks. Both have those."""

    keep: Shape

    @property
    def detail(self) -> str:
        return "keep=" + ",".join(d.label for d in self.keep)

    def passes(self, i: int) -> str:
        return "alone"

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        x, y = xs
        check_twins("einsum", [x.shape, y.shape])
        return (Spec(self.keep, x.dtype),)

    def reduced(self, xs) -> list[Dim]:
        """The dims summed over."""
        return [d for d in xs[0].shape if d not in self.keep]

    def creates_pending(self, axes_of, xs):
        return tuple(a for d in self.reduced(xs) for a in axes_of(d))

    def vjp(self, xs, ys, gs):
        x, y = xs
        return (einsum_onto(gs[0], y, x.shape), einsum_onto(gs[0], x, y.shape))

    def plan(self, b, xs, outs):
        made = self.creates_pending(b.axes, xs)
        high = b.high
        if made and outs[0].dtype in ("bfloat16", "float16"):
            partial = b.local(self, xs, [Spec(outs[0].shape, high)], pending=made)[0]
            return [b.cast(b.pay(partial), outs[0].dtype)]
        return b.local(self, xs, outs, pending=made)

    def flops(self, sizes: dict[str, int]) -> int:
        return 2 * prod(sizes.values())


def einsum(*xs: Any, reduce: str | None = None, keep: str | None = None) -> Tensor:
    """Multiply tensors and sum over dims.

    Args:
        *xs: one tensor or more; dims of one name are the same dim.
        reduce: the dims to sum over, e.g. ``"d_model"``; the others are kept.
        keep: the dims of the result, in its order. One of the two is always given; both are
            checked against each other.

    Dims:
        xs       each any of the dims; one dtype, floats or signed integers
        returns  `keep`, or all dims in order of appearance without `reduce`

    Raises:
        DimError: neither is given, a dim is unknown, or they contradict each other.
        DtypeError: the operands have several dtypes, or are no signed numbers.
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
    out = _result_shape(tensors, reduce, keep)
    tensors = [_sum_alone(i, tensors, out) for i in range(len(tensors))]
    if len(tensors) == 1:
        from meshlang.ops.rearrange import arrange

        return arrange(tensors[0], out)
    while len(tensors) > 2:
        tensors = _contract_cheapest(tensors, out)
    return einsum_onto(tensors[0], tensors[1], out)


def einsum_onto(x: Tensor, y: Tensor, out: Shape) -> Tensor:
    """The product of two tensors summed onto the dims `out`, of which each is in x or in y."""
    from meshlang.ops.elementwise import multiply
    from meshlang.ops.rearrange import arrange, expand_to

    x, y = _sum_alone(0, [x, y], out), _sum_alone(1, [x, y], out)
    there = Shape(d for d in out if d in x.shape or d in y.shape)
    shared_reduced = [d for d in x.shape if d in y.shape and d not in there]
    contained = set(x.shape) <= set(y.shape) or set(y.shape) <= set(x.shape)
    if contained and not shared_reduced:
        result = arrange(multiply(x, y), there)
    else:
        result = apply(Einsum(there), x, y)[0]
    return arrange(expand_to(result, out), out)


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


def _sum_alone(i: int, xs: list[Tensor], out: Shape) -> Tensor:
    """Sum an operand over the dims that only it has and the result lacks."""
    from meshlang.ops.reduce import sum_dims

    others = {d for j, x in enumerate(xs) if j != i for d in x.shape}
    alone = [d for d in xs[i].shape if d not in others and d not in out]
    return sum_dims(xs[i], alone) if alone else xs[i]


def _contract_cheapest(xs: list[Tensor], out: Shape) -> list[Tensor]:
    """Contract the pair with the fewest multiplications; ties in order of the operands."""

    def cost(pair: tuple[int, int]) -> int:
        return prod(d.size for d in {*xs[pair[0]].shape, *xs[pair[1]].shape})

    i, j = min(((i, j) for j in range(len(xs)) for i in range(j)), key=cost)
    rest = [x for n, x in enumerate(xs) if n not in (i, j)]
    needed = {*out, *(d for x in rest for d in x.shape)}
    dims = dict.fromkeys((*xs[i].shape, *xs[j].shape))
    return [einsum_onto(xs[i], xs[j], Shape(d for d in dims if d in needed)), *rest]
