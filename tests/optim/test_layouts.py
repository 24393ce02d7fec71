"""Layouts change an optimizer's speed, not its results: five steps under each, all at once."""

import pytest

import meshlang as ml
from tests.harness import Laid, case, check, drawn

BATCH = "batch:8 d_model:8"


def trained(optimizer: ml.optim.Optimizer, max_norm: float | None = None):
    """A step of two layers in a scan and a readout; see `case`."""

    def layer(x: ml.Tensor, _: None) -> tuple[ml.Tensor, None]:
        w_in = ml.variable("w_in", "d_model:8 d_ff:16", init=ml.normal_init(0.5))
        w_out = ml.variable("w_out", "d_ff:16 d_model:8", init=ml.normal_init(0.5))
        h = ml.tanh(ml.einsum(x, w_in, reduce="d_model"))
        return x + ml.einsum(h, w_out, reduce="d_ff"), None

    def step(x: ml.Tensor, wanted: ml.Tensor):
        before = len(ml.trainable_variables())
        gain = ml.variable("gain", "d_model:8", init=ml.ones_init)
        shift = ml.variable("shift", "", init=0.0)
        y, _ = ml.scan(layer, x * gain + shift, over="layers:2")
        loss = ml.mean(ml.square(y - wanted))
        variables = ml.trainable_variables()[before:]
        gradients = ml.gradients(loss, variables)
        if max_norm is None:
            optimizer.apply(variables, gradients)
            return {"loss": loss}
        clipped, norm = ml.optim.clip_by_global_norm(gradients, max_norm)
        applied = ml.optim.apply_guarded(optimizer, loss, variables, gradients, max_norm=max_norm)
        return {"loss": loss, "clipped": clipped, "norm": norm, "applied": applied}

    return step


def of(name: str, optimizer: ml.optim.Optimizer, max_norm: float | None = None):
    step = trained(optimizer, max_norm)
    return case(name, step, gradients=False, x=BATCH, wanted=BATCH)


WARM = ml.optim.LinearWarmup(steps=3)
CASES = (
    of("sgd", ml.optim.Sgd(learning_rate=0.1)),
    of("momentum", ml.optim.Sgd(learning_rate=0.1 * WARM, momentum=0.9), max_norm=0.1),
    of("nesterov", ml.optim.Sgd(learning_rate=0.1, momentum=0.9, nesterov=True)),
    of("adam", ml.optim.AdamW(learning_rate=0.01 * WARM, weight_decay=0.1), max_norm=0.1),
    of("adam alone", ml.optim.AdamW(learning_rate=0.01)),
    of("adafactor", ml.optim.Adafactor(min_dim_size_to_factor=4), max_norm=0.1),
    of("adafactor, whole", ml.optim.Adafactor()),
    of("adafactor with momentum", ml.optim.Adafactor(min_dim_size_to_factor=4, beta1=0.9)),
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


@pytest.mark.parametrize("laid", drawn("optimizers", LAYOUTS, draws=5))
def test_five_steps_do_not_depend_on_the_layout(laid: Laid) -> None:
    check(CASES, laid, steps=5)
