"""Passes over the steps of a plan: what nobody needs is dropped, small sums are put together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeGuard

from meshlang.layout.values import Collective, Local, Loop, PlanValue, Step
from meshlang.ops.state import Assign

#: an all_reduce up to this many bytes may share a bucket, and a bucket holds up to so many
SMALL, BUCKET = 1 << 20, 32 << 20


def drop_unused(steps: list[Step], results: Iterable[PlanValue]) -> list[Step]:
    """Keep the steps whose results are needed; loops lose stacks and sums that nobody reads."""
    needed, kept = set(results), []
    for step in reversed(steps):
        if isinstance(step, Loop):
            if not any(v in needed for v in step.outputs):
                continue
            step = _pruned(step, needed)
        elif not any(v in needed for v in step.outputs) and not _assigns(step):
            continue
        needed.update(step.inputs)
        kept.append(step)
    return kept[::-1]


def _assigns(step: Step) -> bool:
    return isinstance(step, Local) and isinstance(step.op, Assign)


def _pruned(loop: Loop, needed: set[PlanValue]) -> Loop:
    """Carries stay; of the other results those that are read, and of the operands likewise."""
    n, m = len(loop.carry), len(loop.carry) + len(loop.ys)
    ys = [(y, o) for y, o in zip(loop.ys, loop.outputs[n:m], strict=True) if o in needed]
    sums = [(s, o) for s, o in zip(loop.sums, loop.outputs[m:], strict=True) if o in needed]
    ends = [*loop.carry_out, *(y for y, _ in ys), *(s for s, _ in sums)]
    steps = drop_unused(loop.steps, ends)
    read = {v for step in steps for v in step.inputs} | set(ends)
    places = [*loop.carry, *loop.xs, *loop.fixed]
    keep = [v in read or i < n for i, v in enumerate(places)]
    k = n + len(loop.xs)
    return Loop(
        op=loop.op,
        inputs=tuple(v for v, k in zip(loop.inputs, keep, strict=True) if k),
        outputs=(*loop.outputs[:n], *(o for _, o in ys), *(o for _, o in sums)),
        steps=steps,
        trip=loop.trip,
        carry=loop.carry,
        xs=[v for v, u in zip(loop.xs, keep[n:k], strict=True) if u],
        fixed=[v for v, u in zip(loop.fixed, keep[k:], strict=True) if u],
        carry_out=loop.carry_out,
        ys=[y for y, _ in ys],
        sums=[s for s, _ in sums],
        scope=loop.scope,
    )


def bucket(steps: list[Step]) -> list[Step]:
    """Put small sums over the same axes into one all_reduce.

    A small sum waits until another collective or a loop needs what depends on it, its bucket is
    full, or all is done; local steps that depend on it wait with it.
    """
    buckets = _Buckets()
    for step in steps:
        if isinstance(step, Loop):
            step.steps = bucket(step.steps)
        buckets.add(step)
    return buckets.finish()


Key = tuple[tuple[str, ...], str]


class _Buckets:
    """Sums by axes and dtype, the local steps that wait for them, and what is done."""

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
        if not _small_sum(step):
            self._done.append(step)
            return
        key = (step.axes, step.inputs[0].dtype)
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


def _small_sum(step: Step) -> TypeGuard[Collective]:
    return (
        isinstance(step, Collective)
        and step.kind == "all_reduce"
        and step.reduce == "sum"
        and step.payload[1] <= SMALL
    )


def _together(parts: list[Collective]) -> Collective:
    if len(parts) == 1:
        return parts[0]
    return Collective(
        "all_reduce",
        parts[0].axes,
        tuple(p.inputs[0] for p in parts),
        tuple(p.outputs[0] for p in parts),
        scope=parts[-1].scope,
        scopes=tuple(p.scope for p in parts),
    )
