"""Clipping by the global norm: each element counts once, wherever it lies."""

from typing import Any

import numpy as np
import pytest

import meshlang as ml
from meshlang.layout.values import Collective
from tests.optim.training import DOUBLE
from tests.oracles import optimizers as oracles

SHAPES = {"a": "d:8 e:4", "b": "d:8", "c": "", "d": "f:16 e:4"}
SPECS: dict[str, Any] = {name: ml.spec(dims) for name, dims in SHAPES.items()}
ARRAYS = {
    name: np.random.default_rng(i).normal(size=ml.Shape.parse(dims).sizes)
    for i, (name, dims) in enumerate(SHAPES.items())
}


def clipped(max_norm: float, mesh: str, layout: str) -> tuple[dict[str, np.ndarray], float]:
    def step(**xs: ml.Tensor):
        found, norm = ml.optim.clip_by_global_norm(list(xs.values()), max_norm)
        return dict(zip(xs, found, strict=True)), norm

    program = ml.trace(step, precision=DOUBLE, **SPECS)
    executable = ml.lower(ml.plan(program, mesh, layout))
    found, norm = executable(**ARRAYS)
    return {name: x.numpy() for name, x in found.items()}, float(norm)


@pytest.mark.parametrize("layout", ["", "d:r", "d:r e:c", "d:r+c", "f:c"])
@pytest.mark.parametrize("max_norm", [0.5, 100.0])
def test_norm_and_gradients_are_the_oracles_on_every_layout(max_norm: float, layout: str) -> None:
    found, norm = clipped(max_norm, "r:2 c:4", layout)
    assert norm == pytest.approx(oracles.global_norm(ARRAYS), rel=1e-14)
    wanted = oracles.clip_by_global_norm(ARRAYS, max_norm)
    for name, array in found.items():
        np.testing.assert_allclose(array, wanted[name], rtol=1e-13)
        if max_norm == 100.0:
            np.testing.assert_array_equal(array, ARRAYS[name])


def test_a_norm_costs_one_collective_for_each_set_of_axes() -> None:
    def norm(**xs: ml.Tensor) -> ml.Tensor:
        return ml.optim.global_norm(list(xs.values()))

    program = ml.trace(norm, **SPECS)
    plan = ml.plan(program, "r:2 c:4", "d:r e:c")
    found = [step for step in plan.steps if isinstance(step, Collective)]
    assert [(step.axes, step.payload[0]) for step in found] == [
        (("r", "c"), 1),  # a
        (("r",), 1),  # b
        (("c",), 1),  # d; c is whole
    ]
    alike = {name: spec for name, spec in SPECS.items() if "e" in spec.shape}
    same = ml.plan(ml.trace(norm, **alike), "c:4", "e:c")
    assert sum(isinstance(step, Collective) for step in same.steps) == 1


def test_without_gradients_the_norm_is_0() -> None:
    assert ml.optim.global_norm([]).numpy() == 0.0


def test_a_clipped_norm_is_a_positive_number() -> None:
    with pytest.raises(ml.MeshlangError) as caught:
        ml.optim.clip_factor(ml.constant(1.0, ""), 0.0)
    assert str(caught.value) == "clip_factor: max_norm is 0.0, and must be above 0."
