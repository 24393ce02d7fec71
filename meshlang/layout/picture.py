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
    sizes = "x".join(map(str, value.block)) or "scalar"
    lines = [f"{name} {value}", f"mesh {plan.mesh or 'one processor'}, one block is {sizes}"]
    if not divided:
        return "\n".join([*lines, "every processor has all of it"])
    holders: dict[tuple[int, ...], list[int]] = {}
    for processor in range(plan.mesh.size):
        holders.setdefault(plan.mesh.block(processor, value.placement), []).append(processor)
    cells = {tuple(index[i] for i in divided): _listed(held) for index, held in holders.items()}
    rest = divided[2:]
    for outer in product(*(range(plan.mesh.ways(value.placement[i])) for i in rest)):
        if rest:
            spans = (_span(value, i, place) for i, place in zip(rest, outer, strict=True))
            lines.append(", ".join(spans))
        mine = {key[:2]: cell for key, cell in cells.items() if key[2:] == outer}
        lines += _grid(value, divided[:2], mine)
    return "\n".join(lines)


def _listed(processors: list[int], most: int = 8) -> str:
    """The numbers, the middle of many left out."""
    if len(processors) <= most:
        return " ".join(map(str, processors))
    return f"{processors[0]} {processors[1]} ... {processors[-1]} ({len(processors)})"


def _span(value: PlanValue, i: int, place: int) -> str:
    """``batch 0-7``, the indices of a block along a dim."""
    size, label = value.block[i], value.shape[i].label
    first = place * size
    return f"{label} {first}" if size == 1 else f"{label} {first}-{first + size - 1}"


def _grid(value: PlanValue, divided: list[int], cells: Cells) -> list[str]:
    """Rows are blocks of the first dim, columns of the second; one column without a second."""
    rows, *columns = ([*dict.fromkeys(key[k] for key in cells)] for k in range(len(divided)))
    heads = [_span(value, divided[1], c) for c in columns[0]] if columns else ["processors"]
    keys = [[(r, c) for c in columns[0]] if columns else [(r,)] for r in rows]
    labels = [_span(value, divided[0], r) for r in rows]
    left = max(map(len, labels))
    width = max(map(len, (*heads, *cells.values()))) + 2
    rule = f"  {'':{left}} +{'+'.join('-' * width for _ in heads)}+"
    lines = [f"  {'':{left}}  {' '.join(h.center(width) for h in heads)}".rstrip(), rule]
    for label, row in zip(labels, keys, strict=True):
        inside = "|".join(cells[key].center(width) for key in row)
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
