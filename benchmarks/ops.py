"""``make bench-ops``: every op on one processor against plain TensorFlow on one device.

Both sides run in this process, in turn, on variables of the same values, so that no array is
converted and TensorFlow is configured alike. Results stay where they are computed. A pair's results
are compared before it is timed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np
import tensorflow as tf

import meshlang as ml
from benchmarks.op_pair import Floats, Input, Pair
from benchmarks.op_pairs import computing
from benchmarks.op_pairs_moving import moving
from benchmarks.timing import Measurement, ratio

#: no op is to cost more than so many times what plain TensorFlow takes
MARK = 1.1
ROWS = 4096
#: seconds that a turn lasts at least
TURN = 0.02
#: how far float32 results may be apart, times max(1, the largest of them)
CLOSE = 1e-4
#: the same of moments of drawn numbers
CLOSE_MOMENTS = 0.1


def pairs(rows: int) -> list[Pair]:
    """All pairs, with `rows` indices or so in the first dim."""
    return [*computing(rows), *moving(rows)]


@dataclass(frozen=True)
class Sides:
    """A pair made ready: what takes one call on each side."""

    ours: Callable[[], Any]
    plain: Callable[[], Any]


def prepared(pair: Pair, *, backward: bool) -> Sides:
    """Both sides, traced, with variables of the same values.

    Args:
        pair: The op.
        backward: Whether the gradient of every float input is computed too, from cotangents that
            are variables as well.
    """
    cotangents: list[Input] = []

    def program() -> list[ml.Tensor]:
        given = [_variable(name, made) for name, made in pair.inputs.items()]
        ys = _several(pair.ours(*given))
        if not backward:
            return ys
        floats = [y for y in ys if y.dtype == "float32" or y.dtype == "bfloat16"]
        for y in floats:
            cotangents.append(Floats(" ".join(f"{d.name}:{d.size}" for d in y.shape)))
        gs = [
            ml.cast(_variable(f"cotangent {i}", made), y.dtype)
            for i, (made, y) in enumerate(zip(cotangents, floats, strict=True))
        ]
        return [*ys, *ml.gradients(floats, [x for x in given if x.dtype == "float32"], gs)]

    run = ml.lower(ml.plan(ml.trace(program)))
    rng = np.random.default_rng(0)
    named = {**pair.inputs} | {f"cotangent {i}": made for i, made in enumerate(cotangents)}
    arrays = {
        name: made.draw(rng, ml.Shape.parse(made.shape).sizes) for name, made in named.items()
    }
    run.initialize(seed=0)
    for name, array in arrays.items():
        run.set(name, array)
    return Sides(run, _plain(pair, {n: tf.Variable(a) for n, a in arrays.items()}, backward))


def _variable(name: str, made: Input) -> ml.Tensor:
    return ml.variable(name, made.shape, init=0.0, dtype=made.dtype, trainable=False)


def _plain(
    pair: Pair, variables: dict[str, tf.Variable], backward: bool
) -> Callable[[], list[tf.Tensor]]:
    @tf.function(autograph=False)
    def step() -> list[tf.Tensor]:
        given = [tf.convert_to_tensor(variables[name]) for name in pair.inputs]
        ys = _several(pair.plain(*given))
        if not backward:
            return ys
        floats = [y for y in ys if y.dtype.is_floating]
        gs = [tf.cast(variables[f"cotangent {i}"], y.dtype) for i, y in enumerate(floats)]
        slopes = tf.gradients(floats, [x for x in given if x.dtype.is_floating], gs)
        return [*ys, *(tf.convert_to_tensor(slope) for slope in slopes)]

    return step


def _several(results: Any) -> list[Any]:
    return list(results) if isinstance(results, Sequence) else [results]


def check(pair: Pair, sides: Sides) -> None:
    """Compares the results of both sides.

    Raises:
        AssertionError: They differ.
    """
    found, wanted = sides.ours(), sides.plain()
    assert len(found) == len(wanted), f"{pair.name}: {len(found)} results, not {len(wanted)}"
    for ours, plain in zip(found, wanted, strict=True):
        a, b = np.asarray(ours), plain.numpy()
        assert (a.shape, a.dtype) == (b.shape, b.dtype), f"{pair.name}: {a.shape} {b.shape}"
        a, b = a.astype("float64"), b.astype("float64")
        if pair.drawn:
            a, b = (np.array([x.mean(), x.std()]) for x in (a, b))
        tolerance = CLOSE_MOMENTS if pair.drawn else CLOSE
        np.testing.assert_allclose(
            a, b, rtol=0, atol=tolerance * max(1.0, np.abs(b).max()), err_msg=pair.name
        )


def measured(sides: Sides, rounds: int) -> tuple[Measurement, Measurement]:
    """Seconds of a call of ours and of plain TensorFlow's, in turns whose order is reversed."""
    ours, plain = Measurement("ours"), Measurement("plain")
    both = [(sides.ours, ours), (sides.plain, plain)]
    _seconds(sides.ours, 2)
    calls = max(1, round(TURN / _seconds(sides.plain, 2)))
    for turn in range(rounds):
        for call, found in both if turn % 2 == 0 else reversed(both):
            found.steps.append(_seconds(call, calls))
    return ours, plain


def _seconds(call: Callable[[], Any], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls


@dataclass(frozen=True)
class Line:
    """One line of the table; times in seconds."""

    family: str
    name: str
    ours: float
    plain: float
    ratio: float


def markdown(lines: Iterable[Line]) -> str:
    """A table, the dearest first; what is above the mark in bold.

    >>> print(markdown([Line("reduce", "sum", 0.002, 0.002, 1.0), Line("", "f", 0.3, 0.1, 3.0)]))
    | family | op | ours, ms | TensorFlow, ms | ratio |
    |---|---|---|---|---|
    |  | f | 300.00 | 100.00 | **3.00** |
    | reduce | sum | 2.00 | 2.00 | 1.00 |
    """
    table = ["| family | op | ours, ms | TensorFlow, ms | ratio |", "|---|---|---|---|---|"]
    for line in sorted(lines, key=lambda line: -line.ratio):
        value = f"{line.ratio:.2f}"
        table.append(
            f"| {line.family} | {line.name} | {1e3 * line.ours:.2f} | {1e3 * line.plain:.2f} "
            f"| {f'**{value}**' if line.ratio > MARK else value} |"
        )
    return "\n".join(table)


def main() -> None:
    """Compares every pair and prints a table of all, forward and with gradients."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="turns of each side")
    parser.add_argument("--rows", type=int, default=ROWS, help="indices of the first dim")
    parser.add_argument("--only", default="", help="families and ops whose name has this in it")
    flags = parser.parse_args()
    ml.start(devices=1)
    lines = []
    for pair in pairs(flags.rows):
        if flags.only not in f"{pair.family}: {pair.name}":
            continue
        for backward in (False, True) if pair.gradient else (False,):
            named = replace(pair, name=f"{pair.name}, with gradient") if backward else pair
            sides = prepared(pair, backward=backward)
            check(named, sides)
            ours, plain = measured(sides, flags.rounds)
            found, wanted = median(ours.steps), median(plain.steps)
            lines.append(Line(named.family, named.name, found, wanted, ratio(ours, plain)))
    print(markdown(lines))


if __name__ == "__main__":
    main()
