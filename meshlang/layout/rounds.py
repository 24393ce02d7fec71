"""Who sends to whom when: pieces in the fewest rounds, in which nobody sends or receives twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from meshlang.ops.span import Run


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows of a sender's block that a receiver wants.

    Attributes:
        sender, receiver: by their numbers in the group.
        low: the first row of the sender's block.
        run: what the receiver wants them for; it has as many rows.
    """

    sender: int
    receiver: int
    low: int
    run: Run

    @property
    def size(self) -> int:
        """How many rows."""
        return self.run.size


def least(pieces: Sequence[Piece]) -> tuple[int, int]:
    """Rows and rounds that cannot be undercut: those of whoever receives or sends most."""
    rows: Counter[tuple[int, int]] = Counter()
    count: Counter[tuple[int, int]] = Counter()
    for piece in pieces:
        for side in enumerate(_ends(piece)):
            rows[side] += piece.size
            count[side] += 1
    return max(rows.values(), default=0), max(count.values(), default=0)


def rounds_of(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """Pieces in rounds: as few as the most that one member sends or receives.

    Senders and receivers are a bipartite graph, which has an edge colouring with as many colours as
    its largest degree (König, 1916). Larger pieces come first, and those of one distance, so that
    pieces of one size share a round where they can.

    >>> pieces = [Piece(0, 1, 0, Run(0, 0, 2)), Piece(0, 2, 0, Run(0, 0, 2))]
    >>> [len(sent) for sent in rounds_of(pieces)]
    [1, 1]
    """
    _, count = least(pieces)
    rounds = _Rounds(pieces, count)
    ways = 1 + max((member for piece in pieces for member in _ends(piece)), default=0)
    for i in sorted(
        range(len(pieces)),
        key=lambda i: (
            -pieces[i].size,
            (pieces[i].receiver - pieces[i].sender) % ways,
            pieces[i].sender,
        ),
    ):
        rounds.add(i)
    sent: list[list[Piece]] = [[] for _ in range(count)]
    for i, piece in enumerate(pieces):
        sent[rounds.when[i]].append(piece)
    return sent


def _ends(piece: Piece) -> tuple[int, int]:
    return piece.sender, piece.receiver


class _Rounds:
    """An edge colouring that grows by one edge at a time."""

    def __init__(self, pieces: Sequence[Piece], count: int) -> None:
        self.when: dict[int, int] = {}
        self._count = count
        self._ends = [_ends(piece) for piece in pieces]
        #: by side (sender or receiver), member and round: the piece
        self._at: tuple[dict[tuple[int, int], int], ...] = ({}, {})

    def add(self, i: int) -> None:
        """Into the first round that is free on both sides; one is made free if there is none."""
        both = self._free(i, (0, 1))
        if both is None:
            both, other = self._free(i, (0,)), self._free(i, (1,))
            assert both is not None and other is not None  # there are as many as anyone needs
            self._exchange(self._ends[i][1], both, other)
        self._put(i, both)

    def _free(self, i: int, sides: tuple[int, ...]) -> int | None:
        """The first round in which a piece's ends on these sides have nothing else."""
        at = [(self._at[side], self._ends[i][side]) for side in sides]
        rounds = range(self._count)
        return next((r for r in rounds if all((m, r) not in held for held, m in at)), None)

    def _put(self, i: int, r: int) -> None:
        self.when[i] = r
        for side in (0, 1):
            self._at[side][self._ends[i][side], r] = i

    def _exchange(self, receiver: int, one: int, other: int) -> None:
        """Swap two rounds along the path that begins at a receiver, so that `one` is free there.

        It cannot end at a sender to which `one` is free: senders are entered through `one`.
        """
        path, side, member, r = [], 1, receiver, one
        while (member, r) in self._at[side]:
            i = self._at[side][member, r]
            path.append(i)
            side = 1 - side
            member, r = self._ends[i][side], one + other - r
        for i in path:
            for each in (0, 1):
                del self._at[each][self._ends[i][each], self.when[i]]
        for i in path:
            self._put(i, one + other - self.when[i])
