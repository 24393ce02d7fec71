"""Arrays in, results out, variables at hand; and what an executable refuses, word for word."""

from collections.abc import Callable

import numpy as np
import pytest

import meshlang as ml

ARRAY = np.arange(32.0, dtype=np.float32).reshape(4, 8)
PLACES = [("", ""), ("a:2 b:2", "batch:a d:b"), ("a:2 b:2", "d:b+a"), ("a:4", "batch:a")]


def double(x: ml.Tensor) -> ml.Tensor:
    """Twice x, and counts the calls."""
    calls = ml.variable("calls", "d:8", init=ml.zeros_init, trainable=False)
    ml.assign(calls, calls + 1.0)
    return 2.0 * x


def lowered(mesh: str = "", layout: str = "", backend: str = "simulated") -> ml.Executable:
    program = ml.trace(double, x=ml.spec("batch:4 d:8"))
    return ml.lower(ml.plan(program, mesh, layout), backend=backend)


@pytest.mark.parametrize("backend", ["simulated", "spmd"])
@pytest.mark.parametrize(("mesh", "layout"), PLACES)
def test_an_array_is_cut_into_blocks_and_a_result_put_together(
    mesh: str, layout: str, backend: str
):
    run = lowered(mesh, layout, backend)
    run.initialize(seed=0)
    result = run(x=ARRAY)
    assert result.shape == (4, 8)
    np.testing.assert_array_equal(result, 2.0 * ARRAY)
    run.set("calls", np.arange(8.0))
    run(x=ARRAY.tolist())
    np.testing.assert_array_equal(run["calls"], np.arange(8.0) + 1.0)
    assert run.step == 2


@pytest.mark.parametrize(("mesh", "layout"), PLACES)
def test_two_executables_share_variables_through_a_store(mesh: str, layout: str):
    train = lowered(mesh, layout)
    train.initialize(seed=0)
    look = ml.trace(lambda: ml.variable("calls", "d:8", init=ml.zeros_init, trainable=False) + 0.0)
    other = ml.lower(ml.plan(look, mesh, layout.replace(":", "?:")), store=train.store)
    np.testing.assert_array_equal(other(), np.zeros(8))
    train(x=ARRAY)
    np.testing.assert_array_equal(other(), np.ones(8))


REFUSED: dict[str, tuple[type[Exception], Callable[[ml.Executable], object], str]] = {
    "an unknown input": (
        ml.ArrayError,
        lambda run: run(y=ARRAY),
        """\
no input named 'y'.
  fix: the inputs are: x""",
    ),
    "a missing input": (
        ml.ArrayError,
        lambda run: run(),
        """\
input 'x' is missing.
  wanted  [batch:4 d:8]""",
    ),
    "another shape": (
        ml.ArrayError,
        lambda run: run(x=ARRAY.T),
        """\
input 'x' has the wrong shape.
  given   [8, 4] float32
  wanted  [4, 8] float32
  dims    [batch:4 d:8]""",
    ),
    "another dtype": (
        ml.ArrayError,
        lambda run: run(x=ARRAY.astype(np.int32)),
        """\
input 'x' has the wrong dtype.
  given   [4, 8] int32
  wanted  [4, 8] float32
  dims    [batch:4 d:8]""",
    ),
    "a variable of another shape": (
        ml.ArrayError,
        lambda run: run.set("calls", 0.0),
        """\
variable 'calls' has the wrong shape.
  given   [] float64
  wanted  [8] float32
  dims    [d':8]""",
    ),
    "an unknown variable": (
        ml.VariableError,
        lambda run: run["call"],
        """\
no variable named 'call'.
  fix: did you mean 'calls'?""",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_errors(what: str):
    error, fn, text = REFUSED[what]
    run = lowered()
    run.initialize(seed=0)
    with pytest.raises(error) as caught:
        fn(run)
    assert str(caught.value) == text


def test_a_variable_without_a_value():
    with pytest.raises(ml.VariableError) as caught:
        lowered()(x=ARRAY)
    assert str(caught.value) == (
        """\
variable 'calls' has no value yet.
  fix: call initialize(seed=0)"""
    )


def test_a_store_holds_variables_in_one_way():
    program = ml.trace(double, x=ml.spec("batch:4 d:8"))
    store = lowered("a:2 b:2", "d:a").store
    with pytest.raises(ml.VariableError) as caught:
        ml.lower(ml.plan(program, "a:2 b:2", "d:b"), store=store)
    assert str(caught.value) == (
        """\
variable 'calls' of the store lies otherwise in this plan.
  in the store  [d':8/a] float32
  in the plan   [d':8/b] float32
  fix: plan both programs with the same mesh, layout, params and slots"""
    )


def test_backends_have_names():
    with pytest.raises(ml.LayoutError) as caught:
        lowered(backend="simulator")
    assert str(caught.value) == (
        """\
no backend 'simulator'.
  fix: use one of: spmd simulated"""
    )
