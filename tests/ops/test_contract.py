"""Einsum: NumPy, finite differences, layouts, what is paid, laws, errors."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st

import meshlang as ml
from meshlang.layout.values import Local
from tests.harness import (
    Case,
    Input,
    Laid,
    any_layout,
    bools,
    case,
    check,
    check_slopes,
    check_values,
    collectives,
    drawn,
    floats,
    ints,
    layout_error,
    layouts,
    trace_error,
)

SIZES = {"batch": 8, "d": 16, "f": 24, "g": 40}
LETTERS = {"batch": "b", "d": "d", "f": "f", "g": "g"}
LAYOUTS = layouts("batch d f g")


def sized(names: str) -> str:
    return " ".join(f"{n}:{SIZES[n]}" for n in names.split())


def product(
    shapes: list[str],
    keep: str,
    *,
    by_reduce: bool = False,
    make: Callable[[str], Input] = floats,
) -> Case:
    """An einsum of tensors with these dims onto `keep`, said by what is kept or what is reduced."""
    every = " ".join(dict.fromkeys(" ".join(shapes).split()))
    gone = " ".join(n for n in every.split() if n not in keep.split())
    arguments = {"reduce": gone} if by_reduce else {"keep": keep}
    inputs: dict[str, Any] = {f"x{i}": make(sized(names)) for i, names in enumerate(shapes)}
    letters = ["".join(LETTERS[n] for n in names.split()) for names in (*shapes, keep)]
    pattern = ",".join(letters[:-1]) + "->" + letters[-1]
    return case(
        f"{pattern} {'reduce' if by_reduce else 'keep'} {make.__name__}",
        lambda *xs: ml.einsum(*xs, **arguments),
        lambda *xs: np.einsum(pattern, *xs),
        **inputs,
    )


def small_ints(shape: str) -> Input:
    return ints(shape, 5, low=-5)


def long_ints(shape: str) -> Input:
    return ints(shape, 5, low=-5, dtype="int64")


CASES = (
    product(["batch d", "d f"], "batch f", by_reduce=True),
    product(["batch d", "d f"], "f batch"),
    product(["d batch", "f d"], "batch f"),
    product(["batch d f", "batch f g"], "batch d g", by_reduce=True),
    product(["d batch f", "f g batch"], "g batch d"),
    product(["batch d f", "f d g"], "batch g"),
    product(["batch d f", "d f"], "batch"),
    product(["batch d", "batch d"], "batch"),
    product(["batch d", "d batch"], ""),
    product(["batch", "d"], "batch d", by_reduce=True),
    product(["d", "d"], "", by_reduce=True),
    product(["batch d", "d"], "batch d"),
    product(["d", "batch d"], "d batch"),
    product(["batch d", ""], "batch"),
    product(["batch d f", "batch g"], "batch g"),
    product(["batch d f"], "f batch"),
    product(["batch d f"], "d batch f"),
    product(["batch d", "d f", "f g"], "batch g"),
    product(["batch d", "d", "batch f"], "f"),
    product(["batch d", "d f", "f g", "batch g"], "batch"),
    product(["batch d", "batch f", "batch"], "batch d f"),
    case(
        "twins",
        lambda x, w: ml.einsum(ml.whole(x, "d"), ml.whole(w, "d"), reduce="d"),
        lambda x, w: x @ w,
        x=sized("batch d"),
        w=sized("d f"),
    ),
    product(["batch d", "d f"], "batch f", make=small_ints),
    product(["batch d f", "batch f g"], "g d batch", make=long_ints),
)


def test_values_are_those_of_numpy():
    check_values(CASES)


def test_gradients_are_slopes():
    check_slopes([c for c in CASES if "ints" not in c.name])


def test_a_second_gradient_is_the_slope_of_the_first():
    def slope(x: ml.Tensor, w: ml.Tensor) -> ml.Tensor:
        y = ml.einsum(x, w, reduce="d")
        return ml.gradients(ml.sum(y * y * y), [w])[0]

    check_slopes(case("cube", slope, x="batch:3 d:4", w="d:4 f:5"))


@pytest.mark.parametrize("laid", drawn("einsum", LAYOUTS))
def test_layouts_change_nothing(laid: Laid):
    check(CASES, laid)


# -- pending sums --------------------------------------------------------------------------------


def rows(x: ml.Tensor, w: ml.Tensor, v: ml.Tensor) -> ml.Tensor:
    """A product over d, and one of it over f that makes it smaller."""
    return ml.einsum(ml.einsum(x, w, reduce="d"), v, reduce="f")


def two_pending(x: ml.Tensor, w: ml.Tensor, v: ml.Tensor) -> ml.Tensor:
    """A product of two products over one dim; at most one of them may be pending in it."""
    y = ml.einsum(x, w, reduce="d")
    return ml.sum(ml.einsum(y, y * 2.0, v, keep="batch"))


INPUTS: dict[str, Any] = {"x": "batch:8 d:16", "w": "d:16 f:24", "v": "f:24 g:40"}
PENDING = (
    case("rows", rows, **INPUTS),
    case("two pending", two_pending, **INPUTS),
    case("sums", lambda x, w, v: ml.sum(rows(x, w, v)), **INPUTS),
)


@pytest.mark.parametrize("laid", drawn("pending products", LAYOUTS))
def test_products_of_pending_sums(laid: Laid):
    check(PENDING, laid)


@pytest.mark.parametrize(
    ("layout", "found"),
    [
        ("batch:r", []),
        ("d:r", ["all_reduce over r"]),
        ("f:r", ["all_reduce over r"]),
        ("g:r", []),
        ("d:r f:c", ["all_reduce over r", "all_reduce over c"]),
        ("batch:r f:c", ["all_reduce over c"]),
        ("d:r+c", ["all_reduce over r+c"]),
    ],
)
def test_what_two_products_in_a_row_pay(layout: str, found: list[str]):
    assert collectives(rows, "r:2 c:4", layout, **INPUTS) == found


def test_a_short_float_is_summed_in_high():
    """The partial product is emitted in high, and narrowed after it is paid."""
    x, w = (ml.spec(INPUTS[n], "bfloat16") for n in "xw")
    program = ml.trace(lambda x, w: ml.einsum(x, w, reduce="d"), x=x, w=w)
    planned = ml.plan(program, "r:2", "d:r")
    locals_ = [step for step in planned.steps if isinstance(step, Local)]
    kinds = [(type(step.op).__name__, step.outputs[0].dtype) for step in locals_]
    assert kinds == [("Einsum", "float32"), ("Narrow", "bfloat16")]
    short: dict[str, Any] = {n: floats(shape, dtype="bfloat16") for n, shape in INPUTS.items()}
    check(case("short", rows, **short), Laid("r:2 c:4", "d:r f:c"))


# -- laws ----------------------------------------------------------------------------------------


@st.composite
def products(draw: st.DrawFn) -> Case:
    names = list(SIZES)
    dims = st.lists(st.sampled_from(names), unique=True, max_size=3)
    shapes = draw(st.lists(dims, min_size=1, max_size=4))
    every = sorted({n for shape in shapes for n in shape})
    kept = draw(st.permutations(every))[: draw(st.integers(0, len(every)))]
    return product([" ".join(shape) for shape in shapes], " ".join(kept))


@for_all(products())
@settings(max_examples=20)
def test_any_product_is_that_of_numpy(each: Case):
    check_values(each)
    check_slopes(each)


@for_all(st.permutations(range(3)))
@settings(max_examples=6)
def test_the_order_of_operands_does_not_matter(order: list[int]):
    shapes = ["batch d", "d f", "f batch"]
    check_values(product([shapes[i] for i in order], "f"))


@pytest.mark.slow
@for_all(st.lists(products(), min_size=4, max_size=4), any_layout("batch d f g"))
@settings(max_examples=20)
def test_any_product_under_any_layout(cases: list[Case], laid: Laid):
    """Products that have all dims of the layout, so that it names none in vain."""
    named = {case_.name: case_ for case_ in (*cases, CASES[5], CASES[0])}
    check(list(named.values()), laid)


# -- errors --------------------------------------------------------------------------------------

X: dict[str, Any] = {"x": "batch:8 d_model:16", "w": "d_model:16 d_ff:24"}


def contract(**arguments: Any) -> Callable[..., ml.Tensor]:
    return lambda *xs: ml.einsum(*xs, **arguments)


def test_it_says_what_is_reduced_or_kept():
    assert (
        trace_error(ml.DimError, contract(), **X)
        == """\
einsum: say what is summed over, or what is kept.
  operand 0  [batch:8 d_model:16]
  operand 1  [d_model:16 d_ff:24]
  fix: einsum(x, w, reduce='d_model'), or keep='batch d_ff'"""
    )


def test_an_unknown_dim():
    assert (
        trace_error(ml.DimError, contract(reduce="d_modle"), **X)
        == """\
einsum: no operand has a dim named 'd_modle'.
  operand 0  [batch:8 d_model:16]
  operand 1  [d_model:16 d_ff:24]
  reduce     'd_modle'
  fix: did you mean 'd_model'?"""
    )
    assert (
        trace_error(ml.DimError, contract(keep="batch memory"), **X)
        == """\
einsum: no operand has a dim named 'memory'.
  operand 0  [batch:8 d_model:16]
  operand 1  [d_model:16 d_ff:24]
  keep       'batch memory'
  fix: the dims are: batch d_model d_ff"""
    )


def test_reduce_and_keep_contradict_each_other():
    assert (
        trace_error(ml.DimError, contract(reduce="d_model", keep="batch"), **X)
        == """\
einsum: reduce and keep contradict each other.
  operand 0  [batch:8 d_model:16]
  operand 1  [d_model:16 d_ff:24]
  reduce     'd_model'
  keep       'batch'
  fix: give one of them"""
    )


def test_both_may_be_said():
    both = contract(reduce="d_model", keep="d_ff batch")
    check(case("both", both, **X), Laid("r:2 c:2", "batch:r d_model:c"))


def test_a_dim_named_twice_or_with_another_size():
    assert (
        trace_error(ml.DimError, contract(reduce="d_model d_model"), **X)
        == """\
dim 'd_model' is named twice: 'd_model d_model'.
  shape  [batch:8 d_model:16 d_ff:24]
  fix: give names alone"""
    )
    assert (
        trace_error(ml.DimError, contract(reduce="d_model:4"), **X)
        == """\
dim 'd_model' has not size 4.
  shape  [batch:8 d_model:16 d_ff:24]
  fix: give names alone"""
    )


def test_two_dtypes():
    inputs = {**X, "w": ints(X["w"], 5)}
    assert (
        trace_error(ml.DtypeError, contract(reduce="d_model"), **inputs)
        == """\
einsum: the operands have several dtypes.
  operand 0  [batch:8 d_model:16] float64
  operand 1  [d_model:16 d_ff:24] int32
  fix: ml.cast them to one, e.g. ml.cast(x, 'float64')"""
    )


def test_bools_have_no_product():
    inputs = {n: bools(shape) for n, shape in X.items()}
    assert (
        trace_error(ml.DtypeError, contract(reduce="d_model"), **inputs)
        == """\
einsum takes signed numbers.
  operand  [batch:8 d_model:16] bool
  fix: ml.cast(x, 'int32')"""
    )


def test_no_operands():
    with pytest.raises(ml.ProgramError) as caught:
        ml.einsum(reduce="")
    assert str(caught.value) == "einsum: no operands.\n  fix: give one tensor or more"


def test_a_dim_does_not_meet_its_twin():
    def mixed(x: ml.Tensor, w: ml.Tensor) -> ml.Tensor:
        return ml.einsum(x, ml.whole(w, "d_model"), reduce="d_model")

    assert (
        trace_error(ml.DimError, mixed, **X)
        == """\
einsum: dim 'd_model' meets its twin 'd_model*'.
  operand 0  [batch:8 d_model:16]
  operand 1  [d_model*:16 d_ff:24]
  fix: bring one to the other: ml.whole(x, 'd_model') or ml.divided(x, 'd_model')"""
    )


def test_two_dims_of_a_product_on_one_axis():
    assert (
        layout_error(contract(reduce="d_model"), "r:2", "batch:r d_ff:r", **X)
        == """\
dims 'batch' and 'd_ff' of one tensor are both laid out on axis 'r'.
  einsum  [batch:8 d_ff:24]
  layout  batch:r d_ff:r
  mesh    r:2
  fix: hold one of them whole here: ml.whole(x, 'd_ff')"""
    )


def test_a_dim_that_does_not_divide():
    inputs = {"x": "batch:8 d_model:6", "w": "d_model:6 d_ff:24"}
    assert (
        layout_error(contract(reduce="d_model"), "r:4", "d_model:r", **inputs)
        == """\
dim 'd_model' of size 6 does not divide by the 4 processors along r.
  input x  [batch:8 d_model:6]
  layout   d_model:r
  mesh     r:4
  fix: make it a multiple of 4, or lay 'd_model' along fewer processors"""
    )


def test_the_flops_of_a_product_are_counted_on_blocks():
    x, w = ml.spec(X["x"]), ml.spec(X["w"])
    program = ml.trace(lambda x, w: ml.einsum(x, w, reduce="d_model"), x=x, w=w)
    assert ml.plan(program).cost.flops == 2 * 8 * 16 * 24
    assert ml.plan(program, "r:2 c:2", "batch:r d_model:c").cost.flops == 2 * 4 * 8 * 24
