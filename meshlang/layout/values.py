"""What a plan is made of: values that lie somewhere, and the steps that make them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from math import prod
from typing import Any, NamedTuple

from meshlang.dims import Dim, Shape
from meshlang.layout.layout import Tables
from meshlang.program import Op, Spec

Placement = tuple[tuple[str, ...], ...]

BYTES = {
    "float64": 8,
    "int64": 8,
    "float32": 4,
    "int32": 4,
    "uint32": 4,
    "bfloat16": 2,
    "float16": 2,
    "uint8": 1,
    "bool": 1,
}


@dataclass(frozen=True, eq=False, slots=True)
class PlanValue:
    """A tensor laid out: where each of its dims lies, and over which axes a sum is pending.

    Attributes:
        number: its place in the plan's order of making.
        shape: the dims of the whole tensor.
        dtype: of its elements.
        placement: the axes of each dim.
        pending: axes over which the parts on the processors must still be added.
        block: the sizes of the piece on one processor.
    """

    number: int
    shape: Shape
    dtype: str
    placement: Placement
    pending: tuple[str, ...]
    block: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Elements on one processor."""
        return prod(self.block)

    @property
    def bytes(self) -> int:
        """Bytes on one processor."""
        return self.elements * BYTES[self.dtype]

    def axes(self, dim: Dim) -> tuple[str, ...]:
        """The axes of one of its dims."""
        return self.placement[self.shape.index(dim)]

    def __str__(self) -> str:
        dims = (
            f"{d.label}:{d.size}" + (f"/{'+'.join(axes)}" if axes else "")
            for d, axes in zip(self.shape, self.placement, strict=True)
        )
        pending = f" pending {'+'.join(self.pending)}" if self.pending else ""
        return f"[{' '.join(dims)}] {self.dtype}{pending}"


@dataclass(eq=False, slots=True)
class Local:
    """An op on the blocks of one processor."""

    op: Op
    inputs: tuple[PlanValue, ...]
    outputs: tuple[PlanValue, ...]
    scope: str = ""


@dataclass(eq=False, slots=True)
class Collective:
    """Data between processors: the groups along `axes`, all at once.

    Attributes:
        kind: all_reduce, all_gather, reduce_scatter, all_to_all or permute.
        axes: the first is the outer one.
        inputs, outputs: one each; an all_reduce that was bucketed has several.
        reduce: sum, max or min, for an all_reduce.
        dim: the position gathered, scattered, or cut by an all_to_all.
        into: the position where an all_to_all joins.
        sources: for a permute, from which member each member of the group receives; -1: zeros.
        scopes: of a bucket, the scope of each of its sums.
        why: of an all_gather that leaves a dim whole, the cause, in words.
    """

    kind: str
    axes: tuple[str, ...]
    inputs: tuple[PlanValue, ...]
    outputs: tuple[PlanValue, ...]
    reduce: str = "sum"
    dim: int = 0
    into: int = 0
    sources: tuple[int, ...] = ()
    scope: str = ""
    scopes: tuple[str, ...] = ()
    why: str = ""

    @property
    def counted(self) -> tuple[PlanValue, ...]:
        """The blocks by which it is counted.

        The block of an all_reduce, the input block of a reduce_scatter, the output block of an
        all_gather, the local block of an all_to_all or permute.
        """
        return self.outputs if self.kind == "all_gather" else self.inputs

    @property
    def payload(self) -> tuple[int, int]:
        """Their elements and bytes, on one processor."""
        return sum(v.elements for v in self.counted), sum(v.bytes for v in self.counted)


@dataclass(eq=False, slots=True)
class Decision:
    """What a loop computes before each trip, to know whether there is one.

    Attributes:
        steps: in order.
        trip, carry, fixed: the values that it begins with.
        predicate: the one that decides.
    """

    steps: list[Step]
    trip: PlanValue
    carry: list[PlanValue]
    fixed: list[PlanValue]
    predicate: PlanValue


class Given(NamedTuple):
    """The operands of a loop by role."""

    carry: tuple[PlanValue, ...]
    stacks: tuple[PlanValue, ...]
    fixed: tuple[PlanValue, ...]
    decision: tuple[PlanValue, ...]
    trips: tuple[PlanValue, ...]


class Made(NamedTuple):
    """The results of a loop by role."""

    carry: tuple[PlanValue, ...]
    stacks: tuple[PlanValue, ...]
    sums: tuple[PlanValue, ...]
    trips: tuple[PlanValue, ...]


@dataclass(eq=False, slots=True)
class Loop:
    """The trips of a scan or a while_loop: a plan of its own, run for each index.

    Attributes:
        op: the scan or the while_loop.
        inputs, outputs: as `given` and `made` list them.
        steps: of one trip.
        carry, xs, fixed, trip: the values that a trip begins with.
        carry_out, ys, sums: those that it ends with.
        decision: of a while_loop, what is computed before each trip.
    """

    op: Any
    inputs: tuple[PlanValue, ...]
    outputs: tuple[PlanValue, ...]
    steps: list[Step]
    trip: PlanValue
    carry: list[PlanValue]
    xs: list[PlanValue]
    fixed: list[PlanValue]
    carry_out: list[PlanValue]
    ys: list[PlanValue]
    sums: list[PlanValue]
    scope: str = ""
    decision: Decision | None = None

    @property
    def trips(self) -> int:
        """How often the body runs. If values decide: at most, and 1 where there is no most."""
        return self.op.body.dim.size

    @property
    def given(self) -> Given:
        """The operands: carries, stacks, fixed values, those of the decision, a number of trips."""
        fixed = len(self.decision.fixed) if self.decision else 0
        sizes = len(self.carry), len(self.xs), len(self.fixed), fixed, int(self.op.body.counted)
        return Given(*_runs(self.inputs, sizes))

    @property
    def made(self) -> Made:
        """The results: carries, stacks, sums, the number of trips if a decision gives it."""
        sizes = len(self.carry), len(self.ys), len(self.sums), int(self.decision is not None)
        return Made(*_runs(self.outputs, sizes))


def _runs(values: Sequence[PlanValue], sizes: Sequence[int]) -> Iterator[tuple[PlanValue, ...]]:
    assert len(values) == sum(sizes)
    rest = iter(values)
    for size in sizes:
        yield tuple(islice(rest, size))


@dataclass(eq=False, slots=True)
class Branch:
    """One of the branches of a cond: a plan of its own.

    Attributes:
        steps: in order.
        fixed: the values that it begins with.
        outs: those that it ends with.
    """

    steps: list[Step]
    fixed: list[PlanValue]
    outs: list[PlanValue]


@dataclass(eq=False, slots=True)
class Branches:
    """One of two branches.

    Attributes:
        op: the cond.
        inputs: the predicate, what the first branch is given, and the second.
        outputs: as each of the branches ends.
        branches: the one where the predicate holds, and the other.
    """

    op: Op
    inputs: tuple[PlanValue, ...]
    outputs: tuple[PlanValue, ...]
    branches: tuple[Branch, Branch]
    scope: str = ""

    @property
    def given(self) -> tuple[tuple[PlanValue, ...], tuple[PlanValue, ...]]:
        """What each branch is given."""
        first, second = _runs(self.inputs[1:], [len(b.fixed) for b in self.branches])
        return first, second


Step = Local | Collective | Loop | Branches


@dataclass(frozen=True)
class Cut(Op):
    """Keep the own piece of a block: along dims, by this processor's coordinates."""

    dims: tuple[tuple[int, tuple[str, ...]], ...]

    @property
    def detail(self) -> str:
        return " ".join(f"{'+'.join(axes)}" for _, axes in self.dims)


@dataclass(frozen=True)
class Reshape(Op):
    """Blocks of merged or split dims: the same elements in order, other sizes."""

    def infer(self, *xs: Any) -> tuple[Spec, ...]:
        raise AssertionError("a step of plans only")


@dataclass(frozen=True)
class Narrow(Op):
    """The blocks of another dtype."""

    dtype: str

    @property
    def label(self) -> str:
        return "cast"

    @property
    def detail(self) -> str:
        return self.dtype


@dataclass
class Counter:
    """Numbers values in the order of their making."""

    tables: Tables
    made: int = field(default=0)

    def value(
        self,
        shape: Shape,
        dtype: str,
        placement: Placement,
        pending: tuple[str, ...] = (),
    ) -> PlanValue:
        """A new value; the sizes of its block follow."""
        mesh = self.tables.mesh
        pending = tuple(a for a in mesh.names if a in pending)
        block = tuple(d.size // mesh.ways(a) for d, a in zip(shape, placement, strict=True))
        self.made += 1
        return PlanValue(self.made - 1, shape, dtype, placement, pending, block)
