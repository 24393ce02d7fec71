"""Optimizers against the oracles in NumPy, and against what Mesh-TensorFlow computed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import meshlang as ml
from tests.optim.training import SINGLE, lowered, values
from tests.oracles import optimizers as oracles
from tests.oracles import schedules

PARTS = Path(__file__).parents[1] / "golden" / "mesh_tensorflow" / "parts.npz"
STEPS = 10


def warm(step: int) -> float:
    return 0.3 * oracles.linear_warmup(step, 4) * oracles.cosine(step, 8, start=4, final=0.1)


WARM = 0.3 * ml.optim.LinearWarmup(steps=4) * ml.optim.Cosine(total=8, start=4, final=0.1)

#: ours, the oracle's
PAIRS: dict[str, tuple[ml.optim.Optimizer, oracles.Optimizer]] = {
    "sgd": (ml.optim.Sgd(learning_rate=0.1), oracles.Sgd(0.1)),
    "sgd with a schedule": (ml.optim.Sgd(learning_rate=WARM), oracles.Sgd(warm)),
    "momentum": (
        ml.optim.Sgd(learning_rate=WARM, momentum=0.9),
        oracles.Sgd(warm, momentum=0.9),
    ),
    "nesterov": (
        ml.optim.Sgd(learning_rate=WARM, momentum=0.9, nesterov=True),
        oracles.Sgd(warm, momentum=0.9, nesterov=True),
    ),
    "adam": (ml.optim.AdamW(learning_rate=0.1), oracles.AdamW(0.1)),
    "adam, no betas": (
        ml.optim.AdamW(learning_rate=0.1, beta1=0.0, beta2=0.0),
        oracles.AdamW(0.1, beta1=0.0, beta2=0.0),
    ),
    "adam with decay": (
        ml.optim.AdamW(learning_rate=WARM, weight_decay=0.2, epsilon=1e-3),
        oracles.AdamW(warm, weight_decay=0.2, epsilon=1e-3),
    ),
    "adam, not corrected": (
        ml.optim.AdamW(learning_rate=WARM, weight_decay=0.2, bias_correction=False),
        oracles.AdamW(warm, weight_decay=0.2, bias_correction=False),
    ),
    "adafactor": (ml.optim.Adafactor(), oracles.Adafactor()),
    "adafactor, factored": (
        ml.optim.Adafactor(min_dim_size_to_factor=4),
        oracles.Adafactor(min_dim_size_to_factor=4),
    ),
    "adafactor, never factored": (
        ml.optim.Adafactor(min_dim_size_to_factor=4, factored=False),
        oracles.Adafactor(min_dim_size_to_factor=4, factored=False),
    ),
    "adafactor with momentum": (
        ml.optim.Adafactor(
            learning_rate=WARM,
            multiply_by_parameter_scale=False,
            beta1=0.9,
            min_dim_size_to_factor=4,
        ),
        oracles.Adafactor(
            warm, beta1=0.9, multiply_by_parameter_scale=False, min_dim_size_to_factor=4
        ),
    ),
    "adafactor without parameter scale": (
        ml.optim.Adafactor(multiply_by_parameter_scale=False, clipping_threshold=None),
        oracles.Adafactor(multiply_by_parameter_scale=False, clipping_threshold=None),
    ),
    "adafactor with a constant decay": (
        ml.optim.Adafactor(
            decay_rate=0.9, clipping_threshold=0.5, epsilon1=0.1, epsilon2=2.0,
            min_dim_size_to_factor=4,
        ),
        oracles.Adafactor(
            decay_rate=0.9, clipping_threshold=0.5, epsilon1=0.1, epsilon2=2.0,
            min_dim_size_to_factor=4,
        ),
    ),
    "adafactor with another exponent": (
        ml.optim.Adafactor(decay_exponent=0.5),
        oracles.Adafactor(decay_rate=lambda step: 1 - (step + 1.0) ** -0.5),
    ),
    "adafactor with a decay that begins anew": (
        ml.optim.Adafactor(decay_rate=ml.optim.DecayRatePow(exponent=0.6, offset=3)),
        oracles.Adafactor(decay_rate=lambda step: schedules.decay_rate_pow(step, 0.6, 3)),
    ),
    "adafactor with Adam's decay": (
        ml.optim.Adafactor(
            decay_rate=ml.optim.DecayRateAdam(beta2=0.95), min_dim_size_to_factor=4
        ),
        oracles.Adafactor(
            decay_rate=lambda step: schedules.decay_rate_adam(step, 0.95), min_dim_size_to_factor=4
        ),
    ),
    "adafactor with a name excluded from the parameter scale": (
        ml.optim.Adafactor(exclude_from_parameter_scale=("bias", "^w$")),
        oracles.Adafactor(parameter_scale_excluded=True),
    ),
    "adafactor with other names excluded": (
        ml.optim.Adafactor(exclude_from_parameter_scale=("ww", "norm")),
        oracles.Adafactor(),
    ),
}  # fmt: skip

SHAPES = [(), (7,), (5, 6), (6, 5), (5, 5), (2, 4, 9), (9, 2, 3, 4)]


def drawn(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """A value, and gradients for each step."""
    rng = np.random.default_rng(len(shape) + sum(shape))
    return rng.normal(size=shape), rng.normal(size=(STEPS, *shape))


@pytest.mark.parametrize("name", PAIRS)
def test_ten_steps_are_those_of_the_oracle(name: str) -> None:
    ours, theirs = PAIRS[name]
    for shape in SHAPES:
        w0, grads = drawn(shape)
        np.testing.assert_allclose(
            values(ours, w0, grads), oracles.run(theirs, w0, grads), rtol=0, atol=1e-10
        )


@pytest.mark.parametrize("name", ["adam with decay", "nesterov", "sgd", "adafactor, factored"])
def test_scale_multiplies_gradients(name: str) -> None:
    """Also inside of an optimizer, where it is folded into other factors."""
    ours, theirs = PAIRS[name]
    for shape in [(7,), (5, 6)]:
        w0, grads = drawn(shape)
        wanted = oracles.run(theirs, w0, 0.25 * grads)
        found = values(ours, w0, grads, scale=0.25)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("threshold", [None, 0.5])
def test_adafactor_has_a_parameter_scale_for_each_layer(threshold: float | None) -> None:
    """Dims of scans: not factored over, counted for clipping, and kept for the parameter scale."""
    numbers: dict[str, Any] = {"min_dim_size_to_factor": 4, "clipping_threshold": threshold}
    rng = np.random.default_rng(0)
    for shape in [(9, 4, 5), (9, 3, 5)]:
        w0 = rng.normal(size=shape) * np.arange(1, 10).reshape(9, 1, 1)
        grads = rng.normal(size=(STEPS, *shape)) * np.arange(1, 10).reshape(9, 1, 1) ** 2
        wanted = oracles.run(oracles.Adafactor(stacked=(0,), **numbers), w0, grads)
        found = values(ml.optim.Adafactor(**numbers), w0, grads, layers=True)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-10)
        apart = oracles.run(oracles.Adafactor(**numbers), w0, grads)
        assert np.abs(found - apart).max() > 1e-3


def test_stacked_dims_by_name_are_as_those_of_scans() -> None:
    """Experts in one variable, say: each has a parameter scale, and none is factored over."""
    rng = np.random.default_rng(0)
    ours = ml.optim.Adafactor(stacked_dims=("d1", "nobody's"), min_dim_size_to_factor=4)
    for shape in [(5, 9, 4), (3, 9, 5), (4, 5)]:
        w0 = rng.normal(size=shape) * (1.0 + 9 * rng.integers(0, 2, size=(shape[1], *shape[2:])))
        grads = rng.normal(size=(STEPS, *shape))
        theirs = oracles.Adafactor(stacked=(1,), min_dim_size_to_factor=4)
        found, wanted = values(ours, w0, grads), oracles.run(theirs, w0, grads)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-10)
        apart = oracles.run(oracles.Adafactor(min_dim_size_to_factor=4), w0, grads)
        assert np.abs(found - apart).max() > 1e-3


def test_stacked_dims_add_to_those_of_scans() -> None:
    ours = ml.optim.Adafactor(stacked_dims=("d1",), min_dim_size_to_factor=4)
    w0, grads = drawn((9, 2, 8, 4))
    theirs = oracles.Adafactor(stacked=(0, 1), min_dim_size_to_factor=4)
    found, wanted = values(ours, w0, grads, layers=True), oracles.run(theirs, w0, grads)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-10)


ORIGINAL = {
    "adafactor": ml.optim.Adafactor(),
    "adafactor_lr": ml.optim.Adafactor(
        learning_rate=0.01, beta1=0.9, multiply_by_parameter_scale=False
    ),
    "adamw_nobias": ml.optim.AdamW(
        learning_rate=0.01, epsilon=1e-6, weight_decay=0.1, bias_correction=False
    ),
}


@pytest.mark.parametrize("backend", ["simulated", "spmd"])
@pytest.mark.parametrize("name", ORIGINAL)
def test_steps_are_those_of_mesh_tensorflow(name: str, backend: str) -> None:
    with np.load(PARTS) as stored:
        parts = {key: stored[key] for key in stored if key.startswith(f"{name}/")}
    variables = sorted({key.split("/")[1] for key in parts})
    assert len(variables) >= 2
    for variable in variables:
        w0, grads, w = (parts[f"{name}/{variable}/{key}"] for key in ("w0", "grads", "w"))
        found = values(ORIGINAL[name], w0, grads, precision=SINGLE, backend=backend)
        np.testing.assert_allclose(found, w, rtol=1e-5, atol=1e-5)


def test_adafactor_by_hand() -> None:
    """vr and vc are means of squares; the direction of [[1, 2], [3, 4]] has an rms of 0.98."""
    optimizer = ml.optim.Adafactor(
        learning_rate=1.0, multiply_by_parameter_scale=False, min_dim_size_to_factor=2
    )
    executable = lowered(optimizer, "x:2 y:2")
    executable.initialize(0)
    executable(grad=np.array([[1.0, 2.0], [3.0, 4.0]]))
    # Of two dims of one size the first is d0: rows are means over it.
    np.testing.assert_allclose(executable["w/adafactor_vr"], [5.0, 10.0])
    np.testing.assert_allclose(executable["w/adafactor_vc"], [2.5, 12.5])
    wanted = [[-0.7746, -1.0954], [-1.0392, -0.9798]]
    np.testing.assert_allclose(executable["w"], wanted, atol=5e-5)


def test_decay_spares_excluded_names() -> None:
    decaying = ml.optim.AdamW(
        learning_rate=0.1, weight_decay=0.5, exclude_from_weight_decay=("norm", "bias$")
    )
    w0, none = np.array([1.0, -2.0]), np.zeros((1, 2))
    for name, decays in [("dense/w", True), ("norm/w", False), ("bias", False), ("bias_w", True)]:
        found = values(decaying, w0, none, name=name)[0]
        np.testing.assert_allclose(found, w0 * 0.95 if decays else w0, rtol=1e-15)


def test_decay_with_a_rate_of_its_own_does_not_depend_on_the_learning_rate() -> None:
    optimizer = ml.optim.AdamW(
        learning_rate=0.0, weight_decay=1e-2, decay_rate=ml.optim.LinearWarmup(steps=2)
    )
    found = values(optimizer, np.array([2.0]), np.ones((3, 1)))
    np.testing.assert_allclose(found[:, 0], [2.0, 2.0 * 0.995, 2.0 * 0.995 * 0.99], rtol=1e-14)


def test_slots_are_variables_under_the_variables_name_in_high() -> None:
    precision = ml.Precision(stored="bfloat16", compute="bfloat16", high="float32")

    def step(x: ml.Tensor) -> None:
        with ml.scope("layer"):
            w = ml.variable("w", "d:4 e:4", init=ml.ones_init)
            ml.variable("frozen", "d:4", init=ml.ones_init, trainable=False)
            loss = ml.sum(w * x)
            optimizer = ml.optim.AdamW(learning_rate=0.5)
            optimizer.apply([w], ml.gradients(loss, [w]))

    program = ml.trace(step, precision=precision, x=ml.spec("d:4 e:4"))
    dtypes = {v.name: v.dtype for v in program.variables.values()}
    assert dtypes == {
        "layer/w": "bfloat16",
        "layer/frozen": "bfloat16",
        "layer/w/adam_m": "float32",
        "layer/w/adam_v": "float32",
    }
    assert not any(v.trainable for v in program.variables.values() if v.name != "layer/w")
    executable = ml.lower(ml.plan(program))
    executable.initialize(0)
    executable(x=np.full((4, 4), 2.0, "float32"))
    np.testing.assert_array_equal(executable["layer/w"].astype("float32"), 0.5)
    np.testing.assert_allclose(executable["layer/w/adam_v"], 0.004, rtol=1e-4)
