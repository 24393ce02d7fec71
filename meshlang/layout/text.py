"""The whole text of a plan: one line for each step. Stable, for golden files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from meshlang.layout.values import Branches, Collective, Decision, Local, Loop, Reshape, Step
from meshlang.printer import WORDS, Listing, called, typed, types

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
        elif isinstance(step, Branches):
            _write_branches(listing, step)
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
    given, made = loop.given, loop.made
    counted = f" ({listing.names(given.trips)})" if given.trips else ""
    listing.line(f"{loop.op.label} {loop.op.detail}{counted}")
    with listing.indented():
        if loop.decision is not None:
            _write_decision(listing, loop.decision, loop)
        listing.line(f"trip {listing.name(loop.trip)}")
        listing.begin("carry", loop.carry, given.carry)
        listing.begin("slice", loop.xs, given.stacks)
        listing.begin("fixed", loop.fixed, given.fixed)
        _write(listing, loop.steps)
        listing.under(loop.scope)
        listing.end("last", made.carry, loop.carry_out)
        listing.end("stack", made.stacks, loop.ys)
        listing.end("sum", made.sums, loop.sums)
        for count in made.trips:
            listing.line(f"{listing.name(count)} = trips: {typed(count)}")


def _write_decision(listing: Listing, decision: Decision, loop: Loop) -> None:
    listing.line(f"while, before trip {listing.name(decision.trip)}")
    with listing.indented():
        listing.begin("carry", decision.carry, loop.given.carry)
        listing.begin("fixed", decision.fixed, loop.given.decision)
        _write(listing, decision.steps)
        listing.under(loop.scope)
        listing.line(f"holds {listing.name(decision.predicate)}")


def _write_branches(listing: Listing, step: Branches) -> None:
    listing.line(f"{step.op.label}({listing.name(step.inputs[0])})")
    with listing.indented():
        for word, branch, given in zip(WORDS, step.branches, step.given, strict=True):
            listing.line(word)
            with listing.indented():
                listing.begin("fixed", branch.fixed, given)
                _write(listing, branch.steps)
                listing.under(step.scope)
                listing.end("result", step.outputs, branch.outs)
