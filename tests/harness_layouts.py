"""Layouts of the harness: which there are on meshes up to eight processors, and some drawn."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import pytest
from hypothesis import strategies as st

MESHES = ("", "r:2 c:2", "all:8", "r:2 c:4", "a:2 b:2 c:2")
BACKENDS = ("simulated", "spmd")
#: what `drawn` draws with; another number is another choice of layouts for `make test`
DRAW = 2018


@dataclass(frozen=True)
class Laid:
    """A mesh, the tables, and the backend that runs it."""

    mesh: str = ""
    layout: str = ""
    backend: str = "simulated"
    params: str = ""
    slots: str = ""

    def __str__(self) -> str:
        tables = [("params", self.params), ("slots", self.slots)]
        more = "".join(f" {what}={table}" for what, table in tables if table)
        return f"{self.backend} [{self.mesh}] {self.layout}{more}"


ALONE = Laid()


def layouts(dims: str) -> tuple[Laid, ...]:
    """Ways to divide dims: each along each axis, two along two, one along several, on all meshes.

    >>> [str(laid) for laid in layouts("batch")][:3]
    ['simulated [] ', 'simulated [r:2 c:2] batch:r', 'simulated [r:2 c:2] batch:c+r']
    """
    names = dims.split()
    found = [ALONE]
    for mesh in MESHES[1:]:
        axes = [word.split(":")[0] for word in mesh.split()]
        for i in range(len(names)):
            turned = [*names[i:], *names[:i]]
            pairs = zip(turned, axes, strict=False)
            found.append(Laid(mesh, " ".join(f"{n}:{a}" for n, a in pairs)))
            if len(axes) > 1:
                others = [f"{turned[1]}:{axes[0]}"] if len(names) > 1 and len(axes) > 2 else []
                taken = axes[:0:-1] if others else axes[::-1]
                found.append(Laid(mesh, " ".join([f"{turned[0]}:{'+'.join(taken)}", *others])))
    return tuple(dict.fromkeys(found))


@st.composite
def any_layout(draw: st.DrawFn, dims: str, backends: Sequence[str] = BACKENDS) -> Laid:
    """For Hypothesis: each axis of a mesh divides one of the dims, or none; in any order."""
    mesh = draw(st.sampled_from(MESHES))
    axes = [word.split(":")[0] for word in mesh.split()]
    where: dict[str, list[str]] = {}
    for axis in draw(st.permutations(axes)):
        name = draw(st.sampled_from(["", *dims.split()]))
        if name:
            where.setdefault(name, []).append(axis)
    layout = " ".join(f"{name}:{'+'.join(axes)}" for name, axes in where.items())
    return Laid(mesh, layout, draw(st.sampled_from(backends)))


def drawn(name: str, pool: Iterable[Laid], draws: int = 4, on_devices: int = 2) -> list[Any]:
    """Parameters for pytest: layouts on both backends, all but a few of them marked slow.

    The simulated backend takes every layout, devices take so many of each mesh, since a program on
    eight of them takes far longer to build. What is drawn depends on `DRAW` and the name alone;
    meshes and backends all occur among those that are not slow.
    """
    chance = Random(f"{DRAW}/{name}")
    given = list(pool)
    by_mesh: dict[str, list[Laid]] = {}
    for laid in chance.sample(given, len(given)):
        by_mesh.setdefault(laid.mesh, []).append(laid)
    every = [
        replace(laid, backend=backend)
        for laid in given
        for backend in BACKENDS
        if backend == "simulated" or laid in by_mesh[laid.mesh][:on_devices]
    ]
    rest = list(every)
    chance.shuffle(rest)
    taken: list[Laid] = []
    while rest and len(taken) < draws:

        def often(laid: Laid) -> tuple[int, int]:
            return (
                sum(t.mesh == laid.mesh for t in taken) + (laid.mesh == ""),
                sum(t.backend == laid.backend for t in taken),
            )

        taken.append(min(rest, key=often))
        rest.remove(taken[-1])
    return [
        pytest.param(laid, id=str(laid), marks=[] if laid in taken else [pytest.mark.slow])
        for laid in every
    ]
