"""Programs, shapes, meshes and layouts drawn by Hypothesis.

A layout that is legal changes no result; one that is not is refused by a `LayoutError`. Each test
has a seed in its name, so that it draws the same in every run. A failure is shrunk, and prints its
layout and its program. 50 programs are drawn by the fast tests, 500 by the slow ones.
"""

from collections.abc import Callable

import pytest
from hypothesis import given as for_all
from hypothesis import note, seed, settings
from hypothesis import strategies as st

import meshlang as ml
from tests.drawn_programs import NAMES, STEPS, names_of, program, programs
from tests.harness import MESHES, Case, Laid, any_layout, check, trace_cases


@st.composite
def laid(draw: st.DrawFn, longest: int, backend: str = "simulated") -> tuple[Case, Laid]:
    """A program with a layout of its inputs' dims, of which some step may want one whole."""
    made = draw(programs(longest, gradients=draw(st.booleans())))
    return made, draw(any_layout(names_of(made), [backend]))


def agrees_or_is_refused(made: Case, how: Laid) -> None:
    """Any error but a `LayoutError` that ends in a fix goes through, and any difference."""
    traced, _ = trace_cases((made,))
    note(f"{how}\n{traced}")
    try:
        ml.plan(traced, how.mesh, how.layout)
    except ml.LayoutError as error:
        assert "\n  fix: " in str(error)
    else:
        check(made, how)


def search(seed_of: int, examples: int, longest: int, backend: str = "simulated") -> None:
    """So many programs. The seed is in the name of the test that fails."""

    @seed(seed_of)
    @for_all(laid(longest, backend))
    @settings(max_examples=examples)
    def holds(drawn: tuple[Case, Laid]) -> None:
        agrees_or_is_refused(*drawn)

    holds()


@pytest.mark.parametrize("seed_of", range(2))
def test_drawn_programs(seed_of: int):
    search(seed_of, 22, 16)


def test_drawn_programs_on_devices():
    search(2, 6, 16, "spmd")


@pytest.mark.slow
@pytest.mark.parametrize("seed_of", range(10, 22))
def test_many_drawn_programs(seed_of: int):
    search(seed_of, 30, 16)


@pytest.mark.slow
@pytest.mark.parametrize("seed_of", range(30, 36))
def test_many_long_drawn_programs(seed_of: int):
    search(seed_of, 20, 40)


@pytest.mark.slow
@pytest.mark.parametrize("seed_of", range(40, 42))
def test_many_drawn_programs_on_devices(seed_of: int):
    search(seed_of, 10, 30, "spmd")


# -- layouts that no program may have ------------------------------------------------------------


def on_one_axis(made: Case, axis: str) -> str:
    """Two dims of one input on one axis."""
    for given in made.inputs.values():
        names = ml.Shape.parse(given.shape).names
        if len(names) > 1:
            return f"{names[0]}:{axis} {names[1]}:{axis}"
    return f"{names_of(made).split()[0]}:nowhere"


ILLEGAL: tuple[Callable[[Case, str], str], ...] = (
    on_one_axis,
    lambda made, axis: f"{names_of(made).split()[0]}:nowhere",
    lambda made, axis: f"unheard:{axis}",
    lambda made, axis: f"{names_of(made).split()[0]}:odd",
    lambda made, axis: f"{names_of(made).split()[-1]}:{axis}+{axis}",
)


@for_all(programs(longest=12), st.sampled_from(MESHES[1:]), st.sampled_from(ILLEGAL))
@settings(max_examples=100)
def test_illegal_layouts_are_refused(made: Case, mesh: str, illegal: Callable[[Case, str], str]):
    traced, _ = trace_cases((made,))
    layout = illegal(made, mesh.split(":")[0])
    note(f"[{mesh} odd:5] {layout}\n{traced}")
    with pytest.raises(ml.LayoutError, match=r"\n  fix: "):
        ml.plan(traced, f"{mesh} odd:5", layout)


# -- what is drawn from --------------------------------------------------------------------------


@pytest.mark.parametrize("step", range(len(STEPS)))
def test_every_step_suits_some_operands(step: int):
    a, b = NAMES[:2]
    shapes = [f"{a}:8 {b}:16", f"{b}:16 {a}:8", f"{a}:8", f"{a}:8 {b}:16"]
    choices = [(step, x, y, n) for x in range(4) for y in range(4) for n in range(8)]
    made = [trace_cases((program(shapes, [choice]),))[0] for choice in choices]
    nothing, _ = trace_cases((program(shapes, []),))
    assert max(len(each.nodes) for each in made) > len(nothing.nodes)
