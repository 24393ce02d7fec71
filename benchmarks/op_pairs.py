"""Pairs of ops that compute: elementwise, sums, products, random numbers, loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

import meshlang as ml
from benchmarks.op_pair import Floats, Input, Ints, Pair


def computing(rows: int) -> list[Pair]:
    """Pairs whose first dim has `rows` indices or so; other dims always have the same sizes."""
    x, y = Floats(f"rows:{rows} columns:1024"), Floats(f"rows:{rows} columns:1024")
    return [
        *_elementwise(x, y),
        *_reductions(x),
        *_contractions(rows),
        *_draws(rows, x),
        *_control(rows, x),
    ]


def _elementwise(x: Floats, y: Floats) -> list[Pair]:
    row, positive = Floats("columns:1024"), Floats(x.shape, low=0.5)
    both, one, over = {"x": x, "y": y}, {"x": x}, {"x": positive}

    def made(
        name: str, ours: Callable[..., Any], plain: Callable[..., Any], inputs: dict[str, Input]
    ) -> Pair:
        return Pair("elementwise", name, ours, plain, inputs)

    return [
        made("add", ml.add, tf.add, {**both}),
        made("add a row", ml.add, tf.add, {"x": x, "y": row}),
        made("multiply", ml.multiply, tf.multiply, {**both}),
        made("divide", ml.divide, tf.divide, {"x": x, "y": positive}),
        # Of equal ones TensorFlow gives the gradient to one, we to both: here hardly any are equal.
        made("maximum", ml.maximum, tf.maximum, {"x": x, "y": Floats(x.shape, low=2.0)}),
        made(
            "where",
            lambda x, y: ml.where(x > y, x, y),
            lambda x, y: tf.where(x > y, x, y),
            {**both},
        ),
        made(
            "clip",
            lambda x: ml.clip(x, -1.0, 1.0),
            lambda x: tf.clip_by_value(x, -1.0, 1.0),
            {**one},
        ),
        made(
            "cast to bfloat16",
            lambda x: ml.cast(x, "bfloat16"),
            lambda x: tf.cast(x, tf.bfloat16),
            {**one},
        ),
        made("negative", ml.negative, tf.negative, {**one}),
        made("abs", ml.abs, tf.abs, {**one}),
        made("square", ml.square, tf.square, {**one}),
        made("sqrt", ml.sqrt, tf.sqrt, {**over}),
        made("rsqrt", ml.rsqrt, tf.math.rsqrt, {**over}),
        made("reciprocal", ml.reciprocal, tf.math.reciprocal, {**over}),
        made("exp", ml.exp, tf.exp, {**one}),
        made("log", ml.log, tf.math.log, {**over}),
        made("sin", ml.sin, tf.sin, {**one}),
        made("erf", ml.erf, tf.math.erf, {**one}),
        made("tanh", ml.tanh, tf.tanh, {**one}),
        made("sigmoid", ml.sigmoid, tf.sigmoid, {**one}),
        made("log_sigmoid", ml.log_sigmoid, tf.math.log_sigmoid, {**one}),
        made("relu", ml.relu, tf.nn.relu, {**one}),
        made("leaky_relu", ml.leaky_relu, tf.nn.leaky_relu, {**one}),
        made("elu", ml.elu, tf.nn.elu, {**one}),
        made("softplus", ml.softplus, tf.math.softplus, {**one}),
        made("silu", ml.silu, tf.nn.silu, {**one}),
        made("gelu", ml.gelu, tf.nn.gelu, {**one}),
        made("gelu_tanh", ml.gelu_tanh, lambda x: tf.nn.gelu(x, approximate=True), {**one}),
    ]


def _reductions(x: Floats) -> list[Pair]:
    def made(
        name: str,
        ours: Callable[..., Any],
        plain: Callable[..., Any],
        family: str = "reduce",
        gradient: bool = True,
    ) -> Pair:
        return Pair(family, name, ours, plain, {"x": x}, gradient)

    return [
        made("sum of all", lambda x: ml.sum(x), tf.reduce_sum),
        made("sum of rows", lambda x: ml.sum(x, "columns"), lambda x: tf.reduce_sum(x, 1)),
        made("sum of columns", lambda x: ml.sum(x, "rows"), lambda x: tf.reduce_sum(x, 0)),
        made("mean", lambda x: ml.mean(x, "columns"), lambda x: tf.reduce_mean(x, 1)),
        made("max", lambda x: ml.max(x, "columns"), lambda x: tf.reduce_max(x, 1)),
        made(
            "argmax",
            lambda x: ml.argmax(x, "columns"),
            lambda x: tf.argmax(x, 1, tf.int32),
            gradient=False,
        ),
        made(
            "variance", lambda x: ml.variance(x, "columns"), lambda x: tf.math.reduce_variance(x, 1)
        ),
        made("standardize", lambda x: ml.standardize(x, "columns"), _standardize),
        made("softmax", lambda x: ml.softmax(x, "columns"), lambda x: tf.nn.softmax(x), "softmax"),
        made(
            "softmax of columns",
            lambda x: ml.softmax(x, "rows"),
            lambda x: tf.nn.softmax(x, 0),
            "softmax",
        ),
        made(
            "log_softmax",
            lambda x: ml.log_softmax(x, "columns"),
            lambda x: tf.nn.log_softmax(x),
            "softmax",
        ),
        made(
            "logsumexp",
            lambda x: ml.logsumexp(x, "columns"),
            lambda x: tf.reduce_logsumexp(x, 1),
            "softmax",
        ),
    ]


def _standardize(x: tf.Tensor) -> tf.Tensor:
    mean, variance = tf.nn.moments(x, [1], keepdims=True)
    return tf.nn.batch_normalization(x, mean, variance, None, None, 1e-6)


def _contractions(rows: int) -> list[Pair]:
    square, heads = Floats("d:512 h:512"), f"heads:8 d:{64}"

    def made(
        name: str, ours: Callable[..., Any], plain: Callable[..., Any], **inputs: Input
    ) -> Pair:
        return Pair("contract", name, ours, plain, inputs)

    queries = Floats(f"batch:{rows // 8} q:64 {heads}")
    keys = Floats(f"batch:{rows // 8} k:64 {heads}")
    return [
        made(
            "matmul",
            lambda x, w: ml.einsum(x, w, reduce="d"),
            tf.matmul,
            x=Floats(f"rows:{rows // 4} d:512"),
            w=square,
        ),
        made(
            "matmul, transposed",
            lambda x, w: ml.einsum(x, w, reduce="h"),
            lambda x, w: tf.matmul(x, w, transpose_b=True),
            x=Floats(f"rows:{rows // 4} h:512"),
            w=square,
        ),
        made(
            "attention scores",
            lambda q, k: ml.einsum(q, k, keep="batch heads q k"),
            lambda q, k: tf.einsum("bqhd,bkhd->bhqk", q, k),
            q=queries,
            k=keys,
        ),
        made(
            "inner products",
            lambda x, y: ml.einsum(x, y, keep="rows"),
            lambda x, y: tf.reduce_sum(x * y, 1),
            x=Floats(f"rows:{rows} d:512"),
            y=Floats(f"rows:{rows} d:512"),
        ),
        made(
            "outer products",
            lambda x, y: ml.einsum(x, y, keep="rows d h"),
            lambda x, y: x[:, :, None] * y[:, None],
            x=Floats(f"rows:{rows} d:32"),
            y=Floats(f"rows:{rows} h:32"),
        ),
    ]


def _draws(rows: int, x: Floats) -> list[Pair]:
    shape, sizes = f"rows:{rows} columns:256", [rows, 256]
    # A seed that is no constant, or TensorFlow would draw once, while it traces.
    seed = {"seed": Ints("seed:2", 1000)}

    def made(name: str, ours: Callable[..., Any], plain: Callable[..., Any]) -> Pair:
        return Pair("random", name, ours, plain, seed, gradient=False, drawn=True)

    return [
        made(
            "random_normal",
            lambda seed: ml.random_normal(shape),
            lambda seed: tf.random.stateless_normal(sizes, seed, alg="philox"),
        ),
        made(
            "random_uniform",
            lambda seed: ml.random_uniform(shape),
            lambda seed: tf.random.stateless_uniform(sizes, seed, alg="philox"),
        ),
        made(
            "random_truncated_normal",
            lambda seed: ml.random_truncated_normal(shape),
            lambda seed: tf.random.stateless_truncated_normal(sizes, seed, alg="philox"),
        ),
        Pair(
            "random",
            "dropout",
            lambda x, seed: ml.dropout(x, 0.25),
            lambda x, seed: tf.nn.experimental.stateless_dropout(x, 0.25, seed, rng_alg="philox"),
            {"x": x, **seed},
            drawn=True,
        ),
        Pair(
            "random",
            "random_categorical",
            lambda x, seed: ml.random_categorical(x, "columns"),
            lambda x, seed: tf.random.stateless_categorical(x, 1, seed, tf.int32)[:, 0],
            {"x": Floats(f"rows:{rows * 8} columns:32"), **seed},
            gradient=False,
            drawn=True,
        ),
    ]


def _control(rows: int, x: Floats) -> list[Pair]:
    layers = {
        "x": Floats(f"rows:{rows // 8} d:256"),
        "w": Floats("layers:8 d:256 h:256", scale=0.06),
    }

    def made(
        name: str, ours: Callable[..., Any], plain: Callable[..., Any], inputs: dict[str, Input]
    ) -> Pair:
        return Pair("loop, cond", name, ours, plain, inputs)

    return [
        made("scan", _scan, _plain_scan, {**layers}),
        made(
            "while_loop",
            lambda x: ml.while_loop(
                lambda c: c[0] < 8,
                lambda c: (c[0] + 1, ml.tanh(c[1])),
                (ml.constant(np.int32(0), ""), x),
                max_trips=8,
            )[1],
            lambda x: tf.while_loop(
                lambda i, x: i < 8,
                lambda i, x: (i + 1, tf.tanh(x)),
                (tf.constant(0), x),
                maximum_iterations=8,
            )[1],
            {"x": x},
        ),
        made(
            "cond",
            lambda x: ml.cond(ml.sum(x) < 1e9, lambda: ml.tanh(x), lambda: ml.sin(x)),
            lambda x: tf.cond(tf.reduce_sum(x) < 1e9, lambda: tf.tanh(x), lambda: tf.sin(x)),
            {"x": x},
        ),
    ]


def _scan(x: ml.Tensor, w: ml.Tensor) -> ml.Tensor:
    def layer(x: ml.Tensor, w: ml.Tensor) -> tuple[ml.Tensor, None]:
        return ml.rename(ml.relu(ml.einsum(x, w, reduce="d")), h="d"), None

    return ml.scan(layer, x, w, over="layers")[0]


def _plain_scan(x: tf.Tensor, w: tf.Tensor) -> tf.Tensor:
    def layer(i: tf.Tensor, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return i + 1, tf.nn.relu(tf.matmul(x, w[i]))

    count = w.shape[0]
    return tf.while_loop(lambda i, x: i < count, layer, (0, x), maximum_iterations=count)[1]
