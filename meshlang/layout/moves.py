"""Redistribution: the cheapest way from one placement of a tensor to another.

States are placements; edges are an all_gather of the last axes of a dim, a cut by a new last axis,
an all_to_all of the last axes of one dim to the end of another, and a permute to any placement
whose blocks have the same sizes. Dijkstra over wire elements, ties by fewer collectives. Tensors
have few dims and meshes few axes: the graph is small.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations_with_replacement, permutations
from math import prod

from meshlang.layout.mesh import Mesh
from meshlang.layout.values import Placement


@dataclass(frozen=True, slots=True)
class Move:
    """One edge: what is done, over which axes, at which positions.

    kind: "cut", "all_gather", "all_to_all", or "permute" (which has the whole placement `to`).
    """

    kind: str
    axes: tuple[str, ...]
    dim: int = 0
    into: int = 0
    to: Placement = ()


#: axes that lie neither here nor there may help: all are tried on meshes of up to so many
MOST_AXES = 3


def route(
    mesh: Mesh,
    sizes: tuple[int, ...],
    source: Placement,
    target: Placement,
    pending: tuple[str, ...] = (),
) -> tuple[Move, ...]:
    """The moves from one placement to another, cheapest in wire elements, ties in collectives.

    Args:
        mesh: the processors.
        sizes: of the whole tensor.
        source: the axes of each dim now.
        target: the axes of each dim after, of which none is pending.
        pending: axes over which a sum is pending, along which nothing may be cut.
    """
    if source == target:  # as it always is of a scalar
        return ()
    at, way = target, []
    tree = _tree(mesh, sizes, source, _axes(mesh, source, target, pending))
    while at != source:
        _, move, at = tree[at]
        way.append(move)
    return _joined(way[::-1])


def wire(
    mesh: Mesh,
    sizes: tuple[int, ...],
    source: Placement,
    target: Placement,
    taken: tuple[str, ...] = (),
) -> int:
    """Elements that each processor sends on that way, if it may not cut along `taken` axes."""
    return _tree(mesh, sizes, source, _axes(mesh, source, target, taken))[target][0][0]


def _axes(
    mesh: Mesh, source: Placement, target: Placement, taken: tuple[str, ...]
) -> tuple[str, ...]:
    """The axes that a way may use."""
    if len(mesh.names) <= MOST_AXES:
        return tuple(a for a in mesh.names if mesh[a] > 1 and a not in taken)
    return tuple(a for a in mesh.names if any(a in p for p in (*source, *target)))


@lru_cache(maxsize=4096)
def _tree(
    mesh: Mesh, sizes: tuple[int, ...], source: Placement, axes: tuple[str, ...]
) -> dict[Placement, tuple[tuple[int, int], Move, Placement]]:
    """For each placement: wire elements and collectives to there, the last move, and from where."""
    alike = _alike(mesh, sizes, axes)
    tree = {source: ((0, 0), Move("cut", ()), source)}
    queue: list[tuple[tuple[int, int], int, Placement]] = [((0, 0), 0, source)]
    while queue:
        cost, _, at = heapq.heappop(queue)
        if cost > tree[at][0]:
            continue
        for move, after in _edges(mesh, sizes, at, axes, alike[_ways(mesh, at)]):
            sent = cost[0] + _wire(mesh, sizes, at, move)
            reached = (sent, cost[1] + (move.kind != "cut"))
            if after not in tree or reached < tree[after][0]:
                tree[after] = (reached, move, at)
                heapq.heappush(queue, (reached, len(tree), after))
    return tree


def _ways(mesh: Mesh, at: Placement) -> tuple[int, ...]:
    return tuple(map(mesh.ways, at))


@lru_cache(maxsize=4096)
def _alike(
    mesh: Mesh, sizes: tuple[int, ...], axes: tuple[str, ...]
) -> dict[tuple[int, ...], list[Placement]]:
    """All placements of a tensor over some axes, by the number of blocks along each dim."""
    found: dict[tuple[int, ...], list[Placement]] = {}
    for count in range(len(axes) + 1):
        for some in permutations(axes, count):
            for ends in combinations_with_replacement(range(count + 1), len(sizes) - 1):
                cuts = zip((0, *ends), (*ends, count), strict=True)
                at = tuple(some[a:b] for a, b in cuts)
                ways = _ways(mesh, at)
                if not any(s % w for s, w in zip(sizes, ways, strict=True)):
                    found.setdefault(ways, []).append(at)
    return found


def _edges(
    mesh: Mesh,
    sizes: tuple[int, ...],
    at: Placement,
    axes: tuple[str, ...],
    alike: list[Placement],
) -> Iterator[tuple[Move, Placement]]:
    used = {a for p in at for a in p}
    for i, mine in enumerate(at):
        for k in range(1, len(mine) + 1):
            rest, last = mine[:-k], mine[-k:]
            yield Move("all_gather", last, i), _with(at, i, rest)
            for j, other in enumerate(at):
                if j != i and sizes[j] % mesh.ways((*other, *last)) == 0:
                    after = _with(_with(at, i, rest), j, (*other, *last))
                    yield Move("all_to_all", last, j, i), after
        for axis in axes:
            longer = (*mine, axis)
            if axis not in used and sizes[i] % mesh.ways(longer) == 0:
                yield Move("cut", (axis,), i), _with(at, i, longer)
    for after in alike:
        if after != at:
            yield Move("permute", (), to=after), after


def sources(mesh: Mesh, at: Placement, to: Placement) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """For a permute: its axes, and from which member each member of a group receives.

    Each processor receives the block it shall have from one that has it: itself, or the others in
    order, so that every block is sent by one and received by one processor.

    >>> sources(Mesh.parse("a:2 b:2"), (("a",),), (("b",),))
    (('a', 'b'), (0, 2, 1, 3))
    """
    axes = tuple(a for a in mesh.names if any(a in p for p in (*at, *to)))
    group = mesh.group(0, axes)
    has, wants = ([mesh.block(p, placement) for p in group] for placement in (at, to))
    holders: dict[tuple[int, ...], list[int]] = {}
    for rank, block in enumerate(has):
        if block != wants[rank]:
            holders.setdefault(block, []).append(rank)
    pairs = enumerate(zip(has, wants, strict=True))
    return axes, tuple(r if have == want else holders[want].pop(0) for r, (have, want) in pairs)


def _wire(mesh: Mesh, sizes: tuple[int, ...], at: Placement, move: Move) -> int:
    """Elements sent by one processor."""
    block = prod(s // mesh.ways(p) for s, p in zip(sizes, at, strict=True))
    ways = mesh.ways(move.axes)
    if move.kind == "all_gather":
        return block * (ways - 1)
    if move.kind == "all_to_all":
        return block // ways * (ways - 1)
    return block if move.kind == "permute" else 0


def _joined(way: Sequence[Move]) -> tuple[Move, ...]:
    """Cuts of one dim that follow each other are one cut by all axes."""
    joined: list[Move] = []
    for move in way:
        last = joined[-1] if joined else None
        if last and last.kind == move.kind == "cut" and last.dim == move.dim:
            joined[-1] = Move("cut", (*last.axes, *move.axes), move.dim)
        else:
            joined.append(move)
    return tuple(joined)


def _with(at: Placement, i: int, axes: tuple[str, ...]) -> Placement:
    return (*at[:i], axes, *at[i + 1 :])
