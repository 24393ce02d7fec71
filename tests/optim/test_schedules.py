"""Schedules against the oracles, on tensors, at every step."""

from collections.abc import Callable

import numpy as np
import pytest

import meshlang as ml
from tests.optim.training import DOUBLE
from tests.oracles import optimizers as oracles

Schedule = ml.optim.Schedule

PAIRS: dict[str, tuple[Schedule, Callable[[int], float]]] = {
    "constant": (ml.optim.Constant(value=0.3), lambda t: oracles.constant(t, 0.3)),
    "warm-up": (ml.optim.LinearWarmup(steps=7), lambda t: oracles.linear_warmup(t, 7)),
    "rsqrt": (ml.optim.Rsqrt(warmup=5), lambda t: oracles.rsqrt(t, 5)),
    "rsqrt, default": (ml.optim.Rsqrt(), oracles.rsqrt),
    "cosine": (ml.optim.Cosine(total=20), lambda t: oracles.cosine(t, 20)),
    "cosine, later": (
        ml.optim.Cosine(total=20, start=5, final=0.1),
        lambda t: oracles.cosine(t, 20, start=5, final=0.1),
    ),
    "product": (
        0.5 * ml.optim.LinearWarmup(steps=4) * ml.optim.Cosine(total=9) * 3,
        lambda t: 1.5 * oracles.linear_warmup(t, 4) * oracles.cosine(t, 9),
    ),
    "product of functions": (
        ml.optim.Product(factors=(lambda step: ml.cast(step, "high") + 1.0, 2.0)),
        lambda t: 2.0 * (t + 1),
    ),
    "empty product": (ml.optim.Product(), lambda t: 1.0),
}


def test_values_at_every_step() -> None:
    def step() -> dict[str, ml.Tensor]:
        ml.assign(ml.variable("count", "", init=0.0, trainable=False), 1.0)  # so that steps count
        return {name: ours(ml.step()) for name, (ours, _) in PAIRS.items()}

    executable = ml.lower(ml.plan(ml.trace(step, precision=DOUBLE)))
    executable.initialize(0)
    for t in range(25):
        for name, found in executable().items():
            assert found.numpy().dtype == np.float64
            assert float(found) == pytest.approx(PAIRS[name][1](t), abs=1e-14), (name, t)


def test_schedules_are_records_that_compare_by_value() -> None:
    assert ml.optim.Cosine(total=3) == ml.optim.Cosine(total=3, start=0)
    assert 2 * ml.optim.Rsqrt() == ml.optim.Product(factors=(2, ml.optim.Rsqrt()))


ERRORS = {
    "warmup": (
        lambda: ml.optim.LinearWarmup(steps=0),
        "LinearWarmup: steps is 0, and must be 1 or more.",
    ),
    "rsqrt": (lambda: ml.optim.Rsqrt(warmup=0), "Rsqrt: warmup is 0, and must be 1 or more."),
    "start": (
        lambda: ml.optim.Cosine(total=3, start=-1),
        "Cosine: start is -1, and must be 0 or more.",
    ),
    "total": (
        lambda: ml.optim.Cosine(total=3, start=3),
        "Cosine: total is 3, and must lie after start, 3.",
    ),
    "factor": (
        lambda: 0.1 * ml.optim.Product(factors=("rsqrt",)),  # type: ignore[arg-type]
        "Product: factors[0] is neither a number nor a schedule.\n"
        "  factors[0]  'rsqrt', a str\n"
        "  fix: factors[0]=0.01, or factors[0]=0.01 * ml.optim.LinearWarmup(steps=100)",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str) -> None:
    make, text = ERRORS[name]
    with pytest.raises(ml.MeshlangError) as caught:
        make()
    assert str(caught.value) == text
