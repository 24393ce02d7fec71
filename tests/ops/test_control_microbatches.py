"""Gradients of microbatches: summed over processors once, after all loops, and still right."""

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
    collectives,
    compare,
    drawn,
    layouts,
    run,
)

WEIGHTS = ml.normal_init(0.3)
ROWS = "micro:4 batch:8 d:16"
TABLES = [{"params": "d:r"}, {"slots": "d:r"}]


def layer(h: ml.Tensor) -> ml.Tensor:
    a = ml.variable("in", "d:16 f:24", init=WEIGHTS)
    b = ml.variable("out", "f:24 d:16", init=WEIGHTS)
    return h + ml.einsum(ml.tanh(ml.einsum(h, a, reduce="d")), b, reduce="f")


def flat(x: ml.Tensor) -> ml.Tensor:
    return ml.sum(ml.square(layer(x)))


def deep(x: ml.Tensor) -> ml.Tensor:
    """Stacked variables, each used twice, and one that all layers share."""
    shared = ml.variable("shared", "d:16", init=ml.ones_init)

    def trip(h: ml.Tensor, _: None) -> Any:
        with ml.scope("layer"):
            return ml.recompute(layer)(h * shared) + 0.5 * layer(h), None

    return ml.sum(ml.square(ml.scan(trip, x, over="layers:3")[0]))


def simple(x: ml.Tensor) -> ml.Tensor:
    h = ml.scan(lambda h, _: (layer(h), None), x, over="layers:3")[0]
    return ml.sum(ml.square(h))


Loss = Callable[[ml.Tensor], ml.Tensor]


def inside(loss: Loss) -> Callable[[ml.Tensor], Any]:
    """Gradients taken in the loop over microbatches."""

    def fn(x: ml.Tensor) -> Any:
        before = len(ml.trainable_variables())

        def part(x: ml.Tensor) -> Any:
            return ml.gradients(loss(x), ml.trainable_variables()[before:])

        return ml.accumulate(part, x, over="micro")

    return fn


def outside(loss: Loss) -> Callable[[ml.Tensor], Any]:
    """The gradient of that loop."""

    def fn(x: ml.Tensor) -> Any:
        before = len(ml.trainable_variables())
        total = ml.accumulate(loss, x, over="micro")
        return ml.gradients(total, ml.trainable_variables()[before:])

    return fn


CASES = tuple(
    case(f"{how.__name__} {loss.__name__}", how(loss), x=ROWS, gradients=False)
    for loss in (flat, deep)
    for how in (inside, outside)
)
LOSSES = tuple(
    case(f"loss of {loss.__name__}", lambda x, f=loss: ml.accumulate(f, x, over="micro"), x=ROWS)
    for loss in (flat, deep)
)
# Gradients of squared gradients, as the harness takes those of the results.
SECOND = case("second", lambda x: [g * g for g in inside(deep)(x)[:1]], x="micro:2 batch:8 d:16")

KEPT = (
    Laid("r:2 c:2", "batch:r f:c", params="d:r"),
    Laid("r:2 c:4", "batch:c", params="f:c d:r"),
    Laid("all:8", "batch:all", slots="d:all"),
)


def test_slopes():
    check_slopes((*LOSSES, SECOND))


@pytest.mark.parametrize("laid", drawn("microbatches", (*layouts("batch d f")[1:], *KEPT), draws=3))
def test_layouts(laid: Laid):
    check((*CASES, *LOSSES, SECOND), laid)


@pytest.mark.parametrize("laid", KEPT, ids=str)
def test_variables_kept_divided(laid: Laid):
    check(CASES, laid)


def test_one_way_or_the_other_they_are_the_same():
    laid = Laid("r:2 c:2", "batch:r f:c")
    first, second = (
        run(case("deep", how(deep), x=ROWS, gradients=False), laid) for how in (inside, outside)
    )
    assert list(first) == list(second)
    for path, array in first.items():
        assert np.abs(array).max() > 0.0
        compare(path, second[path], array, 1e-12)


# -- what moves ----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [inside, outside])
@pytest.mark.parametrize("loss", [flat, simple])
def test_gradients_are_paid_once(how: Callable[..., Any], loss: Loss):
    """Those of layers too: one collective, where there are 4 microbatches of 3 layers."""
    assert collectives(how(loss), "r:4", "batch:r", x=ROWS) == ["all_reduce over r"]


@pytest.mark.parametrize("tables", TABLES, ids=str)
@pytest.mark.parametrize("how", [inside, outside])
@pytest.mark.parametrize("loss", [flat, simple])
def test_gradients_of_kept_variables_are_scattered_once(
    how: Callable[..., Any], loss: Loss, tables: dict[str, str]
):
    moved = collectives(how(loss), "r:4", "batch:r", x=ROWS, **tables)
    assert [m for m in moved if "gather" not in m] == ["reduce_scatter over r"] * 2
    program = ml.trace(how(loss), x=ml.spec(ROWS))
    traffic = ml.plan(program, "r:4", "batch:r", **tables).cost.traffic
    layers = 3 if loss is simple else 1
    assert traffic["reduce_scatter", ("r",)].wire_elements == layers * 2 * 16 * 24 * 3 / 4


def test_without_microbatches_a_layer_is_scattered_when_its_gradient_is_there():
    """So that no more than one layer's gradient lies whole."""

    def fn(x: ml.Tensor) -> Any:
        return ml.gradients(simple(x), ml.trainable_variables())

    moved = collectives(fn, "r:4", "batch:r", params="d:r", x="batch:8 d:16")
    assert moved.count("reduce_scatter over r, 3 trips") == 2
