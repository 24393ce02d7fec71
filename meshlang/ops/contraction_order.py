"""In which order to contract several tensors: with the fewest multiplications."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from math import prod

from meshlang.dims import Dim, Shape

#: up to so many tensors all orders are compared; of more, the cheapest pair is contracted first
EXHAUSTIVE = 8


def cheapest_pair(shapes: Sequence[Shape], out: Shape) -> tuple[int, int]:
    """The two tensors to contract first.

    Args:
        shapes: of two tensors or more.
        out: the dims of the result of all.

    >>> a, b, c = (Shape.parse(s) for s in ("i:9 j:2", "j:2 k:9", "k:9 l:2"))
    >>> cheapest_pair([a, b, c], Shape.parse("i:9 l:2"))  # not the first two: they make i k
    (1, 2)
    """
    n = len(shapes)
    if n > EXHAUSTIVE:
        pairs = combinations(range(n), 2)
        return min(pairs, key=lambda pair: (_work(shapes[i] for i in pair), pair[::-1]))
    kept = _kept(shapes, out)
    #: by the set of tensors that are contracted into one: the multiplications, and the first pair
    best: dict[int, tuple[int, tuple[int, int] | None]] = {1 << i: (0, None) for i in range(n)}
    for group in sorted(range(1, 1 << n), key=lambda group: (group.bit_count(), group)):
        for part in _parts(group):
            rest = group ^ part
            cost = best[part][0] + best[rest][0] + _work((kept[part], kept[rest]))
            if group not in best or cost < best[group][0]:
                best[group] = (cost, best[part][1] or best[rest][1] or (_place(part), _place(rest)))
    first = best[(1 << n) - 1][1]
    assert first is not None
    return min(first), max(first)


def _parts(group: int) -> Iterable[int]:
    """The parts that hold the first tensor of a group, small ones first, and are not all of it."""
    first = group & -group
    others = [1 << i for i in range(group.bit_length()) if (group ^ first) >> i & 1]
    for size in range(len(others)):
        for chosen in combinations(others, size):
            yield first + sum(chosen)


def _kept(shapes: Sequence[Shape], out: Shape) -> dict[int, set[Dim]]:
    """For each set of tensors the dims of their product that others, or the result, have."""
    found = {}
    for group in range(1, 1 << len(shapes)):
        inside = {d for i, s in enumerate(shapes) if group >> i & 1 for d in s}
        others = {d for i, s in enumerate(shapes) if not group >> i & 1 for d in s}
        found[group] = inside & (others | set(out))
    return found


def _work(dims: Iterable[Iterable[Dim]]) -> int:
    return prod(d.size for d in {d for some in dims for d in some})


def _place(part: int) -> int:
    return part.bit_length() - 1
