"""Programs, shapes and layouts drawn by Hypothesis: results never depend on the layout."""

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st

import meshlang as ml
from tests.harness import Case, Laid, any_layout, case, check

SIZES = {"batch": 8, "d": 16, "f": 24, "g": 40}
NAMES = " ".join(SIZES)
INPUTS = ("batch d", "d f", "f g", "g", "batch f", "d batch g")

#: from two tensors and a number that chooses a dim; None where they do not suit
Step = Callable[[ml.Tensor, ml.Tensor, int], ml.Tensor | None]


def dim(x: ml.Tensor, n: int) -> str:
    return x.shape.names[n % len(x.shape)]


def nested(x: ml.Tensor, y: ml.Tensor) -> bool:
    return set(x.shape) <= set(y.shape) or set(y.shape) <= set(x.shape)


def along(fn: Callable[[ml.Tensor, str], ml.Tensor]) -> Step:
    """An op over one dim."""
    return lambda x, y, n: fn(x, dim(x, n)) if len(x.shape) else None


def together(fn: Callable[[ml.Tensor, ml.Tensor], ml.Tensor]) -> Step:
    """An op on operands that broadcast."""
    return lambda x, y, n: fn(x, y) if nested(x, y) else None


def product(x: ml.Tensor, y: ml.Tensor, n: int) -> ml.Tensor | None:
    shared = [d.name for d in x.shape if d in y.shape]
    return ml.einsum(x, y, reduce=shared[n % len(shared)]) * 0.1 if shared else None


def product_of_three(x: ml.Tensor, y: ml.Tensor, n: int) -> ml.Tensor:
    every = dict.fromkeys((*x.shape.names, *y.shape.names))
    kept = [name for i, name in enumerate(every) if n >> i & 1]
    return ml.einsum(x, y, x, keep=" ".join(kept)) * 0.01


def expanded(x: ml.Tensor, y: ml.Tensor, n: int) -> ml.Tensor | None:
    missing = {name: size for name, size in SIZES.items() if name not in x.shape}
    name = list(missing)[n % len(missing)] if missing else ""
    return x.expand(**{name: missing[name]}) if missing else None


def elsewhere(x: ml.Tensor, name: str) -> ml.Tensor:
    """Under another name, which no layout knows, and back."""
    return ml.sin(x.rename(**{name: "elsewhere"})).rename(elsewhere=name)


def held_whole(x: ml.Tensor, name: str) -> ml.Tensor:
    return ml.divided(ml.tanh(ml.whole(x, name)), name)


def slope(x: ml.Tensor, y: ml.Tensor, n: int) -> ml.Tensor:
    return ml.gradients(ml.mean(ml.sin(x)), [y])[0]


STEPS: tuple[Step, ...] = (
    lambda x, y, n: ml.tanh(x),
    lambda x, y, n: ml.where(x > 0.1, -x, 0.5 * x),
    together(ml.add),
    together(ml.subtract),
    together(ml.multiply),
    together(lambda x, y: x / (2.0 + ml.sin(y))),
    together(ml.maximum),
    lambda x, y, n: ml.add_n([x, y, x]) if set(x.shape) == set(y.shape) else None,
    along(lambda x, name: ml.sum(x, name) * 0.2),
    along(ml.mean),
    along(ml.max),
    along(ml.logsumexp),
    along(ml.softmax),
    along(lambda x, name: ml.cumsum(x, name) * 0.1),
    along(elsewhere),
    along(held_whole),
    product,
    product_of_three,
    expanded,
    slope,
)


def program(choices: Sequence[tuple[int, int, int, int]]) -> Case:
    """Each choice: an op, two of the tensors so far, and a dim. The last two are the results."""

    def fn(*inputs: ml.Tensor) -> list[ml.Tensor]:
        pool = list(inputs)
        for op, first, second, n in choices:
            made = STEPS[op](pool[first % len(pool)], pool[second % len(pool)], n)
            pool += [] if made is None else [made]
        return [*pool[-2:], ml.sum(ml.tanh(pool[-1]))]

    inputs = {f"x{i}": " ".join(f"{n}:{SIZES[n]}" for n in s.split()) for i, s in enumerate(INPUTS)}
    return case("drawn", fn, None, gradients=True, exact=False, **inputs)


@st.composite
def programs(draw: st.DrawFn, longest: int = 14) -> Case:
    # Counted from the end, so that what was made last is used most.
    operand = st.integers(-5, 20)
    choice = st.tuples(st.integers(0, len(STEPS) - 1), operand, operand, st.integers(0, 15))
    return program(draw(st.lists(choice, min_size=4, max_size=longest)))


@for_all(programs(), any_layout(NAMES))
@settings(max_examples=10)
def test_a_drawn_program_under_a_drawn_layout(drawn: Case, laid: Laid):
    check(drawn, laid)


@pytest.mark.slow
@for_all(programs(), st.lists(any_layout(NAMES, ["simulated"]), min_size=2, max_size=2))
@settings(max_examples=200)
def test_many_drawn_programs_under_two_drawn_layouts(drawn: Case, laid: list[Laid]):
    for each in laid:
        check(drawn, each)


@pytest.mark.slow
@for_all(programs(longest=30), any_layout(NAMES, ["spmd"]))
@settings(max_examples=50)
def test_long_drawn_programs(drawn: Case, laid: Laid):
    check(drawn, laid)
