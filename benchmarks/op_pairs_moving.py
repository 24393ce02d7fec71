"""Pairs of ops that move: transposes, runs, rows by index, orders, windows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

import meshlang as ml
from benchmarks.op_pair import Floats, Input, Ints, Orders, Pair


def moving(rows: int) -> list[Pair]:
    """Pairs whose first dim has `rows` indices or so; other dims always have the same sizes."""
    x, y = Floats(f"rows:{rows} columns:1024"), Floats(f"rows:{rows} columns:1024")
    return [
        *_rearrangements(rows, x, y),
        *_index(rows),
        *_orders(rows),
        *_spatial(rows),
    ]


def _rearrangements(rows: int, x: Floats, y: Floats) -> list[Pair]:
    heads = {"x": Floats(f"batch:{rows // 32} length:32 heads:16 d:64")}
    one, both = {"x": x}, {"x": x, "y": y}

    def moved(
        name: str, ours: Callable[..., Any], plain: Callable[..., Any], inputs: dict[str, Input]
    ) -> Pair:
        return Pair("rearrange", name, ours, plain, inputs)

    def cut(
        name: str, ours: Callable[..., Any], plain: Callable[..., Any], inputs: dict[str, Input]
    ) -> Pair:
        return Pair("concat, slice, shift", name, ours, plain, inputs)

    return [
        moved("transpose", lambda x: ml.arrange(x, "columns rows"), tf.transpose, {**one}),
        moved(
            "heads to the front",
            lambda x: ml.arrange(x, "batch heads length d"),
            lambda x: tf.transpose(x, [0, 2, 1, 3]),
            {**heads},
        ),
        moved(
            "split, transpose, merge",
            lambda x: ml.merge(
                ml.arrange(ml.split(x, columns="a:32 b:32"), "rows b a"), columns="b a"
            ),
            lambda x: tf.reshape(tf.transpose(tf.reshape(x, [-1, 32, 32]), [0, 2, 1]), [-1, 1024]),
            {**one},
        ),
        cut("concat", lambda x, y: ml.concat([x, y], "columns"), _concat, {**both}),
        cut("stack", lambda x, y: ml.stack([x, y], "two"), lambda x, y: tf.stack([x, y]), {**both}),
        cut(
            "slice",
            lambda x: ml.slice(x, "columns", start=100, size=800),
            lambda x: x[:, 100:900],
            {**one},
        ),
        cut(
            "pad",
            lambda x: ml.pad(x, "columns", before=1, after=1),
            lambda x: tf.pad(x, [[0, 0], [1, 1]]),
            {**one},
        ),
        cut(
            "shift",
            lambda x: ml.shift(x, "columns", 1),
            lambda x: tf.pad(x[:, :-1], [[0, 0], [1, 0]]),
            {**one},
        ),
        cut(
            "shift, wrapped",
            lambda x: ml.shift(x, "columns", 1, wrap=True),
            lambda x: tf.roll(x, 1, 1),
            {**one},
        ),
        cut("reverse", lambda x: ml.reverse(x, "columns"), lambda x: tf.reverse(x, [1]), {**one}),
    ]


def _concat(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    return tf.concat([x, y], 1)


def _index(rows: int) -> list[Pair]:
    table, values = Floats(f"vocab:{rows} d:512"), Floats(f"tokens:{rows} d:512")
    ids, order = Ints(f"tokens:{rows}", rows), Orders(f"tokens:{rows}")
    lists = Floats(f"batch:{rows // 16} vocab:64 d:256")

    def made(
        name: str, ours: Callable[..., Any], plain: Callable[..., Any], **inputs: Input
    ) -> Pair:
        return Pair("gather, scatter, segment", name, ours, plain, inputs)

    few = Ints(f"tokens:{rows}", 8)  # so few that none is empty, of which the largest differs
    return [
        made("gather", lambda t, i: ml.gather(t, i, dim="vocab"), tf.gather, t=table, i=ids),
        made(
            "gather of each batch",
            lambda t, i: ml.gather(t, i, dim="vocab"),
            lambda t, i: tf.gather(t, i, batch_dims=1),
            t=lists,
            i=Ints(f"batch:{rows // 16} tokens:32", 64),
        ),
        made(
            "scatter_add",
            lambda x, i: ml.scatter_add(x, i, into=f"vocab:{rows}"),
            lambda x, i: tf.math.unsorted_segment_sum(x, i, rows),
            x=values,
            i=ids,
        ),
        made(
            "segment_sum",
            lambda x, i: ml.segment_sum(x, i, into="segments:8"),
            lambda x, i: tf.math.unsorted_segment_sum(x, i, 8),
            x=values,
            i=few,
        ),
        made(
            "segment_mean",
            lambda x, i: ml.segment_mean(x, i, into="segments:8"),
            lambda x, i: tf.math.unsorted_segment_mean(x, i, 8),
            x=values,
            i=few,
        ),
        made(
            "segment_max",
            lambda x, i: ml.segment_max(x, i, into="segments:8"),
            lambda x, i: tf.math.unsorted_segment_max(x, i, 8),
            x=values,
            i=few,
        ),
        made(
            "scatter_max",
            lambda x, v, i: ml.scatter_max(x, v, i, dim="vocab"),
            lambda x, v, i: tf.tensor_scatter_nd_max(x, i[:, None], v),
            x=table,
            v=values,
            i=ids,
        ),
        made(
            "scatter_update",
            lambda x, v, i: ml.scatter_update(x, v, i, dim="vocab"),
            lambda x, v, i: tf.tensor_scatter_nd_update(x, i[:, None], v),
            x=table,
            v=values,
            i=order,
        ),
        Pair(
            "gather, scatter, segment",
            "one_hot",
            lambda i: ml.one_hot(i, "vocab:1024"),
            lambda i: tf.one_hot(i, 1024),
            {"i": Ints(f"tokens:{rows}", 1024)},
            gradient=False,
        ),
    ]


def _orders(rows: int) -> list[Pair]:
    short, narrow = (
        {"x": Floats(f"rows:{rows} columns:64")},
        {"x": Floats(f"rows:{rows} columns:128")},
    )

    def made(
        name: str,
        ours: Callable[..., Any],
        plain: Callable[..., Any],
        inputs: dict[str, Input],
        gradient: bool = True,
    ) -> Pair:
        return Pair("order, running", name, ours, plain, inputs, gradient)

    return [
        made(
            "top_k",
            lambda x: ml.top_k(x, "columns", into="k:8"),
            lambda x: tuple(tf.math.top_k(x, 8)),
            {**short},
        ),
        made("sort", lambda x: ml.sort(x, "columns"), lambda x: tf.sort(x), {**short}),
        made(
            "argsort", lambda x: ml.argsort(x, "columns"), lambda x: tf.argsort(x), {**short}, False
        ),
        made("cumsum", lambda x: ml.cumsum(x, "columns"), lambda x: tf.cumsum(x, 1), {**narrow}),
        made(
            "cumprod",
            lambda x: ml.cumprod(x, "columns"),
            lambda x: tf.math.cumprod(x, 1),
            {**narrow},
        ),
    ]


def _spatial(rows: int) -> list[Pair]:
    images = Floats(f"batch:{rows // 64} height:32 width:32 c_in:32")
    sounds = Floats(f"batch:{rows // 64} time:512 c_in:32")
    kernel = Floats("kh:3 kw:3 c_in:32 c_out:32", scale=0.1)
    along = {"height": "kh", "width": "kw"}

    def made(
        name: str, ours: Callable[..., Any], plain: Callable[..., Any], **inputs: Input
    ) -> Pair:
        return Pair("conv, pool", name, ours, plain, inputs)

    return [
        made(
            "conv 3x3",
            lambda x, w: ml.conv(x, w, along, reduce="c_in"),
            lambda x, w: tf.nn.conv2d(x, w, 1, "SAME"),
            x=images,
            w=kernel,
        ),
        made(
            "conv 3x3, strides of 2",
            lambda x, w: ml.conv(x, w, along, reduce="c_in", strides=2),
            lambda x, w: tf.nn.conv2d(x, w, 2, "SAME"),
            x=images,
            w=kernel,
        ),
        made(
            "conv of 3",
            lambda x, w: ml.conv(x, w, {"time": "k"}, reduce="c_in"),
            lambda x, w: tf.nn.conv1d(x, w, 1, "SAME"),
            x=sounds,
            w=Floats("k:3 c_in:32 c_out:32", scale=0.1),
        ),
        made(
            "conv 3x3, depthwise",
            lambda x, w: ml.conv(x, w, along, reduce=""),
            lambda x, w: tf.nn.depthwise_conv2d(x, w[..., None], [1, 1, 1, 1], "SAME"),
            x=images,
            w=Floats("kh:3 kw:3 c_in:32", scale=0.1),
        ),
        made(
            "max_pool",
            lambda x: ml.max_pool(x, {"height": 2, "width": 2}),
            lambda x: tf.nn.max_pool2d(x, 2, 2, "VALID"),
            x=images,
        ),
        made(
            "mean_pool",
            lambda x: ml.mean_pool(x, {"height": 2, "width": 2}),
            lambda x: tf.nn.avg_pool2d(x, 2, 2, "VALID"),
            x=images,
        ),
    ]
