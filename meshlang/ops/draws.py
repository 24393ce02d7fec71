"""Random numbers, the same on every mesh and layout.

Their bits are a counter of the global element index, under the key (seed, step, op, trip): Philox,
Salmon et al., 2011.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from meshlang.dims import Dim, Shape
from meshlang.dtypes import check_kind
from meshlang.errors import ArrayError, DimError, DtypeError, message
from meshlang.ops.create import Random
from meshlang.ops.elementwise import cast, right_shift, where
from meshlang.ops.order import argsort
from meshlang.ops.rearrange import expand_to
from meshlang.ops.reduce import argmax
from meshlang.program import FLOATS, INTEGERS, NARROW, apply, as_tensor, dtype_name, tracing
from meshlang.tensor import Tensor


def _random(kind: str, shape: str | Shape, dtype: str) -> Tensor:
    tracing(f"ml.random_{kind}")
    dtype = dtype_name(dtype)
    if dtype not in FLOATS:
        fix = "draw floats and ml.cast what is made of them, or ml.random_integers"
        raise DtypeError(message(f"random_{kind} makes floats, not {dtype}.", fix=fix))
    return _drawn(kind, shape, dtype)


def _drawn(kind: str, shape: str | Shape, dtype: str) -> Tensor:
    program = tracing(f"ml.random_{kind}")
    program.root.random_ids += 1
    op = Random(kind, Shape.parse(shape), dtype, program.root.random_ids)
    return apply(op, *program.trips)[0]


def random_uniform(
    shape: str | Shape, low: float = 0.0, high: float = 1.0, dtype: str = "compute"
) -> Tensor:
    """Uniform numbers from low up to high: the same on every mesh and layout.

    Bits are a counter of the global element index, under the key (seed, step, op, trip): Philox,
    Salmon et al., 2011. They have 23 bits in [0, 1), scaled and rounded.

    Dims:
        returns  [shape], floats

    Raises:
        DtypeError: the dtype is not a float.
        ProgramError: nothing is being traced.

    Example:
        >>> import meshlang as ml
        >>> x = ml.run(lambda: ml.random_uniform("d:1000", low=2.0, high=4.0))
        >>> bool(x.min() >= 2.0), bool(x.max() <= 4.0), round(float(x.mean()))
        (True, True, 3)
    """
    unit = _random("uniform", shape, dtype)
    return unit if (low, high) == (0.0, 1.0) else unit * (high - low) + low


def random_normal(shape: str | Shape, dtype: str = "compute") -> Tensor:
    """Normal numbers of mean 0 and deviation 1: the same on every mesh and layout.

    Dims:
        returns  [shape], floats

    Raises:
        DtypeError: the dtype is not a float.
        ProgramError: nothing is being traced.

    Example:
        >>> import meshlang as ml
        >>> x = ml.run(lambda: ml.random_normal("d:1000"))
        >>> round(float(x.mean())), round(float(x.std()))
        (0, 1)
    """
    return _random("normal", shape, dtype)


def random_truncated_normal(shape: str | Shape, dtype: str = "compute") -> Tensor:
    """Normal numbers of which those beyond 2 are left out: the same on every mesh and layout.

    Dims:
        returns  [shape], floats

    Raises:
        DtypeError: the dtype is not a float.
        ProgramError: nothing is being traced.

    Example:
        >>> import meshlang as ml
        >>> x = ml.run(lambda: ml.random_truncated_normal("d:1000"))
        >>> bool(abs(x).max() <= 2.0), round(float(x.mean()))
        (True, 0)
    """
    return _random("truncated", shape, dtype)


def random_gumbel(shape: str | Shape, dtype: str = "compute") -> Tensor:
    """Gumbel numbers, -log(-log(u)) of uniform u: the same on every mesh and layout.

    What they are added to has its largest value at an index that is drawn by softmax.

    Dims:
        returns  [shape], floats

    Raises:
        DtypeError: the dtype is not a float.
        ProgramError: nothing is being traced.

    Example:
        >>> import meshlang as ml
        >>> x = ml.run(lambda: ml.random_gumbel("d:10000"))
        >>> round(float(x.mean()), 1)  # Euler's constant
        0.6
    """
    return _random("gumbel", shape, dtype)


def random_integers(shape: str | Shape, low: int, high: int, dtype: str = "int32") -> Tensor:
    """Integers from low up to below high: the same on every mesh and layout.

    They are 64 random bits times the number of values, divided by 2 to the 64: what a value's
    probability is off by is less than one part in 2 to the 32.

    Args:
        shape: dims with sizes.
        low: the least one.
        high: one more than the largest; at most 2 to the 31 more than `low`.
        dtype: of integers.

    Dims:
        returns  [shape], integers

    Raises:
        ArrayError: there are no values, too many, or some that the dtype cannot hold.
        DtypeError: the dtype is not of integers.
        ProgramError: nothing is being traced.

    Example:
        >>> import meshlang as ml
        >>> x = ml.run(lambda: ml.random_integers("d:1000", 1, 7))
        >>> int(x.min()), int(x.max())
        (1, 6)
    """
    tracing("ml.random_integers")
    name = dtype_name(dtype)
    if name not in INTEGERS:
        fix = f"one of {', '.join(INTEGERS)}"
        raise DtypeError(message(f"random_integers makes integers, not {name}.", fix=fix))
    limits = np.iinfo(name)
    if not (0 < high - low <= 2**31 and limits.min <= low and high - 1 <= limits.max):
        raise ArrayError(
            message(
                "random_integers: low and high are not the ends of a range that can be drawn.",
                [("low", low), ("high", high), ("dtype", name)],
                "1 to 2 ** 31 values that the dtype holds",
            )
        )
    count = high - low
    upper, lower = _drawn("bits", shape, "int64"), _drawn("bits", shape, "int64")
    return cast(right_shift(upper * count + right_shift(lower * count, 32), 32) + low, name)


def random_permutation(dim: str | Dim) -> Tensor:
    """The indices of a dim in a random order: the same on every mesh and layout.

    They are sorted by 63 random bits each, so all orders are equally likely but for a share of
    size squared over 2 to the 64.

    Dims:
        dim      ``"token:128"``, or a `Dim`
        returns  [dim], int32

    Raises:
        DimError: not one dim, or one without a size.
        ProgramError: nothing is being traced.

    Example:
        >>> import meshlang as ml
        >>> x = ml.run(lambda: ml.random_permutation("d:100"))
        >>> sorted(x.tolist()) == list(range(100)), x.tolist() == list(range(100))
        (True, False)
    """
    tracing("ml.random_permutation")
    shape = Shape.parse(dim if isinstance(dim, str) else (dim,))
    if len(shape) != 1:
        rows = [("dims", shape)]
        raise DimError(message("random_permutation: it orders one dim.", rows, "'token:128'"))
    upper, lower = _drawn("bits", shape, "int64"), _drawn("bits", shape, "int64")
    return argsort(right_shift(upper, 1) * 2**32 + lower, shape[0].label)


def random_categorical(
    logits: Any, dim: str, *, samples: str = "", temperature: float = 1.0
) -> Tensor:
    """Indices along a dim, drawn with the probabilities softmax(logits / temperature).

    The same on every mesh and layout: Gumbel numbers are added and the largest is taken, over a
    divided dim as `argmax`.

    Args:
        logits: scores.
        dim: along which to draw.
        samples: new dims with sizes, ``"sample:8"``: so many are drawn of each.
        temperature: 0 takes the largest.

    Dims:
        logits   [dim rest...], floats
        returns  [samples... rest...], int32

    Raises:
        ArrayError: the temperature is negative.
        DimError: the logits lack the dim.
        DtypeError: the logits are not floats.
        ProgramError: nothing is being traced.

    Source: Gumbel, 1954; Maddison et al., 2014.

    Example:
        >>> import meshlang as ml
        >>> logits = ml.constant([0.0, 100.0, 0.0], "d")
        >>> ml.run(lambda x: ml.random_categorical(x, "d", samples="n:4"), x=logits)
        array([1, 1, 1, 1], dtype=int32)
    """
    tracing("ml.random_categorical")
    logits = as_tensor(logits)
    check_kind("random_categorical", logits, "floats")
    if temperature < 0.0:
        raise ArrayError(message(f"random_categorical: temperature {temperature} is negative."))
    shape = Shape((*Shape.parse(samples), *logits.shape))
    scores = cast(logits, "float32") if logits.dtype in NARROW else logits
    scores = expand_to(scores, shape)
    if temperature > 0.0:
        scores = scores * (1.0 / temperature) + _random("gumbel", shape, scores.dtype)
    return argmax(scores, logits.shape[dim].label)


def random_bernoulli(shape: str | Shape, probability: float | Tensor) -> Tensor:
    """True with this probability: the same on every mesh and layout.

    Dims:
        probability  any of the dims, in float32, or a number
        returns      [shape], bools

    Raises:
        ProgramError: nothing is being traced.

    Example:
        >>> import meshlang as ml
        >>> x = ml.run(lambda: ml.random_bernoulli("d:1000", 0.25))
        >>> round(4.0 * float(x.mean()))
        1
    """
    return random_uniform(shape, dtype="float32") < probability


def dropout(x: Any, rate: float, *, share: str = "") -> Tensor:
    """Zero elements with probability `rate`, and scale the others by 1 / (1 - rate).

    Args:
        x: what to drop from.
        rate: in [0, 1); 0 returns x.
        share: dims along which one mask serves, e.g. ``"length"``.

    Dims:
        x        [dims...], floats
        returns  the same

    Raises:
        ArrayError: the rate is out of range.
        DimError: x lacks a dim of `share`.
        DtypeError: x is not floats.
        ProgramError: nothing is being traced.

    Source: Srivastava et al., 2014.

    Example:
        >>> import meshlang as ml
        >>> x = ml.run(lambda: ml.dropout(ml.ones("d:8"), 0.5))
        >>> sorted({float(each) for each in x})
        [0.0, 2.0]
    """
    x = as_tensor(x)
    check_kind("dropout", x, "floats")
    if not 0.0 <= rate < 1.0:
        raise ArrayError(message(f"dropout: rate {rate} is not in [0, 1)."))
    if rate == 0.0:
        return x
    mask = random_bernoulli(x.shape - Shape(x.shape.pick(share)), 1.0 - rate)
    return where(mask, x * (1.0 / (1.0 - rate)), as_tensor(0, x.dtype))
