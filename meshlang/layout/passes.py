"""Passes over the steps: what nobody needs is dropped, small all_reduces are put together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TypeGuard

from meshlang.layout.values import Branch, Branches, Collective, Local, Loop, PlanValue, Step
from meshlang.ops.state import Assign

#: an all_reduce up to this many bytes may share a bucket, and a bucket holds up to so many
SMALL, BUCKET = 1 << 20, 32 << 20


def drop_unused(steps: list[Step], results: Iterable[PlanValue]) -> list[Step]:
    """Keep the steps whose results are needed; loops lose stacks and sums that nobody reads."""
    needed, kept = set(results), []
    for step in reversed(steps):
        if isinstance(step, Loop | Branches):
            if not any(v in needed for v in step.outputs):
                continue
            step = _pruned(step, needed) if isinstance(step, Loop) else _chosen(step, needed)
        elif not any(v in needed for v in step.outputs) and not _assigns(step):
            continue
        needed.update(step.inputs)
        kept.append(step)
    return kept[::-1]


def _assigns(step: Step) -> bool:
    return isinstance(step, Local) and isinstance(step.op, Assign)


def _pruned(loop: Loop, needed: set[PlanValue]) -> Loop:
    """Carries stay; of the other results those that are read, and of the operands likewise."""
    given, made = loop.given, loop.made
    ys = [(y, o) for y, o in zip(loop.ys, made.stacks, strict=True) if o in needed]
    sums = [(s, o) for s, o in zip(loop.sums, made.sums, strict=True) if o in needed]
    ends = [*loop.carry_out, *(y for y, _ in ys), *(s for s, _ in sums)]
    steps = drop_unused(loop.steps, ends)
    read = {v for step in steps for v in step.inputs} | set(ends)
    stacks, xs = _read(given.stacks, loop.xs, read)
    fixed, fixed_inside = _read(given.fixed, loop.fixed, read)
    decided: list[PlanValue] = []
    if loop.decision is not None:
        decision = loop.decision
        wanted = drop_unused(decision.steps, [decision.predicate])
        read = {v for step in wanted for v in step.inputs} | {decision.predicate}
        decided, inside = _read(given.decision, decision.fixed, read)
        loop.decision = replace(decision, steps=wanted, fixed=inside)
    return Loop(
        op=loop.op,
        inputs=(*given.carry, *stacks, *fixed, *decided, *given.trips),
        outputs=(*made.carry, *(o for _, o in ys), *(o for _, o in sums), *made.trips),
        steps=steps,
        trip=loop.trip,
        carry=loop.carry,
        xs=xs,
        fixed=fixed_inside,
        carry_out=loop.carry_out,
        ys=[y for y, _ in ys],
        sums=[s for s, _ in sums],
        scope=loop.scope,
        decision=loop.decision,
    )


def _read(
    outside: Iterable[PlanValue], inside: Iterable[PlanValue], read: set[PlanValue]
) -> tuple[list[PlanValue], list[PlanValue]]:
    """Operands whose values inside are read, and these."""
    pairs = [(o, i) for o, i in zip(outside, inside, strict=True) if i in read]
    return [o for o, _ in pairs], [i for _, i in pairs]


def _chosen(step: Branches, needed: set[PlanValue]) -> Branches:
    """Both branches without the results that nobody reads, and what only these need."""
    keep = [o in needed for o in step.outputs]
    inputs, branches = [step.inputs[0]], []
    for given, branch in zip(step.given, step.branches, strict=True):
        outs = [v for v, k in zip(branch.outs, keep, strict=True) if k]
        steps = drop_unused(branch.steps, outs)
        read = {v for inner in steps for v in inner.inputs} | set(outs)
        outside, inside = _read(given, branch.fixed, read)
        inputs += outside
        branches.append(Branch(steps, inside, outs))
    first, second = branches
    outputs = tuple(o for o, k in zip(step.outputs, keep, strict=True) if k)
    return Branches(step.op, tuple(inputs), outputs, (first, second), step.scope)


def bucket(steps: list[Step]) -> list[Step]:
    """Put small sums over the same axes into one all_reduce, and so maxima and minima.

    A small one waits until another collective or a loop needs what depends on it, its bucket is
    full, or all is done; local steps that depend on it wait with it.
    """
    buckets = _Buckets()
    for step in steps:
        if isinstance(step, Loop):
            step.steps = bucket(step.steps)
            if step.decision is not None:
                step.decision.steps = bucket(step.decision.steps)
        elif isinstance(step, Branches):
            for branch in step.branches:
                branch.steps = bucket(branch.steps)
        buckets.add(step)
    return buckets.finish()


Key = tuple[tuple[str, ...], str, str]


class _Buckets:
    """Small all_reduces by axes, dtype and kind, the steps that wait for them, and what is done."""

    def __init__(self) -> None:
        self._done: list[Step] = []
        self._waiting: dict[Key, list[Collective]] = {}
        self._local: list[Step] = []
        self._needs: dict[PlanValue, set[Key]] = {}

    def add(self, step: Step) -> None:
        needed = self._needed(step)
        if needed and isinstance(step, Local):
            self._local.append(step)
            self._needs |= dict.fromkeys(step.outputs, needed)
            return
        self._flush(needed)
        if not _small(step):
            self._done.append(step)
            return
        key = (step.axes, step.inputs[0].dtype, step.reduce)
        size = sum(part.payload[1] for part in self._waiting.get(key, []))
        if size + step.payload[1] > BUCKET:
            self._flush({key})
        self._waiting.setdefault(key, []).append(step)
        self._needs[step.outputs[0]] = {key}

    def finish(self) -> list[Step]:
        self._flush(set(self._waiting))
        return self._done

    def _needed(self, step: Step) -> set[Key]:
        return set().union(*(self._needs.get(v, ()) for v in step.inputs))

    def _flush(self, keys: set[Key]) -> None:
        """Sum these buckets, then do what waited for them alone."""
        if not keys:
            return
        for key in [key for key in self._waiting if key in keys]:
            parts = self._waiting.pop(key)
            self._done.append(_together(parts))
            for part in parts:
                del self._needs[part.outputs[0]]
        waited, self._local = self._local, []
        for step in waited:
            needed = self._needed(step)
            if needed:
                self._local.append(step)
                self._needs |= dict.fromkeys(step.outputs, needed)
                continue
            self._done.append(step)
            for value in step.outputs:
                del self._needs[value]


def _small(step: Step) -> TypeGuard[Collective]:
    return isinstance(step, Collective) and step.kind == "all_reduce" and step.payload[1] <= SMALL


def _together(parts: list[Collective]) -> Collective:
    if len(parts) == 1:
        return parts[0]
    return Collective(
        "all_reduce",
        parts[0].axes,
        tuple(p.inputs[0] for p in parts),
        tuple(p.outputs[0] for p in parts),
        reduce=parts[0].reduce,
        scope=parts[-1].scope,
        scopes=tuple(p.scope for p in parts),
    )
