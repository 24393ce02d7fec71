"""Names changed, dims cut and joined: what moves data is seen in the plan.

Twins are made and left in `meshlang.ops.twins`; `meshlang.ops.runs` joins and cuts along a dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from meshlang.dims import Dim, Shape, Twin, split_label, twin_of
from meshlang.errors import DimError, message
from meshlang.notation import arrow, dim_words
from meshlang.program import Op, Spec, apply, as_tensor
from meshlang.tensor import Tensor


@dataclass(frozen=True)
class Rename(Op):
    """Other names, or twins, for the same dims: data moves to where the new names lie."""

    pairs: tuple[tuple[Dim, Dim], ...]

    @property
    def detail(self) -> str:
        return " ".join(f"{old.label}->{new.label}" for old, new in self.pairs)

    def passes(self, i: int) -> str:
        return "move"

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        new = dict(self.pairs)
        return (Spec(Shape(new.get(d, d) for d in xs[0].shape), xs[0].dtype),)

    def vjp(self, xs, ys, gs):
        return (apply(Rename(tuple((new, old) for old, new in self.pairs)), gs[0])[0],)

    def plan(self, b, xs, outs):
        return [b.move(xs[0], outs[0].shape)]


@dataclass(frozen=True)
class Regroup(Op):
    """Dims merged, then split again; the first of each side is the outer, slow one."""

    old: tuple[Dim, ...]
    new: tuple[Dim, ...]

    @property
    def detail(self) -> str:
        return " ".join(d.label for d in self.old) + " -> " + " ".join(map(repr, self.new))

    def passes(self, i: int) -> str:
        return "alone"

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        first = xs[0].shape.index(self.old[0])
        rest = [d for d in xs[0].shape if d not in self.old]
        before = sum(d not in self.old for d in xs[0].shape[:first])
        return (Spec(Shape((*rest[:before], *self.new, *rest[before:])), xs[0].dtype),)

    def vjp(self, xs, ys, gs):
        return (arrange(apply(Regroup(self.new, self.old), gs[0])[0], xs[0].shape),)

    def plan(self, b, xs, outs):
        return [b.regroup(self, xs[0], outs[0])]


@dataclass(frozen=True)
class Expand(Op):
    """Repeat along new dims."""

    shape: Shape

    def passes(self, i: int) -> str:
        return "alone"

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        return (Spec(self.shape, xs[0].dtype),)

    def vjp(self, xs, ys, gs):
        from meshlang.ops.reduce import sum_dims

        new = [d for d in self.shape if d not in xs[0].shape]
        return (arrange(sum_dims(gs[0], new), xs[0].shape),)


@dataclass(frozen=True)
class Arrange(Op):
    """Another order of the dims."""

    shape: Shape

    def passes(self, i: int) -> str:
        return "alone"

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        return (Spec(self.shape, xs[0].dtype),)

    def vjp(self, xs, ys, gs):
        return (arrange(gs[0], xs[0].shape),)


# -- the public functions ------------------------------------------------------------------------


def rename(x: Any, **names: str) -> Tensor:
    """Give dims other names. Data moves if the layout puts the new names elsewhere.

    A twin keeps its mark: a whole dim stays whole under its new name.

    Dims:
        x        [old... rest...]
        returns  [new... rest...], in the same order

    Raises:
        DimError: x lacks a dim, or a new name stands there already.

    Example:
        >>> import meshlang as ml
        >>> ml.constant([1.0], "length").rename(length="memory").shape
        [memory:1]
    """
    x = as_tensor(x)
    pairs = []
    for old, text in names.items():
        dim = x.shape[old]
        new = _successors((dim,), text)
        if [size for _, size, _ in new] != [dim.size]:
            raise DimError(
                message(
                    f"rename: {dim!r} cannot become {text!r}.",
                    [("operand", x.shape)],
                    "name one dim of the same size",
                )
            )
        ((name, _, twin),) = new
        pairs.append((dim, Dim(name, dim.size, twin)))
    changed = tuple((old, new) for old, new in pairs if old != new)
    return apply(Rename(changed), x)[0] if changed else x


def split(x: Any, **parts: str) -> Tensor:
    """Split a dim in two or more; the first is the outer one, one size may be left out.

    Dims:
        x        [t rest...]
        returns  [outer inner rest...], at the place of t; the parts of a twin keep its mark

    Raises:
        DimError: x lacks the dim, sizes do not multiply to its size, or a name is there already.

    Example:
        >>> import meshlang as ml
        >>> ml.split(ml.range("t:6"), t="o:2 i").numpy()
        array([[0, 1, 2],
               [3, 4, 5]], dtype=int32)
    """
    x = as_tensor(x)
    for name, text in parts.items():
        x = _regroup("split", x, (x.shape[name],), text)
    return x


def merge(x: Any, **parts: str) -> Tensor:
    """Merge dims into one; the first named is the outer one.

    Dims:
        x        [outer inner rest...]
        returns  [t rest...], at the place of outer; equal twins' mark is kept

    Raises:
        DimError: x lacks one of the dims, or the new name is there already.

    Example:
        >>> import meshlang as ml
        >>> ml.merge(ml.constant([[1, 2], [3, 4]], "a b"), t="b a").numpy()
        array([1, 3, 2, 4], dtype=int32)
    """
    x = as_tensor(x)
    for name, text in parts.items():
        x = _regroup("merge", x, x.shape.pick(text), name)
    return x


def regroup(x: Any, pattern: str) -> Tensor:
    """Merge and split at once, without a middle name that the layout would have to know.

    Args:
        x: any tensor.
        pattern: dims of x, an arrow, new dims; of each side the first is the outer one. One of the
            new sizes may be left out.

    Dims:
        x        [old... rest...]
        returns  [new... rest...], at the place of the first old one

    Raises:
        DimError: x lacks one of the dims, sizes do not multiply to theirs, or a name is there
            already.

    Example:
        >>> import meshlang as ml
        >>> x = ml.constant([[1, 2, 3], [4, 5, 6]], "batch length")
        >>> ml.regroup(x, "batch length -> group token:2").numpy()
        array([[1, 2],
               [3, 4],
               [5, 6]], dtype=int32)
    """
    x = as_tensor(x)
    left, right = arrow(pattern)
    return _regroup("regroup", x, x.shape.pick(left), right)


def _regroup(op: str, x: Tensor, old: tuple[Dim, ...], text: str) -> Tensor:
    new = _successors(old, text)
    total, known = prod(d.size for d in old), prod(size for _, size, _ in new if size)
    unknown = sum(size is None for _, size, _ in new)
    fits = total % known == 0 if unknown else total == known
    if not old or not new or len(set(old)) < len(old) or unknown > 1 or not fits:
        raise DimError(
            message(
                f"{op}: {' '.join(map(repr, old)) or 'nothing'} cannot become {text.strip()!r}.",
                [("operand", x.shape), ("elements", total), ("sizes named", known)],
                "name each dim once; the product of sizes must stay, and one may be left out",
            )
        )
    made = tuple(Dim(name, size or total // known, twin) for name, size, twin in new)
    return apply(Regroup(old, made), x)[0]


def _successors(old: Sequence[Dim], text: str) -> list[tuple[str, int | None, Twin | None]]:
    """Names, sizes and twins of the dims that take the place of others, whose twin they keep.

    A size that is left out is that of a single old dim and a single new one, else None.
    """
    named = dim_words(text)
    twins = {d.twin for d in old}
    twin = twins.pop() if len(twins) == 1 else None
    twin = _handed_on(twin, [d.name for d in old], [name for name, *_ in named])
    alone = old[0].size if len(old) == len(named) == 1 else None
    return [(n, alone if s is None else s, twin_of(m) or twin) for n, m, s in named]


def _handed_on(twin: Twin | None, old: Sequence[str], new: Sequence[str]) -> Twin | None:
    """A twin for new names; among the dims of the variable of a kept one they replace the old."""
    if twin is None or twin.kind not in ("kept", "slot"):
        return twin
    owner: list[str] = []
    for label in twin.of:
        name, mark = split_label(label)
        owner += [n + mark for n in new] if name == old[0] else [] if name in old else [label]
    return Twin(twin.kind, tuple(owner))


def expand(x: Any, **sizes: int) -> Tensor:
    """Repeat along new dims, put in front.

    Dims:
        x        [rest...]
        returns  [new... rest...]

    Raises:
        DimError: x has one of the dims already.

    Example:
        >>> import meshlang as ml
        >>> ml.expand(ml.constant([1.0, 2.0], "d"), batch=2).shape
        [batch:2 d:2]
    """
    x = as_tensor(x)
    new = Shape.parse(" ".join(f"{name}:{size}" for name, size in sizes.items()))
    for dim in new:
        if dim.name in x.shape:
            raise DimError(
                message(
                    f"expand: there is a dim {dim.name!r} already.",
                    [("operand", x.shape)],
                    "expand by another name",
                )
            )
    return expand_to(x, Shape((*new, *x.shape)))


def expand_to(x: Tensor, shape: Shape) -> Tensor:
    """Repeat along the dims of `shape` that x lacks; in its order if there are any."""
    return x if set(x.shape) == set(shape) else apply(Expand(shape), x)[0]


def arrange(x: Any, order: str | Shape) -> Tensor:
    """Another order of the dims: NumPy's order and that of random bits, never a placement.

    Dims:
        x        [dims...]
        returns  [dims...] in the order named

    Raises:
        DimError: not all dims of x are named, or others.

    Example:
        >>> import meshlang as ml
        >>> ml.arrange(ml.constant([[1, 2]], "a b"), "b a").numpy()
        array([[1],
               [2]], dtype=int32)
    """
    x = as_tensor(x)
    shape = Shape(x.shape.pick(order)) if isinstance(order, str) else order
    if set(shape) != set(x.shape):
        raise DimError(
            message(
                "arrange: the order does not name each dim once.",
                [("operand", x.shape), ("order", shape)],
                "name all dims of the operand",
            )
        )
    return x if shape == x.shape else apply(Arrange(shape), x)[0]
