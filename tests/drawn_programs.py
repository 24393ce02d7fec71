"""Programs for Hypothesis to draw: what a step may do, and how steps become a case.

A step makes a tensor from two of those so far and a number; it keeps its numbers near one, since
results are compared to the last bits, and takes ties apart where a result jumps at them.
"""

from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

import meshlang as ml
from tests.harness import Case, case, floats

NAMES = ("a", "b", "c", "d")
MOST_DIMS = 3
MOST_ELEMENTS = 16**3

#: from two tensors and a number that chooses dims and options; None where they do not suit
Step = Callable[[ml.Tensor, ml.Tensor, int], ml.Tensor | None]


# -- how steps choose ----------------------------------------------------------------------------


def dim(x: ml.Tensor, n: int) -> str:
    return x.shape.names[n % len(x.shape)]


def size(x: ml.Tensor, name: str) -> int:
    return x.shape[name].size


def others(x: ml.Tensor, name: str) -> str:
    return " ".join(n for n in x.shape.names if n != name)


def along(fn: Callable[[ml.Tensor, str], ml.Tensor]) -> Step:
    """An op over one dim."""
    return lambda x, y, n: fn(x, dim(x, n)) if len(x.shape) else None


def either(first: Callable[..., ml.Tensor], second: Callable[..., ml.Tensor]) -> Step:
    """One of two ops over one dim."""
    return lambda x, y, n: (second if n & 4 else first)(x, dim(x, n)) if len(x.shape) else None


def together(fn: Callable[[ml.Tensor, ml.Tensor], ml.Tensor]) -> Step:
    """An op on operands that broadcast."""

    def step(x: ml.Tensor, y: ml.Tensor, n: int) -> ml.Tensor | None:
        fits = set(x.shape) <= set(y.shape) or set(y.shape) <= set(x.shape)
        return fn(x, y) if fits else None

    return step


def running(fn: Callable[..., ml.Tensor]) -> Step:
    """From either end, with or without the own value."""

    def step(x: ml.Tensor, y: ml.Tensor, n: int) -> ml.Tensor | None:
        if not len(x.shape):
            return None
        return fn(x, dim(x, n), exclusive=bool(n & 4), reverse=bool(n & 8))

    return step


def apart(x: ml.Tensor) -> ml.Tensor:
    """No two values are equal, nor equal but for rounding."""
    return ml.sin(x) + ml.random_uniform(x.shape)


def fits(dims: Sequence[ml.Dim]) -> bool:
    elements = 1
    for each in dims:
        elements *= each.size
    return len(dims) <= MOST_DIMS and elements <= MOST_ELEMENTS


# -- products ------------------------------------------------------------------------------------


def product(x: ml.Tensor, y: ml.Tensor, n: int) -> ml.Tensor | None:
    shared = [d.name for d in x.shape if d in y.shape]
    if not shared:
        return None
    reduced = shared[n % len(shared)]
    left = [d for d in dict.fromkeys((*x.shape, *y.shape)) if d.name != reduced]
    return ml.einsum(x, y, reduce=reduced) * 0.2 if fits(left) else None


def product_of_three(x: ml.Tensor, y: ml.Tensor, n: int) -> ml.Tensor | None:
    every = dict.fromkeys((*x.shape, *y.shape))
    kept = [d for i, d in enumerate(every) if n >> i & 1]
    return ml.einsum(x, y, x, keep=" ".join(d.name for d in kept)) * 0.01 if fits(kept) else None


def convolved(x: ml.Tensor, y: ml.Tensor, n: int) -> ml.Tensor | None:
    shared = [d.name for d in x.shape if d in y.shape]
    if not shared or not fits([*dict.fromkeys((*x.shape, *y.shape))]):
        return None
    name, *rest = shared[n % len(shared) :] + shared[: n % len(shared)]
    filters = ml.slice(y, name, start=n % 4, size=3).rename(**{name: "tap"})
    reduce = rest[0] if rest and n & 4 else ""
    return ml.conv(x, filters, {name: "tap"}, reduce=reduce, padding="same") * 0.2


# -- moving dims ---------------------------------------------------------------------------------


def expanded(x: ml.Tensor, y: ml.Tensor, n: int) -> ml.Tensor | None:
    missing = [d for d in y.shape if d.name not in x.shape.names]
    if not missing:
        return None
    new = missing[n % len(missing)]
    return x.expand(**{new.name: new.size}) if fits([*x.shape, new]) else None


def elsewhere(x: ml.Tensor, name: str) -> ml.Tensor:
    """Under another name, which no layout knows, and back."""
    return ml.sin(x.rename(**{name: "elsewhere"})).rename(elsewhere=name)


def swapped(x: ml.Tensor, y: ml.Tensor, n: int) -> ml.Tensor | None:
    """Reshaped: the same elements, in the order in which they are, under dims of other sizes."""
    if len(x.shape) < 2:
        return None
    a, b = dim(x, n), dim(x, n + 1)
    turned = ml.regroup(x, f"{a} {b} -> left:{size(x, b)} right:{size(x, a)}")
    return ml.regroup(ml.sin(turned), f"left right -> {a}:{size(x, a)} {b}:{size(x, b)}")


def in_parts(x: ml.Tensor, name: str) -> ml.Tensor:
    parts = ml.split(x, **{name: f"{name} inner:4"})
    return ml.merge(parts - ml.mean(parts, "inner"), **{name: f"{name} inner"})


def held_whole(x: ml.Tensor, name: str) -> ml.Tensor:
    return ml.divided(ml.tanh(ml.whole(x, name)), name)


def exchanged(x: ml.Tensor, y: ml.Tensor, n: int) -> ml.Tensor | None:
    if len(x.shape) < 2:
        return None
    source, target = dim(x, n), dim(x, n + 1)
    there = ml.exchange(ml.whole(x, target, beside=source), source, target)
    return ml.divided(ml.exchange(ml.sin(there), target, source), target)


# -- runs of indices -----------------------------------------------------------------------------


def shifted(x: ml.Tensor, y: ml.Tensor, n: int) -> ml.Tensor | None:
    if not len(x.shape):
        return None
    return ml.shift(x, dim(x, n), n - 7, wrap=bool(n & 4), fill=0.5 if not n & 4 else 0.0)


def cut_and_padded(x: ml.Tensor, y: ml.Tensor, n: int) -> ml.Tensor | None:
    if not len(x.shape):
        return None
    name, front = dim(x, n), n % 6
    cut = ml.slice(x, name, start=front, size=size(x, name) - front - 1)
    return ml.pad(ml.tanh(cut), name, before=n % 2, after=front + 1 - n % 2, value=0.25)


def cut_and_joined(x: ml.Tensor, y: ml.Tensor, n: int) -> ml.Tensor | None:
    if not len(x.shape) or x.shape != y.shape:
        return None
    name, first = dim(x, n), 1 + n % 7
    head = ml.slice(x, name, size=first)
    return ml.concat([head, ml.slice(y, name, start=first, size=size(y, name) - first)], name)


def stacked(x: ml.Tensor, y: ml.Tensor, n: int) -> ml.Tensor | None:
    if set(x.shape) != set(y.shape):
        return None
    every = ml.stack([x, y, ml.cos(x)], "three")
    if n & 1:
        return ml.logsumexp(every, "three")
    first, second, third = ml.unstack(every, "three")
    return first * third + second


def neighbours(x: ml.Tensor, y: ml.Tensor, n: int) -> ml.Tensor | None:
    if not len(x.shape):
        return None
    near = ml.halo_exchange(x, dim(x, n), before=n % 3, after=n // 3 % 3, wrap=bool(n & 8))
    return ml.mean(near, "halo")


def from_a_place(x: ml.Tensor, y: ml.Tensor, n: int) -> ml.Tensor | None:
    """A run that begins where the largest value is is written to another place."""
    if not len(x.shape):
        return None
    name = dim(x, n)
    rest = others(x, name)
    place = ml.argmax(apart(ml.mean(x, rest) if rest else x), name)
    run = ml.dynamic_slice(x, name, start=place, size=4)
    return ml.dynamic_update(ml.sin(x), run, name, start=n % 9)


# -- by index ------------------------------------------------------------------------------------


def looked_up(x: ml.Tensor, y: ml.Tensor, n: int) -> ml.Tensor | None:
    shared = [d.name for d in x.shape if d in y.shape]
    if not shared:
        return None
    name = shared[n % len(shared)]
    made = [d for d in dict.fromkeys((*x.shape, *y.shape)) if d.name != name]
    return ml.gather(y, ml.argmax(apart(x), name), dim=name) if fits(made) else None


def added_at(x: ml.Tensor, y: ml.Tensor, n: int) -> ml.Tensor | None:
    """Values go where another tensor is largest."""
    free = [d for d in y.shape if d.name not in x.shape.names]
    if not free:
        return None
    into = free[n % len(free)]
    index = ml.argmax(apart(y), into.name)
    if not set(index.shape) <= set(x.shape) or not fits([*x.shape, into]):
        return None
    batch = " ".join(d.name for i, d in enumerate(index.shape) if n >> i & 4)
    where = f"{into.name}:{into.size}"
    if n & 1:
        return ml.segment_sum(x, index, into=where, batch=batch) * 0.5
    return ml.scatter_add(x, index, into=where, batch=batch) * 0.5


def written_at(fn: Callable[..., ml.Tensor]) -> Step:
    """Values meet those of a tensor at places of which some are equal, some outside."""

    def step(x: ml.Tensor, y: ml.Tensor, n: int) -> ml.Tensor | None:
        if not len(x.shape):
            return None
        name = dim(x, n)
        places = ml.range(f"query:{size(x, name)}") * (n % 3) + n % 5
        values = apart(x.rename(**{name: "query"}))
        return fn(apart(x), values, places, dim=name)

    return step


def hot(x: ml.Tensor, name: str) -> ml.Tensor:
    return ml.one_hot(ml.argmax(apart(x), name), f"{name}:{size(x, name)}") * x


def ordered(x: ml.Tensor, name: str) -> ml.Tensor:
    """By gathering in the order of the values."""
    order = ml.argsort(apart(x), name).rename(**{name: "order"})
    return ml.gather(x, order, dim=name).rename(order=name)


def shuffled(x: ml.Tensor, name: str) -> ml.Tensor:
    return ml.gather(x, ml.random_permutation(f"order:{size(x, name)}"), dim=name).rename(
        order=name
    )


def best_three(x: ml.Tensor, name: str) -> ml.Tensor:
    best = ml.top_k(apart(x), name, into="best:3")
    return ml.mean(best.values, "best") + ml.cast(ml.max(best.indices, "best"), x.dtype) * 0.01


# -- control -------------------------------------------------------------------------------------


def scanned(x: ml.Tensor, y: ml.Tensor, n: int) -> ml.Tensor | None:
    """With a sum inside of each trip; over a dim that no layout knows, or one that it may."""
    if not len(x.shape):
        return None
    name = dim(x, n)
    rest, over = others(x, name), name if n & 4 else "trips"
    carry = ml.zeros(" ".join(f"{d.name}:{d.size}" for d in x.shape if d.name != name))

    def trip(h: ml.Tensor, row: ml.Tensor) -> tuple[ml.Tensor, ml.Tensor]:
        h = ml.sin(h * 0.5 + row)
        return h, (h - ml.mean(h, dim(h, n)) if rest else h * row)

    rows = x if over == name else x.rename(**{name: over})
    _, ys = ml.scan(trip, carry, rows, over=over)
    return ys if over == name else ys.rename(**{over: name})


def mapped(x: ml.Tensor, name: str) -> ml.Tensor:
    rows = x.rename(**{name: "trips"})
    return ml.map(lambda row: ml.sin(row) * ml.mean(row), rows, over="trips").rename(trips=name)


def in_microbatches(x: ml.Tensor, name: str) -> ml.Tensor:
    parts = ml.split(x, **{name: f"{name} micro:4"})
    return ml.accumulate(lambda part: ml.sum(ml.sin(part), name), parts, over="micro") * 0.1


def halved_until_small(x: ml.Tensor, y: ml.Tensor, n: int) -> ml.Tensor:
    def more(carry: Any) -> ml.Tensor:
        return (carry[1] < n % 4) & (ml.mean(carry[0] * carry[0]) > 0.0123)

    def trip(carry: Any) -> tuple[ml.Tensor, ml.Tensor]:
        return ml.sin(carry[0] * 0.7), carry[1] + 1

    return ml.while_loop(more, trip, (x, ml.constant(0, "", "int32")), max_trips=4)[0]


def chosen(x: ml.Tensor, y: ml.Tensor, n: int) -> ml.Tensor | None:
    if set(x.shape) != set(y.shape):
        return None
    sums = ml.sum(x) > 0.0123 * n
    return ml.cond(sums, lambda: ml.tanh(x) * y, lambda: y - ml.mean(x))


def slope(x: ml.Tensor, y: ml.Tensor, n: int) -> ml.Tensor:
    return ml.gradients(ml.mean(ml.sin(x)), [y])[0]


def computed_again(x: ml.Tensor, y: ml.Tensor, n: int) -> ml.Tensor:
    return ml.recompute(lambda h: ml.tanh(h) * ml.cos(h) + ml.mean(ml.sin(h)))(x)


def own_gradient(x: ml.Tensor, y: ml.Tensor, n: int) -> ml.Tensor:
    clipped = ml.custom_gradient(lambda h: h * 0.9, lambda xs, _, g: (ml.clip(g, -1.0, 1.0),))
    return clipped(x)


ELEMENTWISE: tuple[Step, ...] = (
    lambda x, y, n: ml.tanh(x),
    lambda x, y, n: ml.where(x > 0.1, -x, 0.5 * x),
    lambda x, y, n: ml.clip(x, -0.9, 0.7),
    lambda x, y, n: ml.gelu(x),
    together(ml.add),
    together(ml.subtract),
    together(ml.multiply),
    together(lambda x, y: x / (2.0 + ml.sin(y))),
    together(lambda x, y: ml.maximum(apart(x), y)),
    lambda x, y, n: ml.add_n([x, y, x]) * 0.5 if set(x.shape) == set(y.shape) else None,
)
REDUCTIONS: tuple[Step, ...] = (
    along(lambda x, name: ml.sum(x, name) * 0.2),
    along(ml.mean),
    either(lambda x, name: ml.max(apart(x), name), lambda x, name: ml.min(apart(x), name)),
    along(lambda x, name: ml.prod(1.0 + 0.1 * ml.sin(x), name)),
    either(ml.logsumexp, ml.softmax),
    along(ml.log_softmax),
    either(ml.variance, lambda x, name: ml.standardize(x, name, epsilon=0.1)),
)
STEPS: tuple[Step, ...] = (
    *ELEMENTWISE,
    *REDUCTIONS,
    running(lambda x, name, **how: ml.cumsum(x, name, **how) * 0.1),
    running(lambda x, name, **how: ml.cumprod(1.0 + 0.1 * ml.sin(x), name, **how)),
    running(lambda x, name, **how: ml.clip(ml.cummax(apart(x), name, **how), -9.0, 9.0)),
    running(lambda x, name, **how: ml.recurrence(ml.sigmoid(x), ml.cos(x), name, **how)),
    along(lambda x, name: ml.sort(apart(x), name)),
    along(lambda x, name: ml.nth_largest(apart(x), name, 2)),
    along(ordered),
    along(best_three),
    along(elsewhere),
    along(in_parts),
    along(held_whole),
    exchanged,
    swapped,
    expanded,
    product,
    product_of_three,
    convolved,
    along(lambda x, name: ml.mean_pool(x, {name: 3}, strides=1, padding="same")),
    along(lambda x, name: ml.mean(ml.windows(x, name, into="w:3", padding="same"), "w")),
    neighbours,
    shifted,
    along(ml.reverse),
    cut_and_padded,
    cut_and_joined,
    stacked,
    from_a_place,
    looked_up,
    added_at,
    written_at(ml.scatter_max),
    written_at(ml.scatter_update),
    along(hot),
    along(shuffled),
    lambda x, y, n: ml.dropout(x, 0.25),
    lambda x, y, n: x * ml.random_truncated_normal(x.shape),
    scanned,
    along(mapped),
    along(in_microbatches),
    halved_until_small,
    chosen,
    computed_again,
    own_gradient,
    slope,
)
#: whose results have the slopes that their gradients say, wherever they are
SMOOTH: tuple[Step, ...] = (
    lambda x, y, n: ml.tanh(x),
    lambda x, y, n: ml.gelu(x),
    together(ml.subtract),
    together(ml.multiply),
    together(lambda x, y: x / (2.0 + ml.sin(y))),
    along(lambda x, name: ml.sum(x, name) * 0.2),
    along(lambda x, name: ml.prod(1.0 + 0.1 * ml.sin(x), name)),
    either(ml.logsumexp, ml.softmax),
    either(ml.variance, lambda x, name: ml.standardize(x, name, epsilon=0.1)),
    running(lambda x, name, **how: ml.cumprod(1.0 + 0.1 * ml.sin(x), name, **how)),
    running(lambda x, name, **how: ml.recurrence(ml.sigmoid(x), ml.cos(x), name, **how)),
    along(held_whole),
    along(in_parts),
    exchanged,
    swapped,
    product,
    product_of_three,
    convolved,
    neighbours,
    shifted,
    cut_and_padded,
    cut_and_joined,
    stacked,
    along(shuffled),
    lambda x, y, n: ml.dropout(x, 0.25),
    scanned,
    along(mapped),
    along(in_microbatches),
    computed_again,
    slope,
)


# -- how steps become a program ------------------------------------------------------------------


def program(
    shapes: Sequence[str],
    choices: Sequence[tuple[int, int, int, int]],
    steps: Sequence[Step] = STEPS,
    gradients: bool = True,
) -> Case:
    """Each choice: an op, two of the tensors so far, a number. Results are what no step took."""

    def fn(*inputs: ml.Tensor) -> list[ml.Tensor]:
        pool = list(inputs)
        taken: set[ml.Tensor] = set()
        for op, first, second, n in choices:
            x, y = pool[first % len(pool)], pool[second % len(pool)]
            made = steps[op](x, y, n)
            if made is not None:
                pool.append(made)
                taken |= {x, y}
        return [ml.sum(ml.tanh(pool[-1])), *(x for x in pool if x not in taken)]

    inputs: dict[str, Any] = {f"x{i}": floats(shape) for i, shape in enumerate(shapes)}
    return case("drawn", fn, gradients=gradients, **inputs)


@st.composite
def programs(
    draw: st.DrawFn, longest: int, steps: Sequence[Step] = STEPS, gradients: bool = True
) -> Case:
    """Of ten ops at least; shapes of one dim or more, whose sizes mostly divide by eight."""
    sizes = {name: draw(st.sampled_from([8, 16, 8, 12])) for name in NAMES}
    dims = st.lists(st.sampled_from(NAMES), min_size=1, max_size=MOST_DIMS, unique=True)
    shapes = draw(st.lists(dims.filter(lambda ds: _small(ds, sizes)), min_size=2, max_size=4))
    # Counted from the end, so that what was made last is used most.
    operand = st.integers(-5, 20)
    choice = st.tuples(st.integers(0, len(steps) - 1), operand, operand, st.integers(0, 15))
    chosen = draw(st.lists(choice, min_size=10, max_size=longest))
    written = [" ".join(f"{d}:{sizes[d]}" for d in dims) for dims in shapes]
    return program(written, chosen, steps, gradients)


def _small(dims: Sequence[str], sizes: dict[str, int]) -> bool:
    return fits([ml.Dim(d, sizes[d]) for d in dims])


def names_of(drawn: Case) -> str:
    """The dims of its inputs."""
    every = (n for x in drawn.inputs.values() for n in ml.Shape.parse(x.shape).names)
    return " ".join(dict.fromkeys(every))
