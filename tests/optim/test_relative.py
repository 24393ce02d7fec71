"""LAMB, Lion, Clippy and clipped optimizers against the oracles, over ten steps."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import meshlang as ml
from tests.optim.training import lowered, values
from tests.oracles import optimizers as plain
from tests.oracles import optimizers_relative as oracles
from tests.oracles.optimizers import Array, Optimizer, cosine, linear_warmup

STEPS = 10
WARM = 0.3 * ml.optim.LinearWarmup(steps=4) * ml.optim.Cosine(total=8, start=4, final=0.1)


def warm(step: int) -> float:
    return 0.3 * linear_warmup(step, 4) * cosine(step, 8, start=4, final=0.1)


ADAM, PLAIN_ADAM = ml.optim.AdamW(learning_rate=0.3, weight_decay=0.1), plain.AdamW(
    0.3, weight_decay=0.1
)  # fmt: skip

#: ours, and the oracle's with the dims of scans at these positions
PAIRS: dict[str, tuple[ml.optim.Optimizer, Callable[..., Optimizer], dict[str, Any]]] = {
    "lion": (ml.optim.Lion(learning_rate=0.1), oracles.Lion, {"learning_rate": 0.1}),
    "lion with decay": (
        ml.optim.Lion(learning_rate=WARM, weight_decay=0.5, beta1=0.5, beta2=0.8),
        oracles.Lion,
        {"learning_rate": warm, "weight_decay": 0.5, "beta1": 0.5, "beta2": 0.8},
    ),
    "lamb": (ml.optim.Lamb(learning_rate=0.1), oracles.Lamb, {"learning_rate": 0.1}),
    "lamb with decay": (
        ml.optim.Lamb(learning_rate=WARM, weight_decay=0.5, epsilon=1e-3, beta1=0.0, beta2=0.9),
        oracles.Lamb,
        {"learning_rate": warm, "weight_decay": 0.5, "epsilon": 1e-3, "beta1": 0.0, "beta2": 0.9},
    ),
    "lamb, norms held": (
        ml.optim.Lamb(learning_rate=0.1, least_norm=2.0, largest_norm=2.5),
        oracles.Lamb,
        {"learning_rate": 0.1, "least": 2.0, "largest": 2.5},
    ),
    "lamb without trust": (
        ml.optim.Lamb(learning_rate=0.1, exclude_from_trust=("^w$",)),
        oracles.Lamb,
        {"learning_rate": 0.1, "trusting": False},
    ),
    "clippy": (ml.optim.Clippy(learning_rate=1.0), oracles.Clippy, {"learning_rate": 1.0}),
    "clippy of the paper": (
        ml.optim.Clippy(learning_rate=WARM, relative=0.5, absolute=0.01),
        oracles.Clippy,
        {"learning_rate": warm, "relative": 0.5, "absolute": 0.01},
    ),
    "clippy, its accumulator clipped": (
        ml.optim.Clippy(learning_rate=1.0, absolute=0.01, clip_accumulator=True),
        oracles.Clippy,
        {"learning_rate": 1.0, "absolute": 0.01, "clip_accumulator": True},
    ),
    "clippy, the accumulator first": (
        ml.optim.Clippy(
            learning_rate=1.0,
            accumulator=0.0,
            accumulator_relative=0.2,
            epsilon=0.1,
            accumulate_first=True,
        ),
        oracles.Clippy,
        {
            "learning_rate": 1.0,
            "accumulator": 0.0,
            "accumulator_relative": 0.2,
            "epsilon": 0.1,
            "accumulate_first": True,
        },
    ),
    "adam, clipped": (
        ml.optim.RelativeClip(optimizer=ADAM, relative=0.2, absolute=0.1),
        oracles.RelativeClip,
        {"optimizer": PLAIN_ADAM, "relative": 0.2, "absolute": 0.1},
    ),
    "momentum, gradients clipped": (
        ml.optim.BlockClip(optimizer=ml.optim.Sgd(learning_rate=0.1, momentum=0.9), max_norm=2.0),
        oracles.BlockClip,
        {"optimizer": plain.Sgd(0.1, momentum=0.9), "max_norm": 2.0},
    ),
    "both": (
        ml.optim.BlockClip(optimizer=ml.optim.RelativeClip(optimizer=ADAM), max_norm=0.1),
        oracles.BlockClip,
        {"optimizer": oracles.RelativeClip(PLAIN_ADAM), "max_norm": 0.1},
    ),
}

SHAPES = [(), (7,), (5, 6), (2, 4, 9)]


def drawn(shape: tuple[int, ...]) -> tuple[Array, Array]:
    """A value, and gradients for each step, some of whose elements are 0."""
    rng = np.random.default_rng(len(shape) + sum(shape))
    grads = rng.normal(size=(STEPS, *shape))
    return rng.normal(size=shape), np.where(grads > 1.5, 0.0, grads)


@pytest.mark.parametrize("name", PAIRS)
def test_ten_steps_are_those_of_the_oracle(name: str) -> None:
    ours, theirs, numbers = PAIRS[name]
    for shape in SHAPES:
        w0, grads = drawn(shape)
        wanted = plain.run(theirs(**numbers), w0, grads)
        np.testing.assert_allclose(values(ours, w0, grads), wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["lion with decay", "lamb", "clippy", "adam, clipped", "both"])
def test_scale_multiplies_gradients(name: str) -> None:
    ours, theirs, numbers = PAIRS[name]
    w0, grads = drawn((5, 6))
    wanted = plain.run(theirs(**numbers), w0, 0.25 * grads)
    found = values(ours, w0, grads, scale=0.25)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["lamb", "clippy", "adam, clipped", "momentum, gradients clipped"])
def test_each_layer_of_a_scan_is_a_variable_by_itself(name: str) -> None:
    ours, theirs, numbers = PAIRS[name]
    rng = np.random.default_rng(0)
    size = np.arange(1, 4).reshape(3, 1, 1)
    w0, grads = rng.normal(size=(3, 4, 5)) * size, rng.normal(size=(STEPS, 3, 4, 5)) * size**2
    wanted = plain.run(theirs(**numbers, stacked=(0,)), w0, grads)
    found = values(ours, w0, grads, layers=True)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-10)
    apart = np.stack([plain.run(theirs(**numbers), w0[i], grads[:, i]) for i in range(3)], 1)
    np.testing.assert_allclose(found, apart, rtol=0, atol=1e-10)
    together = plain.run(theirs(**numbers), w0, grads)
    assert np.abs(found - together).max() > 1e-3


def test_lion_by_hand() -> None:
    """Each element moves by the rate, or not at all; the second step still follows the first."""
    lion = ml.optim.Lion(learning_rate=0.5, beta1=0.5, beta2=0.5)
    grads = np.array([[4.0, -1e-9, 0.0], [-1.0, 1.0, 0.0]])
    found = values(lion, np.zeros(3), grads)
    # m is 2, -5e-10, 0 after the first step, and 1 - 0.5 > 0.
    assert found.tolist() == [[-0.5, 0.5, 0.0], [-1.0, 0.0, 0.0]]


def test_lamb_by_hand() -> None:
    """The first corrected direction is the gradient's sign, of norm 2; the value's norm is 10."""
    lamb = ml.optim.Lamb(learning_rate=0.1, epsilon=1e-12)
    found = values(lamb, np.array([[6.0, 8.0], [0.0, 0.0]]), np.array([[[1.0, -2], [3, -4]]]))
    np.testing.assert_allclose(found[0], [[5.5, 8.5], [-0.5, 0.5]], rtol=1e-9)


def test_lamb_trusts_zeros_fully() -> None:
    """A value or a direction of norm 0 says nothing: trust is 1, and nothing becomes NaN."""
    lamb = ml.optim.Lamb(learning_rate=0.1, epsilon=1e-12)
    found = values(lamb, np.zeros(2), np.array([[1.0, -1.0]]))
    np.testing.assert_allclose(found, [[-0.1, 0.1]], rtol=1e-9)
    still = values(lamb, np.ones(2), np.zeros((1, 2)))
    assert still.tolist() == [[1.0, 1.0]]


def test_clippy_freezes_a_variable_that_has_a_zero() -> None:
    """Steps of 0.31623, of which an element at 0 bears 1e-7: the scale is 3.16e-7."""
    executable = lowered(ml.optim.Clippy(learning_rate=0.1), "d0:3")
    executable.initialize(0)
    w0 = np.array([1.0, 0.01, 0.0])
    executable.set("w", w0)
    executable(grad=np.ones(3))
    np.testing.assert_allclose(executable["w/clippy_scale"], 3.1623e-7, rtol=1e-4)
    np.testing.assert_allclose(executable["w/clippy_a"], 1.1)
    np.testing.assert_allclose(w0 - executable["w"], 1e-7, rtol=1e-6)


def test_no_element_moves_beyond_its_bound() -> None:
    rng = np.random.default_rng(3)
    w0 = rng.normal(size=(4, 6)) * 10.0 ** rng.integers(-4, 2, size=(4, 6))
    grads = rng.normal(size=(STEPS, 4, 6)) * 100
    for optimizer, relative, absolute in (
        (ml.optim.Clippy(learning_rate=10.0, relative=0.1, absolute=1e-3), 0.1, 1e-3),
        (ml.optim.RelativeClip(optimizer=ml.optim.AdamW(learning_rate=1.0)), 0.5, 1e-2),
    ):
        found = values(optimizer, w0, grads)
        before = np.concatenate([w0[None], found[:-1]])
        bound = relative * np.abs(before) + absolute
        moved = np.abs(found - before)
        assert (moved <= bound * (1 + 1e-12)).all()
        assert (moved / bound).max() > 0.999


def test_clipped_slots_and_scales_are_at_hand() -> None:
    executable = lowered(ml.optim.RelativeClip(optimizer=ADAM), "d0:3")
    assert sorted(executable.plan.variables) == ["w", "w/adam_m", "w/adam_v", "w/relative_scale"]


def test_names_choose_what_decays_and_what_is_trusted() -> None:
    w0, none = np.array([3.0, -4.0]), np.zeros((1, 2))
    decaying = {"learning_rate": 0.1, "weight_decay": 0.5, "exclude_from_weight_decay": ("bias$",)}
    for name, decays in (("dense/w", True), ("bias", False), ("bias_w", True)):
        lion = values(ml.optim.Lion(**decaying), w0, none, name=name)[0]
        np.testing.assert_allclose(lion, w0 * 0.95 if decays else w0, rtol=1e-15)
        # r = 0.5 w has half of the norm of w: trust is 2.
        lamb = values(ml.optim.Lamb(**decaying), w0, none, name=name)[0]
        np.testing.assert_allclose(lamb, w0 * 0.9 if decays else w0, rtol=1e-15)
    alone = ml.optim.Lamb(learning_rate=0.1, weight_decay=0.5, exclude_from_trust=("gain",))
    np.testing.assert_allclose(values(alone, w0, none, name="x/gain")[0], w0 * 0.95, rtol=1e-15)
