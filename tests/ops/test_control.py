"""Scan and accumulate: NumPy, finite differences, layouts, written out, what moves, errors."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st

import meshlang as ml
from meshlang.program import Node, Program
from tests.harness import (
    Laid,
    case,
    check,
    check_slopes,
    check_values,
    collectives,
    compare,
    drawn,
    ints,
    layouts,
    run,
)

WEIGHTS = ml.normal_init(0.3)


# -- against loops of NumPy ----------------------------------------------------------------------


def recurrence(x: ml.Tensor) -> Any:
    return ml.scan(lambda c, x: (c * 0.5 + x, c * x), ml.zeros("d:16"), x, over="n")


def recurrence_in_numpy(x: np.ndarray) -> Any:
    c, ys = np.zeros(16), []
    for row in x:
        ys.append(c * row)
        c = c * 0.5 + row
    return c, np.stack(ys)


def nesting(x: ml.Tensor, y: ml.Tensor) -> Any:
    """Dicts and tuples, other orders of dims, integers among floats, results that are inputs."""

    def fn(c: Any, x: Any) -> Any:
        after = {
            "sum": (ml.arrange(c["sum"][0] + x["x"], "d batch"), c["sum"][1]),
            "count": c["count"] + 2,
        }
        return after, (x["x"], {"none": None, "count": c["count"], "last": c["sum"][0] * y})

    carry = {"count": ml.zeros("", "int32"), "sum": (ml.zeros("batch:8 d:16"), y)}
    return ml.scan(fn, carry, {"x": x}, over="n")


def nesting_in_numpy(x: np.ndarray, y: np.ndarray) -> Any:
    before = np.concatenate([np.zeros((8, 1, 16)), np.cumsum(x, 1)], 1)
    counts = 2 * np.arange(6, dtype=np.int32)
    rows = np.moveaxis(x, 1, 0)
    lasts = np.moveaxis(before[:, :-1], 1, 0) * y
    carry = {"count": counts[5], "sum": (before[:, -1], y)}
    return carry, (rows, {"count": counts[:5], "last": lasts})


def powers(x: ml.Tensor, w: ml.Tensor) -> Any:
    """A loop-invariant value, used in each trip; no slices, no ys."""

    def fn(h: ml.Tensor, _: None) -> Any:
        return ml.tanh(ml.einsum(h, w, reduce="d").rename(e="d")), None

    return ml.scan(fn, x, over="n:4")[0]


def powers_in_numpy(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    for _ in range(4):
        x = np.tanh(x @ w)
    return x


def squares(x: ml.Tensor, w: ml.Tensor) -> Any:
    """Sums of microbatches."""

    def fn(part: ml.Tensor) -> Any:
        y = ml.einsum(part, w, reduce="d")
        return {
            "loss": ml.sum(y * y),
            "count": ml.sum(ml.cast(y > 0.0, "int32")),
            "sum": ml.sum(part, "batch"),
        }

    return ml.accumulate(fn, x.split(batch="batch micro:4"), over="micro")


def squares_in_numpy(x: np.ndarray, w: np.ndarray) -> Any:
    y = x @ w
    return {"loss": (y * y).sum(), "count": (y > 0).sum(dtype=np.int32), "sum": x.sum(0)}


def gathered(x: ml.Tensor, i: ml.Tensor) -> Any:
    """A table that stays, indices that are walked."""
    return ml.scan(
        lambda c, i: (c + ml.gather(x, i, dim="d"), None), ml.zeros("batch:8"), i, over="n"
    )[0]


def without_a_carry(x: ml.Tensor) -> Any:
    """Each row by itself; numbers for tensors; a tuple with names comes back as one."""
    none, (best, count) = ml.scan(
        lambda _, row: (None, (ml.top_k(row, "d", into="k:2"), 1)), None, x, over="n"
    )
    assert none is None
    return best.values, best.indices, count


def without_a_carry_in_numpy(x: np.ndarray) -> Any:
    order = np.argsort(-x, axis=1)[:, :2]
    return np.take_along_axis(x, order, 1), order.astype(np.int32), np.ones(5, np.int32)


def of_a_whole_twin(x: ml.Tensor) -> Any:
    """A divided dim is walked under its twin, and the ys have that twin."""
    whole = ml.whole(x, "batch")
    total, ys = ml.scan(lambda c, row: (c + row, c), ml.zeros("d:16"), whole, over="batch")
    return total, ml.divided(ys, "batch")


ORACLES = (
    case("recurrence", recurrence, recurrence_in_numpy, x="n:5 d:16"),
    case("nesting", nesting, nesting_in_numpy, x="batch:8 n:5 d:16", y="batch:8 d:16"),
    case("without a carry", without_a_carry, without_a_carry_in_numpy, x="n:5 d:16"),
    case("powers", powers, powers_in_numpy, x="batch:8 d:16", w="d:16 e:16"),
    case("squares", squares, squares_in_numpy, x="batch:32 d:16", w="d:16 e:24"),
    case(
        "gathered",
        gathered,
        lambda x, i: np.array([x[b, i[:, b]].sum() for b in range(8)]),
        x="batch:8 d:16",
        i=ints("n:5 batch:8", 16),
    ),
    case(
        "of a whole twin",
        of_a_whole_twin,
        lambda x: (x.sum(0), np.concatenate([np.zeros((1, 16)), np.cumsum(x, 0)[:-1]])),
        x="batch:8 d:16",
    ),
)


# -- with variables and random numbers -----------------------------------------------------------


def layer(h: ml.Tensor, name: str = "layer") -> ml.Tensor:
    with ml.scope(name):
        a = ml.variable("in", "d:16 f:24", init=WEIGHTS)
        b = ml.variable("out", "f:24 d:16", init=WEIGHTS)
    return h + ml.einsum(ml.tanh(ml.einsum(h, a, reduce="d")), b, reduce="f")


def deep(unroll: bool) -> Callable[[ml.Tensor], Any]:
    def fn(x: ml.Tensor) -> Any:
        return ml.scan(lambda h, _: (layer(h), ml.sum(h * h)), x, over="layers:3", unroll=unroll)

    return fn


def stacked(unroll: bool) -> Callable[[ml.Tensor], Any]:
    """Stacks alone reach the result, dims of slices in another order, and a mean of all trips."""

    def fn(x: ml.Tensor) -> Any:
        def trip(h: ml.Tensor, row: ml.Tensor) -> Any:
            after = layer(h * row)
            return after, {"h": ml.arrange(after, "d batch"), "row": row * row}

        return ml.scan(trip, x, ml.full("layers:3 d:16", 0.9), over="layers", unroll=unroll)[1]

    return fn


def nested(unroll: bool) -> Callable[[ml.Tensor], Any]:
    """Loops in loops, variables in both, a variable from around them, and one shared by all."""

    def fn(x: ml.Tensor) -> Any:
        scale = ml.variable("scale", "d:16", init=1.0)

        def inner(h: ml.Tensor, _: None) -> Any:
            return layer(h * scale, "inner"), ml.sum(h)

        def outer(h: ml.Tensor, _: None) -> Any:
            h, sums = ml.scan(inner, layer(h, "outer"), over="inner:2", unroll=unroll)
            return h * scale, sums

        return ml.scan(outer, x, over="outer:2")

    return fn


def turned(unroll: bool) -> Callable[[ml.Tensor], Any]:
    """The same, with the outer loop written out."""

    def fn(x: ml.Tensor) -> Any:
        def outer(h: ml.Tensor, _: None) -> Any:
            return ml.scan(lambda h, _: (layer(h, "inner"), None), layer(h), over="inner:2")

        return ml.scan(outer, x, over="outer:2", unroll=unroll)[0]

    return fn


def dropped(unroll: bool) -> Callable[[ml.Tensor], Any]:
    """Random numbers in loops in loops, before, between and after them."""

    def fn(x: ml.Tensor) -> Any:
        def inner(h: ml.Tensor, _: None) -> Any:
            mask = ml.random_uniform("d:16")
            return ml.dropout(h, 0.3) + mask, mask

        def outer(h: ml.Tensor, _: None) -> Any:
            h, masks = ml.scan(inner, ml.dropout(h, 0.1), over="inner:3", unroll=unroll)
            return h + ml.random_normal("d:16"), masks

        h, masks = ml.scan(outer, ml.dropout(x, 0.2), over="outer:2", unroll=unroll)
        return ml.dropout(h, 0.5), masks

    return fn


def second(unroll: bool) -> Callable[[ml.Tensor], Any]:
    """The gradient of a squared gradient, through a scan with variables."""

    def fn(x: ml.Tensor) -> Any:
        h, sums = deep(unroll)(x)
        (slope,) = ml.gradients(ml.sum(h * h) + ml.sum(sums * sums), [x])
        return slope * slope

    return fn


def micro(_: bool) -> Callable[[ml.Tensor], Any]:
    """Gradients taken inside of a loop, of variables made inside and outside of it."""

    def fn(x: ml.Tensor) -> Any:
        w = ml.variable("w", "d:16 e:24", init=WEIGHTS)

        def part(x: ml.Tensor) -> Any:
            y = ml.tanh(ml.einsum(layer(x), w, reduce="d"))
            names = {v.name.split("/")[-1]: v for v in ml.trainable_variables()[-3:]}
            return dict(zip(names, ml.gradients(ml.sum(y * y), list(names.values())), strict=True))

        return ml.accumulate(part, x.split(batch="batch micro:4"), over="micro")

    return fn


BUILT = {
    "deep": deep,
    "stacked": stacked,
    "nested": nested,
    "turned": turned,
    "dropped": dropped,
    "second": second,
}
PROGRAMS = tuple(
    case(name, fn(False), x="batch:8 d:16", gradients=name != "dropped")
    for name, fn in BUILT.items()
)
MICRO = case("micro", micro(False), x="batch:32 d:16", gradients=False)
SECOND_OF_MICRO = case("micro twice", micro(False), x="batch:32 d:16")


def test_values():
    check_values(ORACLES)


def test_slopes():
    check_slopes((*ORACLES, *PROGRAMS[:4], PROGRAMS[5], SECOND_OF_MICRO))


@pytest.mark.parametrize("laid", drawn("loops", layouts("batch d e"), draws=3))
def test_layouts(laid: Laid):
    check(ORACLES, laid)


KEPT = (
    Laid("r:2 c:2", "batch:r f:c", params="d:r"),
    Laid("r:2 c:4", "batch:c", params="f:c d:r"),
    Laid("all:8", "batch:all", slots="d:all"),
)


@pytest.mark.parametrize("laid", drawn("deep loops", (*layouts("batch d f")[1:], *KEPT), draws=4))
def test_layouts_with_variables(laid: Laid):
    check((*PROGRAMS, MICRO, SECOND_OF_MICRO), laid)


# -- the same, written out -----------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in BUILT if n != "second"])
def test_written_out_it_is_the_same(name: str):
    """Values, variables, gradients and random bits: those of the loop."""
    gradients = name != "dropped"
    laid = Laid("r:2 c:2", "batch:r f:c" if gradients else "batch:r d:c")
    cases = [
        case(name, BUILT[name](unroll), x="batch:8 d:16", gradients=gradients)
        for unroll in (False, True)
    ]
    looped, written = (run(c, laid) for c in cases)
    assert list(looped) == list(written)
    for path, array in written.items():
        compare(path, array, looped[path], 1e-12)


def test_random_numbers_differ_from_trip_to_trip():
    masks = run(PROGRAMS[4], Laid("r:2", "d:r"))["dropped/value/1"]
    rows = masks.reshape(6, 16)
    assert len(np.unique(rows)) == rows.size


def nodes(program: Program) -> list[Node]:
    found = []
    for node in program.nodes:
        found.append(node)
        body = getattr(node.op, "body", None)
        found += nodes(body.program) if body is not None else []
    return found


def test_programs_do_not_grow_with_depth():
    def made(layers: int) -> Program:
        def fn(x: ml.Tensor) -> Any:
            h, _ = ml.scan(lambda h, _: (layer(h), None), x, over=f"layers:{layers}")
            return ml.gradients(ml.sum(h), ml.trainable_variables())

        return ml.trace(fn, x=ml.spec("batch:8 d:16"))

    assert len(nodes(made(2))) == len(nodes(made(64)))
    assert [str(v.shape) for v in made(64).variables.values()] == [
        "[layers':64 d':16 f':24]",
        "[layers':64 f':24 d':16]",
    ]


# -- what moves ----------------------------------------------------------------------------------


def trained(x: ml.Tensor) -> Any:
    h, _ = ml.scan(lambda h, _: (layer(h), None), x, over="layers:3")
    return ml.gradients(ml.sum(h * h), ml.trainable_variables())


def test_collectives_count_once_a_trip():
    def fn(x: ml.Tensor) -> Any:
        return ml.scan(lambda h, _: (layer(h), None), x, over="layers:3")[0]

    assert collectives(fn, "r:2 c:4", "batch:r f:c", x="batch:8 d:16") == [
        "all_reduce over c, 3 trips"
    ]
    plan = ml.plan(ml.trace(fn, x=ml.spec("batch:8 d:16")), "r:2 c:4", "batch:r f:c")
    assert (plan.cost.over("c").collectives, plan.cost.over("c").elements) == (3, 3 * 4 * 16)


def test_gradients_of_stacked_variables_are_paid_in_their_trips():
    moved = collectives(trained, "r:4", "batch:r", x="batch:8 d:16")
    assert moved == ["all_reduce over r, 3 trips"]  # two sums in one bucket


def test_the_gradient_of_a_loop_invariant_is_paid_once_after_the_loop():
    def fn(x: ml.Tensor, w: ml.Tensor, g: ml.Tensor) -> Any:
        return ml.gradients(powers(x, w), [w], g)

    shapes = {"x": "batch:8 d:16", "w": "d:16 e:16", "g": "batch:8 d:16"}
    assert collectives(fn, "r:4", "batch:r", **shapes) == ["all_reduce over r"]


def test_microbatches_pay_their_gradients_once():
    def fn(x: ml.Tensor) -> Any:
        def part(x: ml.Tensor) -> Any:
            return ml.gradients(ml.sum(ml.square(layer(x))), ml.trainable_variables())

        return ml.accumulate(part, x.split(batch="batch micro:4"), over="micro")

    plan = ml.plan(ml.trace(fn, x=ml.spec("batch:32 d:16")), "r:4", "batch:r")
    assert (plan.cost.over("r").sums, plan.cost.over("r").collectives) == (2, 1)
    assert plan.cost.over("r").elements == 2 * 16 * 24
    assert collectives(fn, "r:4", "batch:r", x="batch:32 d:16") == ["all_reduce over r"]


def test_kept_variables_are_gathered_in_each_trip_of_both_passes():
    """Forward, backward, and the gradient scattered: nothing is gathered as a stack of layers."""
    moved = collectives(trained, "r:4", "batch:r", params="d:r", x="batch:8 d:16")
    forward = ["all_gather over r, 3 trips"] * 2
    backward = ["all_gather over r, 3 trips"] * 2 + ["reduce_scatter over r, 3 trips"] * 2
    assert sorted(moved) == sorted(forward + backward)


def test_a_stack_is_cut_without_moving():
    def fn(x: ml.Tensor) -> Any:
        return ml.scan(lambda c, x: (c + x, c * x), ml.zeros("d:16"), x, over="n")

    assert collectives(fn, "r:2 c:4", "d:r+c", x="n:5 d:16") == []


# -- laws ----------------------------------------------------------------------------------------


@for_all(st.integers(1, 6), st.sampled_from(["", "d:r", "d:c+r", "batch:r d:c"]), st.booleans())
@settings(max_examples=8)
def test_a_scan_of_sums_is_a_running_sum(trips: int, layout: str, unroll: bool):
    def fn(x: ml.Tensor) -> dict[str, ml.Tensor]:
        def trip(c: ml.Tensor, row: ml.Tensor) -> Any:
            return c + row, c + row

        last, sums = ml.scan(trip, ml.zeros("batch:4 d:8"), x, over="n", unroll=unroll)
        total = ml.accumulate(lambda row: row * 1.0, x, over="n")
        return {
            "sums": sums - ml.cumsum(x, "n"),
            "last": last - ml.sum(x, "n"),
            "total": total - last,
        }

    found = run(case("law", fn, x=f"n:{trips} batch:4 d:8"), Laid("r:2 c:2", layout or "batch:r"))
    for path, array in found.items():
        compare(path, array, np.zeros_like(array), 1e-12)
