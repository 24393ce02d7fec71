"""Loops refused: each text, whole."""

from collections.abc import Callable
from typing import Any

import pytest

import meshlang as ml
from tests.harness import layout_error, trace_error


def of(fn: Callable[[Any, Any], Any], **options: Any) -> Callable[..., Any]:
    return lambda x, y: ml.scan(fn, ml.zeros("d:8"), x, **{"over": "n", **options})


ERRORS: list[tuple[type[ml.MeshlangError], Callable[..., Any], str]] = [
    (
        ml.DimError,
        of(lambda c, x: (ml.sum(c), None)),
        """\
scan: the function changes the dims, the dtype or the nesting of the carry.
  carry in   [d:8] float64
  carry out  [] float64
  fix: return the carry with the dims it came with""",
    ),
    (
        ml.DimError,
        of(lambda c, x: (c > x, None)),
        """\
scan: the function changes the dims, the dtype or the nesting of the carry.
  carry in   [d:8] float64
  carry out  [d:8] bool
  fix: return the carry with the dims it came with""",
    ),
    (
        ml.DimError,
        lambda x, y: ml.scan(lambda c, x: ({"b": c["a"]}, None), {"a": y}, x, over="n"),
        """\
scan: the function changes the dims, the dtype or the nesting of the carry.
  carry in   a [m:6 d:8] float64
  carry out  b [m:6 d:8] float64
  fix: return the carry with the dims it came with""",
    ),
    (
        ml.DimError,
        of(lambda c, x: (None, None)),
        """\
scan: the function changes the dims, the dtype or the nesting of the carry.
  carry in   [d:8] float64
  carry out  nothing
  fix: return the carry with the dims it came with""",
    ),
    (
        ml.DimError,
        lambda x, y: ml.scan(lambda c, _: (c, None), y, over="layers"),
        "scan: how long is 'layers'?\n  over  'layers'\n  fix: give its size: over='layers:4'",
    ),
    (
        ml.DimError,
        lambda x, y: ml.scan(lambda c, _: (c, None), y, over="a:2 b:3"),
        "scan: walks over one dim.\n  over  'a:2 b:3'\n  fix: over='layers:4'",
    ),
    (
        ml.DimError,
        lambda x, y: ml.scan(lambda c, _: (c, None), y, x, over="k"),
        "no dim named 'k'.\n  shape  [n:4 d:8]\n  fix: the dims are: n d",
    ),
    (
        ml.DimError,
        lambda x, y: ml.scan(lambda c, _: (c, None), ml.zeros(""), (x, y.rename(m="n")), over="n"),
        """\
scan: dim 'n' is not the same everywhere: n:4 n:6.
  over  'n'
  xs 0  [n:4 d:8]
  xs 1  [n:6 d:8]
  fix: all slices are cut along one dim, of one size and one twin""",
    ),
    (
        ml.DimError,
        of(lambda c, x: (c, None), over="n:5"),
        """\
scan: dim 'n' is not the same everywhere: n:4 n:5.
  over  'n:5'
  xs    [n:4 d:8]
  fix: all slices are cut along one dim, of one size and one twin""",
    ),
    (
        ml.DimError,
        lambda x, y: ml.accumulate(lambda parts: parts[0], [x, ml.whole(x, "n")], over="n"),
        """\
accumulate: dim 'n' is not the same everywhere: n:4 n*:4.
  over  'n'
  xs 0  [n:4 d:8]
  xs 1  [n*:4 d:8]
  fix: all slices are cut along one dim, of one size and one twin""",
    ),
    (
        ml.DtypeError,
        lambda x, y: ml.accumulate(lambda part: part > 0.0, x, over="n"),
        "accumulate takes numbers.\n  operand  [d:8] bool\n  fix: ml.cast(x, 'int32')",
    ),
    (
        ml.DimError,
        of(lambda c, x: (c, ml.zeros("n:3"))),
        """\
dim 'n' stands twice in one shape.
  dims  [n:4 n:3]
  fix: rename one of them: x.rename(n='other')""",
    ),
]


@pytest.mark.parametrize(("error", "fn", "text"), ERRORS)
def test_errors(error: type[ml.MeshlangError], fn: Callable[..., Any], text: str):
    assert trace_error(error, fn, x="n:4 d:8", y="m:6 d:8") == text


def test_written_out_the_carry_may_not_change_either():
    text = ERRORS[0][2]
    fn = of(lambda c, x: (ml.sum(c), None), unroll=True)
    assert trace_error(ml.DimError, fn, x="n:4 d:8", y="m:6 d:8") == text


def test_all_trips_return_the_same():
    trips = iter(range(4))

    def fn(c: ml.Tensor, x: ml.Tensor) -> Any:
        return c, (x if next(trips) < 2 else ml.sum(x))

    assert (
        trace_error(ml.DimError, of(fn, unroll=True), x="n:4 d:8", y="")
        == """\
scan: the function returns something else in a later trip than in the first.
  first y  [d:8] float64
  later y  [] float64
  fix: let the function do the same in each trip"""
    )


@pytest.mark.parametrize("unroll", [False, True])
def test_a_divided_dim_is_not_walked(unroll: bool):
    text = layout_error(of(lambda c, x: (c + x, c), unroll=unroll), "r:2", "n:r", x="n:4 d:8", y="")
    assert (
        text
        == f"""\
{"unstack" if unroll else "scan"}: dim 'n' is walked one index at a time, and the layout divides it.
  dim     n:4
  axes    r
  layout  n:r
  mesh    r:2
  fix: take 'n' out of the table"""
    )


def test_stacked_variables_are_not_kept_divided_along_their_layers():
    def trip(h: ml.Tensor, _: None) -> Any:
        return h * ml.variable("w", "d:8", init=1.0), None

    text = layout_error(
        lambda x: ml.scan(trip, x, over="layers:3"), "r:3", "", params="layers:r", x="d:8"
    )
    assert (
        text
        == """\
scan: dim "layers'" is walked one index at a time, and the layout divides it.
  dim     layers':3
  axes    r
  params  layers:r
  mesh    r:3
  fix: take 'layers' out of the table"""
    )


@pytest.mark.parametrize("fn", [ml.scan, ml.accumulate])
def test_loops_belong_to_programs(fn: Callable[..., Any]):
    with pytest.raises(ml.ProgramError) as caught:
        fn(lambda *_: None, ml.constant([1.0], "n"), over="n")
    assert (
        str(caught.value)
        == f"""\
ml.{fn.__name__} belongs to a program, and none is being traced.
  fix: call it inside of the function given to ml.trace or ml.run"""
    )


def test_a_map_over_a_dim_that_is_not_there():
    text = trace_error(ml.DimError, lambda x: ml.map(lambda row: row, x, over="m"), x="n:4 d:8")
    assert text == "no dim named 'm'.\n  shape  [n:4 d:8]\n  fix: the dims are: n d"
