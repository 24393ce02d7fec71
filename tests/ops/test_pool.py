"""Pooling: TensorFlow, finite differences, layouts, what moves, errors."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import meshlang as ml
from tests.harness import (
    Laid,
    case,
    check,
    check_slopes,
    check_values,
    collectives,
    drawn,
    given,
    ints,
    layouts,
    run,
    trace_error,
    twice,
)


def images(kind: str, size: Any, strides: Any, padding: str) -> Callable[[np.ndarray], np.ndarray]:
    """TensorFlow itself, on [batch height width channels]."""
    fn = {"max": tf.nn.max_pool2d, "mean": tf.nn.avg_pool2d}[kind]
    return lambda x: fn(tf.constant(x), size, strides, padding.upper()).numpy()


def slope_of_max(x: ml.Tensor, g: ml.Tensor) -> ml.Tensor:
    """What a gradient `g` of largest values is to x."""
    return ml.gradients([ml.max_pool(x, {"n": 2})], [x], [g])[0]


AROUND = {"width": (1, 1), "height": (1, 0)}


def padded_means(x: np.ndarray) -> np.ndarray:
    """Of windows 2 high and 3 wide with `AROUND` outside, of [height, c, width]."""
    padded = np.pad(x, ((1, 0), (0, 0), (1, 1)), constant_values=np.nan)
    windows = [padded[i : i + 8, :, j : j + 16] for i in range(2) for j in range(3)]
    return np.nanmean(windows, axis=0)


IMAGE = "batch:8 height:16 width:16 c:8"
BOX = {"height": 3, "width": 2}
CASES = (
    case(
        "max",
        lambda x: ml.max_pool(x, {"height": 2, "width": 2}),
        images("max", 2, 2, "valid"),
        x=IMAGE,
    ),
    case(
        "max same",
        lambda x: ml.max_pool(x, BOX, strides=1, padding="same"),
        images("max", (3, 2), 1, "same"),
        x=IMAGE,
    ),
    case(
        "max with strides",
        lambda x: ml.max_pool(x, BOX, strides={"height": 2, "width": 1}, padding="same"),
        images("max", (3, 2), (2, 1), "same"),
        x=IMAGE,
    ),
    case(
        "mean",
        lambda x: ml.mean_pool(x, {"height": 2, "width": 4}),
        images("mean", (2, 4), (2, 4), "valid"),
        x=IMAGE,
    ),
    case(
        "mean same",
        lambda x: ml.mean_pool(x, {"height": 5, "width": 3}, strides=2, padding="same"),
        images("mean", (5, 3), 2, "same"),
        x=IMAGE,
    ),
    case(
        "along one dim",
        lambda x: ml.mean_pool(x, {"n": 3}, strides=1, padding=(2, 0)),
        lambda x: np.stack([x[max(i - 2, 0) : i + 1].mean(0) for i in range(16)]),
        x="n:16 d:8",
    ),
    case(
        "along three dims apart",
        lambda x: ml.max_pool(x, {"c": 2, "batch": 1, "width": 3}, strides={"width": 1}),
        lambda x: np.maximum.reduce([x[:, :, k : k + 14, j::2] for j, k in np.ndindex(2, 3)]),
        x=IMAGE,
    ),
    case(
        "mean with padding of a box",
        lambda x: ml.mean_pool(x, {"width": 3, "height": 2}, strides=1, padding=AROUND),
        padded_means,
        x="height:8 c:8 width:16",
    ),
    case(
        "where the largest ones are",
        lambda x, g, z: ml.gradients([slope_of_max(x, g)], [g], [z])[0],
        lambda x, g, z: np.take_along_axis(
            z.reshape(8, 2, 8), x.reshape(8, 2, 8).argmax(1)[:, None], 1
        )[:, 0],
        x="n:16 d:8",
        g="n:8 d:8",
        z="n:16 d:8",
    ),
    case(
        "second order max of a box",
        twice(lambda x: ml.max_pool(x, {"n": 3, "m": 2}, strides={"n": 2, "m": 2}, padding="same")),
        x="n:16 m:8",
    ),
    case(
        "second order max",
        twice(lambda x: ml.max_pool(x, {"n": 3}, strides=1, padding="same")),
        x="n:16 d:8",
    ),
    case(
        "second order mean",
        twice(lambda x: ml.mean_pool(x, {"n": 3}, strides=1, padding="same")),
        x="d:8 n:16",
    ),
)


def test_values():
    check_values([each for each in CASES if each.oracle])


def test_slopes():
    check_slopes(CASES)


@pytest.mark.parametrize("laid", drawn("pool", layouts("n height batch")))
def test_layouts(laid: Laid):
    check(CASES, laid)


@pytest.mark.parametrize("laid", drawn("pool of boxes", [Laid("r:2 c:4", "height:r width:c")]))
def test_both_dims_of_a_box(laid: Laid):
    check(CASES[:5], laid)


def test_ties_go_to_the_first_one_as_in_tensorflow():
    x = given("height:4 width:4", np.random.default_rng(0).integers(0, 3, (4, 4)) * 1.0)

    def fn(x: ml.Tensor) -> ml.Tensor:
        return ml.gradients(ml.sum(ml.max_pool(x, {"height": 2, "width": 2}, strides=1)), [x])[0]

    made = case("ties", fn, gradients=False, x=x)
    array = tf.constant(made.arrays["x"][None, :, :, None])
    with tf.GradientTape() as tape:
        tape.watch(array)
        pooled = tf.nn.max_pool2d(array, 2, 1, "VALID")
    wanted = tape.gradient(pooled, array).numpy()[0, :, :, 0]
    np.testing.assert_array_equal(run(made, Laid())["ties/value"], wanted)


# -- what moves ----------------------------------------------------------------------------------


def test_windows_that_line_up_send_nothing():
    fn = lambda x: ml.max_pool(x, {"height": 2, "width": 2})  # noqa: E731
    assert collectives(fn, "r:2 c:4", "height:r width:c", x=IMAGE) == []


def test_a_gradient_uses_the_halo_that_came_before():
    fn = twice(lambda x: ml.max_pool(x, {"n": 2}, strides=1, padding="same"))
    plan = ml.plan(ml.trace(fn, x=ml.spec("n:16 d:8")), "r:4", "n:r")
    assert (plan.cost.all.collectives, plan.cost.all.wire_elements) == (2, 16.0)


# -- errors --------------------------------------------------------------------------------------

ERRORS = [
    (
        lambda x: ml.max_pool(x, {}),
        "max_pool: nothing is pooled.\n  x  [n:8 d:16]\n  fix: {'height': 2, ...}",
    ),
    (
        lambda x: ml.mean_pool(x, {"n": 2}, strides={"m": 1}),
        """\
mean_pool: strides names 'm', along which nothing slides.
  strides  {'m': 1}
  along    n
  fix: the dims are: n""",
    ),
    (
        lambda x: ml.max_pool(x, {"n": 2}, strides=1, padding=(2, 0)),
        """\
max_pool: a window along n:8 lies outside of it.
  x        [n:8 d:16]
  window   2 before 2
  padding  (2, 0)
  fix: less padding than a window is long""",
    ),
]


@pytest.mark.parametrize(("fn", "text"), ERRORS)
def test_errors(fn: Callable[[ml.Tensor], ml.Tensor], text: str):
    assert trace_error(ml.DimError, fn, x="n:8 d:16") == text


def test_floats_are_pooled():
    assert (
        trace_error(ml.DtypeError, lambda x: ml.max_pool(x, {"n": 2}), x=ints("n:8", 9))
        == "max_pool takes floats.\n  operand  [n:8] int32\n  fix: ml.cast(x, 'compute')"
    )
