"""Names changed, dims cut and joined: what moves data is seen in the plan.

Twins are made and left in `meshlang.ops.twins`, runs of indices joined and cut in `meshlang.ops.runs`.
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

    Dims:
        x        [old... rest...]
        returns  [new... rest...], in the same order

    Example:
        >>> import meshlang as ml
        >>> ml.constant([1.0], "length").rename(length="memory").shape
        [memory:1]
    """
    x = as_tensor(x)
    pairs = []
    for old, new in names.items():
        dim = x.shape[old]
        ((name, mark, size),) = dim_words(new)
        if size not in (None, dim.size):
            raise DimError(
                message(f"rename: {dim!r} cannot become {new!r}.", [("operand", x.shape)])
            )
        pairs.append((dim, Dim(name, dim.size, twin_of(mark))))
    return apply(Rename(tuple(pairs)), x)[0] if pairs else x


def retag(x: Tensor, *pairs: tuple[Dim, Dim]) -> Tensor:
    """Rename dims given as dims, twins included."""
    pairs = tuple(pair for pair in pairs if pair[0] != pair[1])
    return apply(Rename(pairs), x)[0] if pairs else x


def split(x: Any, **parts: str) -> Tensor:
    """Split a dim in two or more; the first is the outer one, one size may be left out.

    Dims:
        x        [t rest...]
        returns  [outer inner rest...], at the place of t

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
        returns  [t rest...], at the place of outer

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

    Example:
        >>> import meshlang as ml
        >>> x = ml.constant([[1, 2, 3], [4, 5, 6]], "batch length")
        >>> ml.regroup(x, "batch length -> group token:2").shape
        [group:3 token:2]
    """
    x = as_tensor(x)
    left, right = arrow(pattern)
    return _regroup("regroup", x, x.shape.pick(left), right)


def _regroup(op: str, x: Tensor, old: tuple[Dim, ...], text: str) -> Tensor:
    named = dim_words(text)
    total = prod(d.size for d in old)
    known = prod(size for *_, size in named if size is not None)
    open_names = [name for name, _, size in named if size is None]
    whole_number = total % known == 0 if open_names else total == known
    if len(open_names) > 1 or not whole_number:
        raise DimError(
            message(
                f"{op}: {' '.join(map(repr, old))} cannot become {text.strip()!r}.",
                [("operand", x.shape), ("elements", total), ("sizes named", known)],
                "the product of the sizes must stay; one size may be left out",
            )
        )
    new = tuple(Dim(n, total // known if s is None else s, twin_of(m)) for n, m, s in named)
    return apply(Regroup(old, new), x)[0]


def expand(x: Any, **sizes: int) -> Tensor:
    """Repeat along new dims, put in front.

    Dims:
        x        [rest...]
        returns  [new... rest...]

    Example:
        >>> import meshlang as ml
        >>> ml.expand(ml.constant([1.0, 2.0], "d"), batch=2).shape
        [batch:2 d:2]
    """
    x = as_tensor(x)
    new = Shape(Dim(name, size) for name, size in sizes.items())
    for dim in new:
        if dim.name in x.shape:
            raise DimError(
                message(f"expand: there is a dim {dim.name!r} already.", [("operand", x.shape)])
            )
    return expand_to(x, Shape((*new, *x.shape)))


def expand_to(x: Tensor, shape: Shape) -> Tensor:
    """Repeat along the dims of `shape` that x lacks; its order is that of `shape`."""
    return x if set(x.shape) == set(shape) else apply(Expand(shape), x)[0]


def arrange(x: Tensor, order: str | Shape) -> Tensor:
    """Another order of the dims: NumPy's order and that of random bits, never a placement.

    Example:
        >>> import meshlang as ml
        >>> ml.arrange(ml.constant([[1, 2]], "a b"), "b a").shape
        [b:2 a:1]
    """
    shape = Shape(x.shape.pick(order)) if isinstance(order, str) else order
    if len(shape) != len(x.shape):
        raise DimError(
            message("arrange: names all dims.", [("operand", x.shape), ("order", shape)])
        )
    return x if shape == x.shape else apply(Arrange(shape), x)[0]
