"""Gather, scatter_add and one_hot refused: each text, whole."""

from collections.abc import Callable
from typing import Any

import pytest

import meshlang as ml
from tests.harness import floats, ints, trace_error

ERRORS: list[tuple[type[ml.MeshlangError], Callable[..., Any], str]] = [
    (
        ml.DtypeError,
        lambda x, i, n: ml.gather(x, x, dim="vocab"),
        """\
gather: an index is int32.
  index 0  [vocab:40 d:16] float64
  fix: ml.cast(index, 'int32')""",
    ),
    (
        ml.DimError,
        lambda x, i, n: ml.gather(x, i, dim="vocabulary"),
        """\
no dim named 'vocabulary'.
  shape  [vocab:40 d:16]
  fix: did you mean 'vocab'?""",
    ),
    (
        ml.DimError,
        lambda x, i, n: ml.gather(x, n, dim="vocab"),
        """\
gather: an index into 'vocab' has a dim of that name.
  indexed  vocab:40
  index 0  [vocab:40] int32
  fix: index.rename(vocab='other')""",
    ),
    (
        ml.DimError,
        lambda x, i, n: ml.gather_at(x, {"vocab": i, "d": i.rename(batch="other")}),
        """\
gather: all indices have one shape.
  index 0  [batch:8] int32
  index 1  [other:8] int32
  fix: expand or arrange them""",
    ),
    (
        ml.DimError,
        lambda x, i, n: ml.gather_at(x, {}),
        "gather: there is no index.\n  fix: {'dim': index, ...}",
    ),
    (
        ml.DimError,
        lambda x, i, n: ml.gather(x.rename(d="batch"), i, dim="vocab"),
        """\
gather: dim 'batch' has two sizes, 16 and 8.
  operand 0  [vocab:40 batch:16]
  operand 1  [batch:8]
  fix: rename one of them, or give both the same size""",
    ),
    (
        ml.DimError,
        lambda x, i, n: ml.scatter_add(x, n, into="vocab:9"),
        """\
scatter_add: an index into 'vocab' has a dim of that name.
  indexed  vocab:9
  index 0  [vocab:40] int32
  fix: index.rename(vocab='other')""",
    ),
    (
        ml.DimError,
        lambda x, i, n: ml.scatter_add(x, n, into="d:9"),
        """\
dim 'd' stands twice in one shape.
  dims  [d:9 d:16]
  fix: rename one of them: x.rename(d='other')""",
    ),
    (
        ml.DimError,
        lambda x, i, n: ml.scatter_add(x, n, into="slot:9", batch="d"),
        """\
no dim named 'd'.
  shape  [vocab:40]
  fix: the dims are: vocab""",
    ),
    (
        ml.DimError,
        lambda x, i, n: ml.scatter_add(x, n, into="slot"),
        "dim 'slot' needs a size here.\n  shape  slot\n  fix: slot:SIZE",
    ),
    (
        ml.DimError,
        lambda x, i, n: ml.scatter_add_at(x, {"slot:9": n}, order="slot"),
        """\
scatter_add: order names all dims.
  dims   [slot:9 d:16]
  order  slot
  fix: order='slot d'""",
    ),
    (
        ml.DtypeError,
        lambda x, i, n: ml.scatter_add(x > 0.0, n, into="slot:9"),
        """\
scatter_add takes numbers.
  operand  [vocab:40 d:16] bool
  fix: ml.cast(x, 'int32')""",
    ),
    (
        ml.DimError,
        lambda x, i, n: ml.one_hot(i, "batch:9"),
        """\
dim 'batch' stands twice in one shape.
  dims  [batch:8 batch:9]
  fix: rename one of them: x.rename(batch='other')""",
    ),
    (
        ml.DtypeError,
        lambda x, i, n: ml.one_hot(x, "k:9"),
        """\
one_hot: an index is int32.
  index 0  [vocab:40 d:16] float64
  fix: ml.cast(index, 'int32')""",
    ),
]


@pytest.mark.parametrize(("error", "fn", "text"), ERRORS)
def test_errors(error: type[ml.MeshlangError], fn: Callable[..., Any], text: str):
    inputs = {"x": floats("vocab:40 d:16"), "i": ints("batch:8", 40), "n": ints("vocab:40", 9)}
    assert trace_error(error, fn, **inputs) == text
