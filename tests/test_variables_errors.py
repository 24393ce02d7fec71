"""Variables refused: each text, whole."""

from collections.abc import Callable
from typing import Any

import pytest

import meshlang as ml
from tests.harness import layout_error, trace_error


def assigning(value: Callable[[ml.Tensor], Any], **options: Any) -> Callable[..., Any]:
    def fn(x: ml.Tensor) -> None:
        w = ml.variable("w", "d:8", init=1.0)
        ml.assign(w, value(x), **{n: option(x) for n, option in options.items()})

    return fn


def twice(first: str, second: str) -> Callable[..., Any]:
    def fn(x: ml.Tensor) -> None:
        with ml.scope("layer"):
            ml.variable("w", first, init=1.0)
            ml.variable("w", second, init=1.0)

    return fn


def in_a_scan(**options: Any) -> Callable[..., Any]:
    def fn(x: ml.Tensor) -> Any:
        w = ml.variable("w", "", init=1.0)

        def trip(c: ml.Tensor, row: ml.Tensor) -> Any:
            ml.assign(w, row)
            return c, None

        return ml.scan(trip, x, x, over="d", **options)

    return fn


IN_A_LOOP = """\
variable 'w' is assigned inside of a loop or a branch.
  fix: return the new value from the body, and assign it after"""
ERRORS: list[tuple[type[ml.MeshlangError], Callable[..., Any], str]] = [
    (
        ml.VariableError,
        twice("d:8", "d:16"),
        """\
variable 'layer/w' stands twice, in two forms.
  first  [d':8] float64
  now    [d':16] float64
  fix: give one of them another name, or another scope: with ml.scope('decoder'):""",
    ),
    (
        ml.VariableError,
        twice("d:8 f:4", "f:4 d:8"),
        """\
variable 'layer/w' stands twice, in two forms.
  first  [d':8 f':4] float64
  now    [f':4 d':8] float64
  fix: give one of them another name, or another scope: with ml.scope('decoder'):""",
    ),
    (
        ml.VariableError,
        assigning(lambda x: ml.sum(x)),
        """\
variable 'w' cannot hold this value.
  variable  [d':8] float64
  value     [] float64
  fix: rename its dims, or ml.cast(value, 'stored')""",
    ),
    (
        ml.VariableError,
        assigning(lambda x: x.rename(d="e")),
        """\
variable 'w' cannot hold this value.
  variable  [d':8] float64
  value     [e:8] float64
  fix: rename its dims, or ml.cast(value, 'stored')""",
    ),
    (
        ml.VariableError,
        assigning(lambda x: ml.cast(x, "float32")),
        """\
variable 'w' cannot hold this value.
  variable  [d':8] float64
  value     [d:8] float32
  fix: rename its dims, or ml.cast(value, 'stored')""",
    ),
    (
        ml.VariableError,
        assigning(lambda x: x, when=lambda x: x > 0.0),
        """\
variable 'w' is assigned under a condition that is no bool scalar.
  when  [d:8] bool
  fix: ml.all(when), or compare: when > 0""",
    ),
    (
        ml.VariableError,
        assigning(lambda x: x, when=lambda x: ml.step()),
        """\
variable 'w' is assigned under a condition that is no bool scalar.
  when  [] int32
  fix: ml.all(when), or compare: when > 0""",
    ),
    (
        ml.VariableError,
        lambda x: ml.assign(x, x),
        """\
only a variable can be assigned.
  target  Tensor[d:8] float64
  fix: give what ml.variable returned, or one of ml.trainable_variables()""",
    ),
    (
        ml.VariableError,
        lambda x: ml.assign(ml.variable("w", "d:8", init=1.0) * 1.0, x),
        """\
only a variable can be assigned.
  target  Tensor[d:8] float64
  fix: give what ml.variable returned, or one of ml.trainable_variables()""",
    ),
    (ml.ProgramError, in_a_scan(), IN_A_LOOP),
    (ml.ProgramError, in_a_scan(unroll=True), IN_A_LOOP),
    (
        ml.DimError,
        lambda x: ml.variable("w", "d'", init=1.0),
        "dim 'd' needs a size here.\n  shape  d'\n  fix: d:SIZE",
    ),
    (
        ml.DimError,
        lambda x: ml.variable("w", "d':8", init=1.0),
        """\
a kept dim cannot be written down: it belongs to a variable.
  fix: take it from the variable's shape""",
    ),
    (
        ml.DimError,
        lambda x: (ml.variable("w", "d:8", init=1.0), ml.trainable_variables()[0] + x),
        """\
add: dim "d'" meets its twin 'd'.
  operand 0  [d':8]
  operand 1  [d:8]
  fix: use the variable through ml.variable, or both operands under the same twin""",
    ),
]


@pytest.mark.parametrize(("error", "fn", "text"), ERRORS)
def test_errors(error: type[ml.MeshlangError], fn: Callable[..., Any], text: str):
    assert trace_error(error, fn, x="d:8") == text


def test_a_variable_divides_as_it_is_kept():
    assert (
        layout_error(
            lambda x: ml.variable("w", "d:6", init=1.0) * ml.sum(x),
            "r:4",
            "",
            params="d:r",
            x="n:3",
        )
        == """\
dim "d'" of size 6 does not divide by the 4 processors along r.
  variable w  [d':6]
  params      d:r
  mesh        r:4
  fix: make it a multiple of 4, or lay 'd' along fewer processors"""
    )


@pytest.mark.parametrize(
    ("what", "call"),
    [
        ("ml.variable", lambda: ml.variable("w", "d:8", init=1.0)),
        ("ml.trainable_variables", ml.trainable_variables),
        ("ml.step", ml.step),
        ("ml.assign", lambda: ml.assign(1.0, 1.0)),
        ("ml.scope", lambda: ml.scope("layer").__enter__()),
    ],
)
def test_variables_belong_to_programs(what: str, call: Callable[[], Any]):
    with pytest.raises(ml.ProgramError) as caught:
        call()
    assert (
        str(caught.value)
        == f"""\
{what} belongs to a program, and none is being traced.
  fix: call it inside of the function given to ml.trace or ml.run"""
    )
