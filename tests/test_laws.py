"""Laws of the language, for drawn dims, programs and layouts."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given as for_all
from hypothesis import note, settings
from hypothesis import strategies as st

import meshlang as ml
from meshlang.layout.cost import Cost, wire
from tests.drawn_programs import ELEMENTWISE, REDUCTIONS, SMOOTH, Step, names_of, programs
from tests.harness import (
    Case,
    Laid,
    any_layout,
    case,
    check_slopes,
    compare,
    run,
    trace_cases,
)

MESH = "p:2 q:2 r:2"
#: what is the same but for the order of sums
CLOSE = 1e-12


@st.composite
def tables(draw: st.DrawFn, names: str) -> Laid:
    """Dims on axes of their own, or none."""
    left = draw(st.permutations(["p", "q", "r"]))
    entries = []
    for name in names.split():
        count = draw(st.integers(0, min(2, len(left))))
        entries += [f"{name}?:{'+'.join(left[:count])}"] if count else []
        left = left[count:]
    return Laid(MESH, " ".join(entries))


def legal(made: Case, how: Laid) -> bool:
    try:
        ml.plan(trace_cases((made,))[0], how.mesh, how.layout)
    except ml.LayoutError:
        return False
    return True


# -- dims ----------------------------------------------------------------------------------------

THERE_AND_BACK = (
    case(
        "law",
        lambda x: {
            "split and merged": ml.merge(ml.split(x, a="o:4 i"), a="o i"),
            "merged and split": ml.split(ml.merge(x, t="a b"), t="a:16 b"),
            "regrouped and back": ml.regroup(ml.regroup(x, "a b -> o:8 i"), "o i -> a:16 b"),
        },
        gradients=False,
        x="a:16 b:8 c:4",
    ),
    case(
        "law",
        lambda x: {
            "merged and split": ml.split(ml.merge(x, a="o i"), a="o:4 i"),
            "three": ml.split(ml.merge(x, a="o i c"), a="o:4 i:4 c"),
        },
        gradients=False,
        x="o:4 i:4 c:8",
    ),
)


@for_all(tables("a b o i t c"), st.sampled_from(THERE_AND_BACK))
@settings(max_examples=12)
def test_split_then_merge_is_identity(how: Laid, made: Case):
    assert legal(made, how)
    for path, array in run(made, how).items():
        np.testing.assert_array_equal(array, made.arrays["x"], err_msg=f"{path} {how}")


# -- names ---------------------------------------------------------------------------------------

CHOICES = st.tuples(
    st.sampled_from([*ELEMENTWISE, *REDUCTIONS]), st.integers(-3, 8), st.integers(0, 15)
)


def after(steps: Sequence[tuple[Step, int, int]]) -> Callable[[ml.Tensor, ml.Tensor], ml.Tensor]:
    def fn(x: ml.Tensor, y: ml.Tensor) -> ml.Tensor:
        pool = [x, y]
        for step, place, n in steps:
            made = step(pool[-1], pool[place % len(pool)], n)
            pool += [] if made is None else [made]
        return pool[-1]

    return fn


def renamed(x: ml.Tensor) -> ml.Tensor:
    return x.rename(a="z") if "a" in x.shape.names else x


@for_all(st.lists(CHOICES, min_size=1, max_size=6), tables("a b z"))
@settings(max_examples=12)
def test_rename_commutes_with_everything(steps: list[tuple[Step, int, int]], how: Laid):
    fn = after(steps)
    inputs = {"x": "a:8 b:12", "y": "b:12 a:8"}
    first, last = (
        case("law", law, **inputs)
        for law in (
            lambda x, y: fn(renamed(x), renamed(y)),
            lambda x, y: renamed(fn(x, y)),
        )
    )
    note(f"{how}\n{trace_cases((last,))[0]}")
    assert legal(first, how) and legal(last, how)
    wanted = run(last, how)
    for path, array in run(first, how).items():
        compare(path, array, wanted[path], CLOSE)


# -- gradients -----------------------------------------------------------------------------------


def summed_gradients(made: Case) -> Case:
    """Of the results at once, and of each one alone."""

    def fn(*xs: ml.Tensor) -> dict[str, list[ml.Tensor]]:
        ys = [ml.sum(ml.sin(y)) for y in made.fn(*xs)]
        each = [ml.gradients([y], list(xs)) for y in ys]
        return {
            "of the sum": ml.gradients(ys, list(xs)),
            "summed": [ml.add_n(slopes) for slopes in zip(*each, strict=True)],
        }

    return Case("law", fn, made.inputs, gradients=False)


@st.composite
def laid(draw: st.DrawFn) -> tuple[Case, Laid]:
    made = draw(programs(14))
    return made, draw(any_layout(names_of(made), ["simulated"]))


@for_all(laid())
@settings(max_examples=8)
def test_the_gradient_of_a_sum_is_the_sum_of_gradients(drawn: tuple[Case, Laid]):
    made, how = summed_gradients(drawn[0]), drawn[1]
    note(f"{how}\n{trace_cases((drawn[0],))[0]}")
    if not legal(made, how):
        how = Laid()
    found = run(made, how)
    for i, name in enumerate(made.inputs):
        slope = found[f"law/value/of the sum/{i}"]
        compare(name, slope, found[f"law/value/summed/{i}"], CLOSE)


@for_all(programs(14, SMOOTH))
@settings(max_examples=15)
def test_gradients_are_slopes(made: Case):
    note(str(trace_cases((made,))[0]))
    check_slopes(made)


# -- twins ---------------------------------------------------------------------------------------

ROWS = "group:16 experts|group:16 d:3"
BYTES = 16 * 16 * 3 * 8
SIZES = {"p": 2, "q": 4}
AXES = ("", "p", "q", "p+q", "q+p")


def processors(axes: set[str]) -> int:
    return int(np.prod([SIZES[axis] for axis in axes]))


@pytest.mark.parametrize("experts", AXES)
@pytest.mark.parametrize("group", AXES)
def test_an_exchange_there_and_back_is_free_or_costs_two_all_to_alls(group: str, experts: str):
    """Free where they lie apart; else blocks travel along the axes that they share, and back."""

    def fn(x: ml.Tensor) -> ml.Tensor:
        return ml.exchange(ml.sin(ml.exchange(x, "group", "experts")), "experts", "group")

    there, to = ([axis for axis in axes.split("+") if axis] for axes in (group, experts))
    shared = [axis for axis in there if axis in to]
    found = cost_of(fn, group, experts).all.wire_bytes
    wanted = 2 * wire("all_to_all", BYTES // processors({*there, *to}), processors({*shared}))
    if there[len(there) - len(shared) :] == to[len(to) - len(shared) :] == shared:
        assert found == pytest.approx(wanted)
    else:
        # An all_to_all moves inner axes; blocks must be brought in order besides.
        assert found > wanted


@pytest.mark.parametrize("experts", AXES)
def test_a_dim_held_whole_and_back_costs_one_gather(experts: str):
    def fn(x: ml.Tensor) -> ml.Tensor:
        return ml.divided(ml.sin(ml.whole(x, "experts")), "experts")

    cost = cost_of(fn, "", experts, "group:16 experts:16 d:3")
    ways = processors({*experts.split("+")} - {""})
    assert cost.all.wire_bytes == pytest.approx(BYTES * (ways - 1) / ways)


def cost_of(
    fn: Callable[[ml.Tensor], ml.Tensor], group: str, experts: str, rows: str = ROWS
) -> Cost:
    """Of the values alone, in float64."""
    program, _ = trace_cases((case("law", fn, gradients=False, x=rows),))
    entries = [f"{n}:{axes}" for n, axes in (("group", group), ("experts", experts)) if axes]
    return ml.plan(program, "p:2 q:4", " ".join(entries)).cost
