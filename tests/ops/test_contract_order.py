"""Einsums of several tensors, and in a dtype of their own: order, digits, what is refused."""

from itertools import combinations
from math import prod

import numpy as np
import pytest
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st

import meshlang as ml
from meshlang.ops.contraction_order import EXHAUSTIVE, cheapest_pair
from tests.harness import (
    Laid,
    case,
    check,
    check_slopes,
    check_values,
    collectives,
    drawn,
    floats,
    ints,
    layouts,
    trace_error,
)

SIZES = {"a": 8, "b": 2, "c": 40, "d": 3, "e": 16}


def sized(names: str) -> ml.Shape:
    return ml.Shape(ml.Dim(n, SIZES[n]) for n in names)


def work(names: list[str], out: str) -> int:
    """The fewest multiplications by trying every order."""
    if len(names) == 1:
        return 0
    found = []
    for i, j in combinations(range(len(names)), 2):
        rest = [n for k, n in enumerate(names) if k not in (i, j)]
        every = set(names[i]) | set(names[j])
        kept = "".join(sorted(every & set("".join(rest) + out)))
        found.append(prod(SIZES[n] for n in every) + work([*rest, kept], out))
    return min(found)


def work_of_pairs(names: list[str], out: str) -> int:
    total = 0
    while len(names) > 1:
        i, j = cheapest_pair([sized(n) for n in names], sized(out))
        rest = [n for k, n in enumerate(names) if k not in (i, j)]
        every = set(names[i]) | set(names[j])
        total += prod(SIZES[n] for n in every)
        names = ["".join(sorted(every & set("".join(rest) + out))), *rest]
    return total


@st.composite
def products(draw: st.DrawFn) -> tuple[list[str], str]:
    """Dims of up to five tensors, each dim in two of them or in the result."""
    names = draw(
        st.lists(st.sets(st.sampled_from("abcde"), min_size=1, max_size=3), min_size=2, max_size=5)
    )
    made = ["".join(sorted(n)) for n in names]
    once = {n for n in "abcde" if sum(n in m for m in made) == 1}
    return made, "".join(sorted(once | draw(st.sets(st.sampled_from("".join(made))))))


@for_all(products())
@settings(max_examples=60)
def test_no_order_has_fewer_multiplications(product: tuple[list[str], str]):
    assert work_of_pairs(*product) == work(*product)


def test_of_many_tensors_the_cheapest_pair_comes_first():
    chain = [sized("ab"), sized("ac"), *([sized("bd")] * (EXHAUSTIVE - 1))]
    assert cheapest_pair(chain, sized("cd")) == (2, 3)


def chained(count: int) -> list[str]:
    return [f"n{i}:4 n{i + 1}:4" for i in range(count)]


CASES = (
    case(
        "four",
        lambda *xs: ml.einsum(*xs, keep="batch f"),
        lambda w, x, y, z: np.einsum("bd,de,ef,b->bf", w, x, y, z),
        w="batch:8 d:16",
        x="d:16 e:8",
        y="e:8 f:24",
        z="batch:8",
    ),
    case(
        "nine",
        lambda *xs: ml.einsum(*xs, keep="n0 n9"),
        lambda *xs: np.linalg.multi_dot(xs),
        **{f"x{i}": shape for i, shape in enumerate(chained(9))},
    ),
    case(
        "in float64",
        lambda x, y, z: ml.einsum(x, y, z, keep="batch f", dtype="float64"),
        lambda x, y, z: np.einsum("bd,df,bg->bf", x, y, z),
        x=floats("batch:8 d:16", dtype="float64"),
        y="d:16 f:24",
        z="batch:8 g:8",
    ),
)


def test_values():
    check_values(CASES)


def test_slopes():
    check_slopes(CASES)


@pytest.mark.parametrize("laid", drawn("many operands", layouts("batch d f")))
def test_layouts(laid: Laid):
    check(CASES, laid)


# -- a dtype of the sums -------------------------------------------------------------------------


def test_sums_of_short_floats_keep_their_digits():
    """Of 1 + 2 ** -10 the last bit is lost in bfloat16, and in sums of it."""
    ones = ml.constant(np.ones(1025), "d", "bfloat16")
    small = ml.constant(np.r_[1.0, np.full(1024, 2.0**-16)], "d", "bfloat16")
    for parts in ((ones, small), (small, ones, ones), (small,)):
        found = ml.einsum(*parts, keep="", dtype="float32")
        assert found.dtype == "float32"
        assert float(found.numpy()) == 1.0 + 2.0**-6
    x, y = ml.constant([[1.0]], "a b", "bfloat16"), ml.constant([3.0], "a", "bfloat16")
    assert ml.einsum(x, y, keep="a b", dtype="float32").dtype == "float32"


def short(shape: str) -> object:
    return floats(shape, dtype="bfloat16")


SHORT = (
    case(
        "high",
        lambda x, y: ml.einsum(x, y, reduce="d", dtype="high"),
        x=short("batch:8 d:16"),
        y=short("d:16 f:24"),
    ),
    case(
        "high of three",
        lambda x, y, z: ml.einsum(x, y, z, keep="batch f", dtype="high"),
        x=short("batch:8 d:16"),
        y=short("d:16 f:24"),
        z=short("f:24"),
    ),
)


@pytest.mark.parametrize("laid", drawn("sums in high", layouts("batch d f"), draws=2))
def test_layouts_of_sums_in_high(laid: Laid):
    check(SHORT, laid)


def test_gradients_have_the_dtype_of_the_operands():
    def fn(x: ml.Tensor, y: ml.Tensor) -> list[ml.Tensor]:
        z = ml.einsum(x, y, reduce="d", dtype="float32")
        return ml.gradients(ml.sum(z * z), [x, y])

    spec = {"x": ml.spec("b:2 d:3", "bfloat16"), "y": ml.spec("d:3 f:4", "bfloat16")}
    assert [t.dtype for t in ml.trace(fn, **spec).outputs] == ["bfloat16"] * 2


def test_a_sum_in_high_is_paid_in_high():
    def fn(x: ml.Tensor, y: ml.Tensor) -> ml.Tensor:
        return ml.einsum(x, y, reduce="d", dtype="high")

    shapes = {"x": short("batch:8 d:16"), "y": short("d:16 f:24")}
    assert collectives(fn, "r:2", "d:r", **shapes) == ["all_reduce over r"]


def test_integers_have_no_other_dtype():
    x = ints("d:8", 5)
    assert (
        trace_error(ml.DtypeError, lambda x: ml.einsum(x, x, keep="", dtype="float32"), x=x)
        == """\
einsum: sums have a dtype of their own for floats only.
  operand 0  int32
  operand 1  int32
  dtype      float32
  fix: leave dtype out, or ml.cast the operands"""
    )
