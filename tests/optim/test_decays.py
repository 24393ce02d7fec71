"""Schedules that fall against the oracles, on tensors, at every step; and those of the original."""

from collections.abc import Callable

import numpy as np
import pytest

import meshlang as ml
from tests.optim.training import DOUBLE
from tests.oracles import optimizers, schedules

PAIRS: dict[str, tuple[ml.optim.Schedule, Callable[[int], float]]] = {
    "linear decay": (
        ml.optim.LinearDecay(total=20),
        lambda t: schedules.linear_decay(t, 20),
    ),
    "linear decay over steps": (
        ml.optim.LinearDecay(total=20, steps=7),
        lambda t: schedules.linear_decay(t, 20, 7),
    ),
    "linear decay over all": (
        ml.optim.LinearDecay(total=20, steps=1),
        lambda t: schedules.linear_decay(t, 20, 1),
    ),
    "warm-up over a part": (
        ml.optim.LinearWarmup(steps=0.25, total=20),
        lambda t: optimizers.linear_warmup(t, 5),
    ),
    "warm-up over steps of a run": (
        ml.optim.LinearWarmup(steps=4, total=20),
        lambda t: optimizers.linear_warmup(t, 4),
    ),
    "noam": (
        ml.optim.Noam(total=20, warmup=5, decay=0.4, multiplier=3.0),
        lambda t: schedules.noam(t, 20, 5, 0.4, 3.0),
    ),
    "noam, later and never falling": (
        ml.optim.Noam(total=20, warmup=3, decay=0.0, offset=6),
        lambda t: schedules.noam(t, 20, 3, 0.0, offset=6),
    ),
    "noam, later": (
        ml.optim.Noam(total=20, warmup=3, offset=6, decay=0.5),
        lambda t: schedules.noam(t, 20, 3, 0.5, offset=6),
    ),
    "noam of products": (
        3.0 * ml.optim.Rsqrt(warmup=5) * ml.optim.LinearDecay(total=20, steps=0.4),
        lambda t: schedules.noam(t, 20, 5, 0.4, 3.0),
    ),
    "slanted": (
        ml.optim.SlantedTriangular(total=20, cut_fraction=0.27),
        lambda t: schedules.slanted_triangular(t, 20, 0.27),
    ),
    "slanted, later": (
        ml.optim.SlantedTriangular(total=10, cut_fraction=0.3, ratio=4.0, peak=2.0, start=6),
        lambda t: schedules.slanted_triangular(max(t, 6), 10, 0.3, 4.0, 2.0, 6),
    ),
    "warm-up, stable, decay": (
        ml.optim.WarmupStableDecay(total=20, warmup=4, decay=0.25, final=0.1),
        lambda t: schedules.warmup_stable_decay(t, 20, 4, 5, 0.1),
    ),
    "stable, decay by the root": (
        ml.optim.WarmupStableDecay(total=20, decay=9, root=True),
        lambda t: schedules.warmup_stable_decay(t, 20, 0, 9, root=True),
    ),
    "polynomial": (
        ml.optim.Polynomial(total=18, start=3, power=2.5, final=0.1),
        lambda t: schedules.polynomial(t, 18, 3, 2.5, 0.1),
    ),
    "polynomial of power 1": (
        ml.optim.Polynomial(total=20),
        lambda t: schedules.polynomial(t, 20),
    ),
    "exponential": (
        ml.optim.Exponential(steps=6, factor=0.3, start=2),
        lambda t: schedules.exponential(t, 6, 0.3, 2),
    ),
    "exponential, by stairs": (
        ml.optim.Exponential(steps=6, factor=0.3, staircase=True),
        lambda t: schedules.exponential(t, 6, 0.3, staircase=True),
    ),
    "piecewise": (
        ml.optim.Piecewise(boundaries=(3, 4, 15), values=(0.1, 1.0, 0.5, 0.0)),
        lambda t: schedules.piecewise(t, (3, 4, 15), (0.1, 1.0, 0.5, 0.0)),
    ),
    "product from an offset": (
        ml.optim.Product(factors=(2.0, ml.optim.Cosine(total=9)), offset=7),
        lambda t: 2.0 * optimizers.cosine(t - 7, 9),
    ),
    "decay rate, pow": (
        ml.optim.DecayRatePow(offset=4),
        lambda t: schedules.decay_rate_pow(t, 0.8, 4),
    ),
    "decay rate, adam": (
        ml.optim.DecayRateAdam(beta2=0.9),
        lambda t: schedules.decay_rate_adam(t, 0.9),
    ),
    "decay rate, adam without memory": (ml.optim.DecayRateAdam(beta2=0.0), lambda t: 0.0),
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
            assert float(found) == pytest.approx(PAIRS[name][1](t), abs=1e-13), (name, t)


ERRORS: dict[str, tuple[Callable[[], object], str]] = {
    "linear decay": (
        lambda: ml.optim.LinearDecay(total=10, steps=0),
        "LinearDecay: steps is 0, and must be above 0.",
    ),
    "warm-up of a run": (
        lambda: ml.optim.LinearWarmup(steps=0.0, total=10),
        "LinearWarmup: steps is 0.0, and must be above 0.",
    ),
    "warm-up without a run": (
        lambda: ml.optim.LinearWarmup(steps=0.5),
        "LinearWarmup: steps is 0.5, and must be 1 or more.",
    ),
    "noam's warm-up": (
        lambda: ml.optim.Noam(total=10, warmup=0),
        "Noam: warmup is 0, and must be 1 or more.",
    ),
    "noam's offset": (
        lambda: ml.optim.Noam(total=10, offset=10),
        "Noam: total is 10, and must lie after offset, 10.",
    ),
    "a rise of no step": (
        lambda: ml.optim.SlantedTriangular(total=9),
        "SlantedTriangular: the rise takes less than a step.\n"
        "  total         9\n"
        "  cut_fraction  0.1",
    ),
    "a ratio below 1": (
        lambda: ml.optim.SlantedTriangular(total=20, ratio=0.5),
        "SlantedTriangular: ratio is 0.5, and must be 1 or more.",
    ),
    "no plain": (
        lambda: ml.optim.WarmupStableDecay(total=10, warmup=6, decay=0.5),
        "WarmupStableDecay: rise and fall take more steps than the run has.\n"
        "  warmup  6\n"
        "  decay   5.0\n"
        "  total   10",
    ),
    "power": (
        lambda: ml.optim.Polynomial(total=10, power=0.0),
        "Polynomial: power is 0.0, and must be above 0.",
    ),
    "polynomial's start": (
        lambda: ml.optim.Polynomial(total=10, start=11),
        "Polynomial: total is 10, and must lie after start, 11.",
    ),
    "factor": (
        lambda: ml.optim.Exponential(steps=10, factor=-0.5),
        "Exponential: factor is -0.5, and must be above 0.",
    ),
    "pieces": (
        lambda: ml.optim.Piecewise(boundaries=(1, 2), values=(1.0, 2.0)),
        "Piecewise: takes one value more than boundaries.\n  boundaries  2\n  values      2",
    ),
    "falling boundaries": (
        lambda: ml.optim.Piecewise(boundaries=(2, 2), values=(1.0, 2.0, 3.0)),
        "Piecewise: boundaries must rise.\n  boundaries  (2, 2)",
    ),
    "exponent": (
        lambda: ml.optim.DecayRatePow(exponent=0.0),
        "DecayRatePow: exponent is 0.0, and must be above 0.",
    ),
    "beta2": (
        lambda: ml.optim.DecayRateAdam(beta2=1.0),
        "DecayRateAdam: beta2 is 1.0, and must lie in [0, 1).",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str) -> None:
    make, text = ERRORS[name]
    with pytest.raises(ml.MeshlangError) as caught:
        make()
    assert str(caught.value) == text
