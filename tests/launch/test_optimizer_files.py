"""Each file under gin/optimizers/ beside the parts of a run: it builds, is used, and trains."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import meshlang as ml
from launch import gin_config
from launch.data.batches import BatchSource
from launch.gin_registry import register
from launch.run import Run

GIN = Path(__file__).resolve().parents[2] / "gin"
FILES = sorted(path.name for path in (GIN / "optimizers").glob("*.gin"))
PARTS = ("layouts/single.gin", "data/pydoc.gin", "models/moe_small.gin")
SETTINGS = (
    "STEPS=30",
    "Run.model=@Transformer()",
    "Run.model_dir='unused'",
    "Run.steps=%STEPS",
    "Run.batch=4",
    "Run.length=32",
    "Run.mesh=%MESH",
    "Run.layout=%LAYOUT",
    "Run.params=%PARAMS",
    "Run.slots=%SLOTS",
    "Transformer.layers=1",
    "Transformer.d_model=16",
    "Attention.d_head=4",
    "MixtureOfExperts.d_expert=16",
    "MixtureOfExperts.group='batch length -> group token:32'",
)


def built(files: Sequence[str], bindings: Sequence[str] = ()) -> Any:
    """A small run of these files; all that they bind is used."""
    register()
    with gin_config.configured([*PARTS, *files], [*SETTINGS, *bindings]) as config:
        run = config.build(Run)
        config.check_used()
    return run


def losses(run: Run, steps: int) -> list[float]:
    """Of steps on one batch."""
    batch = BatchSource({"a": bytes(range(256)) * 8}, batch=4, length=32).at(0)
    step = ml.lower(run.plan(run.train_program()), backend="simulated")
    step.initialize(seed=0)
    return [float(step(**batch)["loss"]) for _ in range(steps)]


WARM = {"adamw.gin", "lion.gin", "lamb.gin"}


def shorter(name: str) -> list[str]:
    """Warm-ups of a few steps."""
    if name in WARM:
        return ["LinearWarmup.steps=3"]
    return ["WarmupStableDecay.warmup=3"] if name == "clippy.gin" else []


@pytest.mark.parametrize("name", FILES)
def test_a_file_trains(name: str) -> None:
    run = built([f"optimizers/{name}"], shorter(name))
    assert type(run.optimizer).__name__.lower() == name.removesuffix(".gin")
    found = losses(run, 12)
    assert np.isfinite(found).all()
    assert found[-1] < found[0] - 0.02


def test_adafactor_has_the_options_of_the_original() -> None:
    run = built(
        ["optimizers/adafactor.gin"],
        [
            "Adafactor.decay_rate=@DecayRateAdam()",
            "DecayRateAdam.beta2=0.99",
            "Adafactor.beta1=0.9",
            "Adafactor.exclude_from_parameter_scale=('norm$',)",
            "Adafactor.stacked_dims=('experts',)",
        ],
    )
    assert run.optimizer == ml.optim.Adafactor(
        learning_rate=ml.optim.Product(
            factors=(ml.optim.Rsqrt(warmup=10_000), ml.optim.LinearDecay(total=30, steps=0.1))
        ),
        decay_rate=ml.optim.DecayRateAdam(beta2=0.99),
        beta1=0.9,
        exclude_from_parameter_scale=("norm$",),
        stacked_dims=("experts",),
    )
    assert np.isfinite(losses(run, 2)).all()


def test_rules_by_name_within_an_average_of_clipped_steps() -> None:
    """Rules are told apart by gin's scopes."""
    run = built(
        [],
        [
            "Run.optimizer=@Ema()",
            "Ema.optimizer=@BlockClip()",
            "Ema.decay=0.9",
            "BlockClip.optimizer=@RelativeClip()",
            "RelativeClip.optimizer=@ByName()",
            "ByName.optimizer=@AdamW()",
            "ByName.rules=(@norms/Rule(), @tables/Rule())",
            "norms/Rule.pattern='norm$'",
            "norms/Rule.weight_decay=0.0",
            "tables/Rule.pattern='embedding'",
            "tables/Rule.optimizer=@Sgd()",
            "AdamW.learning_rate=0.01",
            "AdamW.weight_decay=0.1",
            "Sgd.learning_rate=0.1",
        ],
    )
    adam, sgd = (
        ml.optim.AdamW(learning_rate=0.01, weight_decay=0.1),
        ml.optim.Sgd(learning_rate=0.1),
    )
    norms = ml.optim.Rule(pattern="norm$", weight_decay=0.0)
    tables = ml.optim.Rule(pattern="embedding", optimizer=sgd)
    rules = ml.optim.ByName(optimizer=adam, rules=(norms, tables))
    clipped = ml.optim.RelativeClip(optimizer=rules)
    assert run.optimizer == ml.optim.Ema(optimizer=ml.optim.BlockClip(optimizer=clipped), decay=0.9)
    found = losses(run, 6)
    assert found[-1] < found[0]


SCHEDULES: dict[str, tuple[list[str], ml.optim.Schedule]] = {
    "Noam": (["Noam.total=%STEPS"], ml.optim.Noam(total=30)),
    "LinearDecay": (["LinearDecay.total=%STEPS"], ml.optim.LinearDecay(total=30)),
    "SlantedTriangular": (
        ["SlantedTriangular.total=%STEPS", "SlantedTriangular.peak=0.5"],
        ml.optim.SlantedTriangular(total=30, peak=0.5),
    ),
    "WarmupStableDecay": (
        ["WarmupStableDecay.total=%STEPS", "WarmupStableDecay.root=True"],
        ml.optim.WarmupStableDecay(total=30, root=True),
    ),
    "Polynomial": (["Polynomial.total=%STEPS"], ml.optim.Polynomial(total=30)),
    "Exponential": (
        ["Exponential.steps=10", "Exponential.factor=0.5"],
        ml.optim.Exponential(steps=10, factor=0.5),
    ),
    "Piecewise": (
        ["Piecewise.boundaries=(3, 9)", "Piecewise.values=(0.1, 0.2, 0)"],
        ml.optim.Piecewise(boundaries=(3, 9), values=(0.1, 0.2, 0)),
    ),
    "LinearWarmup": (
        ["LinearWarmup.steps=0.1", "LinearWarmup.total=%STEPS"],
        ml.optim.LinearWarmup(steps=0.1, total=30),
    ),
    "DecayRatePow": (["DecayRatePow.offset=5"], ml.optim.DecayRatePow(offset=5)),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_from_gin(name: str) -> None:
    bindings, wanted = SCHEDULES[name]
    run = built([], ["Run.optimizer=@Sgd()", f"Sgd.learning_rate=@{name}()", *bindings])
    assert run.optimizer == ml.optim.Sgd(learning_rate=wanted)


def test_dropout_and_smaller_initial_values_are_a_choice() -> None:
    plain = built(["optimizers/adamw.gin"])
    chosen = built(
        ["optimizers/adamw.gin", "models/dropout.gin"],
        ["MixtureOfExperts.init_scale=0.1", "Attention.init_scale=0.1"],
    )
    assert (plain.model.dropout, chosen.model.dropout) == (0.0, 0.05)
    assert (plain.model.moe.init_scale, chosen.model.moe.init_scale) == (1.0, 0.1)
    assert (plain.model.attention.init_scale, chosen.model.attention.init_scale) == (1.0, 0.1)
