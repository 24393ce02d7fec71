"""Convolution: TensorFlow and NumPy, finite differences, layouts, what moves, laws."""

from collections.abc import Callable, Sequence
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
    layouts,
    sent,
)


def padded(size: int, window: int, stride: int, dilation: int, padding: str) -> tuple[int, int]:
    """Zeros in front, and how many windows."""
    reach = (window - 1) * dilation + 1
    if padding == "valid":
        return 0, (size - reach) // stride + 1
    count = -(-size // stride)
    return max((count - 1) * stride + reach - size, 0) // 2, count


def direct(
    text: str, slides: Sequence[tuple[int, int]], strides=1, dilations=1, padding: str = "same"
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Window by window an einsum of what stands in it and of the filters.

    `slides` has the axis of x and that of the filters for each spatial dim; the result has these
    dims in front, then those that the text of the einsum keeps.
    """

    def oracle(x: np.ndarray, filters: np.ndarray) -> np.ndarray:
        places = []
        for axis, k in slides:
            before, count = padded(x.shape[axis], filters.shape[k], strides, dilations, padding)
            rows = np.arange(count)[:, None] * strides + np.arange(filters.shape[k]) * dilations
            places.append(rows - before)
        grid = [range(len(p)) for p in places]
        first = None
        for at in np.ndindex(*(len(g) for g in grid)):
            part = x
            for (axis, _), rows, i in zip(slides, places, at, strict=True):
                inside = (rows[i] >= 0) & (rows[i] < x.shape[axis])
                taken = np.take(part, np.clip(rows[i], 0, x.shape[axis] - 1), axis)
                shape = [len(inside) if a == axis else 1 for a in range(x.ndim)]
                part = taken * inside.reshape(shape)
            made = np.einsum(text, part, filters)
            if first is None:
                first = np.zeros((*(len(g) for g in grid), *made.shape))
            first[at] = made
        return first

    return oracle


def moved(oracle: Callable[..., np.ndarray], *axes: int) -> Callable[..., np.ndarray]:
    """The spatial dims of an oracle's result, which stand in front, elsewhere."""
    return lambda *xs: np.moveaxis(oracle(*xs), range(len(axes)), axes)


def images(strides: Any, padding: str, dilations: int = 1) -> Callable[..., np.ndarray]:
    """TensorFlow itself."""

    def oracle(x: np.ndarray, filters: np.ndarray) -> np.ndarray:
        return tf.nn.conv2d(x, filters, strides, padding.upper(), dilations=dilations).numpy()

    return oracle


def conv2d(**more: Any) -> Callable[[ml.Tensor, ml.Tensor], ml.Tensor]:
    return lambda x, f: ml.conv(x, f, {"height": "kh", "width": "kw"}, reduce="c_in", **more)


def conv1d(**more: Any) -> Callable[[ml.Tensor, ml.Tensor], ml.Tensor]:
    return lambda x, f: ml.conv(x, f, {"n": "k"}, reduce="c_in", **more)


def squared(fn: Callable[..., ml.Tensor]) -> Callable[..., list[ml.Tensor]]:
    """Gradients with respect to both: their own gradients are of second order."""
    return lambda x, f: ml.gradients(ml.sum(ml.square(fn(x, f))), [x, f])


IMAGE = {"x": "batch:8 height:16 width:8 c_in:8", "f": "kh:3 kw:2 c_in:8 c_out:8"}
CASES = (
    case("same", conv2d(), images(1, "same"), **IMAGE),
    case("strides", conv2d(strides=2), images(2, "same"), **IMAGE),
    case(
        "both",
        conv2d(strides={"height": 2}, dilations=1, padding={"height": "same", "width": (0, 1)}),
        lambda x, f: tf.nn.conv2d(x, f, (2, 1), [[0, 0], [0, 1], [0, 1], [0, 0]]).numpy(),
        **IMAGE,
    ),
    case("dilated", conv2d(dilations=3), images(1, "same", 3), **IMAGE),
    case(
        "valid",
        conv1d(padding="valid"),
        moved(direct("bki,kio->bo", [(1, 0)], padding="valid"), 1),
        x="batch:8 n:24 c_in:8",
        f="k:9 c_in:8 c_out:16",
    ),
    case(
        "long and dilated",
        conv1d(dilations=2, strides=2),
        moved(direct("kbi,oik->bo", [(0, 2)], 2, 2), 0),
        x="n:16 batch:8 c_in:8",
        f="c_out:8 c_in:8 k:7",
    ),
    case(
        "depthwise",
        lambda x, f: ml.conv(x, f, {"height": "kh", "width": "kw"}, reduce="", strides=2),
        moved(direct("bhwc,hwc->bc", [(1, 0), (2, 1)], 2), 1, 2),
        x="batch:8 height:16 width:8 c:8",
        f="kh:3 kw:3 c:8",
    ),
    case(
        "depthwise with more channels",
        lambda x, f: ml.conv(x, f, {"n": "k"}, reduce="", strides=2, dilations=2),
        moved(direct("nc,nco->co", [(0, 0)], 2, 2), 0),
        x="n:16 c:8",
        f="k:3 c:8 c_out:8",
    ),
    case(
        "groups",
        lambda x, f: ml.conv(x, f, {"n": "k"}, reduce="c_in", dilations=2),
        moved(direct("gbki,kgio->gbo", [(2, 0)], 1, 2), 2),
        x="g:8 batch:8 n:16 c_in:8",
        f="k:3 g:8 c_in:8 c_out:8",
    ),
    case(
        "images in a stack",
        lambda x, f: ml.conv(
            x, f, {"t": "kt", "height": "kh", "width": "kw"}, reduce="c_in", strides=2
        ),
        moved(direct("tbhwi,thwio->bo", [(0, 0), (2, 1), (3, 2)], 2), 0, 2, 3),
        x="t:8 batch:2 height:8 width:4 c_in:2",
        f="kt:3 kh:2 kw:3 c_in:2 c_out:4",
    ),
    case(
        "second order", squared(conv1d(strides=2)), x="batch:8 n:16 c_in:8", f="k:5 c_in:8 c_out:8"
    ),
    case(
        "second order depthwise",
        squared(lambda x, f: ml.conv(x, f, {"n": "k"}, reduce="")),
        x="batch:8 n:16 c:8",
        f="k:4 c:8",
    ),
)


def transposed(strides: int, padding: str, size: int) -> Callable[..., np.ndarray]:
    def oracle(x: np.ndarray, f: np.ndarray) -> np.ndarray:
        shape = (x.shape[0], size, f.shape[1])
        return tf.nn.conv1d_transpose(x, f, shape, strides, padding.upper()).numpy()

    return oracle


def grown(**more: Any) -> Callable[[ml.Tensor, ml.Tensor], ml.Tensor]:
    return lambda x, f: ml.conv_transpose(x, f, {"n": "k"}, reduce="c_in", **more)


SERIES = {"x": "batch:8 n:16 c_in:8", "f": "k:5 c_out:8 c_in:8"}
TRANSPOSED = (
    case("grown", grown(strides=2), transposed(2, "same", 32), **SERIES),
    case("as large", grown(), transposed(1, "same", 16), **SERIES),
    case("cut off", grown(strides=2, padding=(1, 2)), transposed(2, "same", 32), **SERIES),
    case(
        "grown and valid",
        grown(strides=8, padding="valid"),
        transposed(8, "valid", 128),
        **SERIES,
    ),
    case("second order grown", squared(grown(strides=2)), **SERIES),
)


def test_values():
    check_values([each for each in (*CASES, *TRANSPOSED) if each.oracle])


def test_slopes():
    check_slopes((*CASES, *TRANSPOSED))


@pytest.mark.parametrize("laid", drawn("conv", layouts("n height batch c_in c_out")))
def test_layouts(laid: Laid):
    check([c for c in (*CASES, *TRANSPOSED) if c.name != "images in a stack"], laid)


@pytest.mark.parametrize(
    "laid",
    drawn(
        "conv of other dims",
        [
            Laid("r:2 c:2", "g:r n:c"),
            Laid("r:2 c:2", "height:r width:c"),
            Laid("r:2 c:2", "c:r height:c"),
            Laid("r:2 c:2", "t:r width:c"),
            Laid("a:2 b:2", "height:b+a"),
        ],
    ),
)
def test_more_layouts(laid: Laid):
    check(CASES[6:10], laid)


@pytest.mark.parametrize(
    "laid", drawn("conv of filters", [Laid("r:2 c:2", "kw:r height:c"), Laid("r:4", "width:r")])
)
def test_filters_may_be_divided_along_their_windows(laid: Laid):
    check(CASES[:2], laid)


# -- what moves ----------------------------------------------------------------------------------


def test_a_halo_is_two_rows_and_corners_come_along():
    """Blocks of 2 images, 4 x 4 pixels, 8 channels; a 3 x 3 window."""
    shapes = {"x": "batch:8 height:16 width:16 c_in:8", "f": "kh:3 kw:3 c_in:8 c_out:8"}
    found = sent(conv2d(), "r:4 c:4", "height:r width:c", **shapes)
    assert found == {"permute r": 2.0 * 8 * 4 * 8, "permute c": 2.0 * 8 * 6 * 8}


def test_a_plan_shows_the_rows_that_neighbours_send():
    program = ml.trace(conv1d(), x=ml.spec("batch:2 n:16 c_in:4"), f=ml.spec("k:3 c_in:4 c_out:8"))
    assert (
        ml.plan(program, "r:4", "n:r").text()
        == """\
mesh    r:4  (4 processors)
layout  n:r

%0 = input x: [batch:2 n:16/r c_in:4] float32
%1 = input f: [k:3 c_in:4 c_out:8] float32
%2 = rows(%0) 1: [batch:2 n.rows:4/r c_in:4] float32
%3 = permute over r (%2) 8 elements, 32 bytes: [batch:2 n.rows:4/r c_in:4] float32
%4 = rows(%0) 1: [batch:2 n.rows:4/r c_in:4] float32
%5 = permute over r (%4) 8 elements, 32 bytes: [batch:2 n.rows:4/r c_in:4] float32
%6 = assemble(%0, %3, %5): [batch:2 n.run:24/r c_in:4] float32
%7 = conv(%6, %1) n/k:3 before 1: [batch:2 n:16/r c_out:8] float32
return %7
"""
    )


def test_windows_that_line_up_send_nothing():
    shapes = {"x": "batch:8 height:16 width:16 c_in:8", "f": "kh:2 kw:2 c_in:8 c_out:8"}
    assert sent(conv2d(strides=2), "r:4 c:4", "height:r width:c", **shapes) == {}


def test_channels_are_summed_and_batches_move_nothing():
    assert collectives(conv2d(), "r:2 c:2", "batch:r c_out:c", **IMAGE) == []
    assert collectives(conv2d(), "r:2 c:2", "batch:r c_in:c", **IMAGE) == ["all_reduce over c"]


def test_gradients_send_halos_back_and_sum_the_filters():
    """The halo of the forward pass serves the filters' gradient too."""
    shapes = {"x": "batch:8 n:32 c_in:4", "f": "k:3 c_in:4 c_out:4"}
    rows = 2 * 4 * 4
    fn = squared(conv1d())
    found = sent(fn, "d:2 r:4", "batch:d n:r", **shapes)
    assert found == {"permute r": 2.0 * 2 * rows / 2, "all_reduce d+r": 2 * 7 / 8 * 48}


def test_flops_are_those_of_the_windows():
    shapes = {"x": "batch:8 n:32 c_in:4", "f": "k:3 c_in:4 c_out:16"}
    program = ml.trace(conv1d(strides=2), **{n: ml.spec(s) for n, s in shapes.items()})
    assert ml.plan(program, "", "").cost.flops == 2 * 8 * 16 * 3 * 4 * 16
    assert ml.plan(program, "r:4", "n:r").cost.flops == 2 * 8 * 16 * 3 * 4 * 16 // 4


# -- laws ----------------------------------------------------------------------------------------


def test_a_window_of_one_is_an_einsum():
    def fn(x: ml.Tensor, f: ml.Tensor) -> ml.Tensor:
        product = ml.einsum(x, ml.sum(f, "k"), reduce="c_in")
        return conv1d()(x, f) - product

    made = case(
        "law",
        fn,
        lambda x, f: np.zeros((8, 16, 8)),
        x="batch:8 n:16 c_in:4",
        f="k:1 c_in:4 c_out:8",
    )
    check_values(made)


def test_short_floats_are_summed_in_high():
    """Products of bfloat16 are computed in float32, and the sum over channels is paid there."""
    precision = ml.Precision(stored="float32", compute="bfloat16", high="float32")
    x, f = ml.spec("batch:8 n:16 c_in:8"), ml.spec("k:3 c_in:8 c_out:8")
    plan = ml.plan(ml.trace(conv1d(), precision=precision, x=x, f=f), "r:2", "c_in:r")
    (reduced,) = (step for step in plan.steps if getattr(step, "kind", "") == "all_reduce")
    assert reduced.inputs[0].dtype == "float32"
    rng = np.random.default_rng(0)
    arrays = {"x": rng.integers(-3, 4, (8, 16, 8)) * 1.0, "f": rng.integers(-2, 3, (3, 8, 8)) * 1.0}
    found = ml.lower(plan, backend="simulated")(**arrays).numpy()
    wanted = tf.nn.conv1d(arrays["x"], arrays["f"], 1, "SAME")
    np.testing.assert_array_equal(
        found.astype("float64"), tf.cast(tf.cast(wanted, tf.bfloat16), tf.float64)
    )
