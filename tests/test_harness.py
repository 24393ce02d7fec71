"""The harness finds what it is for: a program whose results depend on its layout."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given as for_all
from hypothesis import settings

import meshlang as ml
from meshlang.ops.elementwise import StopGradient
from meshlang.ops.reduce import Reduce
from meshlang.program import apply
from tests.harness import (
    BACKENDS,
    MESHES,
    Laid,
    any_layout,
    case,
    check,
    check_slopes,
    check_values,
    drawn,
    floats,
    layouts,
)


@dataclass(frozen=True)
class Unpaid(Reduce):
    """A sum that forgets the other processors."""

    def creates_pending(self, axes_of, xs):
        return ()

    def plan(self, b, xs, outs):
        return b.local(Reduce("sum", self.dims), xs, outs)


@dataclass(frozen=True)
class Halved(StopGradient):
    """The value, with half of its gradient."""

    def vjp(self, xs, ys, gs):
        return (gs[0] * 0.5,)

    def plan(self, b, xs, outs):
        return b.local(StopGradient(), xs, outs)


def unpaid(x: ml.Tensor) -> ml.Tensor:
    return apply(Unpaid("sum", (x.shape["d"],)), x)[0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_forgotten_sum_shows(backend: str):
    broken = case("broken", unpaid, np.sum, x="batch:8 d:16")
    check(broken, Laid("r:2", "batch:r", backend))
    with pytest.raises(AssertionError, match=r"broken/value|should be whole over r"):
        check(broken, Laid("r:2", "d:r", backend))


def test_a_wrong_gradient_shows():
    broken = case("broken", lambda x: apply(Halved(), x)[0], lambda x: x, x="d:4")
    check_values(broken)
    with pytest.raises(AssertionError, match=r"broken: \S+ is not \S+"):
        check_slopes(broken)


def test_a_wrong_value_shows():
    with pytest.raises(AssertionError, match="broken/value"):
        check_values(case("broken", ml.exp, np.expm1, x="d:4"))
    with pytest.raises(AssertionError, match=r"float64 is not \(4,\) int64"):
        check_values(case("broken", ml.abs, lambda x: x.astype("int64"), x=floats("d:4", 1.0, 2.0)))


def test_a_difference_beyond_rounding_shows():
    """An error of 1e-11 under a layout alone: the count of processors enters the value."""

    def nearly(x: ml.Tensor) -> ml.Tensor:
        return x + unpaid(ml.ones(x.shape)) * 1e-12

    with pytest.raises(AssertionError, match=r"nearly/value|should be whole"):
        check(case("nearly", nearly, x="batch:8 d:16"), Laid("r:2", "d:r"))


def test_steps_compare_variables_too():
    def train(x: ml.Tensor) -> ml.Tensor:
        w = ml.variable("w", "batch:8", init=ml.zeros_init)
        ml.assign(w, w + unpaid(x))
        return ml.sum(x)

    broken = case("train", train, gradients=False, x="batch:8 d:16")
    check(broken, Laid("r:2", "batch:r"), steps=2)
    with pytest.raises(AssertionError, match=r"train/w|should be whole"):
        check(broken, Laid("r:2", "d:r"), steps=2)


@pytest.mark.parametrize("dims", ["batch", "batch d", "batch d f", "batch d f g"])
def test_a_pool_has_every_mesh_and_every_dim_on_every_axis(dims: str):
    pool = layouts(dims)
    assert len(set(pool)) == len(pool) >= 6
    assert {laid.mesh for laid in pool} == set(MESHES)
    on = {
        (laid.mesh, entry.split(":")[0], axis)
        for laid in pool
        for entry in laid.layout.split()
        for axis in entry.split(":")[1].split("+")
    }
    axes = [(mesh, word.split(":")[0]) for mesh in MESHES for word in mesh.split()]
    assert on >= {(mesh, name, axis) for mesh, axis in axes[:3] for name in dims.split()}


def test_a_draw_is_recorded_and_has_several_meshes_and_both_backends():
    pool = layouts("batch d")
    fast = [p.values[0] for p in drawn("some name", pool) if not p.marks]
    assert fast == [p.values[0] for p in drawn("some name", pool) if not p.marks]
    assert fast != [p.values[0] for p in drawn("another name", pool) if not p.marks]
    every = [p.values[0] for p in drawn("some name", pool, on_devices=len(pool))]
    assert len(every) == len(set(every)) == 2 * len(pool)
    some = [p.values[0] for p in drawn("some name", pool)]
    assert set(some) < set(every)
    assert {(x.mesh, x.backend) for x in some} == {(x.mesh, x.backend) for x in every}
    assert [x for x in some if x.backend == "simulated"] == [
        x for x in every if x.backend == "simulated"
    ]
    assert {laid.backend for laid in fast} == set(BACKENDS)
    assert len({laid.mesh for laid in fast}) == len(fast) == 4


@for_all(any_layout("batch d"))
@settings(max_examples=50)
def test_any_layout_is_legal(laid: Laid):
    program = ml.trace(lambda x: ml.sum(x), x=ml.spec("batch:8 d:16"))
    assert ml.plan(program, laid.mesh, laid.layout).tables.mesh.size in (1, 4, 8)
