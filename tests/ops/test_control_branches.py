"""`cond` and `while_loop`: NumPy, finite differences, layouts, nesting, what moves, errors."""

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
    compare,
    drawn,
    floats,
    given,
    layout_error,
    layouts,
    run,
    trace_error,
)

WEIGHTS = ml.normal_init(0.3)
BOTH = ("simulated", "spmd")


# -- cond ----------------------------------------------------------------------------------------


def chosen(sign: float) -> Callable[..., Any]:
    """Products over a divided dim in both branches; operands of one of them alone."""

    def fn(x: ml.Tensor, w: ml.Tensor, v: ml.Tensor) -> Any:
        def first() -> Any:
            y = ml.einsum(ml.sin(x), w, reduce="d")
            return {"y": ml.tanh(y), "n": ml.sum(ml.cast(y > 0.0, "int32"))}

        def second() -> Any:
            y = ml.einsum(ml.square(x), v, reduce="d")
            return {"y": ml.arrange(y * y, "e batch"), "n": ml.zeros("", "int32")}

        return ml.cond(ml.sum(x * x) * sign > 0.0, first, second)

    return fn


def chosen_in_numpy(sign: float) -> Callable[..., Any]:
    def fn(x: np.ndarray, w: np.ndarray, v: np.ndarray) -> Any:
        if sign > 0:
            y = np.sin(x) @ w
            return {"y": np.tanh(y), "n": (y > 0).sum(dtype=np.int32)}
        return {"y": ((x * x) @ v) ** 2, "n": np.int32(0)}

    return fn


def inside_out(x: ml.Tensor) -> Any:
    """A cond in a cond in a scan, with variables and random numbers in the branches."""

    def trip(h: ml.Tensor, i: ml.Tensor) -> Any:
        def odd() -> ml.Tensor:
            w = ml.variable("w", "d:16 e:24", init=WEIGHTS)
            y = ml.tanh(ml.einsum(h, w, reduce="d"))
            return h + ml.einsum(y, w, reduce="e")

        def even() -> ml.Tensor:
            noisy = ml.sin(h) * ml.random_normal("d:16")
            return ml.cond(i > 0, lambda: noisy * h, lambda: ml.sin(noisy))

        return ml.cond(ml.equal(ml.mod(i, 2), 1), odd, even), ml.sum(h)

    return ml.scan(trip, x, ml.range("n:4"), over="n")


def slope_of_a_slope(x: ml.Tensor) -> Any:
    y = ml.cond(ml.sum(x * x) > 0.0, lambda: ml.exp(ml.sin(x)), lambda: x)
    (slope,) = ml.gradients(ml.sum(y * y), [x])
    return slope * slope


def slopes_inside(x: ml.Tensor) -> Any:
    """Gradients taken in a branch and in a trip, of a value from around and a variable."""
    w = ml.variable("w", "d:16 e:24", init=WEIGHTS)

    def slopes(h: ml.Tensor) -> Any:
        y = ml.tanh(ml.einsum(h, w, reduce="d"))
        return ml.gradients(ml.sum(y * y), [h, w])

    def body(c: Any) -> Any:
        h, n = c
        return h - 0.1 * slopes(h)[0], n + 1

    chosen = ml.cond(
        ml.sum(x * x) > 0.0, lambda: slopes(x), lambda: [x, ml.gradients(ml.sum(w), w)[0]]
    )
    last = ml.while_loop(lambda c: c[1] < 3, body, (x, ml.zeros("", "int32")), max_trips=4)
    return chosen, last[0]


def pending_predicate(x: ml.Tensor) -> Any:
    """The sum that decides is paid first."""
    return ml.cond(ml.sum(x) > 1e6, lambda: x * 2.0, lambda: x * 3.0)


CHOSEN = {"x": "batch:8 d:16", "w": "d:16 e:24", "v": "d:16 e:24"}
SMALL = floats("d:16 e:16", low=-0.3, high=0.3)
CONDS = (
    case("the first", chosen(1.0), chosen_in_numpy(1.0), **CHOSEN),
    case("the second", chosen(-1.0), chosen_in_numpy(-1.0), **CHOSEN),
    case("inside out", inside_out, x="batch:8 d:16"),
    case("slope of a slope", slope_of_a_slope, x="batch:8 d:16"),
    case("slopes inside", slopes_inside, x="batch:8 d:16"),
    case("pending predicate", pending_predicate, lambda x: x * 3.0, x="batch:8 d:16"),
)
WITH_ORACLES = (0, 1, 5)


def test_values_of_conds():
    check_values([CONDS[i] for i in WITH_ORACLES])


def test_slopes_of_conds():
    check_slopes(CONDS)


@pytest.mark.parametrize("laid", drawn("cond", layouts("batch d e"), draws=3))
def test_layouts_of_conds(laid: Laid):
    check(CONDS, laid)


def test_a_cond_is_counted_as_its_dearer_branch():
    def fn(x: ml.Tensor, w: ml.Tensor) -> Any:
        return ml.cond(
            ml.sum(x) > 0.0,
            lambda: ml.einsum(x, w, reduce="d"),
            lambda: ml.sum(x, "d").expand(e=24),
        )

    program = ml.trace(fn, x=ml.spec("batch:8 d:16"), w=ml.spec("d:16 e:24"))
    cost = ml.plan(program, "r:4", "d:r").cost
    assert cost.flops == 2 * 8 * 4 * 24
    # The predicate, and a whole product; not the row sums of the other branch.
    assert (cost.over("r").collectives, cost.over("r").elements) == (2, 1 + 8 * 24)


def test_values_saved_for_the_branch_not_taken_are_zeros():
    """The gradient is a cond on the same predicate; nothing is computed of the other branch."""

    def fn(x: ml.Tensor) -> Any:
        y = ml.cond(ml.sum(x) > 0.0, lambda: ml.sqrt(x), lambda: ml.log(1.0 - x))
        return ml.gradients(ml.sum(y), [x])[0]

    x = np.array([0.0, -1.0, -3.0])
    found = run(case("log", fn, x=given("d:3", x), gradients=False), Laid())
    compare("slope", found["log/value"], -1.0 / (1.0 - x), 1e-12)


# -- while_loop ----------------------------------------------------------------------------------


def collatz(x: ml.Tensor) -> Any:
    """As many trips as the sum of a divided tensor says."""
    start = ml.cast(ml.sum(x), "int32")

    def step(c: Any) -> Any:
        n, count = c
        even = ml.equal(ml.mod(n, 2), 0)
        return ml.where(even, ml.floordiv(n, 2), 3 * n + 1), count + 1

    return ml.while_loop(lambda c: c[0] > 1, step, (start, ml.zeros("", "int32")))


def collatz_in_numpy(x: np.ndarray) -> Any:
    n, count = int(x.sum()), 0
    while n > 1:
        n, count = (n // 2 if n % 2 == 0 else 3 * n + 1), count + 1
    return np.int32(n), np.int32(count)


def network(h: ml.Tensor, w: ml.Tensor) -> ml.Tensor:
    return ml.tanh(ml.einsum(h, w, reduce="d").rename(e="d") + 0.1)


def recurrent(h: ml.Tensor, w: ml.Tensor) -> Any:
    """An RNN until its state is small, with a loop-invariant weight: 7 trips of at most 20."""

    def body(c: Any) -> Any:
        return {"h": network(c["h"], w), "n": c["n"] + 1}

    last = ml.while_loop(
        lambda c: ml.logical_and(c["n"] < 7, ml.sum(c["h"] * c["h"]) > -1.0),
        body,
        {"h": h, "n": ml.zeros("", "int32")},
        max_trips=20,
    )
    return last["h"]


def recurrent_in_numpy(h: np.ndarray, w: np.ndarray) -> np.ndarray:
    for _ in range(7):
        h = np.tanh(h @ w + 0.1)
    return h


def unrolled(h: ml.Tensor, w: ml.Tensor) -> Any:
    for _ in range(7):
        h = network(h, w)
    return h


def capped(x: ml.Tensor) -> Any:
    """`max_trips` ends it; and a loop that never begins."""
    three = ml.while_loop(lambda c: ml.sum(c * c) > -1.0, lambda c: ml.sin(c), x, max_trips=3)
    none = ml.while_loop(lambda c: ml.sum(c * c) < -1.0, lambda c: ml.sin(c), x, max_trips=3)
    return three, none


def random_walk(x: ml.Tensor) -> Any:
    """A variable that all trips share, random numbers that differ."""

    def body(c: Any) -> Any:
        h, n = c
        w = ml.variable("w", "d:16 e:24", init=WEIGHTS)
        y = ml.sin(ml.einsum(h, w, reduce="d"))
        return h + ml.einsum(y, w, reduce="e") * ml.random_normal("d:16"), n + 1

    return ml.while_loop(lambda c: c[1] < 4, body, (x, ml.zeros("", "int32")), max_trips=6)[0]


def nested(x: ml.Tensor) -> Any:
    """A while_loop in a scan in a while_loop, and a cond in that, trips of each of its own."""

    def inner(h: ml.Tensor, i: ml.Tensor) -> Any:
        h, n = ml.while_loop(
            lambda c: c[1] < i + 1,
            lambda c: (
                ml.cond(ml.equal(c[1], 1), lambda: ml.sin(c[0]), lambda: c[0] * ml.cos(h)),
                c[1] + 1,
            ),
            (h, ml.zeros("", "int32")),
            max_trips=4,
        )
        return h, ml.cast(n, "compute") * ml.mean(h)

    def outer(c: Any) -> Any:
        h, sums = ml.scan(inner, c[0], ml.range("n:3"), over="n")
        return h + x * ml.sin(ml.sum(sums)), c[1] + 1

    return ml.while_loop(lambda c: c[1] < 2, outer, (x, ml.zeros("", "int32")), max_trips=3)[0]


def now_and_then(h: ml.Tensor, w: ml.Tensor) -> Any:
    """A loop-invariant weight that a cond uses in some of the trips."""

    def body(h: ml.Tensor, i: ml.Tensor) -> Any:
        there = lambda: ml.sin(ml.einsum(h, w, reduce="d")).rename(e="d")  # noqa: E731
        return ml.cond(i < 3, there, lambda: h * 0.5), None

    return ml.scan(body, h, ml.range("n:4"), over="n")[0]


def twice(h: ml.Tensor, w: ml.Tensor) -> Any:
    """The gradient of a squared gradient."""
    y = recurrent(h, w)
    slopes = ml.gradients(ml.sum(y * y), [h, w])
    return [s * s for s in slopes]


WHILES = (
    case("collatz", collatz, collatz_in_numpy, x=given("batch:8", np.arange(8) - 1.0)),
    case("recurrent", recurrent, recurrent_in_numpy, h="batch:8 d:16", w=SMALL),
    case("capped", capped, lambda x: (np.sin(np.sin(np.sin(x))), x), x="batch:8 d:16"),
    case("random walk", random_walk, x="batch:8 d:16"),
    case("nested", nested, x="batch:8 d:16"),
    case("now and then", now_and_then, h="batch:8 d:16", w=SMALL),
    case("twice", twice, h="batch:8 d:16", w=SMALL),
    case(
        "mapped",
        lambda x: ml.map(lambda row: {"s": ml.sum(row * row, "d"), "r": row}, x, over="n"),
        lambda x: {"s": (x * x).sum(-1), "r": x},
        x="n:3 batch:8 d:16",
    ),
)


def test_values_of_loops():
    check_values([each for each in WHILES if each.oracle])


def test_slopes_of_loops():
    check_slopes(WHILES[1:])


@pytest.mark.parametrize("laid", drawn("while", layouts("batch d e"), draws=3))
def test_layouts_of_loops(laid: Laid):
    check(WHILES, laid)


def test_its_gradients_are_those_of_the_loop_written_out():
    shapes = {"h": "batch:8 d:16", "w": "d:16 e:16"}
    laid = Laid("r:2 c:2", "batch:r e:c")
    looped, written = (run(case("rnn", fn, **shapes), laid) for fn in (recurrent, unrolled))
    for path, array in written.items():
        compare(path, looped[path], array, 1e-12)


@pytest.mark.parametrize("backend", BOTH)
@pytest.mark.parametrize("mesh", ["", "r:2", "r:4", "r:8"])
def test_as_many_trips_on_every_mesh(mesh: str, backend: str):
    laid = Laid(mesh, "batch:r" if mesh else "", backend)
    found = run(WHILES[0], laid)
    assert (found["collatz/value/0"], found["collatz/value/1"]) == (1, 7)


def test_collectives_count_per_trip_and_an_invariant_gradient_once():
    """In the predicate once more than there are trips; nothing moves for the loop back's count."""

    def fn(h: ml.Tensor, w: ml.Tensor) -> Any:
        y = recurrent(h, w)
        return ml.gradients(ml.sum(y), [w])

    moved = collectives(fn, "r:4", "batch:r", h="batch:8 d:16", w="d:16 e:16")
    assert moved == ["all_reduce over r, 21 trips", "all_reduce over r"]


def test_what_a_cond_in_a_loop_is_to_an_invariant_is_paid_after_the_loop():
    def fn(h: ml.Tensor, w: ml.Tensor, g: ml.Tensor) -> Any:
        return ml.gradients([now_and_then(h, w)], [w], [g])

    shapes = {"h": "batch:8 d:16", "w": "d:16 e:16", "g": "batch:8 d:16"}
    assert collectives(fn, "r:4", "batch:r", **shapes) == ["all_reduce over r"]


def test_without_max_trips_a_plan_counts_one_trip_and_says_so():
    program = ml.trace(collatz, x=ml.spec("batch:8"))
    plan = ml.plan(program, "r:4", "batch:r")
    assert "while_loop counted as one trip" in plan.text()
    capped_plan = ml.plan(ml.trace(capped, x=ml.spec("batch:8 d:16")), "r:4", "batch:r")
    assert "while_loop at most 3 trips" in capped_plan.text()


def read_as_text(x: ml.Tensor, w: ml.Tensor) -> Any:
    """Each kind of line that programs and plans have for loops and branches."""

    def body(h: ml.Tensor) -> ml.Tensor:
        return ml.cond(ml.sum(h) > 0.0, lambda: ml.sin(h) * w, lambda: h * 0.5)

    last = ml.while_loop(lambda h: ml.sum(h * h) > 1.0, body, x, max_trips=5)
    return {"last": last, "slope": ml.gradients(ml.sum(last), [w])[0]}


def test_text(golden: Callable[[str, str], None]):
    program = ml.trace(read_as_text, x=ml.spec("batch:4 d:8"), w=ml.spec("d:8"))
    golden("program/branches.txt", str(program))
    golden("plan/branches_text.txt", ml.plan(program, "r:2", "batch:r").text())


# -- errors --------------------------------------------------------------------------------------


def stays(c: ml.Tensor) -> ml.Tensor:
    return c * 1.0


ERRORS: list[tuple[type[ml.MeshlangError], Callable[..., Any], str]] = [
    (
        ml.DimError,
        lambda x: ml.cond(x > 0.0, lambda: x, lambda: x),
        """\
cond: the predicate has dims left in it, and processors could go apart.
  predicate  [d:8]
  fix: ml.any(predicate) or ml.all(predicate); elementwise choice is ml.where""",
    ),
    (
        ml.DtypeError,
        lambda x: ml.cond(ml.sum(x), lambda: x, lambda: x),
        """\
cond: the predicate is no bool.
  predicate  [] float64
  fix: compare: x > 0""",
    ),
    (
        ml.DimError,
        lambda x: ml.cond(ml.sum(x) > 0.0, lambda: {"a": x}, lambda: ml.sum(x)),
        """\
cond: the two functions return different things.
  true   a [d:8] float64
  false  [] float64
  fix: return the same nesting of the same dims and dtypes from both""",
    ),
    (
        ml.DimError,
        lambda x: ml.while_loop(lambda c: c > 0.0, stays, x),
        """\
while_loop: the predicate has dims left in it, and processors could go apart.
  predicate  [d:8]
  fix: ml.any(predicate) or ml.all(predicate); elementwise choice is ml.where""",
    ),
    (
        ml.DimError,
        lambda x: ml.while_loop(lambda c: ml.sum(c) > 0.0, lambda c: ml.sum(c), x),
        """\
while_loop: the function changes the dims, the dtype or the nesting of the carry.
  carry in   [d:8] float64
  carry out  [] float64
  fix: return the carry with the dims it came with""",
    ),
    (
        ml.ProgramError,
        lambda x: ml.while_loop(lambda c: True, lambda c: c, None),
        """\
while_loop: there is no carry.
  fix: hand on what the trips change: the predicate is made of it""",
    ),
    (
        ml.ArrayError,
        lambda x: ml.while_loop(lambda c: ml.sum(c) > 0.0, stays, x, max_trips=0),
        "while_loop: max_trips=0 is less than 1.",
    ),
    (
        ml.ProgramError,
        lambda x: ml.gradients(
            ml.sum(ml.while_loop(lambda c: ml.sum(c) > 0.0, lambda c: c * 0.5, x)), [x]
        ),
        """\
gradients: a while_loop without max_trips has no gradient.
  carry  [d:8]
  fix: ml.while_loop(..., max_trips=100): what trips compute is saved for so many""",
    ),
]


@pytest.mark.parametrize(("error", "fn", "text"), ERRORS)
def test_errors(error: type[ml.MeshlangError], fn: Callable[..., Any], text: str):
    assert trace_error(error, fn, x="d:8") == text


@pytest.mark.parametrize("name", ["cond", "while_loop"])
def test_nothing_is_assigned_inside(name: str):
    def fn(x: ml.Tensor) -> Any:
        def assigning(*_: Any) -> ml.Tensor:
            count = ml.variable("count", "", init=0.0, trainable=False, dtype="compute")
            ml.assign(count, count + 1.0)
            return x

        if name == "cond":
            return ml.cond(ml.sum(x) > 0.0, assigning, lambda: x)
        return ml.while_loop(lambda c: ml.sum(c) > 0.0, assigning, x)

    assert (
        trace_error(ml.ProgramError, fn, x="d:8")
        == """\
variable 'count' is assigned inside of a loop or a branch.
  fix: return the new value from the body, and assign it after"""
    )


def test_a_branch_of_dims_that_clash_is_refused():
    def fn(x: ml.Tensor, y: ml.Tensor) -> Any:
        return ml.cond(
            ml.sum(x) > 0.0, lambda: ml.einsum(x, y, reduce=""), lambda: ml.zeros("d:8 e:8")
        )

    assert layout_error(fn, "r:2", "d:r e:r", x="d:8", y="e:8").startswith(
        "dims 'd' and 'e' of one tensor are both laid out on axis 'r'."
    )
