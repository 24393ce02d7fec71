"""Layouts change an optimizer's speed, not its results: five steps under each, all at once."""

from collections.abc import Callable
from typing import Any

import pytest

import meshlang as ml
from tests.harness import Case, Laid, case, check, drawn

BATCH = "batch:8 d_model:8"


def deep(x: ml.Tensor) -> ml.Tensor:
    """Two layers in a scan, whose variables are stacked."""

    def layer(x: ml.Tensor, _: None) -> tuple[ml.Tensor, None]:
        w = ml.variable("w", "d_model:8 d_ff:16", init=ml.normal_init(0.5))
        out = ml.variable("out", "d_ff:16 d_model:8", init=ml.normal_init(0.5))
        h = ml.tanh(ml.einsum(x, w, reduce="d_model"))
        return x + ml.einsum(h, out, reduce="d_ff"), None

    return ml.scan(layer, x, over="layers:2")[0]


def wide(x: ml.Tensor) -> ml.Tensor:
    """One product: a gradient for each dim of interest at little cost."""
    w = ml.variable("w", "d_model:8 d_ff:16", init=ml.normal_init(0.5))
    return x * ml.sum(ml.tanh(ml.einsum(x, w, reduce="d_model")), "d_ff")


def of(
    name: str,
    optimizer: ml.optim.Optimizer,
    model: Callable[[ml.Tensor], ml.Tensor] = wide,
    max_norm: float | None = None,
) -> Case:
    """Steps of an optimizer on a model, a vector and a scalar."""

    def step(x: ml.Tensor, wanted: ml.Tensor) -> dict[str, Any]:
        before = len(ml.trainable_variables())
        gain = ml.variable("gain", "d_model:8", init=ml.ones_init)
        shift = ml.variable("shift", "", init=0.0)
        loss = ml.mean(ml.square(model(x * gain + shift) - wanted))
        variables = ml.trainable_variables()[before:]
        gradients = ml.gradients(loss, variables)
        if max_norm is None:
            optimizer.apply(variables, gradients)
            return {"loss": loss}
        applied = ml.optim.apply_guarded(optimizer, loss, variables, gradients, max_norm=max_norm)
        return {"loss": loss, "applied": applied}

    return case(name, step, gradients=False, x=BATCH, wanted=BATCH)


WARM = ml.optim.LinearWarmup(steps=3)
CASES = (
    of("sgd", ml.optim.Sgd(learning_rate=0.1)),
    of("momentum", ml.optim.Sgd(learning_rate=0.1 * WARM, momentum=0.9), max_norm=0.1),
    of("nesterov", ml.optim.Sgd(learning_rate=0.1, momentum=0.9, nesterov=True)),
    of("adam", ml.optim.AdamW(learning_rate=0.01 * WARM, weight_decay=0.1), deep, max_norm=0.1),
    of("adam alone", ml.optim.AdamW(learning_rate=0.01)),
    of("adafactor", ml.optim.Adafactor(min_dim_size_to_factor=4), deep, max_norm=0.1),
    of("adafactor, whole", ml.optim.Adafactor()),
    of("adafactor with momentum", ml.optim.Adafactor(min_dim_size_to_factor=4, beta1=0.9)),
    of(
        "adafactor, stacked",
        ml.optim.Adafactor(
            min_dim_size_to_factor=4,
            stacked_dims=("d_ff",),
            decay_rate=ml.optim.DecayRateAdam(beta2=0.9),
            exclude_from_parameter_scale=("gain",),
        ),
    ),
    of("lion", ml.optim.Lion(learning_rate=0.01, weight_decay=0.1), max_norm=0.1),
    of("lamb", ml.optim.Lamb(learning_rate=0.01 * WARM, weight_decay=0.1), max_norm=0.1),
    of("clippy", ml.optim.Clippy(learning_rate=0.1, relative=0.5, absolute=0.01)),
    of("clippy, clipping hard", ml.optim.Clippy(learning_rate=1.0, clip_accumulator=True)),
    of(
        "average of clipped steps on clipped gradients",
        ml.optim.Ema(
            optimizer=ml.optim.BlockClip(
                optimizer=ml.optim.RelativeClip(
                    optimizer=ml.optim.Adafactor(min_dim_size_to_factor=4), relative=1e-3
                ),
                max_norm=0.1,
            ),
            decay=0.5,
        ),
        deep,
        max_norm=0.5,
    ),
    of(
        "by name",
        ml.optim.ByName(
            optimizer=ml.optim.Ema(optimizer=ml.optim.AdamW(learning_rate=0.01), decay=0.5),
            rules=(
                ml.optim.Rule(pattern="gain$", optimizer=ml.optim.Sgd(learning_rate=0.1)),
                ml.optim.Rule(pattern="w$", optimizer=ml.optim.Lamb(learning_rate=0.01)),
            ),
        ),
    ),
)

LAYOUTS = (
    Laid("all:8", "batch:all"),
    Laid("r:2 c:4", "batch:r d_ff:c"),
    Laid("r:2 c:4", "batch:r d_model:c"),
    Laid("a:2 b:2 c:2", "batch:a+b d_ff:c"),
    Laid("r:2 c:2", "d_model:r d_ff:c"),
    Laid("r:2 c:4", "batch:r d_ff:c", params="d_model:r"),
    Laid("r:2 c:4", "batch:r d_ff:c", slots="d_model:r"),
    Laid("a:2 b:2 c:2", "batch:a d_ff:b", params="d_model:a", slots="d_ff:c layers:a"),
)


@pytest.mark.parametrize("laid", drawn("optimizers", LAYOUTS, draws=3))
def test_five_steps_do_not_depend_on_the_layout(laid: Laid) -> None:
    check(CASES, laid, steps=5)
