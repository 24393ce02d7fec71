"""Which collective each processor is in, and so who waits for whom when a run stands still."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Meeting:
    """A collective of a traced program.

    Attributes:
        kind: which of the five it serves.
        scope: where in the model.
        axes: of the mesh, over which its members lie.
        groups: the processors that meet: one row a group.
    """

    kind: str
    scope: str
    axes: tuple[str, ...]
    groups: tuple[tuple[int, ...], ...]

    def group(self, processor: int) -> tuple[int, ...]:
        """The members of a processor's group."""
        return next(row for row in self.groups if processor in row)


#: of each processor of a process: the number of the collective that it entered last, negative if it
#: has left it again; 0 if it entered none
States = Mapping[int, int]


def to_text(states: States) -> str:
    """As one process tells the others."""
    return json.dumps({str(p): number for p, number in states.items()})


def from_text(text: str) -> dict[int, int]:
    """What `to_text` wrote."""
    return {int(p): number for p, number in json.loads(text).items()}


def report(
    meetings: Mapping[int, Meeting],
    mine: States,
    others: Sequence[States | None],
    holders: Sequence[Sequence[int]],
) -> list[str]:
    """Who waits where, for whom, in lines.

    Args:
        meetings: collectives by number.
        mine: of this process.
        others: of every process, this one included; None of one that says nothing.
        holders: the processors of every process.
    """
    known = {p: number for states in others if states for p, number in states.items()}
    silent = [i for i, states in enumerate(others) if states is None]
    lines = [f"process {i} says nothing; it holds processors {_listed(holders[i])}" for i in silent]
    for processor, number in mine.items():
        if number <= 0 or number not in meetings:
            lines.append(f"processor {processor} waits in no collective")
            continue
        at, group = meetings[number], meetings[number].group(processor)
        late = [m for m in group if known.get(m) != number]
        lines.append(
            f"processor {processor} waits in {at.kind} of {at.scope or 'the program'} over "
            f"{'+'.join(at.axes)}, as member {group.index(processor)} of {len(group)}"
            + (f"; not there: {_late(late, group, holders)}" if late else "; all are there")
        )
    return lines


def _late(late: Sequence[int], group: Sequence[int], holders: Sequence[Sequence[int]]) -> str:
    """Members that have not come, and where they live."""
    texts = []
    for processor in late:
        process = next(i for i, held in enumerate(holders) if processor in held)
        texts.append(f"member {group.index(processor)} (processor {processor}, process {process})")
    return ", ".join(texts)


def _listed(numbers: Sequence[Any]) -> str:
    return " ".join(map(str, numbers))
