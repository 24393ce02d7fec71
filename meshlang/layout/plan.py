"""The plan: what each processor does, every byte counted, before a device is touched."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from meshlang.layout.builder import Builder
from meshlang.layout.cost import Cost, cost_of
from meshlang.layout.hoist import hoist_casts
from meshlang.layout.layout import Layout, Tables
from meshlang.layout.mesh import Mesh
from meshlang.layout.passes import bucket, drop_unused
from meshlang.layout.planner import check_declared, emit
from meshlang.layout.values import Counter, PlanValue, Step
from meshlang.program import Program
from meshlang.structure import rebuild


@dataclass(eq=False)
class Plan:
    """Local ops on blocks and collectives between them, in the order of every processor.

    Attributes:
        program: what is computed.
        tables: the mesh, and where dims lie.
        steps: `Local`, `Collective` and `Loop`, see `meshlang.layout.values`.
        inputs: the block of each input.
        variables: the block of each variable, as it is kept.
        results: the blocks of the results, nested as the traced function returned them.
        checks: what `meshlang.check` counts on each processor, and the error for a count.
        summaries: what `meshlang.summary` hands out, by name.
    """

    program: Program
    tables: Tables
    steps: list[Step]
    inputs: dict[str, PlanValue]
    variables: dict[str, PlanValue]
    results: Any = field(repr=False)
    checks: list[tuple[PlanValue, Callable[[int], str]]] = field(default_factory=list, repr=False)
    summaries: dict[str, PlanValue] = field(default_factory=dict, repr=False)

    @property
    def mesh(self) -> Mesh:
        """The processors."""
        return self.tables.mesh

    @cached_property
    def cost(self) -> Cost:
        """FLOPs, bytes and memory of one processor in one call."""
        return cost_of(self)

    def text(self) -> str:
        """The whole plan, one line for each step; stable, for golden files."""
        from meshlang.layout.text import plan_text

        return plan_text(self)

    def show(self, name: str) -> str:
        """A picture of which block of a variable, input or result lies on which processor."""
        from meshlang.layout.picture import picture

        return picture(self, name)

    def __str__(self) -> str:
        from meshlang.layout.report import summary

        return summary(self)


def plan(
    program: Program,
    mesh: str | Mesh = "",
    layout: str | Layout = "",
    *,
    params: str | Layout = "",
    slots: str | Layout = "",
    beside: Sequence[Program] = (),
) -> Plan:
    """Say what each processor of a mesh does for a program. No device is touched.

    Args:
        program: from `meshlang.trace`.
        mesh: axes with sizes, ``"data:2 model:4"``; the empty mesh is one processor.
        layout: dim name to axes, ``"batch:data d_ff:model vocab:data+model"``.
        params: axes over which variables are kept divided besides (ZeRO-3).
        slots: axes over which gradients and slots are divided besides (ZeRO-1 and 2).
        beside: other programs of the run: the tables may name dims that only they have.

    Raises:
        LayoutError: a dim does not divide, two dims of an op lie on one axis, an axis is unknown,
            or the layout names a dim that no tensor has.

    Example:
        >>> import meshlang as ml
        >>> program = ml.trace(lambda x: ml.sum(x * x), x=ml.spec("batch:8 d:4"))
        >>> cost = ml.plan(program, mesh="data:4", layout="batch:data").cost
        >>> cost.over("data").collectives, cost.over("data").elements
        (1, 1)
    """
    tables = Tables(
        Mesh.parse(mesh), Layout.parse(layout), Layout.parse(params), Layout.parse(slots)
    )
    tables.check_used(_names([program, *beside]))
    counter = Counter(tables)
    builder = Builder(tables, program.precision, counter)
    env, inputs = {}, {}
    for name, tensor in program.inputs.items():
        check_declared(f"input {name}", tensor.shape, tables)
        inputs[name] = env[tensor] = counter.value(
            tensor.shape, tensor.dtype, builder.placement(tensor.shape)
        )
    flags = [flag for flag, _ in program.checks]
    outputs = [*program.outputs, *program.summaries.values()]
    emit(builder, program.nodes, env, outputs, unpaid=flags)
    results = rebuild(program.results, lambda t: env[t])
    needed = drop_unused(builder.steps, [env[t] for t in (*outputs, *flags)])
    steps = bucket(hoist_casts(needed, counter))
    variables = {}
    for name, variable in program.variables.items():
        check_declared(f"variable {name}", variable.shape, tables)
        placement = builder.placement(variable.shape)
        variables[name] = counter.value(variable.shape, variable.dtype, placement)
    checks = [(env[flag], text) for flag, text in program.checks]
    summaries = {name: env[x] for name, x in program.summaries.items()}
    return Plan(program, tables, steps, inputs, variables, results, checks, summaries)


def _names(programs: Iterable[Program]) -> set[str]:
    names: set[str] = set()
    for program in programs:
        for tensor in program.inputs.values():
            names.update(tensor.shape.names)
        names.update(n for v in program.variables.values() for n in v.shape.names)
        for node in program.every_node():
            names.update(n for y in node.outputs for n in y.shape.names)
    return names
