"""Variables as values: stored, used, updated. All but `Stored` and `Assign` are moves."""

from __future__ import annotations

from dataclasses import dataclass

from meshlang.dims import Dim, Shape, kept, ordinary
from meshlang.errors import ProgramError, message
from meshlang.program import Op, Spec, apply
from meshlang.tensor import Tensor


@dataclass(frozen=True)
class Stored(Op):
    """What a variable holds when the step begins, as it is kept."""

    name: str
    shape: Shape
    dtype: str

    @property
    def detail(self) -> str:
        return self.name

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        return (Spec(self.shape, self.dtype),)


@dataclass(frozen=True)
class Step(Op):
    """How many updates there have been."""

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        return (Spec(Shape(), "int32"),)


@dataclass(frozen=True)
class Use(Op):
    """A kept value under ordinary dims, in the dtype of computation: narrowed first, then moved.

    With `again` it is moved anew, so that the copy of the forward pass need not be held.
    """

    dtype: str
    again: bool = False

    @property
    def detail(self) -> str:
        return "again" if self.again else ""

    def anew(self) -> Use:
        return Use(self.dtype, again=True)

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        return (Spec(ordinary(xs[0].shape), self.dtype),)

    def vjp(self, xs, ys, gs):
        return (apply(Keep(slot_shape(xs[0].shape), xs[0].dtype), gs[0])[0],)

    def plan(self, b, xs, outs):
        return [b.move(b.cast(xs[0], self.dtype), outs[0].shape, again=self.again)]


@dataclass(frozen=True)
class Keep(Op):
    """A cotangent under the dims of its variable's update: a pending sum is cut, not gathered."""

    shape: Shape
    dtype: str

    def passes(self, i: int) -> str:
        return "move"

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        return (Spec(self.shape, self.dtype),)

    def vjp(self, xs, ys, gs):
        return (apply(Use(xs[0].dtype), gs[0])[0],)

    def plan(self, b, xs, outs):
        return [b.move(b.arrange(b.cast(xs[0], self.dtype), outs[0].shape), outs[0].shape)]


@dataclass(frozen=True)
class ToSlot(Op):
    """A kept value under the dims of its update."""

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        return (Spec(slot_shape(xs[0].shape), xs[0].dtype),)

    def vjp(self, xs, ys, gs):
        return (gs[0],)

    def plan(self, b, xs, outs):
        return [b.move(xs[0], outs[0].shape)]


@dataclass(frozen=True)
class Assign(Op):
    """A variable's new value. Operands: the old one, the new one, and when to take it."""

    name: str

    @property
    def detail(self) -> str:
        return self.name

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        return (Spec(xs[0].shape, xs[0].dtype),)

    def vjp(self, xs, ys, gs):
        raise ProgramError(
            message(
                f"gradients: variable {self.name!r} was assigned on the way, and an assign has no "
                "gradient.",
                [("old", xs[0].shape), ("new", xs[1].shape)],
                "ml.gradients before ml.assign, or ml.stop_gradient(ml.variable(...)) after it",
            )
        )

    def plan(self, b, xs, outs):
        value = b.move(b.arrange(xs[1], outs[0].shape), outs[0].shape)
        return b.local(self, [xs[0], value, *xs[2:]], outs)


@dataclass(frozen=True)
class Unstack(Op):
    """Cut a stack along a whole dim: one result for each index."""

    dim: str

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        dim = xs[0].shape[self.dim]
        rest = Shape(d for d in xs[0].shape if d != dim)
        return tuple(Spec(rest, xs[0].dtype) for _ in range(dim.size))

    def vjp(self, xs, ys, gs):
        from meshlang.ops.create import zeros

        dim = xs[0].shape[self.dim]
        gs = [
            zeros(_update(y.shape), y.dtype) if g is None else g
            for g, y in zip(gs, ys, strict=True)
        ]
        return (apply(StackUp(_dim_like(dim, gs[0].shape)), *gs)[0],)

    def plan(self, b, xs, outs):
        b.whole_only(self, xs[0].shape[self.dim])
        return b.local(self, xs, outs)


@dataclass(frozen=True)
class StackUp(Op):
    """Stack tensors of one shape along a new dim, put in front."""

    dim: Dim

    def passes(self, i: int) -> str:
        return "together"

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        return (Spec(Shape((self.dim, *xs[0].shape)), xs[0].dtype),)

    def vjp(self, xs, ys, gs):
        return apply(Unstack(self.dim.name), gs[0])

    def plan(self, b, xs, outs):
        b.whole_only(self, self.dim)
        return b.local(self, xs, outs)


def slot_shape(shape: Shape) -> Shape:
    """The dims of the update of a kept value."""
    owner = next((d.twin.of for d in shape if d.twin is not None), shape.names)
    return kept(shape, "slot", owner)


def _update(shape: Shape) -> Shape:
    return slot_shape(shape) if any(d.twin and d.twin.kind == "kept" for d in shape) else shape


def _dim_like(dim: Dim, shape: Shape) -> Dim:
    """The stacked dim under the same twin as the dims that it stands beside."""
    twin = next((d.twin for d in shape if d.twin and d.twin.kind in ("kept", "slot")), None)
    return Dim(dim.name, dim.size, twin) if dim.twin and twin else dim
