"""Concat, slice, pad: NumPy, finite differences, layouts, what moves, laws, errors."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st

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
    layout_error,
    layouts,
    run,
    sent,
    trace_error,
)


def joined(axis: int) -> Callable[..., np.ndarray]:
    return lambda *xs: np.concatenate(xs, axis)


CASES = (
    case("concat", lambda x, y: ml.concat([x, y], "n"), joined(0), x="n:8 d:40", y="n:16 d:40"),
    case(
        "concat in other order",
        lambda x, y, z: ml.concat([x, y, z], "n"),
        lambda x, y, z: np.concatenate([x, y.T, z], 1),
        x="d:40 n:8",
        y="n:24 d:40",
        z="d:40 n:16",
    ),
    case("concat one", lambda x: ml.concat([x], "n"), lambda x: x, x="n:8 d:40"),
    case("slice", lambda x: ml.slice(x, "n", start=5, size=8), lambda x: x[:, 5:13], x="d:40 n:24"),
    case("slice from the start", lambda x: ml.slice(x, "n", size=16), lambda x: x[:16], x="n:24"),
    case(
        "pad",
        lambda x: ml.pad(x, "n", before=3, after=5),
        lambda x: np.pad(x, ((0, 0), (3, 5))),
        x="d:40 n:24",
    ),
    case("pad behind", lambda x: ml.pad(x, "n", after=16), lambda x: np.pad(x, (0, 16)), x="n:8"),
    case(
        "pad with a value",
        lambda x: ml.pad(x, "n", before=3, after=5, value=2.5),
        lambda x: np.pad(x, ((0, 0), (3, 5)), constant_values=2.5),
        x="d:40 n:24",
    ),
    case(
        "whole numbers",
        lambda x: ml.concat([ml.slice(x, "n", size=8), ml.pad(x, "n", before=8)], "n"),
        lambda x: np.concatenate([x[:8], np.zeros(8, "int32"), x]),
        x=ints("n:24", 100),
    ),
    case("bools", lambda x: ml.pad(x, "n", after=8), lambda x: np.pad(x, (0, 8)), x=bools("n:8")),
)


def test_values():
    check_values(CASES)


def test_slopes():
    check_slopes(CASES[:-2])


@pytest.mark.parametrize("laid", drawn("runs", layouts("n d")))
def test_layouts(laid: Laid):
    check(CASES, laid)


# -- what moves ----------------------------------------------------------------------------------

FUNCTIONS = [
    lambda x: ml.slice(x, "n", size=8),
    lambda x: ml.pad(x, "n", before=8),
    lambda x: ml.concat([x, x], "n"),
]


@pytest.mark.parametrize("fn", FUNCTIONS)
def test_other_dims_may_be_divided_freely(fn: Callable[[ml.Tensor], ml.Tensor]):
    assert collectives(fn, "r:2 c:4", "d:r+c", x="n:16 d:40") == []


@pytest.mark.parametrize(
    ("fn", "rows"),
    [
        (lambda x: ml.slice(x, "n", size=32), {}),
        (lambda x: ml.slice(x, "n", size=16), {"permute r": 8}),
        (lambda x: ml.slice(x, "n", start=1, size=28), {"permute r": 2}),
        (lambda x: ml.pad(x, "n", before=2, after=2), {"permute r": 1}),
        (lambda x: ml.pad(x, "n", before=8, after=24), {"permute r": 8}),
        (lambda x: ml.concat([x], "n"), {}),
        (lambda x: ml.concat([x, x], "n"), {"permute r": 16}),
    ],
)
def test_processors_send_what_others_lack(fn: Callable[..., ml.Tensor], rows: dict[str, int]):
    """Of 4 blocks of 8 rows: not 24, as all would be."""
    assert sent(fn, "r:4", "n:r", x="n:32") == rows


def test_pending_sums_go_through():
    """One sum, of the 4 indices that are left of 16."""

    def fn(x: ml.Tensor) -> ml.Tensor:
        return ml.slice(ml.sum(x, "d"), "n", start=2, size=4)

    plan = ml.plan(ml.trace(fn, x=ml.spec("n:16 d:40")), "r:2", "d:r")
    assert (plan.cost.over("r").collectives, plan.cost.over("r").elements) == (1, 4)


def test_sums_that_are_joined_are_paid_together():
    def fn(x: ml.Tensor, y: ml.Tensor) -> ml.Tensor:
        return ml.sum(ml.concat([ml.sum(x, "d"), ml.sum(y, "d")], "n"), "n")

    shapes = {"x": "n:8 d:40", "y": "n:16 d:40"}
    plan = ml.plan(ml.trace(fn, **{n: ml.spec(s) for n, s in shapes.items()}), "r:2", "d:r")
    assert (plan.cost.over("r").sums, plan.cost.over("r").elements) == (1, 1)


def test_the_result_has_to_divide_too():
    assert (
        layout_error(lambda x: ml.slice(x, "n", size=7), "r:2", "n:r", x="n:16")
        == """\
dim 'n' of size 7 does not divide by the 2 processors along r.
  slice   [n:7]
  layout  n:r
  mesh    r:2
  fix: make it a multiple of 2, or lay 'n' along fewer processors"""
    )


# -- laws ----------------------------------------------------------------------------------------


@for_all(st.integers(0, 11), st.integers(1, 12), st.sampled_from(["", "n:r", "n:r d:c", "n:c+r"]))
@settings(max_examples=10)
def test_what_is_padded_and_sliced_comes_back(before: int, after: int, layout: str):
    total = 16 + before + after
    after += -total % 4

    def fn(x: ml.Tensor) -> dict[str, ml.Tensor]:
        padded = ml.pad(x, "n", before=before, after=after)
        parts = [ml.slice(x, "n", size=4), ml.slice(x, "n", start=4, size=12)]
        return {
            "padded": ml.slice(padded, "n", start=before, size=16),
            "parts": ml.concat(parts, "n"),
        }

    made = case("law", fn, gradients=False, x="n:16 d:8")
    for name, array in run(made, Laid("r:2 c:2", layout)).items():
        np.testing.assert_array_equal(array, made.arrays["x"], err_msg=name)


def steps_of(draw: st.DrawFn, size: int) -> list[tuple[str, tuple[int, ...]]]:
    """Ops on runs of a dim whose size stays a multiple of 4."""
    found = []
    for kind in draw(
        st.lists(st.sampled_from("slice pad shift reverse concat".split()), max_size=5)
    ):
        if kind == "slice":
            rows = 4 * draw(st.integers(1, size // 4))
            found.append((kind, (draw(st.integers(0, size - rows)), rows)))
            size = rows
        elif kind == "pad":
            before = draw(st.integers(0, 9))
            after = 4 * draw(st.integers(0, 2)) + -before % 4
            found.append((kind, (before, after)))
            size += before + after
        elif kind == "shift":
            found.append((kind, (draw(st.integers(-30, 30)),)))
        else:
            found.append((kind, ()))
            size *= 2 if kind == "concat" and size <= 32 else 1
    return found


def applied(steps: list[tuple[str, tuple[int, ...]]], x: ml.Tensor) -> ml.Tensor:
    for kind, numbers in steps:
        if kind == "slice":
            x = ml.slice(x, "n", start=numbers[0], size=numbers[1])
        elif kind == "pad":
            x = ml.pad(x, "n", before=numbers[0], after=numbers[1])
        elif kind == "shift":
            x = ml.shift(x, "n", numbers[0], wrap=True)
        elif kind == "reverse":
            x = ml.reverse(x, "n")
        elif x.shape["n"].size <= 32:
            x = ml.concat([x, ml.reverse(x, "n")], "n")
    return x


def as_numpy(steps: list[tuple[str, tuple[int, ...]]], x: np.ndarray) -> np.ndarray:
    for kind, numbers in steps:
        if kind == "slice":
            x = x[numbers[0] : numbers[0] + numbers[1]]
        elif kind == "pad":
            x = np.pad(x, (numbers, (0, 0)))
        elif kind == "shift":
            x = np.roll(x, numbers[0], 0)
        elif kind == "reverse":
            x = x[::-1]
        elif len(x) <= 32:
            x = np.concatenate([x, x[::-1]])
    return x


@for_all(st.data(), st.sampled_from(["n:r", "n:c+r", "n:c d:r"]))
@settings(max_examples=15)
def test_any_row_of_steps_is_what_numpy_makes_of_it(data: st.DataObject, layout: str):
    steps = data.draw(st.composite(steps_of)(16))
    made = case("law", lambda x: applied(steps, x), gradients=False, x="n:16 d:4")
    found = run(made, Laid("r:2 c:2", layout))["law/value"]
    np.testing.assert_array_equal(found, as_numpy(steps, made.arrays["x"]))


# -- errors --------------------------------------------------------------------------------------

ERRORS = [
    (lambda x, y: ml.concat([], "n"), "concat: nothing to join.\n  dim  'n'"),
    (
        lambda x, y: ml.concat([x, y], "n"),
        """\
concat: apart from 'n' all must have the same dims.
  operand 0  [n:8 d:16]
  operand 1  [n:8 e:16]
  fix: x.expand, or ml.sum over, what only some of them have""",
    ),
    (
        lambda x, y: ml.concat([x, ml.slice(x, "d", size=2)], "n"),
        """\
concat: dim 'd' has two sizes, 16 and 2.
  operand 0  [n:8 d:16]
  operand 1  [n:8 d:2]
  fix: rename one of them, or give both the same size""",
    ),
    (
        lambda x, y: ml.concat([x, y], "d"),
        """\
no dim named 'd'.
  shape  [n:8 e:16]
  fix: the dims are: n e""",
    ),
    (
        lambda x, y: ml.slice(x, "n", start=4, size=5),
        """\
slice: 4 to 9 is not within n:8.
  operand  [n:8 d:16]
  fix: take at least one index, from 0 to 8""",
    ),
    (
        lambda x, y: ml.slice(x, "n", size=0),
        """\
slice: 0 to 0 is not within n:8.
  operand  [n:8 d:16]
  fix: take at least one index, from 0 to 8""",
    ),
    (
        lambda x, y: ml.slice(x, "m", size=1),
        """\
no dim named 'm'.
  shape  [n:8 d:16]
  fix: the dims are: n d""",
    ),
    (
        lambda x, y: ml.pad(x, "n", before=2, after=-1),
        """\
pad: 2 before and -1 after n:8: not below 0.
  operand  [n:8 d:16]
  fix: to shorten it: ml.slice(x, 'n', start=..., size=...)""",
    ),
]


@pytest.mark.parametrize(("fn", "text"), ERRORS)
def test_errors(fn: Callable[[ml.Tensor, ml.Tensor], ml.Tensor], text: str):
    assert trace_error(ml.DimError, fn, x="n:8 d:16", y="n:8 e:16") == text


def test_operands_have_one_dtype():
    assert (
        trace_error(ml.DtypeError, lambda x, y: ml.concat([x, y], "n"), x="n:8", y=ints("n:8", 9))
        == """\
concat: the operands have several dtypes.
  operand 0  [n:8] float64
  operand 1  [n:8] int32
  fix: ml.cast them to one, e.g. ml.cast(x, 'float64')"""
    )


def test_whole_numbers_are_padded_with_whole_numbers():
    assert (
        trace_error(ml.DtypeError, lambda x: ml.pad(x, "n", after=1, value=0.5), x=ints("n:8", 9))
        == """\
pad: int32 does not hold 0.5.
  operand  [n:8] int32
  value    0.5
  fix: ml.cast(x, 'compute') first, or another value"""
    )
