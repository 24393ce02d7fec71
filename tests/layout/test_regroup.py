"""Merging and splitting dims: when it moves nothing, and that it is right when it does."""

from collections.abc import Iterator
from itertools import permutations
from math import prod
from random import Random

import numpy as np
import pytest

import meshlang as ml
from meshlang.layout.cost import transfers
from meshlang.layout.mesh import Mesh

Axes = tuple[str, ...]


def lists(mesh: Mesh) -> list[Axes]:
    """All ordered sets of axes."""
    return [axes for n in range(len(mesh.names) + 1) for axes in permutations(mesh.names, n)]


def entry(name: str, axes: Axes) -> str:
    return f"{name}:{'+'.join(axes)} " if axes else ""


def sizes_divide(mesh: Mesh, *pairs: tuple[int, Axes]) -> bool:
    return all(size % mesh.ways(axes) == 0 for size, axes in pairs)


def cases(mesh: Mesh, outer: int, inner: int) -> Iterator[tuple[Axes, Axes, Axes]]:
    """Where o, i and t may lie, for o and i merged to t or t split into them."""
    for o in lists(mesh):
        for i in lists(mesh):
            for t in lists(mesh):
                legal = sizes_divide(mesh, (outer, o), (inner, i), (outer * inner, t))
                if legal and not set(o) & set(i):
                    yield o, i, t


def merge_is_local(mesh: Mesh, outer: int, o: Axes, i: Axes, t: Axes) -> bool:
    """A_t = A_o + E + A_i + F, with A_i empty or |A_o + E| = size(o); E and F are free cuts."""
    if t[: len(o)] != o:
        return False
    if not i:
        return True
    starts = (k for k in range(len(o), len(t)) if t[k : k + len(i)] == i)
    return any(mesh.ways(t[:k]) == outer for k in starts)


def split_is_local(mesh: Mesh, outer: int, o: Axes, i: Axes, t: Axes) -> bool:
    """A_t is a prefix of A_o, or A_t = A_o + a prefix of A_i with |A_o| = size(o)."""
    if o[: len(t)] == t:
        return True
    rest = t[len(o) :]
    return t[: len(o)] == o and mesh.ways(o) == outer and i[: len(rest)] == rest


MESHES = ["a:2 b:2", "a:4 b:2", "a:2 b:3", "a:2 b:2 c:2"]


@pytest.mark.parametrize("text", MESHES)
@pytest.mark.parametrize(("outer", "inner"), [(4, 12), (2, 8), (12, 4)])
def test_when_merging_moves_nothing(text: str, outer: int, inner: int):
    mesh = Mesh.parse(text)
    program = ml.trace(lambda x: ml.merge(x, t="o i"), x=ml.spec(f"o:{outer} i:{inner}"))
    for o, i, t in cases(mesh, outer, inner):
        layout = entry("o", o) + entry("i", i) + entry("t", t)
        free = not list(transfers(ml.plan(program, mesh, layout)))
        assert free == merge_is_local(mesh, outer, o, i, t), layout


@pytest.mark.parametrize("text", MESHES)
@pytest.mark.parametrize(("outer", "inner"), [(4, 12), (2, 8), (12, 4)])
def test_when_splitting_moves_nothing(text: str, outer: int, inner: int):
    mesh = Mesh.parse(text)
    spec = ml.spec(f"t:{outer * inner}")
    program = ml.trace(lambda x: ml.split(x, t=f"o:{outer} i"), x=spec)
    for o, i, t in cases(mesh, outer, inner):
        layout = entry("o", o) + entry("i", i) + entry("t", t)
        free = not list(transfers(ml.plan(program, mesh, layout)))
        assert free == split_is_local(mesh, outer, o, i, t), layout


# -- what comes out -------------------------------------------------------------------------------

PATTERNS = [
    ("o:4 i:8", "o i -> t"),
    ("t:32", "t -> o:4 i"),
    ("o:4 i:8", "o i -> p:8 q"),
    ("o:4 k:3 i:8", "o i -> t"),
    ("o:2 m:4 i:4", "o m i -> p:8 q"),
    ("i:8 o:4", "o i -> t:16 u"),
]


def drawn_layout(random: Random, mesh: Mesh, dims: dict[str, int]) -> str:
    """Axes for the dims of one tensor, no axis twice."""
    free = list(mesh.names)
    random.shuffle(free)
    text = ""
    for name, size in dims.items():
        count = random.randint(0, len(free))
        axes = tuple(free[:count])
        if size % mesh.ways(axes) == 0:
            text += entry(name, axes)
            free = free[count:]
    return text


def regrouped(text: str, shape: str, pattern: str, count: int, backend: str) -> None:
    """The pattern under drawn layouts, in one program with names of their own for each."""
    mesh, random = Mesh.parse(text), Random(f"{text} {shape} {pattern}")
    before = ml.Shape.parse(shape)
    after = ml.trace(lambda x: ml.regroup(x, pattern), x=ml.spec(before)).outputs[0].shape
    layout, arrays, patterns = "", {}, {}
    for n in range(count):
        mine = [(f"{d.name}{n}", d.size) for d in before]
        made = [(f"{d.name}{n}", d.size) for d in after if d not in before]
        layout += drawn_layout(random, mesh, dict(mine))
        layout += drawn_layout(random, mesh, dict(made))
        values = np.arange(before.size, dtype=np.float32).reshape(before.sizes) + 1000 * n
        arrays[f"x{n}"] = ml.constant(values, " ".join(name for name, _ in mine))
        left, right = (
            " ".join(word.replace(":", f"{n}:") if ":" in word else f"{word}{n}" for word in words)
            for words in (half.split() for half in pattern.split("->"))
        )
        patterns[f"x{n}"] = f"{left} -> {right}"

    def fn(**xs: ml.Tensor) -> dict[str, ml.Tensor]:
        return {name: ml.regroup(x, patterns[name]) for name, x in xs.items()}

    whole = ml.run(fn, "", "", backend="simulated", **arrays)
    found = ml.run(fn, text, layout, backend=backend, **arrays)
    for name, values in whole.items():
        np.testing.assert_array_equal(found[name], values, f"{patterns[name]} under {layout}")


@pytest.mark.parametrize(("shape", "pattern"), PATTERNS)
@pytest.mark.parametrize("text", ["a:2 b:2", "a:2 b:2 c:2"])
def test_blocks_are_right(text: str, shape: str, pattern: str):
    regrouped(text, shape, pattern, 12, "simulated")


def test_blocks_are_right_between_devices():
    regrouped("a:2 b:2 c:2", "o:4 k:3 i:8", "o i -> p:8 q", 8, "spmd")


def test_one_processor_does_what_numpy_does():
    x = np.arange(32).reshape(4, 8)
    found = ml.regroup(ml.constant(x, "o i"), "o i -> p:8 q")
    np.testing.assert_array_equal(found.numpy(), x.reshape(8, 4))
    assert prod(found.shape.sizes) == x.size
