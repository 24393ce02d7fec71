"""What optimizers move between processors, counted in plans."""

from collections.abc import Sequence

import pytest

import meshlang as ml
from meshlang.layout.values import Collective

LARGE, SMALL = 8, 4


def moved(
    optimizer: ml.optim.Optimizer,
    layout: str,
    shapes: Sequence[str],
    params: str = "",
    slots: str = "",
) -> list[tuple[str, tuple[int, ...]]]:
    """The kind of each collective, and the elements of its parts: gradients are at hand."""

    def step(x: ml.Tensor) -> None:
        variables = [
            ml.variable(f"w{i}", shape, init=ml.ones_init) for i, shape in enumerate(shapes)
        ]
        gradients = ml.gradients(ml.add_n([ml.sum(w) * x for w in variables]), variables)
        optimizer.apply(variables, gradients)

    plan = ml.plan(ml.trace(step, x=ml.spec("")), "r:2", layout, params=params, slots=slots)
    found = [step for step in plan.steps if isinstance(step, Collective)]
    return [(step.kind, tuple(v.elements for v in step.inputs)) for step in found]


FACTORED = ml.optim.Adafactor(min_dim_size_to_factor=4)
SHAPE = f"x:{LARGE} y:{SMALL}"


def test_elementwise_optimizers_move_nothing() -> None:
    for optimizer in (
        ml.optim.Sgd(learning_rate=0.1, momentum=0.9),
        ml.optim.AdamW(learning_rate=0.1, weight_decay=0.1),
        ml.optim.Lion(learning_rate=0.1, weight_decay=0.1),
        ml.optim.Ema(optimizer=ml.optim.Lion(learning_rate=0.1)),
    ):
        assert moved(optimizer, "x:r", [SHAPE]) == []
        assert moved(optimizer, "y:r", [SHAPE], params="x:r") == []


@pytest.mark.parametrize(
    ("layout", "wanted"),
    [
        # The second largest dim: rms of the value, a column, mean of the row; rms of the step.
        ("y:r", [(1, LARGE, 1), (1,)]),
        # The largest: rms of the value, a row; rms of the step.
        ("x:r", [(1, SMALL), (1,)]),
    ],
)
def test_adafactor_moves_one_row_or_column_and_scalars(
    layout: str, wanted: list[tuple[int, ...]]
) -> None:
    assert moved(FACTORED, layout, [SHAPE]) == [("all_reduce", sizes) for sizes in wanted]


def test_variables_pay_their_sums_together() -> None:
    """Two collectives, however many variables there are."""
    shapes = [SHAPE, f"y:{LARGE} x:{SMALL}", "y:4", "z:4"]
    found = moved(FACTORED, "y:r", shapes)
    assert [kind for kind, _ in found] == ["all_reduce"] * 2
    assert sorted(sum((sizes for _, sizes in found), ())) == [1] * 7 + [SMALL, LARGE]


def test_divided_slots_gather_what_was_updated_and_nothing_else() -> None:
    optimizer = ml.optim.AdamW(learning_rate=0.1)
    assert moved(optimizer, "", [SHAPE], slots="x:r") == [("all_gather", (LARGE * SMALL // 2,))]


@pytest.mark.parametrize(
    ("optimizer", "parts"),
    [
        # the norms of values and of their steps
        (ml.optim.Lamb(learning_rate=0.1), [(1,) * 6]),
        (ml.optim.BlockClip(optimizer=ml.optim.AdamW(learning_rate=0.1)), [(1,) * 3]),
        # the least ratios of bounds and steps
        (ml.optim.Clippy(learning_rate=0.1), [(1,) * 3]),
        (ml.optim.RelativeClip(optimizer=ml.optim.AdamW(learning_rate=0.1)), [(1,) * 3]),
    ],
)
def test_norms_and_ratios_are_scalars(
    optimizer: ml.optim.Optimizer, parts: list[tuple[int, ...]]
) -> None:
    """And variables that nothing divides pay none."""
    shapes = [SHAPE, f"y:{LARGE} x:{SMALL}", "y:4", "z:4"]
    assert moved(optimizer, "y:r", shapes) == [("all_reduce", sizes) for sizes in parts]


def test_a_state_of_its_own_table_is_updated_where_it_lies() -> None:
    """Values are gathered once, after; momenta and averages stay divided."""
    for optimizer in (
        ml.optim.Lion(learning_rate=0.1),
        ml.optim.Ema(optimizer=ml.optim.Lion(learning_rate=0.1)),
    ):
        found = moved(optimizer, "", [SHAPE], slots="x:r")
        assert found == [("all_gather", (LARGE * SMALL // 2,))]
