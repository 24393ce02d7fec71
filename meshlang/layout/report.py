"""Plans for people: the summary by scope, the whole text, pictures of blocks, comparisons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from meshlang.errors import MeshlangError, did_you_mean, message
from meshlang.layout.cost import WIRE, Cost, step_flops, walk
from meshlang.layout.mesh import Mesh
from meshlang.layout.values import Collective, Local, Loop, PlanValue, Step
from meshlang.program import Program
from meshlang.structure import leaves

if TYPE_CHECKING:
    from meshlang.layout.plan import Plan


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns of text: the first to the left, the others to the right."""
    cells = [list(map(str, row)) for row in (head, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = []
    for row in cells:
        first = row[0].ljust(widths[0])
        rest = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        lines.append("  ".join([first, *rest]).rstrip())
    return "\n".join(lines)


def amount(count: float) -> str:
    """A number of bytes, FLOPs or elements with a decimal prefix.

    >>> amount(0), amount(999), amount(12_345), amount(3_145_728)
    ('0', '999', '12.3 k', '3.15 M')
    """
    for prefix, scale in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= scale:
            return f"{count / scale:.3g} {prefix}"
    return f"{count:.0f}"


# -- the summary ----------------------------------------------------------------------------------


def summary(plan: Plan) -> str:
    """By scope: FLOPs and bytes; then what each axis carries, memory, and what is said aloud."""
    cost = plan.cost
    parts = [_head(plan), "", _by_scope(plan), "", traffic_table(cost), "", _memory(cost)]
    if cost.duplicated_flops:
        share = cost.duplicated_flops / cost.flops
        parts.append(f"computed on more than one processor: {share:.1%} of the FLOPs")
    for line in (*_skipped(plan), *_gathered(plan)):
        parts.append(line)
    return "\n".join(parts)


def _head(plan: Plan) -> str:
    rows = [("mesh", str(plan.mesh) or "one processor"), *plan.tables.named()]
    return "\n".join(f"{what:<7} {value}".rstrip() for what, value in rows if str(value))


def _by_scope(plan: Plan) -> str:
    flops: dict[str, float] = {}
    sent: dict[str, float] = {}
    count: dict[str, int] = {}
    for step, trips in walk(plan.steps):
        scope = step.scope.split("/grad")[0].split("/")[0] or "."
        if isinstance(step, Local):
            flops[scope] = flops.get(scope, 0) + trips * step_flops(step)[0]
        elif isinstance(step, Collective):
            sent[scope] = sent.get(scope, 0) + trips * wire_bytes(step, plan.mesh)
            count[scope] = count.get(scope, 0) + trips
        flops.setdefault(scope, 0)
    rows = [
        (s, amount(flops[s]), count.get(s, 0), amount(sent.get(s, 0)))
        for s in flops
        if flops[s] or count.get(s)
    ]
    return table(("scope", "FLOPs", "collectives", "bytes sent"), rows)


def wire_bytes(step: Collective, mesh: Mesh) -> float:
    """What one processor sends for one collective."""
    return WIRE[step.kind](mesh.ways(step.axes)) * step.payload[1]


def traffic_table(cost: Cost) -> str:
    """One row for each kind of collective and set of axes, per processor and call."""
    rows = [
        (
            f"{kind} over {'+'.join(axes)}",
            t.sums,
            t.collectives,
            amount(t.bytes),
            amount(t.wire_bytes),
        )
        for (kind, axes), t in sorted(cost.traffic.items())
    ]
    if not rows:
        return "no collectives"
    return table(("collective", "sums", "run", "payload bytes", "bytes sent"), rows)


def _memory(cost: Cost) -> str:
    return (
        f"variables {amount(cost.variable_bytes)}B, activations at most "
        f"{amount(cost.peak_bytes)}B on each processor"
    )


def _skipped(plan: Plan) -> list[str]:
    lines = []
    for name, variable in plan.program.variables.items():
        owner = next((d.twin.of for d in variable.shape if d.twin), ())
        for dim, axis in plan.tables.skipped(owner):
            lines.append(f"{name}: {dim} is not kept along {axis}, another of its dims is there")
    return lines


def _gathered(plan: Plan) -> list[str]:
    """Every move whose source was divided and whose result is not, by the name that is whole."""
    sizes: dict[str, float] = {}
    for step, trips in walk(plan.steps):
        if isinstance(step, Collective):
            for name in step.why:
                sizes[name] = sizes.get(name, 0) + trips * wire_bytes(step, plan.mesh)
    return [
        f"Gathered because the layout leaves {name} whole: {amount(size)}B sent"
        for name, size in sizes.items()
    ]


# -- the whole text -------------------------------------------------------------------------------


def plan_text(plan: Plan) -> str:
    """One line for each step, values numbered in order of appearance."""
    names: dict[PlanValue, str] = {}
    lines = [_head(plan)]
    for name, value in plan.inputs.items():
        lines.append(f"{_name(value, names)} = input {name}: {value}")
    lines += _step_lines(plan.steps, plan.mesh, names, "")
    results = " ".join(_name(v, names) for v in leaves(plan.results))
    return "\n".join([*lines, f"return {results}".rstrip(), ""])


def _name(value: PlanValue, names: dict[PlanValue, str]) -> str:
    return names.setdefault(value, f"%{len(names)}")


def _step_lines(
    steps: Sequence[Step], mesh: Mesh, names: dict[PlanValue, str], indent: str
) -> list[str]:
    lines = []
    for step in steps:
        given = ", ".join(_name(v, names) for v in step.inputs)
        if isinstance(step, Loop):
            begin = [step.trip, *step.carry, *step.xs, *step.fixed]
            inside = ", ".join(_name(v, names) for v in begin)
            lines.append(f"{indent}loop {step.op.detail} of ({given}) as ({inside})")
            lines += _step_lines(step.steps, mesh, names, indent + "  ")
            ends = [*step.carry_out, *step.ys, *step.sums]
            lines.append(f"{indent}  end {', '.join(_name(v, names) for v in ends)}")
        made = ", ".join(_name(v, names) for v in step.outputs)
        what = ", ".join(str(v) for v in dict.fromkeys(str(v) for v in step.outputs))
        lines.append(f"{indent}{made} = {_what(step, mesh, given)}: {what}")
    return lines


def _what(step: Step, mesh: Mesh, given: str) -> str:
    if isinstance(step, Loop):
        return "loop results"
    if isinstance(step, Local):
        detail = f" {step.op.detail}" if step.op.detail else ""
        return f"{step.op.label}({given}){detail}"
    reduce = f" {step.reduce}" if step.kind == "all_reduce" and step.reduce != "sum" else ""
    elements = step.payload[0]
    return f"{step.kind}{reduce} over {'+'.join(step.axes)} ({given}) payload {elements}"


# -- pictures and comparisons ---------------------------------------------------------------------


def picture(plan: Plan, name: str) -> str:
    """Which block of a tensor lies on which processors: a grid over its first two divided dims."""
    value = _find(plan, name)
    divided = [i for i, axes in enumerate(value.placement) if axes][:2]
    lines = [f"{name} {value}", f"block {list(value.block)} on each of {plan.mesh.size} processors"]
    if not divided:
        return "\n".join([*lines, "the same whole tensor on every processor"])
    holders: dict[tuple[int, ...], list[int]] = {}
    for processor in range(plan.mesh.size):
        at = plan.mesh.coordinates(processor)
        index = []
        for i in divided:
            place = 0
            for axis in value.placement[i]:
                place = place * plan.mesh[axis] + at[axis]
            index.append(place)
        holders.setdefault(tuple(index), []).append(processor)
    counts = [plan.mesh.ways(value.placement[i]) for i in divided]
    cells = {key: " ".join(map(str, held)) for key, held in holders.items()}
    return "\n".join([*lines, *_grid(value, divided, counts, cells)])


def _grid(
    value: PlanValue, divided: list[int], counts: list[int], cells: Mapping[tuple[int, ...], str]
) -> list[str]:
    def span(i: int, place: int) -> str:
        size = value.block[i]
        return f"{value.shape[i].name} {place * size}-{(place + 1) * size - 1}"

    rows = [span(divided[0], r) for r in range(counts[0])]
    columns = [span(divided[1], c) for c in range(counts[1])] if len(divided) > 1 else ["processor"]
    keys = [[(r, c) if len(divided) > 1 else (r,) for c in range(len(columns))] for r in range(counts[0])]
    left = max(map(len, rows))
    width = max(max(map(len, columns)), max(map(len, cells.values()))) + 2
    rule = "  " + " " * left + " +" + "+".join("-" * width for _ in columns) + "+"
    lines = ["  " + " " * left + "  " + " ".join(c.center(width) for c in columns).rstrip(), rule]
    for label, row in zip(rows, keys, strict=True):
        inside = "|".join(cells[key].center(width) for key in row)
        lines += [f"  {label:<{left}} |{inside}|", rule]
    return lines


def _find(plan: Plan, name: str) -> PlanValue:
    known = {**plan.inputs, **plan.variables}
    if isinstance(plan.results, dict):
        known |= {k: v for k, v in plan.results.items() if isinstance(v, PlanValue)}
    if name not in known:
        raise MeshlangError(
            message(
                f"the plan has no variable, input or result {name!r}.",
                fix=did_you_mean(name, known, f"one of: {' '.join(known)}"),
            )
        )
    return known[name]


def compare(
    program: Program,
    mesh: str | Mesh,
    layouts: Mapping[str, str],
    *,
    params: str = "",
    slots: str = "",
) -> str:
    """One row for each layout: FLOPs, duplicated FLOPs, bytes sent per axis, memory.

    Args:
        program: from `meshlang.trace`.
        mesh: for all layouts.
        layouts: a name for each layout to compare.
        params, slots: tables for all of them.

    Returns:
        A table as text; all numbers are per processor and call.
    """
    from meshlang.layout.plan import plan

    mesh = Mesh.parse(mesh)
    rows = []
    for name, layout in layouts.items():
        cost = plan(program, mesh, layout, params=params, slots=slots).cost
        axes = [amount(cost.over(a).wire_bytes) for a in mesh.names]
        rows.append(
            (
                name,
                amount(cost.flops),
                amount(cost.duplicated_flops),
                *axes,
                amount(cost.variable_bytes),
                amount(cost.peak_bytes),
            )
        )
    head = ("layout", "FLOPs", "duplicated", *(f"B sent {a}" for a in mesh.names))
    return table((*head, "B variables", "B activations"), rows)
