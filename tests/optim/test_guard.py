"""A step in which anything is not finite changes nothing, on any processor, and is counted."""

from typing import Any

import numpy as np
import pytest

import meshlang as ml
from tests.harness import DOUBLE, Laid

BATCH, D_MODEL, D_FF = 8, 8, 16

OPTIMIZERS = {
    "sgd": ml.optim.Sgd(learning_rate=0.1),
    "momentum": ml.optim.Sgd(learning_rate=0.1, momentum=0.9),
    "adamw": ml.optim.AdamW(learning_rate=0.1, weight_decay=0.1),
    "adafactor": ml.optim.Adafactor(beta1=0.9, min_dim_size_to_factor=4),
    "lion": ml.optim.Lion(learning_rate=0.1, weight_decay=0.1),
    "lamb": ml.optim.Lamb(learning_rate=0.1, weight_decay=0.1),
    "clippy": ml.optim.Clippy(learning_rate=0.1),
    "wrapped": ml.optim.Ema(
        optimizer=ml.optim.BlockClip(
            optimizer=ml.optim.RelativeClip(optimizer=ml.optim.AdamW(learning_rate=0.1))
        )
    ),
    "adafactor, no momentum": ml.optim.Adafactor(min_dim_size_to_factor=4),
}

LAYOUTS = (
    Laid("", ""),
    Laid("all:8", "batch:all", "spmd"),
    Laid("r:2 c:4", "batch:r d_ff:c", "spmd"),
    Laid("r:2 c:4", "batch:r d_ff:c", "simulated", slots="d_model:r"),
    Laid("r:2 c:4", "batch:r d_ff:c", "spmd", slots="d_model:r"),
    Laid("r:2 c:2", "batch:r d_ff:c", "spmd", params="d_model:r"),
)


def trained(laid: Laid, **optimizers: ml.optim.Optimizer) -> ml.Executable:
    """A model of its own for each optimizer, all on the same batch."""

    def model(optimizer: ml.optim.Optimizer, x: ml.Tensor) -> dict[str, Any]:
        before = len(ml.trainable_variables())
        w = ml.variable("w", f"d_model:{D_MODEL} d_ff:{D_FF}", init=ml.normal_init(0.5))
        b = ml.variable("b", f"d_ff:{D_FF}", init=ml.ones_init)
        loss = ml.mean(ml.square(ml.einsum(x, w, reduce="d_model") + b))
        variables = ml.trainable_variables()[before:]
        gradients = ml.gradients(loss, variables)
        applied = ml.optim.apply_guarded(optimizer, loss, variables, gradients, max_norm=1.0)
        return {"loss": loss, "applied": applied}

    def step(x: ml.Tensor) -> dict[str, Any]:
        found = {}
        for name, optimizer in optimizers.items():
            with ml.scope(name):
                found[name] = model(optimizer, x)
        return found

    program = ml.trace(step, precision=DOUBLE, x=ml.spec(f"batch:{BATCH} d_model:{D_MODEL}"))
    plan = ml.plan(program, laid.mesh, laid.layout, params=laid.params, slots=laid.slots)
    executable = ml.lower(plan, backend=laid.backend)
    executable.initialize(0)
    return executable


def batch(bad: float | None = None) -> np.ndarray:
    """Inputs; one element of one row may be bad, and so one processor's gradients."""
    x = np.random.default_rng(0).normal(size=(BATCH, D_MODEL))
    if bad is not None:
        x[5, 3] = bad
    return x


def held(executable: ml.Executable) -> dict[str, bytes]:
    """The bits of all variables but the counters."""
    names = [n for n in executable.plan.variables if not n.endswith("skipped_steps")]
    return {name: executable[name].tobytes() for name in names}


@pytest.mark.parametrize("laid", LAYOUTS, ids=str)
def test_a_bad_row_on_one_processor_makes_all_skip_the_step(laid: Laid) -> None:
    executable = trained(laid, **OPTIMIZERS)
    skipped = 0
    for step, bad in enumerate([None, np.nan, None, np.inf, -np.inf, None]):
        before = held(executable)
        found = executable(x=batch(bad))
        after = held(executable)
        skipped += bad is not None
        for name in OPTIMIZERS:
            applied = found[name]["applied"]
            assert bool(applied.applied) == (bad is None)
            assert np.isfinite(float(applied.gradient_norm)) == (bad is None)
            assert int(applied.skipped_steps) == skipped
            assert executable[f"{name}/skipped_steps"] == skipped
        if bad is None:
            # A scale may be 1 step after step.
            assert all(after[n] != before[n] for n in before if not n.endswith("_scale"))
        else:
            assert after == before
        assert executable.step == step + 1


def test_after_a_skipped_step_training_goes_on_as_if_the_gradient_had_not_been() -> None:
    """The step's number counts on, and nothing else remains."""
    sgd = ml.optim.Sgd(learning_rate=0.1, momentum=0.9)
    one, other = trained(LAYOUTS[0], model=sgd), trained(LAYOUTS[0], model=sgd)
    for bad in [None, None]:
        one(x=batch(bad))
    for bad in [None, np.nan, None]:
        other(x=batch(bad))
    assert held(one) == held(other)


def test_a_bad_loss_alone_skips_the_step() -> None:
    def step(x: ml.Tensor) -> ml.optim.Applied:
        w = ml.variable("w", "d:2", init=ml.ones_init)
        loss = ml.sum(w * x)
        gradients = ml.gradients(loss, [w])
        told = loss + ml.log(ml.sum(x))  # of -1: NaN
        return ml.optim.apply_guarded(ml.optim.Sgd(learning_rate=0.1), told, [w], gradients)

    executable = ml.lower(ml.plan(ml.trace(step, x=ml.spec("d:2"))), backend="simulated")
    executable.initialize(0)
    applied = executable(x=np.array([1.0, -2.0]))
    assert (bool(applied.applied), int(applied.skipped_steps)) == (False, 1)
    assert float(applied.gradient_norm) == pytest.approx(5**0.5)
    np.testing.assert_array_equal(executable["w"], [1.0, 1.0])


@pytest.mark.parametrize(
    ("values", "wanted"),
    [([1.0, 2.0], True), ([1.0, np.nan], False), ([np.inf, 1.0], False), ([-np.inf, 1.0], False)],
)
def test_all_finite_of_tensors(values: list[float], wanted: bool) -> None:
    x = ml.constant(values, "d")
    assert ml.optim.all_finite(x).numpy() == wanted
    assert ml.optim.all_finite(ml.constant(1.0, ""), x).numpy() == wanted
