"""The two sides of the benchmark compute the same function."""

import numpy as np
import pytest

from benchmarks.mesh import LAYOUTS, lowered
from benchmarks.reference import Reference
from benchmarks.sizes import Sizes, batch, initial_weights

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


@pytest.mark.parametrize("mesh", LAYOUTS)
def test_losses_of_five_steps_are_those_of_the_reference(mesh: str) -> None:
    reference = Reference(SIZES, initial_weights(SIZES, seed=0), formulation="one_hot")
    step, arrays = lowered(SIZES, mesh), batch(SIZES, seed=0)
    wanted = [float(reference.step(**arrays)) for _ in range(5)]
    found = [float(step(**arrays)) for _ in range(5)]
    np.testing.assert_allclose(found, wanted, rtol=2e-5)
