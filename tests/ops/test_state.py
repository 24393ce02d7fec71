"""Variables in programs: reading, assigning and stacking them, held to NumPy; layouts."""

import numpy as np
import pytest

import meshlang as ml
from tests.harness import Laid, case, check, check_slopes, check_values, drawn, layouts


def weight(name: str, shape: str, value: float) -> ml.Tensor:
    return ml.variable(name, shape, init=ml.constant_init(value))


def read(x: ml.Tensor) -> ml.Tensor:
    return ml.einsum(x, weight("w", "d:16 f:24", 0.5), reduce="d") + weight("b", "f:24", 2.0)


def slots_in_numpy(x: np.ndarray) -> np.ndarray:
    y = 24 * (0.5 * x.sum() + 8 * 2.0)
    return np.array(16 * 24 * 0.75 * 24 * (2.0 + y))


def layers(x: ml.Tensor, unroll: bool) -> ml.Tensor:
    """Each trip has a slice of its own of one stack."""
    return ml.scan(
        lambda h, _: (ml.sin(h) * weight("w", "d:16", 0.5) + h, None),
        x,
        over="layers:3",
        unroll=unroll,
    )[0]


def layers_in_numpy(x: np.ndarray) -> np.ndarray:
    for _ in range(3):
        x = np.sin(x) * 0.5 + x
    return x


def counted(x: ml.Tensor) -> list[ml.Tensor]:
    w = weight("w", "batch:8", 3.0)
    ml.assign(w, w + ml.sum(x, "d"), when=ml.step() < 1)
    ml.assign(w, w * 100.0, when=ml.step() > 0)
    return [weight("w", "batch:8", 3.0), ml.step()]


def slots(x: ml.Tensor) -> ml.Tensor:
    """A variable in an op, as optimizers have it: under the dims of its gradient."""
    y = ml.sum(read(x))
    w, b = ml.trainable_variables()[-2:]
    return ml.sum(ml.square(w) * 3.0) * ml.sum(b + y)


CASES = (
    case(
        "read", read, lambda x: np.full(24, 2.0) + 0.5 * x.sum(1, keepdims=True), x="batch:8 d:16"
    ),
    case("slots", slots, slots_in_numpy, x="batch:8 d:16"),
    case("layers", lambda x: layers(x, False), layers_in_numpy, x="batch:8 d:16"),
    case("layers written out", lambda x: layers(x, True), layers_in_numpy, x="batch:8 d:16"),
)
ASSIGNED = case(
    "counted",
    counted,
    lambda x: [x.sum(1) + 3.0, np.array(0, "int32")],
    gradients=False,
    x="batch:8 d:16",
)
LAYOUTS = (
    *layouts("batch d f"),
    Laid("r:2 c:2", "batch:r f:c", params="d:r"),
    Laid("r:2 c:4", "batch:r", params="d:c f:r", slots="d:r"),
)


def test_values():
    check_values((*CASES, ASSIGNED))


def test_slopes():
    check_slopes(CASES)


@pytest.mark.parametrize("laid", drawn("variables in programs", LAYOUTS))
def test_layouts(laid: Laid):
    check(CASES, laid)
    check((CASES[0], ASSIGNED), laid, steps=2)
