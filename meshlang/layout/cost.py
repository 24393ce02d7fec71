"""What a plan costs each processor: FLOPs, bytes per collective and axis, memory, machines."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

from meshlang.errors import MeshError, message
from meshlang.layout.mesh import Mesh
from meshlang.layout.values import (
    Branches,
    Collective,
    Local,
    Loop,
    PlanValue,
    Reshape,
    Step,
)
from meshlang.ops.recomputed import Barrier
from meshlang.ops.state import Assign, Stored
from meshlang.structure import leaves

if TYPE_CHECKING:
    from meshlang.layout.plan import Plan

Key = tuple[str, tuple[str, ...]]


def wire(kind: str, payload: int, group: int) -> float:
    """What each processor sends for a payload, in a bandwidth-optimal algorithm.

    Source: Chan et al., Collective communication: theory, practice, and experience, 2007.

    >>> wire("all_reduce", 16, 4), wire("all_gather", 16, 4), wire("permute", 16, 4)
    (24.0, 12.0, 16.0)
    """
    if kind == "permute":
        return float(payload)
    return (2 if kind == "all_reduce" else 1) * (group - 1) * payload / group


@dataclass(slots=True)
class Traffic:
    """One kind of collective over one set of axes, per processor and call.

    Attributes:
        sums: how many values, before small sums are put together.
        collectives: how many are run.
        elements, bytes: the payload.
        wire_elements, wire_bytes: what a processor sends in a bandwidth-optimal algorithm.
    """

    sums: int = 0
    collectives: int = 0
    elements: int = 0
    bytes: int = 0
    wire_elements: float = 0.0
    wire_bytes: float = 0.0


@dataclass(slots=True)
class Cost:
    """What one processor does in one call. FLOPs are those of contractions.

    Attributes:
        flops: of one processor.
        duplicated_flops: of them, what other processors compute as well.
        traffic: by (kind, axes).
        variable_bytes: what it keeps between calls.
        peak_bytes: the most that blocks between steps take at one time, inputs and results
            counted, variables not.
    """

    flops: int = 0
    duplicated_flops: float = 0.0
    traffic: dict[Key, Traffic] = field(default_factory=dict)
    variable_bytes: int = 0
    peak_bytes: int = 0

    def over(self, axis: str) -> Traffic:
        """All collectives whose groups lie along this axis (those over several count in each)."""
        return _total(t for (_, axes), t in self.traffic.items() if axis in axes)

    @property
    def all(self) -> Traffic:
        """All collectives."""
        return _total(self.traffic.values())


def _total(parts: Iterable[Traffic]) -> Traffic:
    total = Traffic()
    for part in parts:
        for each in fields(Traffic):
            setattr(total, each.name, getattr(total, each.name) + getattr(part, each.name))
    return total


def cost_of(plan: Plan) -> Cost:
    """Add up a plan."""
    cost = Cost()
    for step, trips in walk(plan.steps):
        if isinstance(step, Local):
            flops, whole = step_flops(step)
            cost.flops += trips * flops
            cost.duplicated_flops += trips * (flops - whole / plan.mesh.size)
    for sent in transfers(plan):
        entry = cost.traffic.setdefault((sent.kind, sent.axes), Traffic())
        entry.sums += sent.trips
        entry.collectives += 0 if sent.place else sent.trips
        entry.elements += sent.trips * sent.elements
        entry.bytes += sent.trips * sent.bytes
        entry.wire_elements += sent.trips * wire(sent.kind, sent.elements, sent.group)
        entry.wire_bytes += sent.wire_bytes
    cost.variable_bytes = sum(v.bytes for v in plan.variables.values())
    cost.peak_bytes = peak_bytes(plan.steps, plan.inputs.values(), leaves(plan.results))
    return cost


def walk(steps: Sequence[Step], trips: int = 1) -> Iterator[tuple[Step, int]]:
    """All steps, those of loops as well, with how often each runs.

    Of a while_loop that is at most; its decision runs once more than its trips. Of the branches of
    a cond the dearer one counts: that which sends more, then that of more FLOPs.
    """
    for step in steps:
        yield step, trips
        if isinstance(step, Loop):
            if step.decision is not None:
                yield from walk(step.decision.steps, trips * (step.trips + 1))
            yield from walk(step.steps, trips * step.trips)
        elif isinstance(step, Branches):
            dearer = max(step.branches, key=lambda branch: _weight(branch.steps))
            yield from walk(dearer.steps, trips)


def _weight(steps: Sequence[Step]) -> tuple[int, int]:
    """Bytes in collectives, and FLOPs."""
    sent = flops = 0
    for step, trips in walk(steps):
        if isinstance(step, Collective):
            sent += trips * step.payload[1] * (2 if step.kind == "all_reduce" else 1)
        elif isinstance(step, Local):
            flops += trips * step_flops(step)[0]
    return sent, flops


def step_flops(step: Local) -> tuple[int, int]:
    """Of one processor, and of the whole contraction; none for what is not one."""
    block: dict[str, int] = {}
    whole: dict[str, int] = {}
    for x in (*step.outputs, *step.inputs):
        block |= zip(x.shape.names, x.block, strict=True)
        whole |= zip(x.shape.names, x.shape.sizes, strict=True)
    return step.op.flops(block), step.op.flops(whole)


# -- what is sent ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Transfer:
    """One value that a collective moves; one that was bucketed moves several.

    Attributes:
        step: the collective.
        place: of the value among those of the collective.
        trips: how often it runs in one call.
        group: how many processors take part.
    """

    step: Collective
    place: int
    trips: int
    group: int

    @property
    def kind(self) -> str:
        """all_reduce, all_gather, reduce_scatter, all_to_all or permute."""
        return self.step.kind

    @property
    def axes(self) -> tuple[str, ...]:
        """Along which the groups lie."""
        return self.step.axes

    @property
    def scope(self) -> str:
        """Of the op that the value is moved for."""
        return self.step.scopes[self.place] if self.step.scopes else self.step.scope

    @property
    def source(self) -> PlanValue:
        """The value as it is before."""
        return self.step.inputs[self.place]

    @property
    def elements(self) -> int:
        """The payload of one run, on one processor."""
        return self.step.counted[self.place].elements

    @property
    def bytes(self) -> int:
        """The payload of one run, on one processor."""
        return self.step.counted[self.place].bytes

    @property
    def wire_bytes(self) -> float:
        """What one processor sends for it in one call."""
        return self.trips * wire(self.kind, self.bytes, self.group)


def transfers(plan: Plan) -> Iterator[Transfer]:
    """Every value that every collective of a plan moves, in order."""
    for step, trips in walk(plan.steps):
        if isinstance(step, Collective):
            group = plan.mesh.ways(step.axes)
            for place in range(len(step.inputs)):
                yield Transfer(step, place, trips, group)


# -- memory ---------------------------------------------------------------------------------------


def peak_bytes(steps: Sequence[Step], begin: Iterable[PlanValue], end: Iterable[PlanValue]) -> int:
    """The largest sum of living blocks.

    A block lives from the step that makes it to the one that reads it last; what stands there in
    the beginning, or is given back in the end, lives as long as all. A reshaped block is the same
    memory, and a stored or assigned one is a variable's.

    Args:
        steps: in order; the trips of a loop take what the largest moment of one trip takes.
        begin: blocks that are there before: inputs, or what a trip starts with.
        end: blocks that are given back.
    """
    of = _memory(steps)
    last: dict[PlanValue, int] = {}
    for i, step in enumerate(steps):
        last |= dict.fromkeys((of.get(v, v) for v in step.inputs), i)
    living = {of.get(v, v) for v in begin}
    last |= dict.fromkeys((*living, *(of.get(v, v) for v in end)), len(steps))
    ending: dict[int, list[PlanValue]] = {}
    for value, i in last.items():
        ending.setdefault(i, []).append(value)
    size = peak = sum(v.bytes for v in living)
    for i, step in enumerate(steps):
        made = {v for v in step.outputs if v not in of}
        living |= made
        size += sum(v.bytes for v in made)
        peak = max(peak, size + _within(step))
        gone = living & {*ending.get(i, ()), *(v for v in made if v not in last)}
        living -= gone
        size -= sum(v.bytes for v in gone)
    return peak


def _within(step: Step) -> int:
    """What the trips of a loop, or the larger branch, take besides operands and results."""
    if isinstance(step, Branches):
        return max(peak_bytes(b.steps, b.fixed, b.outs) for b in step.branches)
    if not isinstance(step, Loop):
        return 0
    ends = [*step.carry_out, *step.ys, *step.sums]
    return peak_bytes(step.steps, [*step.carry, *step.xs], ends)


def _memory(steps: Sequence[Step]) -> dict[PlanValue, PlanValue]:
    """For each value that takes no memory of its own: whose it uses. A variable's is its own."""
    of: dict[PlanValue, PlanValue] = {}
    for step in steps:
        if isinstance(step, Local) and isinstance(step.op, Stored | Assign):
            of |= {v: v for v in step.outputs}
        elif isinstance(step, Local) and isinstance(step.op, Reshape | Barrier):
            (made,), (given, *_) = step.outputs, step.inputs
            of[made] = of.get(given, given)
    return of


# -- several machines -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Split:
    """What a processor sends in one call, on average: to its own machine, and to others."""

    inside_bytes: float
    between_bytes: float


def between(plan: Plan, hosts: int) -> dict[Key, Split]:
    """Split the bytes sent into those that stay inside a machine and those that leave it.

    Processors are numbered row-major, and machines take equal runs of them: the last axes of the
    mesh lie inside. What several processors of a machine need of another one is counted once, as
    the best algorithms send it: a collective of g processors on h machines, with payload S, moves
    S (h-1) between them in an all_gather or reduce_scatter, twice that in an all_reduce, and S/g
    for each pair of processors on two machines in an all_to_all. The rest of the bytes sent stays
    inside, so that both add up to `Traffic.wire_bytes`.

    Args:
        plan: on a mesh whose size the number of machines divides.
        hosts: machines.

    Returns:
        By (kind, axes), as in `Cost.traffic`; bytes per processor and call, the average.

    Raises:
        MeshError: the processors do not divide by the machines.
    """
    if hosts < 1 or plan.mesh.size % hosts:
        raise MeshError(
            message(
                f"{plan.mesh.size} processors do not divide over {hosts} machines.",
                [("mesh", plan.mesh)],
                "each machine has equally many processors",
            )
        )
    shares: dict[tuple[object, ...], float] = {}
    found: dict[Key, Split] = {}
    for sent in transfers(plan):
        key = (sent.kind, sent.axes, sent.step.sources)
        if key not in shares:
            shares[key] = _share_between(sent.step, plan.mesh, hosts)
        there = found.get((sent.kind, sent.axes), Split(0.0, 0.0))
        out = sent.wire_bytes * shares[key]
        found[sent.kind, sent.axes] = Split(
            there.inside_bytes + sent.wire_bytes - out, there.between_bytes + out
        )
    return found


def _share_between(step: Collective, mesh: Mesh, hosts: int) -> float:
    """Of the bytes sent for one collective, the part that leaves a machine."""
    local = mesh.size // hosts
    coordinates = map(mesh.coordinates, range(mesh.size))
    first = [p for p, at in enumerate(coordinates) if not any(at[a] for a in step.axes)]
    crossing, sent = 0, 0
    for begin in first:
        machines = [p // local for p in mesh.group(begin, step.axes)]
        crossed, all_sent = _crossing(step, machines)
        crossing, sent = crossing + crossed, sent + all_sent
    return crossing / sent


def _crossing(step: Collective, machines: Sequence[int]) -> tuple[int, int]:
    """In one group: how much leaves a machine, and how much is sent, in the same unit."""
    group = len(machines)
    if step.kind == "permute":
        pairs = zip(step.sources, machines, strict=True)
        return sum(s >= 0 and machines[s] != m for s, m in pairs), group
    members: Mapping[int, int] = Tally(machines)
    if step.kind == "all_to_all":
        return group**2 - sum(m * m for m in members.values()), group * (group - 1)
    return len(members) - 1, group - 1
