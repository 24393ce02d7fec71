"""Passes over the steps of a plan: what nobody needs is dropped, small sums are put together."""

from __future__ import annotations

from collections.abc import Iterable

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
    """Put small sums over the same axes into one all_reduce, made when its first result is read."""
    done: list[Step] = []
    waiting: dict[tuple[tuple[str, ...], str], list[Collective]] = {}
    held: dict[PlanValue, tuple[tuple[str, ...], str]] = {}

    def flush(key: tuple[tuple[str, ...], str]) -> None:
        parts = waiting.pop(key)
        for part in parts:
            del held[part.outputs[0]]
        done.append(_together(parts))

    for step in steps:
        if isinstance(step, Loop):
            step.steps = bucket(step.steps)
        for value in step.inputs:
            if value in held:
                flush(held[value])
        if _small_sum(step):
            assert isinstance(step, Collective)
            key = (step.axes, step.inputs[0].dtype)
            size = sum(p.payload[1] for p in waiting.get(key, []))
            if key in waiting and size + step.payload[1] > BUCKET:
                flush(key)
            waiting.setdefault(key, []).append(step)
            held[step.outputs[0]] = key
        else:
            done.append(step)
    for key in list(waiting):
        flush(key)
    return done


def _small_sum(step: Step) -> bool:
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
    )
