"""Tracing: programs, scopes, dtypes by name, what is refused; and programs as text."""

from typing import Any

import numpy as np
import pytest

import meshlang as ml
from meshlang.program import DTYPES, Spec, as_tensor, current, dtype_name, tracing
from tests.layout import programs
from tests.oracles.communication import MOE_TABLE, Transformer

BATCH = ml.spec("batch:4 d:8")


def said(error: type[ml.MeshlangError], fn: Any, **specs: Any) -> str:
    with pytest.raises(error) as raised:
        ml.trace(fn, **specs)
    return str(raised.value)


# -- tracing --------------------------------------------------------------------------------------


def test_inputs_and_results():
    def fn(x, count):
        return {"sum": ml.sum(x, "d"), "both": (x, count), "nothing": None}

    program = ml.trace(fn, x=BATCH, count=ml.spec("", "int32"))
    assert {name: str(t) for name, t in program.inputs.items()} == {
        "x": "Tensor[batch:4 d:8] float32",
        "count": "Tensor[] int32",
    }
    assert [str(t) for t in program.outputs] == [
        "Tensor[batch:4] float32",
        "Tensor[batch:4 d:8] float32",
        "Tensor[] int32",
    ]
    assert program.results["nothing"] is None


def test_no_program_is_left_behind():
    assert current() is None

    def fails(x):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        ml.trace(fails, x=BATCH)
    assert current() is None


def test_python_numbers_are_results():
    program = ml.trace(lambda: (1, 2.5, True, np.float32(3)))
    assert [t.dtype for t in program.outputs] == ["int32", "float32", "bool", "float32"]


def test_precision_names():
    precision = ml.Precision(stored="float32", compute="bfloat16", high="float64")

    def fn(x):
        w = ml.variable("w", "d:8", init=0.0)
        return x, w, ml.cast(x, "high"), ml.cast(x, "stored")

    program = ml.trace(fn, precision=precision, x=BATCH)
    assert [t.dtype for t in program.outputs] == ["bfloat16", "bfloat16", "float64", "float32"]
    assert program.variables["w"].dtype == "float32"


def test_dtypes():
    assert [dtype_name(name) for name in DTYPES] == list(DTYPES)
    assert dtype_name("compute") == "float32"
    with pytest.raises(ml.DtypeError) as error:
        dtype_name("flaot32")
    assert str(error.value) == "no dtype 'flaot32'.\n  fix: did you mean 'float32'?"
    with pytest.raises(ml.DtypeError) as error:
        dtype_name("string")
    assert (
        str(error.value)
        == """no dtype 'string'.
  fix: one of stored, compute, high, float64, float32, bfloat16, float16, int64, int32, uint32, \
uint8, bool"""
    )


def test_precision_is_of_floats():
    with pytest.raises(ml.DtypeError) as error:
        ml.Precision(compute="int32")
    assert (
        str(error.value)
        == """precision 'compute' is 'int32', not a float dtype.
  fix: use one of float64, float32, bfloat16, float16"""
    )


def test_scopes_name_variables_ops_and_errors():
    def fn(x):
        with ml.scope("decoder"), ml.scope("layer"):
            ml.variable("w", "d:8", init=0.0)
            y = ml.tanh(x)
        return ml.exp(y)

    program = ml.trace(fn, x=BATCH)
    assert list(program.variables) == ["decoder/layer/w"]
    scopes = {node.op.label: node.scope for node in program.nodes}
    assert (scopes["tanh"], scopes["exp"]) == ("decoder/layer", "")

    def wrong(x):
        with ml.scope("decoder"), ml.scope("layer"):
            return ml.einsum(x, x.rename(d="e"), reduce="d") + ml.cast(x, "int32")

    assert (
        said(ml.DtypeError, wrong, x=BATCH)
        == """decoder/layer/add: the operands have several dtypes.
  left   [batch:4 e:8] float32
  right  [batch:4 d:8] int32
  fix: ml.cast them to one, e.g. ml.cast(x, 'float32')"""
    )


def test_a_scope_ends_with_an_error():
    def fn(x):
        try:
            with ml.scope("lost"):
                raise KeyError
        except KeyError:
            return ml.tanh(x)

    assert ml.trace(fn, x=BATCH).nodes[0].scope == ""


def test_whether_a_call_changes_variables():
    def reads(x):
        return ml.variable("w", "d:8", init=0.0) * x

    def writes(x):
        ml.assign(ml.variable("w", "d:8", init=0.0), ml.sum(x, "batch"))

    assert not ml.trace(reads, x=BATCH).updates_variables
    assert ml.trace(writes, x=BATCH).updates_variables


# -- what is refused ------------------------------------------------------------------------------


def test_outside_of_a_trace():
    with pytest.raises(ml.ProgramError) as error:
        tracing("ml.variable")
    assert (
        str(error.value)
        == """ml.variable belongs to a program, and none is being traced.
  fix: call it inside of the function given to ml.trace or ml.run"""
    )


def test_a_tensor_of_another_program():
    stolen = []
    ml.trace(lambda x: stolen.append(x), x=BATCH)
    assert (
        said(ml.ProgramError, lambda: ml.tanh(stolen[0]))
        == """a tensor of another program is used here.
  tensor  Tensor[batch:4 d:8] float32
  fix: pass it as an input: ml.trace(fn, name=ml.spec(...))"""
    )


def test_what_is_no_tensor():
    assert (
        said(ml.ProgramError, lambda: "loss")
        == """a str is not a tensor.
  fix: give a tensor, a number, or ml.constant(array, 'dim names')"""
    )
    assert (
        said(ml.ProgramError, lambda x: x * np.ones((4, 8)), x=BATCH)
        == """an array has no named dims.
  array  shape (4, 8), float64
  fix: name them: ml.constant(array, 'batch d_model')"""
    )


def test_a_tensor_is_neither_true_nor_false():
    def fn(x):
        return 1.0 if ml.sum(x) > 0.0 else 2.0

    assert (
        said(ml.ProgramError, fn, x=BATCH)
        == """a tensor of a program being traced is neither true nor false.
  tensor  Tensor[] bool
  fix: choose with ml.where"""
    )


def test_a_tensor_of_a_trace_has_no_value():
    assert (
        said(ml.ProgramError, lambda x: x.numpy(), x=BATCH)
        == """a tensor of a program being traced has no value.
  tensor  Tensor[batch:4 d:8] float32
  fix: return it from the traced function, or run op by op outside of ml.trace"""
    )


def test_a_float_beside_integers():
    assert (
        said(ml.DtypeError, lambda n: n * 0.5, n=ml.spec("batch:4", "int32"))
        == """a float meets integers.
  float     0.5
  integers  [batch:4] int32
  fix: ml.cast(x, 'compute') first, or give an int"""
    )


def test_constants_in_hand_become_constants_of_the_program():
    table = ml.constant(np.eye(3), "i j")
    program = ml.trace(lambda x: x * table, x=ml.spec("i:3 j:3"))
    assert [node.op.label for node in program.nodes] == ["constant", "multiply"]
    assert as_tensor(table) is table


def test_an_op_without_a_gradient_says_so():
    class Opaque(ml.ops.elementwise.StopGradient):
        vjp = ml.program.Op.vjp

    def fn(x):
        y = ml.program.apply(Opaque(), x)[0]
        return ml.gradients(ml.sum(y), [x])

    assert (
        said(ml.ProgramError, fn, x=BATCH)
        == """opaque has no gradient.
  operand  Tensor[batch:4 d:8] float32
  fix: wrap its operand or its result in ml.stop_gradient"""
    )


def test_specs_are_shapes_and_dtypes():
    assert Spec(ml.Shape.parse("a:1"), "int32")._asdict() == {
        "shape": ml.Shape.parse("a:1"),
        "dtype": "int32",
    }


# -- programs as text -----------------------------------------------------------------------------


def loops(x: ml.Tensor, noise: ml.Tensor) -> dict[str, ml.Tensor]:
    """A loop in a loop, stacks, sums, and a gradient through them."""

    def layer(carry, part):
        with ml.scope("layer"):
            w = ml.variable("w", "d:8 e:8", init=0.0)
            y = ml.tanh(ml.einsum(carry, w, reduce="d")).rename(e="d")
            inner, _ = ml.scan(lambda c, _: (c * part, None), y, over="again:2")
        return carry + inner, ml.sum(inner)

    last, each = ml.scan(layer, x, noise, over="layers")
    sums = ml.accumulate(lambda part: {"total": part * 2.0}, each, over="layers")
    (slope,) = ml.gradients(ml.sum(last), ml.trainable_variables())
    return {"last": last, "each": each, "slope": slope, **sums}


PROGRAMS = {
    "two_layers": programs.two_layers,
    "loops": lambda: ml.trace(loops, x=BATCH, noise=ml.spec("layers:3")),
    "written_out": lambda: programs.transformer(Transformer(layers=1), unroll=True),
    "mixture": lambda: programs.mixture(MOE_TABLE[0]),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_text(name: str, golden):
    golden(f"program/{name}.txt", str(PROGRAMS[name]()))


def test_text_is_stable():
    assert str(PROGRAMS["loops"]()) == str(PROGRAMS["loops"]())


def test_an_empty_program():
    assert str(ml.trace(lambda: None)) == "return\n"
    assert str(ml.trace(lambda x: x, x=BATCH)) == "%0 = input x: [batch:4 d:8] float32\nreturn %0\n"
