"""`print` and `check`: what is told, of which op, and that nothing else changes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import meshlang as ml
from tests.harness import (
    Laid,
    case,
    check,
    check_slopes,
    check_values,
    collectives,
    drawn,
    ints,
    layouts,
    trace_error,
)

BOTH = ("simulated", "spmd")


def looked_at(x: ml.Tensor) -> Any:
    """In the open, in a loop, in a branch of it; the first and the second gradient as well."""

    def trip(h: ml.Tensor, i: ml.Tensor) -> Any:
        h = ml.cond(i > 0, lambda: ml.check(ml.sin(h)), lambda: ml.check(h * 2.0, high=1e6))
        return ml.print(ml.check(h, low=-1e6, high=1e6), "h", most=1), ml.check(i, high=9)

    h, _ = ml.scan(trip, ml.check(x), ml.range("n:3"), over="n")
    (slope,) = ml.gradients(ml.sum(ml.print(h * h)), [x])
    return ml.check(h), slope


def in_numpy(x: np.ndarray) -> Any:
    h = np.sin(np.sin(2 * x))
    return h, 2 * h * np.cos(np.sin(2 * x)) * np.cos(2 * x) * 2


CASES = (
    case("looked at", looked_at, in_numpy, x="batch:8 d:16"),
    case("whole numbers", lambda x: ml.check(x, low=0, high=4), lambda x: x, x=ints("d:16", 4)),
)


def test_values():
    check_values(CASES)


def test_slopes():
    check_slopes(CASES[0])


@pytest.mark.parametrize("laid", drawn("debug", layouts("batch d"), draws=3))
def test_layouts(laid: Laid):
    check(CASES, laid)


def failing(x: ml.Tensor) -> Any:
    with ml.scope("decoder"), ml.scope("norm"):
        return ml.check(ml.rsqrt(x), message="the norm") * 2.0


def in_a_loop(x: ml.Tensor) -> Any:
    def trip(h: ml.Tensor, _: None) -> Any:
        with ml.scope("layer"):
            ml.check(ml.log(h))
        return h * 0.5 - 0.1, None

    return ml.scan(trip, x, over="layers:4")[0]


def in_a_branch(x: ml.Tensor) -> Any:
    return ml.cond(
        ml.sum(x) > 0.0, lambda: ml.check(x * 3.0, low=-2.5, high=10.0), lambda: ml.check(ml.log(x))
    )


def while_it_runs(x: ml.Tensor) -> Any:
    return ml.while_loop(lambda c: ml.sum(c) < 100.0, lambda c: ml.check(c * 2.0, high=20.0), x)


FAILING: list[tuple[Callable[..., Any], str]] = [
    (
        failing,
        """\
decoder/norm/rsqrt has elements that are not finite: the norm
  tensor  [d:8] float32
  count   2""",
    ),
    (
        in_a_loop,
        """\
layer/log has elements that are not finite.
  tensor  [d:8] float32
  count   9""",
    ),
    (
        in_a_branch,
        """\
multiply has elements that are not from -2.5 up to 10.0 or not finite.
  tensor  [d:8] float32
  count   5""",
    ),
    (
        while_it_runs,
        """\
multiply has elements that are not up to 20.0 or not finite.
  tensor  [d:8] float32
  count   6""",
    ),
]


@pytest.mark.parametrize("backend", BOTH)
@pytest.mark.parametrize(("mesh", "layout"), [("", ""), ("r:2 c:2", "d:c"), ("r:4", "d:r")])
@pytest.mark.parametrize(("fn", "text"), FAILING)
def test_what_failed_is_named_and_counted(
    fn: Callable[..., Any], text: str, mesh: str, layout: str, backend: str
):
    """On whatever processor it is, and the others do not wait."""
    x = ml.constant(np.array([1, 2, 0, 4, 5, 6, 7, -1], np.float32), "d")
    with pytest.raises(ml.CheckError) as caught:
        ml.run(fn, mesh, layout, backend=backend, x=x)
    assert str(caught.value) == text


def test_a_check_moves_nothing():
    """Not in a loop either; and what is checked need not be used."""

    def fn(x: ml.Tensor) -> Any:
        ml.check(x)
        return in_a_loop(x)

    assert collectives(fn, "r:4", "d:r", x="d:8") == []


def test_variables_are_updated_before_the_host_raises():
    def fn(x: ml.Tensor) -> None:
        count = ml.variable("count", "", init=0.0, trainable=False)
        ml.assign(count, count + 1.0)
        ml.check(x)

    run = ml.lower(ml.plan(ml.trace(fn, x=ml.spec("d:2"))))
    run.initialize(0)
    run(x=np.zeros(2, np.float32))
    with pytest.raises(ml.CheckError):
        run(x=np.array([0.0, np.nan], np.float32))
    assert (float(run["count"]), run.step) == (2.0, 2)


@pytest.mark.parametrize("backend", BOTH)
def test_each_block_is_printed_once(backend: str, capfd: pytest.CaptureFixture[str]):
    def fn(x: ml.Tensor) -> ml.Tensor:
        return ml.print(x, "x:", most=2)

    x = ml.constant(np.arange(8.0, dtype=np.float32), "d")
    ml.run(fn, "r:2 c:2", "d:c", backend=backend, x=x)
    lines = [line for line in capfd.readouterr().out.splitlines() if line.startswith("x:")]
    assert sorted(lines) == [
        "x: [d:8/c] float32 c=0 [0 1 2 3]",
        "x: [d:8/c] float32 c=1 [4 5 6 7]",
    ]


ERRORS: list[tuple[type[ml.MeshlangError], Callable[..., Any], str]] = [
    (
        ml.DtypeError,
        lambda x: ml.check(ml.cast(x, "int32")),
        """\
check takes floats.
  operand  [d:8] int32
  fix: ml.cast(x, 'compute')""",
    ),
    (
        ml.DtypeError,
        lambda x: ml.check(x > 0.0, low=0),
        """\
check takes numbers.
  operand  [d:8] bool
  fix: ml.cast(x, 'int32')""",
    ),
    (
        ml.ProgramError,
        lambda x: ml.check(x, finite=False),
        "check: there is nothing to check.\n  fix: finite=True, low= or high=",
    ),
    (
        ml.ProgramError,
        lambda x: ml.while_loop(lambda c: ml.sum(ml.check(c)) > 0.0, lambda c: c - 1.0, x),
        """\
while_loop: a check in the predicate's function.
  fix: check in the body, or after the loop""",
    ),
]


@pytest.mark.parametrize(("error", "fn", "text"), ERRORS)
def test_errors(error: type[ml.MeshlangError], fn: Callable[..., Any], text: str):
    assert trace_error(error, fn, x="d:8") == text


def test_a_check_belongs_to_a_program():
    with pytest.raises(ml.ProgramError) as caught:
        ml.check(ml.constant([1.0], "d"))
    assert (
        str(caught.value)
        == """\
ml.check belongs to a program, and none is being traced.
  fix: call it inside of the function given to ml.trace or ml.run"""
    )
