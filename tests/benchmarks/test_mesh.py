"""The two sides of the benchmark compute the same function."""

import numpy as np
import pytest

import meshlang as ml
from benchmarks import reference
from benchmarks.mesh import LAYOUTS, filled, lowered
from benchmarks.sizes import Sizes, initial_weights

SIZES = Sizes(
    batch=8,
    length=16,
    vocab=32,
    layers=4,
    d_model=16,
    heads=4,
    d_head=4,
    d_ff=32,
    experts=4,
    d_expert=32,
    group_size=16,
)


@pytest.mark.parametrize("mesh", [m for m in LAYOUTS if ml.Mesh.parse(m).size <= 8])
def test_losses_of_five_steps_are_those_of_the_reference(mesh: str) -> None:
    weights = initial_weights(SIZES, seed=0)
    wanted = reference.filled(reference.Reference(SIZES, weights, formulation="one_hot"))
    found = filled(lowered(SIZES, mesh), SIZES, weights)
    np.testing.assert_allclose([found() for _ in range(5)], [wanted() for _ in range(5)], rtol=2e-5)
