"""Casts of stacks that loops walk, taken out of the loops."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from meshlang.layout.values import Counter, Local, Loop, Narrow, PlanValue, Step
from meshlang.program import NARROW


def hoist_casts(steps: Sequence[Step], counter: Counter) -> list[Step]:
    """Narrow a stack once, before the loops that narrow each of its items.

    A layer's weights are read in the forward and in the backward loop, in the dtype of computation.
    A stack that a loop made is left alone: its items wait in a list, and are never joined.
    """
    found: list[Step] = []
    narrowed: dict[tuple[PlanValue, str], PlanValue] = {}
    made: set[PlanValue] = set()
    for step in steps:
        if isinstance(step, Loop):
            for i, cast in _casts(step, made):
                key = (step.given.stacks[i], cast.outputs[0].dtype)
                if key not in narrowed:
                    narrowed[key] = _narrow(key, counter)
                    found.append(Local(cast.op, key[:1], (narrowed[key],), step.scope))
                _walk_instead(step, i, narrowed[key], cast)
            made.update(step.outputs)
        found.append(step)
    return found


def _casts(loop: Loop, made: set[PlanValue]) -> list[tuple[int, Local]]:
    """The places of stacks whose items are only narrowed, each with the step that does it."""
    readers: dict[PlanValue, list[Step | None]] = {}
    for step in loop.steps:
        for v in step.inputs:
            readers.setdefault(v, []).append(step)
    for v in (*loop.carry_out, *loop.ys, *loop.sums):
        readers.setdefault(v, []).append(None)
    found = []
    for i, (stack, x) in enumerate(zip(loop.given.stacks, loop.xs, strict=True)):
        first, *more = readers.get(x, [None])
        if isinstance(first, Local) and isinstance(first.op, Narrow) and not more:
            if stack not in made and first.outputs[0].dtype in NARROW:
                found.append((i, first))
    return found


def _narrow(key: tuple[PlanValue, str], counter: Counter) -> PlanValue:
    stack, dtype = key
    return counter.value(stack.shape, dtype, stack.placement)


def _walk_instead(loop: Loop, i: int, stack: PlanValue, cast: Local) -> None:
    """Let a loop walk the narrow stack: what the cast made is then what a trip begins with."""
    at = len(loop.given.carry) + i
    loop.inputs = (*loop.inputs[:at], stack, *loop.inputs[at + 1 :])
    loop.xs = _with(loop.xs, i, cast.outputs[0])
    loop.steps = [step for step in loop.steps if step is not cast]


def _with(values: Iterable[PlanValue], i: int, value: PlanValue) -> list[PlanValue]:
    return [value if j == i else v for j, v in enumerate(values)]
