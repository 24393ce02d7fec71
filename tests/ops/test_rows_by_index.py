"""Gather and scatter_add by several indices: rows that repeat, sums of rows, unique places."""

from typing import Any

import numpy as np
import pytest

import meshlang as ml
from tests.harness import (
    Laid,
    case,
    check,
    check_slopes,
    check_values,
    drawn,
    given,
    layouts,
    trace_error,
)

# [group choice token] into 8 x 4 places of a group. Each place is taken once; some are outside.
_places = np.random.default_rng(0).permuted(np.tile(np.arange(-8, 40), (8, 1)), axis=1)[:, :32]
PLACES = _places.reshape(8, 2, 16).astype(np.int32)
ROW, COLUMN = PLACES // 4, PLACES % 4


def scattered(unique: bool) -> Any:
    def fn(x: Any, row: Any, column: Any) -> Any:
        places = {"row:8": row, "column:4": column}
        order = "row group column d"
        return ml.scatter_add_at(x, places, batch="group", order=order, unique=unique)

    return fn


def gathered(unique: bool) -> Any:
    def fn(table: Any, row: Any, column: Any) -> Any:
        return ml.gather_at(table, {"row": row, "column": column}, summed="choice", unique=unique)

    return fn


def scattered_by_numpy(x: Any, row: Any, column: Any) -> Any:
    found = np.zeros((8, 8, 4, x.shape[-1]))
    for g, k, t in np.ndindex(row.shape):
        if 0 <= row[g, k, t] < 8:
            found[row[g, k, t], g, column[g, k, t]] += x[g, t]
    return found


def gathered_by_numpy(table: Any, row: Any, column: Any) -> Any:
    found = np.zeros((8, 16, table.shape[-1]))
    for g, k, t in np.ndindex(row.shape):
        if 0 <= row[g, k, t] < 8:
            found[g, t] += table[row[g, k, t], g, column[g, k, t]]
    return found


INDEX = {
    "row": given("group:8 choice:2 token:16", ROW, "int32"),
    "column": given("group:8 choice:2 token:16", COLUMN, "int32"),
}
CASES = tuple(
    made
    for unique in (False, True)
    for made in (
        case(
            f"scatter {unique}",
            scattered(unique),
            scattered_by_numpy,
            x="group:8 token:16 d:8",
            **INDEX,
        ),
        case(
            f"gather {unique}",
            gathered(unique),
            gathered_by_numpy,
            table="row:8 group:8 column:4 d:8",
            **INDEX,
        ),
    )
)
TOKENS_DIVIDED = Laid("r:2 c:2", "token:r+c", "spmd")


def test_values() -> None:
    check_values(CASES)


def test_slopes() -> None:
    check_slopes(CASES)


@pytest.mark.parametrize("laid", drawn("rows by index", (*layouts("group row d"), TOKENS_DIVIDED)))
def test_layouts(laid: Laid) -> None:
    check(CASES, laid)


def test_order_names_all_dims() -> None:
    def fn(x: Any, row: Any) -> Any:
        return ml.scatter_add_at(x, {"row:4": row}, order="d")

    row = given("token:2", [0, 1], "int32")
    assert trace_error(ml.DimError, fn, x="token:2 d:3", row=row) == (
        "scatter_add: order names all dims.\n"
        "  dims   [row:4 d:3]\n"
        "  order  d\n"
        "  fix: order='row d'"
    )


def test_an_index_has_no_dim_that_it_points_into() -> None:
    """Each processor would hold other rows than it asks for."""
    row = given("token:2", [0, 1], "int32")
    text = trace_error(
        ml.DimError, lambda x, row: ml.gather(x, row, dim="token"), x="token:2 d:3", row=row
    )
    assert text == (
        "gather: an index into 'token' has a dim of that name.\n"
        "  indexed  token:2\n"
        "  index 0  [token:2] int32\n"
        "  fix: index.rename(token='other')"
    )
