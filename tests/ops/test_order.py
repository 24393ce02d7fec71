"""The largest k and sorting: NumPy, finite differences, layouts, what moves, laws, errors."""

from collections.abc import Callable
from typing import Any

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
    given,
    ints,
    layouts,
    run,
    ties,
    trace_error,
)


def largest(axis: int, k: int) -> Any:
    """Sorted by falling value, of equal ones the first."""

    def oracle(x: np.ndarray) -> ml.TopK:
        last = np.moveaxis(x, axis, -1)
        order = np.argsort(-last.astype(np.float64), axis=-1, kind="stable")[..., :k]
        return ml.TopK(np.take_along_axis(last, order, -1), order.astype(np.int32))

    return oracle


def in_order(axis: int, descending: bool = False) -> Any:
    """Stable either way."""

    def oracle(x: np.ndarray) -> list[np.ndarray]:
        order = np.argsort(-x if descending else x, axis, kind="stable")
        return [np.take_along_axis(x, order, axis), order.astype(np.int32)]

    return oracle


def both(x: ml.Tensor, descending: bool = False) -> list[ml.Tensor]:
    return [ml.sort(x, "n", descending=descending), ml.argsort(x, "n", descending=descending)]


SORTED = (
    case("sort", both, in_order(1), x="batch:8 n:24 d:16"),
    case("falling", lambda x: both(x, True), in_order(0, True), x="n:24 d:16"),
    case("sort a vector", both, in_order(0), x="n:8"),
    case("sort integers", both, in_order(0), x=ints("n:24 d:16", 9, -9)),
    case(
        "2nd largest",
        lambda x: ml.nth_largest(x, "n", 1),
        lambda x: np.sort(x, 0)[-2],
        x="n:24 d:16",
    ),
    case("largest", lambda x: ml.nth_largest(x, "n", 0), lambda x: x.max(1), x="d:16 n:8"),
    case(
        "4th smallest", lambda x: ml.nth_smallest(x, "n", 3), lambda x: np.sort(x, 0)[3], x="n:24"
    ),
)
LARGEST = (
    case("top 2", lambda x: ml.top_k(x, "n", into="k:2"), largest(1, 2), x="batch:8 n:24 d:16"),
    case("top 1", lambda x: ml.top_k(x, "n", into="k:1"), largest(0, 1), x="n:24"),
    case("all of them", lambda x: ml.top_k(x, "n", into="k:8"), largest(0, 8), x="n:8 d:16"),
    case(
        "more than a block", lambda x: ml.top_k(x, "n", into="k:20"), largest(0, 20), x="n:24 d:16"
    ),
    case(
        "top of integers",
        lambda x: ml.top_k(x, "n", into="k:3"),
        largest(0, 3),
        x=ints("n:24 d:16", 1000, -1000),
    ),
)
#: gradients at ties are not those of finite differences: only the first of equal values has them
TIES = (
    case("ties", lambda x: ml.top_k(x, "n", into="k:9"), largest(1, 9), x=ties("d:16 n:24")),
    case("sort ties", both, in_order(1), x=ties("d:16 n:24")),
    case("sort falling ties", lambda x: both(x, True), in_order(1, True), x=ties("d:16 n:24")),
    case(
        "infinities",
        lambda x: ml.top_k(x, "n", into="k:7"),
        largest(0, 7),
        x=given("n:8", [-np.inf, 1.0, -np.inf, np.inf, 0.0, -np.inf, 2.0, -np.inf]),
    ),
)


def test_values():
    check_values((*SORTED, *LARGEST, *TIES))


def test_slopes():
    smooth = (*SORTED, *LARGEST)
    check_slopes([c for c in smooth if "integers" not in c.name])


@pytest.mark.parametrize("laid", drawn("order", layouts("n d batch")))
def test_layouts(laid: Laid):
    check((*SORTED, *LARGEST, *TIES), laid)


@pytest.mark.parametrize(
    "laid",
    drawn(
        "order of the new dim",
        [Laid("r:2 c:4", "k:r n:c"), Laid("r:2 c:4", "k:r d:c"), Laid("a:2 b:2", "k:a+b")],
    ),
)
def test_the_new_dim_may_be_divided(laid: Laid):
    check(case("top 4", lambda x: ml.top_k(x, "n", into="k:4"), x="n:24 d:16"), laid)


def test_only_the_first_of_equal_values_has_a_gradient():
    def fn(x: ml.Tensor) -> ml.Tensor:
        return ml.gradients(ml.sum(ml.top_k(x, "n", into="k:2").values), [x])[0]

    made = case("ties", fn, gradients=False, x=given("n:4", [1.0, 3.0, 3.0, 3.0]))
    for layout in ("", "n:r", "n:r+c"):
        found = run(made, Laid("r:2 c:2", layout))["ties/value"]
        np.testing.assert_array_equal(found, [0.0, 1.0, 1.0, 0.0])


# -- what moves ----------------------------------------------------------------------------------


def cost_of(fn: Callable[[ml.Tensor], Any], mesh: str, layout: str) -> ml.Plan:
    return ml.plan(ml.trace(fn, x=ml.spec("n:32 d:16")), mesh, layout)


def test_a_sort_gathers_its_dim_and_says_so():
    assert collectives(lambda x: ml.sort(x, "n"), "r:2", "d:r", x="n:32 d:16") == []
    assert collectives(lambda x: ml.sort(x, "n"), "r:2", "n:r", x="n:32 d:16") == [
        "all_gather over r"
    ]
    assert "sort works on all of n" in str(cost_of(lambda x: ml.sort(x, "n"), "r:2", "n:r"))


def test_the_largest_of_each_block_travel():
    """Values and indices, k of each block: not the dim, and not one sum for each of the k."""
    assert collectives(lambda x: ml.top_k(x, "n", into="k:3"), "r:2", "d:r", x="n:32 d:16") == []
    assert collectives(lambda x: ml.top_k(x, "n", into="k:3"), "r:4", "n:r", x="n:32 d:16") == [
        "all_gather over r",
        "all_gather over r",
    ]
    plan = cost_of(lambda x: ml.top_k(x, "n", into="k:3"), "r:4", "n:r")
    assert plan.cost.over("r").elements == 2 * 4 * 3 * 16


def test_the_gradient_of_the_largest_moves_nothing():
    def fn(x: ml.Tensor, g: ml.Tensor) -> ml.Tensor:
        return ml.gradients(ml.top_k(x, "n", into="k:3").values, [x], g)[0]

    moved = collectives(fn, "r:4", "n:r", x="n:32 d:16", g="d:16 k:3")
    assert moved == ["all_gather over r", "all_gather over r"]


# -- laws ----------------------------------------------------------------------------------------


@for_all(st.lists(st.integers(0, 4), min_size=8, max_size=8), st.sampled_from(["", "n:r", "n:c+r"]))
@settings(max_examples=8)
def test_the_largest_are_a_sorted_part(values: list[int], layout: str):
    """All k of k: a permutation, in falling order, stable."""
    made = case(
        "law",
        lambda x: ml.top_k(x, "n", into="k:8"),
        gradients=False,
        x=given("n:8", np.array(values, np.float64)),
    )
    found = run(made, Laid("r:2 c:2", layout))
    indices = found["law/value/indices"]
    wanted = sorted(range(8), key=lambda i: (-values[i], i))
    np.testing.assert_array_equal(indices, wanted)
    np.testing.assert_array_equal(found["law/value/values"], np.array(values)[indices])


# -- errors --------------------------------------------------------------------------------------


def test_top_k_of_too_few():
    assert (
        trace_error(ml.DimError, lambda x: ml.top_k(x, "n", into="k:9"), x="n:8 d:16")
        == """\
top_k: n:8 has no 9 largest values.
  operand  [n:8 d:16]
  into     k:9
  fix: into='k:8' at most"""
    )


def test_the_new_dim_is_new():
    assert (
        trace_error(ml.DimError, lambda x: ml.top_k(x, "n", into="d:2"), x="n:8 d:16")
        == """\
dim 'd' stands twice in one shape.
  dims  [d:16 d:2]
  fix: rename one of them: x.rename(d='other')"""
    )


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: ml.top_k(x, "m", into="k:2"),
        lambda x: ml.sort(x, "m"),
        lambda x: ml.nth_largest(x, "m", 0),
    ],
)
def test_the_dim_is_there(fn: Callable[[ml.Tensor], Any]):
    assert (
        trace_error(ml.DimError, fn, x="n:8 d:16")
        == "no dim named 'm'.\n  shape  [n:8 d:16]\n  fix: the dims are: n d"
    )


@pytest.mark.parametrize(
    ("name", "fn"),
    [("top_k", lambda x: ml.top_k(x, "n", into="k:2")), ("sort", lambda x: ml.argsort(x, "n"))],
)
def test_numbers_have_an_order(name: str, fn: Callable[[ml.Tensor], Any]):
    assert (
        trace_error(ml.DtypeError, fn, x=bools("n:8"))
        == f"{name} takes numbers.\n  operand  [n:8] bool\n  fix: ml.cast(x, 'int32')"
    )


@pytest.mark.parametrize("fn", [ml.nth_largest, ml.nth_smallest])
@pytest.mark.parametrize("n", [8, -1])
def test_there_is_such_an_element(fn: Callable[..., Any], n: int):
    assert (
        trace_error(ml.DimError, lambda x: fn(x, "n", n), x="n:8 d:16")
        == f"""\
{fn.__name__}: n:8 has no such element.
  operand  [n:8 d:16]
  n        {n}
  fix: 0 is the first"""
    )


def test_the_smallest_need_a_sign():
    assert trace_error(
        ml.DtypeError, lambda x: ml.nth_smallest(x, "n", 0), x=ints("n:8", 5, dtype="uint8")
    ) == ("nth_smallest takes signed numbers.\n  operand  [n:8] uint8\n  fix: ml.cast(x, 'int32')")


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint32", "uint8"])
def test_the_ends_of_a_dtype_are_sorted(dtype: str):
    limits = np.iinfo(dtype)
    x = np.array([5, limits.max, limits.min, 5, limits.max - 1, limits.min + 1], dtype)
    for descending, wanted in ((False, [2, 5, 0, 3, 4, 1]), (True, [1, 4, 0, 3, 5, 2])):
        order = ml.argsort(ml.constant(x, "n", dtype), "n", descending=descending)
        assert list(order.numpy()) == wanted
        found = ml.sort(ml.constant(x, "n", dtype), "n", descending=descending).numpy()
        np.testing.assert_array_equal(found, x[wanted])


def test_the_second_gradient_of_a_sort():
    def slope(x: ml.Tensor) -> ml.Tensor:
        y = ml.sort(x, "n")
        return ml.gradients(ml.sum(y * y * y), [x])[0]

    check_slopes(case("sort", slope, x="n:8 d:2"))
