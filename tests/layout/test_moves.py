"""The cheapest way between any two placements, against brute force, and that it moves the blocks.

The brute force knows nothing of how ways are searched: it looks at all pairs of placements, says
for each what one collective between them costs, and takes shortest paths over all of them.
"""

from itertools import combinations_with_replacement, pairwise, permutations
from math import inf, prod
from random import Random

import numpy as np
import pytest

import meshlang as ml
from meshlang.layout.cost import wire as wire_of
from meshlang.layout.mesh import Mesh
from meshlang.layout.moves import Move, route, sources, wire
from meshlang.layout.values import Placement

Cost = tuple[float, int]  # elements sent by a processor, collectives
FREE = (0.0, 0)


# -- brute force ----------------------------------------------------------------------------------


def placements(mesh: Mesh, sizes: tuple[int, ...]) -> list[Placement]:
    """Every way to hand axes, in order, to the dims of a tensor, that divides it evenly."""
    found = []
    for count in range(len(mesh.names) + 1):
        for axes in permutations(mesh.names, count):
            for ends in combinations_with_replacement(range(count + 1), len(sizes) - 1):
                bounds = [0, *ends, count]
                found.append(tuple(axes[a:b] for a, b in pairwise(bounds)))
    return [
        at for at in found if all(s % mesh.ways(p) == 0 for s, p in zip(sizes, at, strict=True))
    ]


def in_one(mesh: Mesh, sizes: tuple[int, ...], at: Placement, to: Placement) -> Cost:
    """What it costs with at most one collective, infinite where one does not do."""
    block = prod(s // mesh.ways(p) for s, p in zip(sizes, at, strict=True))
    changed = [i for i, (a, b) in enumerate(zip(at, to, strict=True)) if a != b]
    costs = [(inf, 1)]
    if not changed or all(to[i][: len(at[i])] == at[i] for i in changed):
        return FREE  # nothing to do, or each processor keeps a piece of what it has
    if [mesh.ways(p) for p in at] == [mesh.ways(p) for p in to]:
        costs.append((float(block), 1))
    if len(changed) == 1:
        old, new = at[changed[0]], to[changed[0]]
        if old[: len(new)] == new:
            group = mesh.ways(old[len(new) :])
            costs.append((wire_of("all_gather", block * group, group), 1))
    if len(changed) == 2:
        for i, j in (changed, changed[::-1]):
            moved = at[i][len(to[i]) :]
            if at[i] == (*to[i], *moved) and to[j] == (*at[j], *moved):
                costs.append((wire_of("all_to_all", block, mesh.ways(moved)), 1))
    return min(costs)


def shortest(mesh: Mesh, sizes: tuple[int, ...]) -> dict[tuple[Placement, Placement], Cost]:
    """Floyd and Warshall over all placements."""
    states = placements(mesh, sizes)
    sent = np.array([[in_one(mesh, sizes, a, b)[0] for b in states] for a in states])
    runs = np.array([[in_one(mesh, sizes, a, b)[1] for b in states] for a in states])
    # Elements are whole numbers, so a hop as a small part of one breaks ties by collectives.
    hop = 1 / 64
    total = sent + hop * runs
    for k in range(len(states)):
        total = np.minimum(total, total[:, k : k + 1] + total[k : k + 1])
    found = {}
    for i, a in enumerate(states):
        for j, b in enumerate(states):
            found[a, b] = (float(np.floor(total[i, j])), round(float(total[i, j] % 1 / hop)))
    return found


CASES = [
    ("a:2", (4,)),
    ("a:2", (4, 2, 6)),
    ("a:2 b:2", (8,)),
    ("a:2 b:2", (4, 8)),
    ("a:2 b:2", (4, 6, 2)),
    ("a:2 b:3", (6, 12)),
    ("a:2 b:4", (8, 8)),
    ("a:2 b:2 c:2", (16,)),
    ("a:2 b:2 c:2", (8, 8)),
    ("a:2 b:2 c:2", (8, 2, 4)),
]


@pytest.mark.parametrize(("text", "sizes"), CASES)
def test_ways_are_the_cheapest(text: str, sizes: tuple[int, ...]):
    mesh = Mesh.parse(text)
    for (at, to), (sent, runs) in shortest(mesh, sizes).items():
        way = route(mesh, sizes, at, to)
        assert wire(mesh, sizes, at, to) == sent, f"{at} to {to}: {way}"
        assert sum(move.kind != "cut" for move in way) == runs, f"{at} to {to}: {way}"


# -- single moves ---------------------------------------------------------------------------------

GOLDEN = [
    ("cut by two axes", "a:2 b:2", (8,), ((),), (("a", "b"),), [Move("cut", ("a", "b"))]),
    (
        "gather the inner axis",
        "a:2 b:2",
        (8,),
        (("a", "b"),),
        (("a",),),
        [Move("all_gather", ("b",))],
    ),
    (
        "gather both at once",
        "a:2 b:2",
        (8,),
        (("a", "b"),),
        ((),),
        [Move("all_gather", ("a", "b"))],
    ),
    (
        "gather the outer axis",
        "a:2 b:2",
        (8,),
        (("a", "b"),),
        (("b",),),
        [Move("permute", (), to=(("b", "a"),)), Move("all_gather", ("a",))],
    ),
    (
        "from one dim to another",
        "a:2",
        (4, 4),
        (("a",), ()),
        ((), ("a",)),
        [Move("all_to_all", ("a",), dim=1, into=0)],
    ),
    (
        "two axes at once",
        "a:2 b:2",
        (8, 8),
        (("a", "b"), ()),
        ((), ("a", "b")),
        [Move("all_to_all", ("a", "b"), dim=1, into=0)],
    ),
    ("another axis", "a:2 b:2", (4,), (("a",),), (("b",),), [Move("permute", (), to=(("b",),))]),
    (
        "cut before anything is sent",
        "a:2 b:2",
        (4, 4),
        (("a",), ()),
        ((), ("b",)),
        [Move("cut", ("b",), dim=1), Move("all_gather", ("a",))],
    ),
]


@pytest.mark.parametrize(("what", "mesh", "sizes", "at", "to", "moves"), GOLDEN)
def test_a_way(what: str, mesh: str, sizes: tuple[int, ...], at, to, moves: list[Move]):
    assert list(route(Mesh.parse(mesh), sizes, at, to)) == moves


def test_a_permute_receives_from_itself_where_it_can():
    mesh = Mesh.parse("a:2 b:2")
    axes, members = sources(mesh, (("a",), ()), (("b",), ()))
    assert (axes, members) == (("a", "b"), (0, 2, 1, 3))


@pytest.mark.parametrize(("text", "sizes"), CASES)
def test_a_permute_sends_each_block_once(text: str, sizes: tuple[int, ...]):
    mesh = Mesh.parse(text)
    states = placements(mesh, sizes)
    drawn = Random(text).sample([(a, b) for a in states for b in states], min(200, len(states)))
    for at, to in drawn:
        if [mesh.ways(p) for p in at] != [mesh.ways(p) for p in to]:
            continue
        axes, members = sources(mesh, at, to)
        assert sorted(members) == list(range(mesh.ways(axes)))
        for rank, processor in enumerate(mesh.group(0, axes)):
            sender = mesh.group(0, axes)[members[rank]]
            assert mesh.block(sender, at) == mesh.block(processor, to)


# -- what is moved --------------------------------------------------------------------------------


def entry(name: str, axes: tuple[str, ...]) -> list[str]:
    return [f"{name}:{'+'.join(axes)}"] if axes else []


def moved(text: str, sizes: tuple[int, ...], count: int, backend: str) -> None:
    """Rename tensors to names that lie elsewhere, drawn pairs of placements in one program."""
    mesh, random = Mesh.parse(text), Random(f"{text} {sizes}")
    states = placements(mesh, sizes)
    pairs = [(random.choice(states), random.choice(states)) for _ in range(count)]
    layout: list[str] = []
    arrays = {}
    for n, (at, to) in enumerate(pairs):
        for i in range(len(sizes)):
            layout += entry(f"from{n}_{i}", at[i]) + entry(f"to{n}_{i}", to[i])
        dims = " ".join(f"from{n}_{i}" for i in range(len(sizes)))
        values = np.arange(prod(sizes), dtype=np.float32).reshape(sizes) + 1000 * n
        arrays[f"x{n}"] = ml.constant(values, dims)

    def renamed(**xs: ml.Tensor) -> dict[str, ml.Tensor]:
        return {
            name: x.rename(**{d.name: d.name.replace("from", "to") for d in x.shape})
            for name, x in xs.items()
        }

    found = ml.run(renamed, text, " ".join(layout), backend=backend, **arrays)
    for n, (at, to) in enumerate(pairs):
        np.testing.assert_array_equal(found[f"x{n}"], arrays[f"x{n}"].numpy(), f"{at} to {to}")


@pytest.mark.parametrize(("text", "sizes"), CASES)
def test_blocks_arrive(text: str, sizes: tuple[int, ...]):
    moved(text, sizes, 16, "simulated")


@pytest.mark.parametrize(("text", "sizes"), [("a:2 b:4", (8, 8)), ("a:2 b:2 c:2", (8, 2, 4))])
def test_blocks_arrive_between_devices(text: str, sizes: tuple[int, ...]):
    moved(text, sizes, 8, "spmd")
