"""The whole text of a plan: one line for each step. Stable, for golden files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from meshlang.layout.values import Collective, Local, Loop, Reshape, Step
from meshlang.printer import Listing, called, typed, types

if TYPE_CHECKING:
    from meshlang.layout.plan import Plan


def plan_text(plan: Plan) -> str:
    """The tables, the blocks of the inputs, every step, the results.

    A block reads ``[batch:8/data d:4] float32 pending model``: the sizes are those of the whole
    tensor, behind a slash stand the axes that divide it.
    """
    listing = Listing()
    for name, x in plan.inputs.items():
        listing.line(f"{listing.name(x)} = input {name}: {typed(x)}")
    _write(listing, plan.steps)
    listing.results(plan.results)
    return f"{plan.tables}\n\n{listing}"


def _write(listing: Listing, steps: Sequence[Step]) -> None:
    for step in steps:
        listing.under(step.scope)
        if isinstance(step, Loop):
            _write_loop(listing, step)
        else:
            what = _what(step, listing.names(step.inputs))
            listing.line(f"{listing.names(step.outputs)} = {what}: {types(step.outputs)}")


def _what(step: Local | Collective, operands: str) -> str:
    if isinstance(step, Local):
        renamed = isinstance(step.op, Reshape) and step.inputs[0].block == step.outputs[0].block
        return f"rename({operands})" if renamed else called(step.op, operands)
    reduce = f" {step.reduce}" if step.kind == "all_reduce" and step.reduce != "sum" else ""
    elements, size = step.payload
    axes = "+".join(step.axes)
    return f"{step.kind}{reduce} over {axes} ({operands}) {elements} elements, {size} bytes"


def _write_loop(listing: Listing, loop: Loop) -> None:
    n, m = len(loop.carry), len(loop.carry) + len(loop.xs)
    k = n + len(loop.ys)
    listing.line(f"{loop.op.label} {loop.op.detail}")
    with listing.indented():
        listing.line(f"trip {listing.name(loop.trip)}")
        listing.begin("carry", loop.carry, loop.inputs[:n])
        listing.begin("slice", loop.xs, loop.inputs[n:m])
        listing.begin("fixed", loop.fixed, loop.inputs[m:])
        _write(listing, loop.steps)
        listing.under(loop.scope)
        listing.end("last", loop.outputs[:n], loop.carry_out)
        listing.end("stack", loop.outputs[n:k], loop.ys)
        listing.end("sum", loop.outputs[k:], loop.sums)
