"""What a plan costs each processor: FLOPs, bytes per collective and axis, memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from meshlang.layout.mesh import Mesh
from meshlang.layout.values import Collective, Local, Loop, PlanValue, Step
from meshlang.ops.contract import Einsum

if TYPE_CHECKING:
    from meshlang.layout.plan import Plan

#: what each processor sends, of the payload, in a group of g
WIRE = {
    "all_reduce": lambda g: 2 * (g - 1) / g,
    "reduce_scatter": lambda g: (g - 1) / g,
    "all_gather": lambda g: (g - 1) / g,
    "all_to_all": lambda g: (g - 1) / g,
    "permute": lambda g: 1.0,
}


@dataclass(slots=True)
class Traffic:
    """One kind of collective over one set of axes, per processor and step.

    Attributes:
        sums: how many, before small ones are put together.
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
        peak_bytes: the most that blocks between steps take at one time, variables not counted.
    """

    flops: int = 0
    duplicated_flops: float = 0.0
    traffic: dict[tuple[str, tuple[str, ...]], Traffic] = field(default_factory=dict)
    variable_bytes: int = 0
    peak_bytes: int = 0

    def over(self, axis: str) -> Traffic:
        """All collectives whose groups lie along this axis (those over several count in each)."""
        return _total(t for (_, axes), t in self.traffic.items() if axis in axes)

    @property
    def all(self) -> Traffic:
        """All collectives."""
        return _total(self.traffic.values())


def _total(parts) -> Traffic:
    total = Traffic()
    for part in parts:
        for name in ("sums", "collectives", "elements", "bytes", "wire_elements", "wire_bytes"):
            setattr(total, name, getattr(total, name) + getattr(part, name))
    return total


def cost_of(plan: Plan) -> Cost:
    """Add up a plan."""
    cost = Cost()
    for step, trips in walk(plan.steps):
        if isinstance(step, Local):
            flops, unique = step_flops(step)
            cost.flops += trips * flops
            cost.duplicated_flops += trips * (flops - unique / plan.mesh.size)
        elif isinstance(step, Collective):
            _count(cost, step, plan.mesh, trips)
    cost.variable_bytes = sum(v.bytes for v in plan.variables.values())
    cost.peak_bytes = _peak(plan.steps, list(plan.inputs.values()))
    return cost


def walk(steps: Sequence[Step], trips: int = 1) -> Iterator[tuple[Step, int]]:
    """All steps, those of loops as well, with how often each runs."""
    for step in steps:
        yield step, trips
        if isinstance(step, Loop):
            yield from walk(step.steps, trips * step.trips)


def step_flops(step: Local) -> tuple[int, int]:
    """Of one processor, and of the whole contraction; none for what is not one."""
    if not isinstance(step.op, Einsum):
        return 0, 0
    block: dict[str, int] = {}
    whole: dict[str, int] = {}
    for x in step.inputs:
        block |= zip(x.shape.names, x.block, strict=True)
        whole |= zip(x.shape.names, x.shape.sizes, strict=True)
    return step.op.block_flops(block, step.inputs), step.op.block_flops(whole, step.inputs)


def _count(cost: Cost, step: Collective, mesh: Mesh, trips: int) -> None:
    elements, size = step.payload
    share = WIRE[step.kind](mesh.ways(step.axes))
    entry = cost.traffic.setdefault((step.kind, step.axes), Traffic())
    entry.sums += trips * len(step.inputs)
    entry.collectives += trips
    entry.elements += trips * elements
    entry.bytes += trips * size
    entry.wire_elements += trips * share * elements
    entry.wire_bytes += trips * share * size


def _peak(steps: Sequence[Step], inputs: Sequence[PlanValue]) -> int:
    """The largest sum of living blocks: from where a value is made to where it is last read."""
    last: dict[PlanValue, int] = {}
    for i, step in enumerate(steps):
        for v in step.inputs:
            last[v] = i
    living = sum(v.bytes for v in inputs)
    peak = living
    for i, step in enumerate(steps):
        inner = 0
        if isinstance(step, Loop):
            inner = _peak(step.steps, [*step.carry, *step.xs])
        living += sum(v.bytes for v in step.outputs)
        peak = max(peak, living + inner)
        living -= sum(v.bytes for v in set(step.inputs) if last[v] == i)
        living -= sum(v.bytes for v in step.outputs if v not in last)
    return peak
