"""A picture of which block of a tensor lies on which processors."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import TYPE_CHECKING

from meshlang.errors import MeshlangError, did_you_mean, message
from meshlang.layout.values import PlanValue
from meshlang.structure import named_leaves

if TYPE_CHECKING:
    from meshlang.layout.plan import Plan

Cells = Mapping[tuple[int, ...], str]

#: how many blocks along a dim, or processors with one block, are written out
MOST = 8
#: how many grids are drawn of a tensor with more than two divided dims
GRIDS = 4
#: the place that stands for blocks left out
GAP = -1


def picture(plan: Plan, name: str) -> str:
    """A grid over the first two divided dims; further ones make one grid for each index.

    Args:
        plan: whose processors are drawn, by number.
        name: of a variable, an input, or a result (``"loss"``, ``"metrics.loss"``).

    Raises:
        MeshlangError: nothing has this name.
    """
    value = _find(plan, name)
    divided = [i for i, axes in enumerate(value.placement) if axes]
    mesh = str(plan.mesh) or "one processor"
    sizes = f", one block is {'x'.join(map(str, value.block))}" if value.block else ""
    lines = [f"{name} {value}", f"mesh {mesh}{sizes}"]
    if not divided:
        return "\n".join([*lines, "every processor has all of it"])
    holders: dict[tuple[int, ...], list[int]] = {}
    for processor in range(plan.mesh.size):
        holders.setdefault(plan.mesh.block(processor, value.placement), []).append(processor)
    cells = {tuple(index[i] for i in divided): _listed(held) for index, held in holders.items()}
    rest = divided[2:]
    outers = list(product(*(range(plan.mesh.ways(value.placement[i])) for i in rest)))
    for outer in outers[:GRIDS]:
        spans = (_span(value, i, place) for i, place in zip(rest, outer, strict=True))
        lines += [", ".join(spans)] if rest else []
        mine = {key[:2]: cell for key, cell in cells.items() if key[2:] == outer}
        lines += _grid(value, divided[:2], mine)
    more = len(outers) - GRIDS
    return "\n".join([*lines, f"... and {more} more" if more > 0 else ""]).rstrip()


def _listed(processors: list[int]) -> str:
    """The numbers, the middle of many left out."""
    if len(processors) <= MOST:
        return " ".join(map(str, processors))
    return f"{processors[0]} {processors[1]} ... {processors[-1]}, {len(processors)} in all"


def _span(value: PlanValue, i: int, place: int) -> str:
    """``batch 0-7``, the indices of a block along a dim."""
    size, name = value.block[i], value.shape[i].name
    first = place * size
    return f"{name} {first}" if size == 1 else f"{name} {first}-{first + size - 1}"


def _spans(value: PlanValue, i: int, count: int) -> dict[int, str]:
    """By place, of all blocks along a dim; of many, dots stand for those in the middle."""
    if count <= MOST:
        return {place: _span(value, i, place) for place in range(count)}
    shown = [*range(MOST - 2), count - 1]
    spans = {place: _span(value, i, place) for place in shown}
    return {**dict(list(spans.items())[:-1]), GAP: "...", count - 1: spans[count - 1]}


def _grid(value: PlanValue, divided: list[int], cells: Cells) -> list[str]:
    """Rows are blocks of the first dim, columns of the second; one column without a second."""
    counts = [len({key[k] for key in cells}) for k in range(len(divided))]
    rows = _spans(value, divided[0], counts[0])
    columns = _spans(value, divided[1], counts[1]) if len(divided) > 1 else {0: "processors"}

    def cell(row: int, column: int) -> str:
        return cells.get((row, column)[: len(divided)], "...")

    left = max(map(len, rows.values()))
    widths = [max(len(head), *(len(cell(r, c)) for r in rows)) + 2 for c, head in columns.items()]
    rule = f"  {'':{left}} +{'+'.join('-' * width for width in widths)}+"
    heads = " ".join(h.center(w) for h, w in zip(columns.values(), widths, strict=True))
    lines = [f"  {'':{left}}  {heads}".rstrip(), rule]
    for row, label in rows.items():
        inside = "|".join(cell(row, c).center(w) for c, w in zip(columns, widths, strict=True))
        lines += [f"  {label:<{left}} |{inside}|", rule]
    return lines


def _find(plan: Plan, name: str) -> PlanValue:
    results = {path: v for path, v in named_leaves(plan.results) if path}
    known = {**results, **plan.inputs, **plan.variables}
    if name not in known:
        raise MeshlangError(
            message(
                f"the plan has no variable, input or result {name!r}.",
                fix=did_you_mean(name, known, f"one of: {' '.join(sorted(known))}"),
            )
        )
    return known[name]
