"""Re-blocking: blocks that hold other indices of a divided dim, sent for only where they lack.

Each processor's new block is a row of runs of old indices. What its own old block holds is taken
from there; the rest comes from the processors that hold it, in rounds of permutes, in each of which
all send as many rows as the largest piece of that round has. Where gathering the dim costs fewer
bytes, or as many in fewer collectives, it is gathered. The transpose, for gradients, sends the same
rows back and adds them up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING

from meshlang.dims import Dim
from meshlang.layout.rounds import Piece, least, rounds_of
from meshlang.layout.values import Local, PlanValue, Reshape
from meshlang.ops.span import FILL, Run, Runs, joined
from meshlang.program import Op

if TYPE_CHECKING:
    from meshlang.layout.builder import Builder

Axes = tuple[str, ...]
Layer = tuple[Runs, ...]  # for each processor along some axes a row of runs


@dataclass(frozen=True)
class Rows(Op):
    """The rows that a processor sends: `size` of them along dim `at`, from its own start on."""

    at: int
    starts: tuple[int, ...]
    size: int
    axes: Axes

    @property
    def detail(self) -> str:
        return f"{self.size}"


@dataclass(frozen=True)
class Assemble(Op):
    """A block put together from pieces.

    Attributes:
        op: what is done by this alone; None if this is a part of it.
        at: the position of the dim.
        layers: what is added up; in each, for every processor along `axes`, a row of runs.
        fill: what stands where no operand does.
        axes: along which processors differ.
    """

    op: Op | None
    at: int
    layers: tuple[Layer, ...]
    fill: float
    axes: Axes

    @property
    def label(self) -> str:
        return self.op.label if self.op else "assemble"

    @property
    def detail(self) -> str:
        return self.op.detail if self.op else ""


@dataclass(frozen=True)
class Pieces:
    """What the processors hold after sending, to be put together.

    Attributes:
        values: an own block, or what came in one round.
        given: for each value, the processors that something came to; None for an own block.
    """

    values: list[PlanValue]
    given: list[set[int] | None]

    def add(self, value: PlanValue, given: set[int] | None = None) -> int:
        """Keep one more; its number."""
        self.values.append(value)
        self.given.append(given)
        return len(self.values) - 1


def taken(
    b: Builder,
    op: Op | None,
    xs: Sequence[PlanValue],
    at: int,
    layer: Layer,
    out: PlanValue,
    fill: float,
) -> PlanValue:
    """A result put together from rows of the operands.

    Args:
        b: the builder.
        op: what is done by this alone.
        xs: operands, whose dims lie alike apart from the one at position `at`.
        at: the position of the dim.
        layer: for each processor along the result's dim a row of runs of the operands.
        out: the result.
        fill: what stands where no operand does.
    """
    axes = out.placement[at]
    pieces = Pieces([], [])
    first = {FILL: FILL} | {k: xs.index(x) for k, x in enumerate(xs)}  # equal ones are fetched once
    made = [[replace(run, operand=first[run.operand]) for run in runs] for runs in layer]
    for k, x in enumerate(xs):
        if first[k] != k:
            continue
        if x.placement[at] not in ((), axes):
            x = b.gather(x, x.shape[at].name)
        made = _fetched(b, x, k, at, made, pieces)
    rows = tuple(joined(_own_numbers(runs)) for runs in made)
    if fill == 0:
        rows = _alike(rows, pieces)
    return _assembled(b, Assemble(op, at, (rows,), fill, axes), pieces, out)


def returned(b: Builder, x: PlanValue, at: int, layer: Layer, out: PlanValue) -> PlanValue:
    """The transpose of `taken` from one operand: rows go back to where they came from, and add up.

    Args:
        b: the builder.
        x: the rows that stand in `layer`, in blocks.
        at: the position of the dim.
        layer: for each processor along x's dim the row of runs.
        out: the result, whose dim lies along the same axes.
    """
    axes = x.placement[at]
    sent: list[Piece] = []
    own: list[list[tuple[int, Run]]] = [[] for _ in layer]
    for member, runs in enumerate(layer):
        place = 0
        for run in runs:
            begin = place
            for owner, part in _split(run, out.block[at]) if run.operand != FILL else ():
                if owner == member:
                    own[member].append((begin, part))
                else:
                    sent.append(Piece(member, owner, begin, part))
                begin += part.size
            place += run.size
    ways, n = len(layer), out.block[at]
    rounds = _rounds(sent, n, ways)
    if rounds is None:
        return _scattered(b, x, at, layer, out)
    pieces = Pieces([], [])
    mine = pieces.add(x)
    layers = [
        tuple(_placed(mine, n, parts[i : i + 1]) for parts in own)
        for i in range(max(map(len, own)))
    ]
    for parts in rounds:
        number, starts = _sent(b, x, at, parts, pieces)
        by_receiver = {p.receiver: p for p in parts}
        layers.append(
            tuple(
                _placed(number, n, [(p.low - starts[p.sender], p.run)] if p else [])
                for p in map(by_receiver.get, range(ways))
            )
        )
    return _assembled(b, Assemble(None, at, tuple(layers), 0, axes), pieces, out)


# -- sending -------------------------------------------------------------------------------------


def _fetched(
    b: Builder, x: PlanValue, k: int, at: int, layer: list[list[Run]], pieces: Pieces
) -> list[list[Run]]:
    """The rows of runs with those of operand k as runs of pieces, which have negative numbers."""
    n, ways = x.block[at], len(layer)
    whole = not x.placement[at]
    parts = [
        [(i, *found) for i, run in enumerate(runs) if run.operand == k for found in _split(run, n)]
        for runs in layer
    ]
    wanted = [
        Piece(owner, member, min(run.start, run.start + run.step * (run.size - 1)), run)
        for member, found in enumerate(parts)
        for _, owner, run in found
        if owner != member and not whole
    ]
    rounds = _rounds(wanted, n, ways)
    if rounds is None:
        x, whole, rounds = b.gather(x, x.shape[at].name), True, []
    mine = pieces.add(x)
    came: dict[int, tuple[int, int]] = {}  # by the identity of a run: equal ones may differ
    for sent in rounds:
        number, starts = _sent(b, x, at, sent, pieces)
        came |= {id(p.run): (number, starts[p.sender]) for p in sent}
    made = []
    for runs, found in zip(layer, parts, strict=True):
        row: list[Run] = []
        for i, run in enumerate(runs):
            if run.operand != k:
                row.append(run)
            elif whole:
                row.append(_numbered(run, mine, 0))
            else:
                row += [_numbered(p, *came.get(id(p), (mine, 0))) for j, _, p in found if j == i]
        made.append(row)
    return made


def _split(run: Run, n: int) -> list[tuple[int, Run]]:
    """A run by the blocks of size n that it comes from: the block, and the run within it."""
    found, done = [], 0
    while done < run.size:
        owner, first = divmod(run.start + run.step * done, n)
        size = min(n - first if run.step > 0 else first + 1, run.size - done)
        found.append((owner, Run(run.operand, first, size, run.step)))
        done += size
    return found


def _rounds(pieces: Sequence[Piece], n: int, ways: int) -> list[list[Piece]] | None:
    """What is sent in which round; None if gathering sends fewer rows, or as many in one go."""
    gathered = (ways - 1) * n, 1
    if gathered < least(pieces):
        return None
    rounds = rounds_of(pieces)
    rows = sum(max(piece.size for piece in sent) for sent in rounds)
    return None if gathered < (rows, len(rounds)) else rounds


def _sent(
    b: Builder, x: PlanValue, at: int, sent: Sequence[Piece], pieces: Pieces
) -> tuple[int, tuple[int, ...]]:
    """One round: the number of what came, and where the rows of each sender begin."""
    axes, n = x.placement[at], x.block[at]
    ways = b.tables.mesh.ways(axes)
    size = max(piece.size for piece in sent)
    starts, sources = [0] * ways, [-1] * ways
    for piece in sent:
        starts[piece.sender] = min(piece.low, n - size)
        sources[piece.receiver] = piece.sender
    if size < n:
        rows = x.shape.swap(x.shape[at], Dim(f"{x.shape[at].name}.rows", size * ways))
        some = b.counter.value(rows, x.dtype, x.placement, x.pending)
        b.steps.append(Local(Rows(at, tuple(starts), size, axes), (x,), (some,), b.scope))
        x = some
    came = b.permute(x, axes, sources)
    return pieces.add(came, {piece.receiver for piece in sent}), tuple(starts)


def _scattered(b: Builder, x: PlanValue, at: int, layer: Layer, out: PlanValue) -> PlanValue:
    """All rows at their places of the whole dim on each processor, then a reduce_scatter."""
    size, axes = out.shape[at].size, x.placement[at]
    found: list[list[tuple[int, Run]]] = []
    for runs in layer:
        places = accumulate((run.size for run in runs), initial=0)
        found.append([(p, r) for p, r in zip(places, runs, strict=False) if r.operand != FILL])
    layers = [
        tuple(_placed(0, size, parts[i : i + 1]) for parts in found)
        for i in range(max(map(len, found)))
    ]
    whole = (*x.placement[:at], (), *x.placement[at + 1 :])
    made = b.counter.value(out.shape, x.dtype, whole, (*x.pending, *axes))
    b.steps.append(Local(Assemble(None, at, tuple(layers), 0, axes), (x,), (made,), b.scope))
    return b.move_to(made, out.shape, out.placement)


# -- putting together ----------------------------------------------------------------------------


def _numbered(run: Run, piece: int, start: int) -> Run:
    """A run of a piece, which begins at row `start` of the block it was cut from.

    Numbers of pieces are kept apart from those of operands until all operands are fetched.
    """
    return Run(-2 - piece, run.start - start, run.size, run.step)


def _own_numbers(runs: Sequence[Run]) -> list[Run]:
    return [r if r.operand == FILL else replace(r, operand=-2 - r.operand) for r in runs]


def _placed(piece: int, size: int, parts: Sequence[tuple[int, Run]]) -> Runs:
    """One part of a piece, which begins at some row of it, at its place among fills."""
    if not parts:
        return (Run(FILL, 0, size),)
    ((row, run),) = parts
    after = size - run.start - run.size
    return joined([Run(FILL, 0, run.start), Run(piece, row, run.size), Run(FILL, 0, after)])


def _alike(layer: Layer, pieces: Pieces) -> Layer:
    """The same rows of runs on as many processors as may be, for then nothing need be looked up.

    A processor to which nothing came in a round has zeros there, which are as good as a fill.
    """
    model = max(layer, key=lambda runs: sum(run.size for run in runs if run.operand != FILL))
    return tuple(
        model if _is_like(runs, model, i, pieces) else runs for i, runs in enumerate(layer)
    )


def _is_like(runs: Runs, model: Runs, member: int, pieces: Pieces) -> bool:
    """Whether the model becomes a processor's runs when what it was not given is fills."""
    found = []
    for run in model:
        given = pieces.given[run.operand] if run.operand != FILL else None
        is_zero = given is not None and member not in given
        found.append(Run(FILL, 0, run.size) if is_zero else run)
    return joined(found) == runs


def _assembled(b: Builder, op: Assemble, pieces: Pieces, out: PlanValue) -> PlanValue:
    """The step that puts the pieces together; none where the result is one piece as it is."""
    rows = [runs for layer in op.layers for runs in layer]
    used = sorted({run.operand for runs in rows for run in runs if run.operand != FILL})
    values = [pieces.values[i] for i in used]
    as_it_is = len(used) == 1 and set(rows) == {(Run(used[0], 0, out.block[op.at]),)}
    if as_it_is and len(op.layers) == 1 and values[0].block == out.block:
        if values[0].shape == out.shape:
            return values[0]
        b.steps.append(Local(Reshape(), (values[0],), (out,), b.scope))
        return out
    number = {piece: i for i, piece in enumerate(used)} | {FILL: FILL}
    layers = tuple(
        tuple(tuple(replace(r, operand=number[r.operand]) for r in runs) for runs in layer)
        for layer in op.layers
    )
    b.steps.append(Local(replace(op, layers=layers), tuple(values), (out,), b.scope))
    return out
