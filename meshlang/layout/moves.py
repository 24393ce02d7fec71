"""Redistribution: the cheapest way from one placement of a tensor to another.

States are placements; edges are an all_gather of the last axis of a dim, a cut by a new last axis,
an all_to_all of the last axis of one dim to the end of another, and permutes. Dijkstra over wire
bytes, ties by fewer collectives. Tensors have few dims and meshes few axes: the graph is small.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import prod

from meshlang.layout.mesh import Mesh
from meshlang.layout.values import Placement


@dataclass(frozen=True, slots=True)
class Move:
    """One edge: what is done, over which axes, at which positions.

    kind: "cut", "all_gather", "all_to_all", or "permute".
    """

    kind: str
    axes: tuple[str, ...]
    dim: int = 0
    into: int = 0
    sources: tuple[int, ...] = ()


def route(
    mesh: Mesh, sizes: tuple[int, ...], source: Placement, target: Placement
) -> tuple[Move, ...]:
    """The moves from one placement to another, cheapest in wire elements."""
    return _route(mesh, sizes, source, target)[1]


def wire(mesh: Mesh, sizes: tuple[int, ...], source: Placement, target: Placement) -> float:
    """Elements that each processor sends on that way."""
    return _route(mesh, sizes, source, target)[0]


@lru_cache(maxsize=65536)
def _route(
    mesh: Mesh, sizes: tuple[int, ...], source: Placement, target: Placement
) -> tuple[float, tuple[Move, ...]]:
    axes = sorted({a for p in (*source, *target) for a in p})
    best: dict[Placement, tuple[float, int]] = {source: (0.0, 0)}
    queue: list[tuple[float, int, int, Placement, tuple[Move, ...]]] = [(0.0, 0, 0, source, ())]
    pushed = 0
    while queue:
        cost, hops, _, at, way = heapq.heappop(queue)
        if at == target:
            return cost, _joined(way)
        if (cost, hops) > best[at]:
            continue
        for move, after in _edges(mesh, sizes, at, target, axes):
            step = _wire(mesh, sizes, at, move)
            reached = (cost + step, hops + (move.kind != "cut"))
            if after not in best or reached < best[after]:
                best[after] = reached
                pushed += 1
                heapq.heappush(queue, (*reached, pushed, after, (*way, move)))
    raise AssertionError(f"no way from {source} to {target} on {mesh}")


def _edges(
    mesh: Mesh, sizes: tuple[int, ...], at: Placement, target: Placement, axes: list[str]
) -> Iterator[tuple[Move, Placement]]:
    used = {a for p in at for a in p}
    for i, mine in enumerate(at):
        if mine:
            for k in range(1, len(mine) + 1):
                yield Move("all_gather", mine[-k:], i), _with(at, i, mine[:-k])
            for j, other in enumerate(at):
                joined = (*other, mine[-1])
                if j != i and sizes[j] % mesh.ways(joined) == 0:
                    after = _with(_with(at, i, mine[:-1]), j, joined)
                    yield Move("all_to_all", mine[-1:], j, i), after
        for axis in axes:
            longer = (*mine, axis)
            if axis not in used and sizes[i] % mesh.ways(longer) == 0:
                yield Move("cut", (axis,), i), _with(at, i, longer)
    if at != target and _same_blocks(mesh, at, target):
        yield _permute(mesh, at, target), target


def _same_blocks(mesh: Mesh, at: Placement, target: Placement) -> bool:
    """A permute keeps the sizes of blocks, and the number of copies of each."""
    ways = all(mesh.ways(a) == mesh.ways(b) for a, b in zip(at, target, strict=True))
    return ways and at != target


def _permute(mesh: Mesh, at: Placement, target: Placement) -> Move:
    """Each processor receives the block it shall have from one that has it.

    Copies are matched in order of processors, so that every block is sent by one and received by
    one processor.
    """
    axes = tuple(a for a in mesh.names if any(a in p for p in (*at, *target)))
    group = mesh.group(0, axes)
    holders: dict[tuple[int, ...], list[int]] = {}
    for rank, processor in enumerate(group):
        holders.setdefault(mesh.block(processor, at), []).append(rank)
    sources = []
    for processor in group:
        sources.append(holders[mesh.block(processor, target)].pop(0))
    return Move("permute", axes, sources=tuple(sources))


def _wire(mesh: Mesh, sizes: tuple[int, ...], at: Placement, move: Move) -> float:
    """Elements sent by one processor."""
    block = prod(s // mesh.ways(p) for s, p in zip(sizes, at, strict=True))
    ways = mesh.ways(move.axes)
    if move.kind == "all_gather":
        return block * (ways - 1)
    if move.kind == "all_to_all":
        return block * (ways - 1) / ways
    return float(block) if move.kind == "permute" else 0.0


def _joined(way: tuple[Move, ...]) -> tuple[Move, ...]:
    """Gathers of one dim that follow each other are one gather over both axes."""
    joined: list[Move] = []
    for move in way:
        last = joined[-1] if joined else None
        if last and last.kind == move.kind == "all_gather" and last.dim == move.dim:
            joined[-1] = Move("all_gather", (*move.axes, *last.axes), move.dim)
        else:
            joined.append(move)
    return tuple(joined)


def _with(at: Placement, i: int, axes: tuple[str, ...]) -> Placement:
    return (*at[:i], axes, *at[i + 1 :])
