"""What elementwise ops refuse, and that they run on every dtype that they take."""

from typing import Any

import numpy as np
import pytest

import meshlang as ml
from meshlang.ops.functions import BINARY, UNARY
from meshlang.program import DTYPES, FLOATS, INTEGERS
from tests.harness import Case, Input, Laid, bools, case, check, ints, trace_error

# -- dtypes --------------------------------------------------------------------------------------

DTYPES_OF = {
    "": DTYPES,
    "floats": FLOATS,
    "bools": ("bool",),
    "integers": INTEGERS,
    "numbers": (*FLOATS, *INTEGERS),
    "signed numbers": (*FLOATS, "int64", "int32"),
}
FIXES = {
    "floats": "ml.cast(x, 'compute')",
    "bools": "compare first, e.g. x > 0",
    "integers": "ml.cast(x, 'int32')",
    "numbers": "ml.cast(x, 'int32')",
    "signed numbers": "ml.cast(x, 'int32')",
}


def kind_of(fn: str) -> str:
    return (UNARY[fn] if fn in UNARY else BINARY[fn]).takes


def of_dtype(dtype: str) -> Input:
    return bools("batch:8") if dtype == "bool" else ints("batch:8", 5, low=1, dtype=dtype)


def dtype_cases() -> list[Case]:
    cases = []
    for fn in (*UNARY, *BINARY):
        for dtype in DTYPES_OF[kind_of(fn)]:
            operands = range(1 if fn in UNARY else 2)
            inputs: dict[str, Any] = {f"x{i}": of_dtype(dtype) for i in operands}
            cases.append(case(f"{fn} {dtype}", getattr(ml, fn), gradients=False, **inputs))
    return cases


def test_what_a_function_takes_runs():
    check(dtype_cases(), Laid("r:2", "batch:r", "spmd"))


@pytest.mark.parametrize("fn", [n for n in (*UNARY, *BINARY) if kind_of(n)])
def test_other_dtypes_are_refused(fn: str):
    kind, operands = kind_of(fn), 1 if fn in UNARY else 2
    for dtype in set(DTYPES) - set(DTYPES_OF[kind]):
        inputs = {f"x{i}": of_dtype(dtype) for i in range(operands)}
        assert trace_error(ml.DtypeError, getattr(ml, fn), **inputs) == (
            f"{fn} takes {kind}.\n  operand  [batch:8] {dtype}\n  fix: {FIXES[kind]}"
        )


def test_two_dtypes_are_refused():
    x, y = ints("batch:8", 5), "batch:8"
    assert (
        trace_error(ml.DtypeError, ml.add, x=x, y=y)
        == """\
add: the operands have several dtypes.
  left   [batch:8] int32
  right  [batch:8] float64
  fix: ml.cast them to one, e.g. ml.cast(x, 'int32')"""
    )
    assert (
        trace_error(ml.DtypeError, lambda x, y: ml.where(x > 0, x, y), x=x, y=y)
        == """\
where: the operands have several dtypes.
  x  [batch:8] int32
  y  [batch:8] float64
  fix: ml.cast them to one, e.g. ml.cast(x, 'int32')"""
    )
    assert (
        trace_error(ml.DtypeError, lambda x, y: ml.add_n([x, y]), x=x, y=y)
        == """\
add_n: the operands have several dtypes.
  operand 0  [batch:8] int32
  operand 1  [batch:8] float64
  fix: ml.cast them to one, e.g. ml.cast(x, 'int32')"""
    )


def test_a_condition_is_bools():
    text = trace_error(ml.DtypeError, lambda x: ml.where(x, x, x), x="batch:8")
    assert (
        text
        == """\
where's condition takes bools.
  operand  [batch:8] float64
  fix: compare first, e.g. x > 0"""
    )


def test_a_float_does_not_become_an_integer_unasked():
    text = trace_error(ml.DtypeError, lambda x: x * 0.5, x=ints("batch:8", 5))
    assert (
        text
        == """\
a float meets integers.
  float     0.5
  integers  [batch:8] int32
  fix: ml.cast(x, 'compute') first, or give an int"""
    )
    assert trace_error(ml.DtypeError, lambda x: 0.5 * x, x=ints("batch:8", 5)) == text


def test_an_unknown_dtype_is_refused():
    assert (
        trace_error(ml.DtypeError, lambda x: ml.cast(x, "float23"), x="d:2")
        == """\
no dtype 'float23'.
  fix: did you mean 'float32'?"""
    )


# -- dims ----------------------------------------------------------------------------------------


def test_only_one_side_may_lack_dims():
    assert (
        trace_error(ml.DimError, ml.subtract, x="batch:8 length:4", y="batch:8 memory:4")
        == """\
subtract: one side must have all the dims of the other.
  left         [batch:8 length:4]
  right        [batch:8 memory:4]
  only in one  memory:4 length:4
  fix: to combine every pair, say so: x.expand(memory=4)"""
    )


def test_one_operand_of_where_has_all_dims():
    inputs = {"c": bools("batch:8"), "x": "length:4", "y": ""}
    assert (
        trace_error(ml.DimError, ml.where, **inputs)
        == """\
where: one operand must have all the dims.
  condition  [batch:8]
  x          [length:4]
  y          []
  fix: to choose for every pair, expand one of them: x.expand(DIM=SIZE)"""
    )


def test_add_n_takes_equal_dims():
    assert (
        trace_error(ml.DimError, lambda x, y: ml.add_n([x, y]), x="batch:8 d:2", y="d:2")
        == """\
add_n: all operands have the same dims.
  operand 0  [batch:8 d:2]
  operand 1  [d:2]
  fix: expand the smaller ones, or add them with +"""
    )


def test_add_n_needs_operands():
    with pytest.raises(ml.ProgramError) as caught:
        ml.add_n([])
    assert (
        str(caught.value)
        == """\
add_n: there is nothing to add.
  fix: give one tensor or more"""
    )


def test_sizes_of_a_name_agree():
    assert (
        trace_error(ml.DimError, ml.add, x="batch:8", y="batch:4")
        == """\
add: dim 'batch' has two sizes, 8 and 4.
  operand 0  [batch:8]
  operand 1  [batch:4]
  fix: rename one of them, or give both the same size"""
    )


def test_a_dim_does_not_meet_its_twin():
    text = trace_error(ml.DimError, lambda x: x + ml.whole(x, "batch"), x="batch:8")
    assert (
        text
        == """\
add: dim 'batch' meets its twin 'batch*'.
  operand 0  [batch:8]
  operand 1  [batch*:8]
  fix: bring one to the other: ml.whole(x, 'batch') or ml.divided(x, 'batch')"""
    )


def test_an_array_needs_names():
    assert (
        trace_error(ml.ProgramError, lambda x: x + np.ones(8), x="batch:8")
        == """\
an array has no named dims.
  array  shape (8,), float64
  fix: name them: ml.constant(array, 'batch d_model')"""
    )


def test_functions_with_numbers_take_what_their_parts_take():
    def clip(x: ml.Tensor) -> ml.Tensor:
        return ml.clip(x, -1.0, 1.0)

    assert trace_error(ml.DtypeError, ml.leaky_relu, x=ints("batch:8", 5)) == (
        "leaky_relu takes floats.\n  operand  [batch:8] int32\n  fix: ml.cast(x, 'compute')"
    )
    assert trace_error(ml.DtypeError, clip, x=ints("batch:8", 5)).startswith(
        "a float meets integers."
    )
