"""The builder that ops plan themselves with: local ops, collectives, moves between placements."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations, takewhile
from typing import TYPE_CHECKING, Any

from meshlang.dims import Dim, Shape
from meshlang.errors import LayoutError, message
from meshlang.layout.layout import Tables
from meshlang.layout.moves import Move, route, sources, wire
from meshlang.layout.reblock import Layer, returned, taken
from meshlang.layout.values import (
    Collective,
    Counter,
    Cut,
    Local,
    Narrow,
    Placement,
    PlanValue,
    Reshape,
    Step,
)
from meshlang.ops.rearrange import Arrange
from meshlang.ops.span import Run, blocks
from meshlang.program import NARROW, Op, Precision, Spec

if TYPE_CHECKING:
    from meshlang.ops.rearrange import Regroup


class Builder:
    """Collects the steps of one program, or of the body of one loop."""

    def __init__(self, tables: Tables, precision: Precision, counter: Counter) -> None:
        self.tables = tables
        self.precision = precision
        self.counter = counter
        self.steps: list[Step] = []
        self.scope = ""
        self.late: tuple[bool, ...] = ()
        self.op = ""
        self._moved: dict[tuple[PlanValue, Shape, Placement, bool], PlanValue] = {}
        self._narrowed: dict[tuple[PlanValue, str], PlanValue] = {}
        self._paid: dict[tuple[PlanValue, tuple[str, ...]], PlanValue] = {}
        self._wide: dict[PlanValue, PlanValue] = {}
        self._reshaped: dict[PlanValue, PlanValue] = {}
        self._reached: dict[tuple[Any, ...], PlanValue] = {}

    # -- where things lie ---------------------------------------------------------------------

    @property
    def high(self) -> str:
        """The dtype in which sums over processors are paid."""
        return self.precision.high

    def axes(self, dim: Dim) -> tuple[str, ...]:
        """Where a dim lies."""
        return self.tables.axes(dim)

    def placement(self, shape: Shape) -> Placement:
        """Where the dims of a shape lie."""
        return tuple(self.axes(d) for d in shape)

    @contextmanager
    def at(self, scope: str, op: Op, late: Sequence[bool] = ()) -> Iterator[None]:
        """Steps made inside stand under this scope, and are made for this op.

        `late` says which of its results may stay pending.
        """
        before = self.scope, self.op, self.late
        self.scope, self.op, self.late = scope, op.label, tuple(late)
        try:
            yield
        finally:
            self.scope, self.op, self.late = before

    def whole_only(self, op: Op, dim: Dim) -> None:
        """Refuse a dim that this op can only walk when it is whole."""
        if self.axes(dim):
            raise LayoutError(
                message(
                    f"{op.label}: dim {dim.label!r} is walked one index at a time, "
                    "and the layout divides it.",
                    [("dim", dim), ("axes", "+".join(self.axes(dim))), *self.tables.rows()],
                    f"take {dim.name!r} out of the table",
                )
            )

    # -- steps --------------------------------------------------------------------------------

    def local(
        self,
        op: Op,
        xs: Sequence[PlanValue],
        outs: Sequence[Spec],
        pending: tuple[str, ...] = (),
        whole: tuple[str, ...] = (),
    ) -> list[PlanValue]:
        """An op on blocks. `pending` is what it makes; what operands bring is added.

        Dims named in `whole` lie whole in the results, whatever the layout says.
        """
        read = (x for i, x in enumerate(xs) if op.passes(i) != "unread")
        brought = next((x.pending for x in read if x.pending), ())
        pending = tuple(dict.fromkeys((*brought, *pending)))
        made = []
        for spec in outs:
            placement = tuple(() if d.name in whole else self.axes(d) for d in spec.shape)
            made.append(self.counter.value(spec.shape, spec.dtype, placement, pending))
        self.steps.append(Local(op, tuple(xs), tuple(made), self.scope))
        return made

    def local_at(
        self,
        op: Op,
        xs: Sequence[PlanValue],
        out: Spec,
        at: dict[Dim, tuple[str, ...]],
        pending: tuple[str, ...] = (),
    ) -> PlanValue:
        """An op on blocks whose result has dims of its own, which lie as `at` says."""
        brought = next((x.pending for x in xs if x.pending), ())
        placement = tuple(at[d] if d in at else self.axes(d) for d in out.shape)
        made = self.counter.value(out.shape, out.dtype, placement, (*brought, *pending))
        self.steps.append(Local(op, tuple(xs), (made,), self.scope))
        return made

    def cast(self, x: PlanValue, dtype: str) -> PlanValue:
        """Another dtype; equal casts happen once. What was paid wider is taken as it was paid."""
        if x.dtype == dtype:
            return x
        wide = self.wide(x)
        if wide is not None and wide.dtype == dtype:
            return wide
        if (x, dtype) not in self._narrowed:
            made = self.counter.value(x.shape, dtype, x.placement, x.pending)
            self.steps.append(Local(Narrow(dtype), (x,), (made,), self.scope))
            self._narrowed[x, dtype] = made
        return self._narrowed[x, dtype]

    def wide(self, x: PlanValue) -> PlanValue | None:
        """The sum that was narrowed to `x`, if it was one, under the names of `x`."""
        if x in self._reshaped and x not in self._wide:
            source = self.wide(self._reshaped[x])
            if source is not None:
                self._wide[x] = self._reshape(source, x.shape, x.placement)
        return self._wide.get(x)

    def paid(self, x: PlanValue, dtype: str) -> PlanValue:
        """A value with nothing pending, in the dtype of its tensor."""
        return self.narrow(self.pay(x), dtype)

    def narrow(self, wide: PlanValue, dtype: str) -> PlanValue:
        """A paid sum in the dtype of its parts; who casts it back gets it as it was paid."""
        made = self.cast(wide, dtype)
        if made is not wide:
            self._wide[made] = wide
        return made

    def arrange(self, x: PlanValue, shape: Shape) -> PlanValue:
        """The order of dims that `shape` has; twins are told apart by name alone."""
        order = [x.shape.names.index(d.name) for d in shape]
        if order == sorted(order):
            return x
        dims = Shape(x.shape[i] for i in order)
        made = self.counter.value(dims, x.dtype, tuple(x.placement[i] for i in order), x.pending)
        self.steps.append(Local(Arrange(dims), (x,), (made,), self.scope))
        return made

    def all_reduce(self, x: PlanValue, axes: Sequence[str], kind: str) -> PlanValue:
        """The sum, max or min over processors, at once."""
        if not axes:
            return x
        rest = tuple(a for a in x.pending if a not in axes)
        made = self.counter.value(x.shape, x.dtype, x.placement, rest)
        ordered = tuple(a for a in self.tables.mesh.names if a in axes)
        self._collect("all_reduce", ordered, x, made, reduce=kind)
        return made

    def pay(self, x: PlanValue, axes: tuple[str, ...] | None = None) -> PlanValue:
        """Pay a pending sum; equal ones are paid once."""
        axes = x.pending if axes is None else tuple(a for a in x.pending if a in axes)
        if not axes:
            return x
        if (x, axes) not in self._paid:
            wide = self.cast(x, self.high) if x.dtype in NARROW else x
            self._paid[x, axes] = self.narrow(self.all_reduce(wide, axes, "sum"), x.dtype)
        return self._paid[x, axes]

    def gather(self, x: PlanValue, dim: str) -> PlanValue:
        """The same dims, with this one whole."""
        at = tuple(
            () if d.name == dim else axes for d, axes in zip(x.shape, x.placement, strict=True)
        )
        return self.move_to(x, x.shape, at)

    def blocks_dim(self, dim: Dim) -> Dim:
        """A dim that counts the blocks of a divided dim."""
        return Dim(f"{dim.name}.blocks", self.tables.mesh.ways(self.axes(dim)))

    def gather_blocks(self, x: PlanValue, blocks: Dim, axes: tuple[str, ...]) -> PlanValue:
        """Every processor's value along a new first dim."""
        shape = Shape((blocks, *x.shape))
        stacked = self.counter.value(shape, x.dtype, (axes, *x.placement))
        self.steps.append(Local(Reshape(), (x,), (stacked,), self.scope))
        return self.move_to(stacked, shape, ((), *x.placement))

    # -- moves --------------------------------------------------------------------------------

    def move(self, x: PlanValue, shape: Shape, *, again: bool = False) -> PlanValue:
        """To where the dims of `shape`, which may have other names, lie.

        Equal moves happen once; with `again`, once more if data is sent.
        """
        target = self.placement(shape)
        return self.move_to(x, shape, target, again and target != x.placement)

    def move_to(
        self, x: PlanValue, shape: Shape, target: Placement, again: bool = False
    ) -> PlanValue:
        """To a placement given outright. A pending sum that is cut becomes a reduce_scatter."""
        key = (x, shape, target, again)
        if key not in self._moved:
            self._moved[key] = self._moved_to(x, shape, target)
        return self._moved[key]

    def _moved_to(self, x: PlanValue, shape: Shape, target: Placement) -> PlanValue:
        at = x = self._scattered(x, target)
        for move in route(self.tables.mesh, x.shape.sizes, x.placement, target, x.pending):
            left = move.kind == "all_gather" and not target[move.dim]
            at = self._step(at, move, target, self._why(shape[move.dim]) if left else "")
        if at.shape != shape:
            at = self._reshape(at, shape, at.placement)
        return at

    def _scattered(self, x: PlanValue, target: Placement) -> PlanValue:
        """Pay the pending axes that the target uses: scattered where it appends them to a dim."""
        for i, (have, want) in enumerate(zip(x.placement, target, strict=True)):
            if want[: len(have)] == have:
                added = tuple(takewhile(x.pending.__contains__, want[len(have) :]))
                x = self._reduce_scatter(x, i, added) if added else x
        return self.pay(x, tuple(a for a in x.pending if any(a in p for p in target)))

    def _reduce_scatter(self, x: PlanValue, i: int, axes: tuple[str, ...]) -> PlanValue:
        wide = self.cast(x, self.high) if x.dtype in NARROW else x
        placement = (*x.placement[:i], (*x.placement[i], *axes), *x.placement[i + 1 :])
        rest = tuple(a for a in x.pending if a not in axes)
        made = self.counter.value(x.shape, wide.dtype, placement, rest)
        self._collect("reduce_scatter", axes, wide, made, dim=i)
        return self.narrow(made, x.dtype)

    def _why(self, dim: Dim) -> str:
        """Why a dim is gathered: its name says so, or the op that is being planned needs it."""
        if self.axes(dim):
            return f"{self.op} works on all of {dim.label}"
        return f"the layout leaves {dim.label} whole"

    def _step(self, x: PlanValue, move: Move, target: Placement, why: str) -> PlanValue:
        at = list(x.placement)
        if move.kind == "cut":
            at[move.dim] = (*at[move.dim], *move.axes)
        elif move.kind == "all_gather":
            at[move.dim] = at[move.dim][: -len(move.axes)]
        elif move.kind == "all_to_all":
            at[move.dim] = (*at[move.dim], *move.axes)
            at[move.into] = at[move.into][: -len(move.axes)]
        else:
            at = list(move.to)
        made = self.counter.value(x.shape, x.dtype, tuple(at), x.pending)
        if move.kind == "cut":
            self.steps.append(Local(Cut(((move.dim, move.axes),)), (x,), (made,), self.scope))
        elif move.kind == "permute":
            axes, members = sources(self.tables.mesh, x.placement, move.to)
            self._collect("permute", axes, x, made, sources=members)
        else:
            self._collect(move.kind, move.axes, x, made, dim=move.dim, into=move.into, why=why)
        return made

    def _reshape(self, x: PlanValue, shape: Shape, placement: Placement) -> PlanValue:
        """The same elements under other names."""
        made = self.counter.value(shape, x.dtype, placement, x.pending)
        self.steps.append(Local(Reshape(), (x,), (made,), self.scope))
        self._reshaped[made] = x
        return made

    def _collect(
        self, kind: str, axes: tuple[str, ...], x: PlanValue, made: PlanValue, **more: Any
    ) -> None:
        self.steps.append(Collective(kind, axes, (x,), (made,), scope=self.scope, **more))

    def permute(self, x: PlanValue, axes: tuple[str, ...], members: Sequence[int]) -> PlanValue:
        """Blocks from other members of a group; zeros where `members` says -1."""
        made = self.counter.value(x.shape, x.dtype, x.placement, x.pending)
        self._collect("permute", axes, x, made, sources=tuple(members))
        return made

    # -- other blocks of a dim ----------------------------------------------------------------

    def reblock(
        self, op: Op, xs: Sequence[PlanValue], dim: str, runs: Sequence[Run], out: Spec, fill: Any
    ) -> PlanValue:
        """A result whose dim is a row of runs of the operands' dim, from wherever they lie."""
        shape = out.shape
        xs = [self.arrange(x, shape.swap(shape[dim], x.shape[dim])) for x in xs]
        pending = next((x.pending for x in xs if x.pending), ())
        made = self.counter.value(shape, out.dtype, self.placement(shape), pending)
        layer = blocks(runs, self.tables.mesh.ways(self.axes(shape[dim])))
        return taken(self, op, xs, shape.place(dim), layer, made, fill)

    def reach(self, x: PlanValue, dim: str, layer: Layer, fill: Any = 0) -> PlanValue:
        """What each processor along a dim reaches over, as its block of the dim ``dim.run``.

        Equal ones are made once.
        """
        key = (x, dim, layer, fill)
        if key not in self._reached:
            at = x.shape.place(dim)
            rows = sum(run.size for run in layer[0])
            shape = x.shape.swap(x.shape[dim], Dim(f"{dim}.run", rows * len(layer)))
            axes = self.axes(x.shape[dim]) if len(layer) > 1 else ()
            placement = (*x.placement[:at], axes, *x.placement[at + 1 :])
            made = self.counter.value(shape, x.dtype, placement, x.pending)
            self._reached[key] = taken(self, None, [x], at, layer, made, fill)
        return self._reached[key]

    def give_back(self, x: PlanValue, dim: Dim, layer: Layer) -> PlanValue:
        """The transpose of `reach`: what was reached over, added up where it lies."""
        at = x.shape.place(f"{dim.name}.run")
        shape = x.shape.swap(x.shape[at], dim)
        made = self.counter.value(shape, x.dtype, x.placement, x.pending)
        return returned(self, x, at, layer, made)

    # -- merge and split ----------------------------------------------------------------------

    def regroup(self, op: Regroup, x: PlanValue, out: Spec) -> PlanValue:
        """Merge and split: move to the nearest placement for which it is local, then on."""
        rest = [d for d in x.shape if d not in op.old]
        first = sum(d not in op.old for d in x.shape[: x.shape.index(op.old[0])])
        ordered = Shape((*rest[:first], *op.old, *rest[first:]))
        x = self.arrange(x, ordered)
        before, after = self._regroup_placements(op, x, out.shape)
        around = [self.placement(Shape(part)) for part in (rest[:first], rest[first:])]
        x = self.move_to(x, x.shape, (*around[0], *before, *around[1]))
        target = (*around[0], *after, *around[1])
        return self.move(self._reshape(x, out.shape, target), out.shape)

    def _regroup_placements(
        self, op: Regroup, x: PlanValue, out: Shape
    ) -> tuple[Placement, Placement]:
        """The cheapest pair of placements between which the blocks are the same elements."""
        mesh = self.tables.mesh
        old_sizes, new_sizes = [d.size for d in op.old], [d.size for d in op.new]
        now = tuple(x.axes(d) for d in op.old)
        then = self.placement(Shape(op.new))
        rest = {a for d, p in zip(x.shape, x.placement, strict=True) if d not in op.old for a in p}
        rest |= {a for d in out if d not in op.new for a in self.axes(d)}
        taken = tuple(a for a in mesh.names if a in rest)
        lists = {axes[:k] for axes in (sum(now, ()), sum(then, ())) for k in range(len(axes) + 1)}
        options = []
        for axes in sorted(lists, key=lambda axes: (len(axes), axes)):
            if len(set(axes)) < len(axes) or set(axes) & rest:
                continue
            for before in self._compositions(axes, old_sizes):
                for after in self._compositions(axes, new_sizes):
                    cost = wire(mesh, tuple(old_sizes), now, before, taken)
                    cost += wire(mesh, tuple(new_sizes), after, then, taken)
                    options.append((cost, -len(axes), before, after))
        _, _, before, after = min(options)
        return before, after

    def _compositions(self, axes: tuple[str, ...], sizes: Sequence[int]) -> list[Placement]:
        """Ways to hand axes to the dims of one merged dim, outer first, so that blocks are runs.

        An inner dim may be divided only where the axes of each outer one cut it to single indices.
        """
        mesh, found = self.tables.mesh, []
        for cuts in combinations(range(len(axes) + len(sizes) - 1), len(sizes) - 1):
            ends = [c - i for i, c in enumerate(cuts)]
            parts = tuple(axes[a:b] for a, b in zip([0, *ends], [*ends, len(axes)], strict=True))
            inner_used = False
            legal = True
            for part, size in reversed(list(zip(parts, sizes, strict=True))):
                ways = mesh.ways(part)
                legal &= size % ways == 0 and (ways == size or not inner_used)
                inner_used |= bool(part)
            if legal:
                found.append(parts)
        return found

    # -- loops --------------------------------------------------------------------------------

    def loop(self, op: Any, xs: Sequence[PlanValue], outs: Sequence[Spec]) -> list[PlanValue]:
        """Plan the body of a loop, and the loop around it."""
        from meshlang.layout.inner_plans import plan_loop

        return plan_loop(self, op, list(xs), outs)

    def cond(self, op: Any, xs: Sequence[PlanValue], outs: Sequence[Spec]) -> list[PlanValue]:
        """Plan both branches of a cond."""
        from meshlang.layout.inner_plans import plan_cond

        return plan_cond(self, op, list(xs), outs)
