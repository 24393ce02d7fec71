"""Rows to their places and back, against products with one-hot tensors."""

from typing import Any

import numpy as np

import meshlang as ml
from models.moe import Route, combine, dispatch
from tests.harness import case, check_slopes, check_values, given
from tests.oracles.moe import one_hot

EXPERTS, PLACES = 3, 2
# [group choice token]; each place is taken once, or not at all; expert 3 and place 2 do not exist.
EXPERT = np.array([[[0, 0, 0, 1], [1, 2, 3, 1]], [[2, 2, 2, 2], [0, 0, 3, 3]]], np.int32)
PLACE = np.array([[[0, 1, 2, 0], [1, 0, 0, 2]], [[0, 1, 2, 3], [1, 0, 0, 1]]], np.int32)


def there_and_back(x: Any, gate: Any, expert: Any, place: Any) -> dict[str, Any]:
    nothing = ml.constant(0.0, "")
    route = Route(
        expert=expert,
        place=place,
        gate=gate,
        demand=nothing,
        balance=nothing,
        z=nothing,
        entropy=nothing,
    )
    rows = dispatch(x, route, experts=EXPERTS, capacity=PLACES)
    return {"rows": rows, "y": combine(rows * rows, route)}


def by_one_hot(x: Any, gate: Any, expert: Any, place: Any) -> dict[str, Any]:
    taken = one_hot(expert, EXPERTS)[..., None] * one_hot(place, PLACES)[..., None, :]
    rows = np.einsum("gtd,gktec->egcd", x, taken)
    return {"rows": rows, "y": np.einsum("egcd,gktec,gkt->gtd", rows**2, taken, gate)}


CASE = case(
    "dispatch",
    there_and_back,
    by_one_hot,
    x="group:2 token:4 d_model:5",
    gate="group:2 choice:2 token:4",
    expert=given("group:2 choice:2 token:4", EXPERT, "int32"),
    place=given("group:2 choice:2 token:4", PLACE, "int32"),
)


def test_dispatch_and_combine_are_products_with_one_hot_tensors() -> None:
    check_values(CASE)


def test_slopes() -> None:
    check_slopes(CASE)
