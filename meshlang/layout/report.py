"""Plans for people: the summary by scope, several machines, layouts compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from textwrap import indent
from typing import TYPE_CHECKING

from meshlang.layout.cost import Cost, Key, between, step_flops, transfers, walk
from meshlang.layout.layout import Layout
from meshlang.layout.mesh import Mesh
from meshlang.layout.values import Local
from meshlang.program import Program

if TYPE_CHECKING:
    from meshlang.layout.plan import Plan

#: how many names of a scope are shown: `decoder/layer`, without what is inside
DEPTH = 2
#: what stands for the scope of ops made outside of any
TOP = "(no scope)"


def table(head: Sequence[str], rows: Iterable[Sequence[object]], left: int = 1) -> str:
    """Columns of text with a rule below the head; the first `left` to the left, others right."""
    cells = [list(map(str, row)) for row in (head, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = []
    for row in cells:
        words = zip(row, widths, strict=True)
        padded = (w.ljust(n) if i < left else w.rjust(n) for i, (w, n) in enumerate(words))
        lines.append("  ".join(padded).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def amount(count: float, unit: str = "") -> str:
    """A number of FLOPs, bytes or elements with a decimal prefix.

    >>> amount(0), amount(999), amount(12_345, "B"), amount(2_100_000, "B"), amount(1.5, "B")
    ('0', '999', '12.3 kB', '2.10 MB', '1.50 B')
    """
    for prefix, scale in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= 0.9995 * scale:
            return f"{_three(count / scale)} {prefix}{unit}"
    number = f"{count:.0f}" if count == int(count) else _three(count)
    return f"{number} {unit}".rstrip() if count else "0"


def _three(number: float) -> str:
    """Three digits."""
    digits = 2 if number < 9.995 else 1 if number < 99.95 else 0
    return f"{number:.{digits}f}"


# -- the summary ----------------------------------------------------------------------------------


def summary(plan: Plan) -> str:
    """By scope: FLOPs and bytes; then collectives, memory, and what is said aloud."""
    parts = [
        f"{plan.tables}",
        "On each processor, in one call:",
        _by_scope(plan),
        traffic_table(plan.cost),
        _memory(plan.cost),
        *_skipped(plan),
        *_gathered(plan),
    ]
    return "\n\n".join(parts)


def _by_scope(plan: Plan) -> str:
    rows: dict[str, list[float]] = {}

    def row(scope: str) -> list[float]:
        names = [name for name in scope.split("/") if name != "grad"]
        return rows.setdefault("/".join(names[:DEPTH]) or TOP, [0, 0, 0, 0])

    for step, trips in walk(plan.steps):
        if isinstance(step, Local):
            flops, whole = step_flops(step)
            row(step.scope)[0] += trips * flops
            row(step.scope)[1] += trips * (flops - whole / plan.mesh.size)
    for sent in transfers(plan):
        row(sent.scope)[2] += sent.trips
        row(sent.scope)[3] += sent.wire_bytes
    rows = {scope: row for scope, row in rows.items() if any(row)}
    if not rows:
        return "no contractions"
    if len(rows) > 1:
        rows["all"] = [sum(column) for column in zip(*rows.values(), strict=True)]
    head = ("scope", "FLOPs", "duplicated", "values moved", "sent")
    return table(head, ((scope, *_cells(row)) for scope, row in rows.items()))


def _cells(row: Sequence[float]) -> tuple[str, ...]:
    flops, duplicated, values, sent = row
    return amount(flops), amount(duplicated), f"{values:.0f}", amount(sent, "B")


def traffic_table(cost: Cost) -> str:
    """One row for each kind of collective and set of axes, per processor and call."""
    if not cost.traffic:
        return "no collectives"
    rows = [
        (over(key), t.sums, t.collectives, amount(t.bytes, "B"), amount(t.wire_bytes, "B"))
        for key, t in sorted(cost.traffic.items())
    ]
    return table(("collective", "values", "runs", "payload", "sent"), rows)


def over(key: Key) -> str:
    """``all_reduce over data+model``."""
    kind, axes = key
    return f"{kind} over {'+'.join(axes)}"


def _memory(cost: Cost) -> str:
    held, most = amount(cost.variable_bytes, "B"), amount(cost.peak_bytes, "B")
    return f"memory: variables {held}, activations at most {most}"


def _skipped(plan: Plan) -> list[str]:
    lines = []
    for name, variable in plan.program.variables.items():
        owner = next((d.twin.of for d in variable.shape if d.twin), ())
        for dim, axis in plan.tables.skipped(owner):
            lines.append(f"  {name}: {dim} along {axis}")
    head = "Not divided as params and slots ask, for the axis is used by another dim:"
    return ["\n".join([head, *lines])] if lines else []


def _gathered(plan: Plan) -> list[str]:
    """Every move whose source was divided and whose result is not, by the name that is whole."""
    found: dict[str, dict[tuple[str, str], list[float]]] = {}
    for sent in transfers(plan):
        if sent.step.why:
            what = (sent.scope or TOP, str(sent.source))
            entry = found.setdefault(sent.step.why, {}).setdefault(what, [0, 0])
            entry[0] += sent.trips
            entry[1] += sent.wire_bytes
    parts = []
    for reason, moves in found.items():
        ordered = sorted(moves.items(), key=lambda move: -move[1][1])
        rows = [(*what, f"{times:.0f}", amount(size, "B")) for what, (times, size) in ordered]
        listed = indent(table(("scope", "from", "times", "sent"), rows, left=2), "  ")
        parts.append(f"Gathered because {reason}:\n{listed}")
    return parts


# -- several machines -----------------------------------------------------------------------------


def hosts_table(plan: Plan, hosts: int) -> str:
    """Bytes sent inside and between machines; `meshlang.layout.cost.between` has the model.

    Args:
        plan: on a mesh whose size the number of machines divides.
        hosts: machines.

    Raises:
        MeshError: the processors do not divide by the machines.
    """
    split = between(plan, hosts)
    local = plan.mesh.size // hosts
    rows = [
        (over(key), amount(part.inside_bytes, "B"), amount(part.between_bytes, "B"))
        for key, part in sorted(split.items())
    ]
    inside = sum(part.inside_bytes for part in split.values())
    outside = sum(part.between_bytes for part in split.values())
    rows.append(("all", amount(inside, "B"), amount(outside, "B")))
    machines = "1 machine" if hosts == 1 else f"{hosts} machines"
    processors = "1 processor" if local == 1 else f"{local} processors"
    head = f"On {machines} of {processors}, each processor sends in one call:"
    foot = f"A machine sends {amount(local * outside, 'B')} to others in one call."
    return "\n\n".join([head, table(("collective", "inside", "between"), rows), foot])


# -- layouts compared -----------------------------------------------------------------------------


def compare(
    program: Program,
    mesh: str | Mesh,
    layouts: Mapping[str, str | Layout],
    *,
    params: str = "",
    slots: str = "",
) -> str:
    """One row for each layout: FLOPs, duplicated FLOPs, bytes sent per axis, memory.

    What is sent over several axes at once counts for each of them.

    Args:
        program: from `meshlang.trace`.
        mesh: for all layouts.
        layouts: a name for each layout to compare.
        params: a table for all of them.
        slots: another.

    Returns:
        A table as text; all numbers are per processor and call.

    Raises:
        LayoutError: the program cannot be laid out so.

    Example:
        >>> import meshlang as ml
        >>> program = ml.trace(lambda x: ml.sum(x * x), x=ml.spec("batch:8 d:4"))
        >>> print(ml.compare(program, "data:4", {"whole": "", "divided": "batch:data"}))
        layout   FLOPs  duplicated  sent  variables  activations
        -------  -----  ----------  ----  ---------  -----------
        whole        0           0     0          0        260 B
        divided      0           0   6 B          0         68 B
    """
    from meshlang.layout.plan import plan

    mesh = Mesh.parse(mesh)
    rows = []
    for name, layout in layouts.items():
        cost = plan(program, mesh, layout, params=params, slots=slots).cost
        traffic = [cost.all, *(cost.over(axis) for axis in mesh.names if len(mesh.names) > 1)]
        sent = [amount(t.wire_bytes, "B") for t in traffic]
        memory = (amount(cost.variable_bytes, "B"), amount(cost.peak_bytes, "B"))
        rows.append((name, amount(cost.flops), amount(cost.duplicated_flops), *sent, *memory))
    axes = [f"over {axis}" for axis in mesh.names if len(mesh.names) > 1]
    return table(("layout", "FLOPs", "duplicated", "sent", *axes, "variables", "activations"), rows)
