"""Stack and unstack: NumPy, finite differences, layouts, what moves, errors."""

from collections.abc import Callable

import numpy as np
import pytest

import meshlang as ml
from tests.harness import (
    Laid,
    bools,
    case,
    check,
    check_slopes,
    check_values,
    collectives,
    drawn,
    ints,
    layouts,
    trace_error,
    twice,
)


def crossed(x: ml.Tensor, y: ml.Tensor) -> ml.Tensor:
    """Of a stack of two the first part minus the square of the second."""
    first, second = ml.unstack(ml.stack([x, y], "k"), "k")
    return first - second * second


CASES = (
    case(
        "stack",
        lambda x, y: ml.stack([x, y], "k"),
        lambda x, y: np.stack([x, y]),
        x="n:8 d:16",
        y="n:8 d:16",
    ),
    case(
        "in other order",
        lambda x, y: ml.stack([x, y, x, y], "k"),
        lambda x, y: np.stack([x, y.T, x, y.T]),
        x="n:8 d:16",
        y="d:16 n:8",
    ),
    case(
        "unstack",
        lambda x: ml.unstack(x, "n"),
        lambda x: [x[:, i] for i in range(8)],
        x="d:16 n:8 e:8",
    ),
    case("one part", lambda x: ml.unstack(x, "n")[5], lambda x: x[5], x="n:8 d:16"),
    case("second order", twice(crossed), x="n:8 d:16", y="n:8 d:16"),
    case(
        "bools",
        lambda x, y: ml.stack([x, y], "k"),
        lambda x, y: np.stack([x, y]),
        x=bools("n:8"),
        y=bools("n:8"),
    ),
)


def test_values():
    check_values([each for each in CASES if each.oracle])


def test_slopes():
    check_slopes(CASES[:-1])


@pytest.mark.parametrize("laid", drawn("stack", layouts("n d")))
def test_layouts(laid: Laid):
    check(CASES, laid)


@pytest.mark.parametrize("laid", drawn("stack that is divided", [Laid("r:2 c:2", "k:r n:c")]))
def test_the_new_dim_may_be_divided(laid: Laid):
    check(CASES[:2], laid)


def test_stacks_send_nothing_and_parts_are_gathered_once():
    shapes = {"x": "n:8 d:16", "y": "n:8 d:16"}
    assert collectives(lambda x, y: ml.stack([x, y], "k"), "r:2 c:2", "k:r n:c", **shapes) == []
    fn = lambda x: ml.unstack(x, "n")[:2]  # noqa: E731
    assert collectives(fn, "r:2", "n:r", x="n:8 d:16") == ["all_gather over r"]


ERRORS = [
    (lambda x, y: ml.stack([], "k"), "stack: nothing to stack.\n  dim  'k'"),
    (
        lambda x, y: ml.stack([x, y], "k"),
        """\
stack: all must have the same dims.
  operand 0  [n:8 d:16]
  operand 1  [n:8]
  fix: x.expand, or ml.sum over, what only some of them have""",
    ),
    (
        lambda x, y: ml.stack([x, x], "n"),
        """\
dim 'n' stands twice in one shape.
  dims  [n:2 n:8 d:16]
  fix: rename one of them: x.rename(n='other')""",
    ),
    (
        lambda x, y: ml.unstack(x, "m"),
        "no dim named 'm'.\n  shape  [n:8 d:16]\n  fix: the dims are: n d",
    ),
]


@pytest.mark.parametrize(("fn", "text"), ERRORS)
def test_errors(fn: Callable[[ml.Tensor, ml.Tensor], ml.Tensor], text: str):
    assert trace_error(ml.DimError, fn, x="n:8 d:16", y="n:8") == text


def test_operands_have_one_dtype():
    assert (
        trace_error(ml.DtypeError, lambda x, y: ml.stack([x, y], "k"), x="n:8", y=ints("n:8", 9))
        == """\
stack: the operands have several dtypes.
  operand 0  [n:8] float64
  operand 1  [n:8] int32
  fix: ml.cast them to one, e.g. ml.cast(x, 'float64')"""
    )
