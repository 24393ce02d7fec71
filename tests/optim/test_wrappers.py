"""Rules by name, averages, and gradients clipped one by one."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import meshlang as ml
from meshlang.layout.values import Local
from meshlang.lowering.in_place import UpdateInPlace, update_in_place
from tests.optim.training import DOUBLE, lowered, values
from tests.oracles import optimizers as plain
from tests.oracles import optimizers_relative as oracles

STEPS = 10
RNG = np.random.default_rng(0)
W0, GRADS = RNG.normal(size=(3, 4)), RNG.normal(size=(STEPS, 3, 4))
NAMES = ("embedding", "layer/norm", "layer/w", "layer/bias")


def several(
    optimizer: ml.optim.Optimizer, names: Sequence[str] = NAMES, steps: int = STEPS
) -> dict[str, np.ndarray]:
    """Variables of these names after steps with `GRADS`, all from `W0`; and their slots."""

    def step(grad: ml.Tensor) -> None:
        made = [ml.variable(name, "a:3 b:4", init=ml.zeros_init) for name in names]
        optimizer.apply(made, ml.gradients(ml.sum(ml.add_n(made) * grad), made))

    program = ml.trace(step, precision=DOUBLE, grad=ml.spec("a:3 b:4"))
    executable = ml.lower(ml.plan(program), backend="simulated")
    executable.initialize(0)
    for name in names:
        executable.set(name, W0)
    for grad in GRADS[:steps]:
        executable(grad=grad)
    return {name: executable[name] for name in executable.plan.variables}


def oracle(optimizer: plain.Optimizer) -> np.ndarray:
    return plain.run(optimizer, W0, GRADS)[-1]


# -- rules by name --------------------------------------------------------------------------------


def test_the_first_rule_that_fits_wins() -> None:
    optimizer = ml.optim.ByName(
        optimizer=ml.optim.AdamW(learning_rate=0.1, weight_decay=0.2),
        rules=(
            ml.optim.Rule(pattern="norm|bias", weight_decay=0.0),
            ml.optim.Rule(pattern="^embedding$", optimizer=ml.optim.Sgd(learning_rate=0.5)),
            ml.optim.Rule(pattern="layer", learning_rate=0.3, weight_decay=0.4),
        ),
    )
    found = several(optimizer, (*NAMES, "logits"))
    wanted = {
        "embedding": plain.Sgd(0.5),
        "layer/norm": plain.AdamW(0.1),
        "layer/bias": plain.AdamW(0.1),
        "layer/w": plain.AdamW(0.3, weight_decay=0.4),
        "logits": plain.AdamW(0.1, weight_decay=0.2),
    }
    for name, theirs in wanted.items():
        np.testing.assert_allclose(found[name], oracle(theirs), rtol=0, atol=1e-10, err_msg=name)
    slots = {name for name in found if name not in wanted}
    assert slots == {f"{name}/adam_{m}" for name in wanted if name != "embedding" for m in "mv"}


def test_a_rule_changes_the_rate_of_its_own_optimizer_by_a_schedule() -> None:
    rule = ml.optim.Rule(
        pattern="norm",
        optimizer=ml.optim.Lion(learning_rate=9.0),
        learning_rate=0.1 * ml.optim.LinearWarmup(steps=4),
    )
    found = several(ml.optim.ByName(optimizer=ml.optim.Sgd(learning_rate=0.1), rules=(rule,)))
    lion = oracles.Lion(lambda step: 0.1 * plain.linear_warmup(step, 4))
    np.testing.assert_allclose(found["layer/norm"], oracle(lion), rtol=0, atol=1e-10)
    np.testing.assert_allclose(found["layer/w"], oracle(plain.Sgd(0.1)), rtol=0, atol=1e-10)


def test_rules_within_rules_see_what_is_given_on() -> None:
    sgd = ml.optim.Sgd(learning_rate=0.1)
    inner = ml.optim.ByName(
        optimizer=sgd, rules=(ml.optim.Rule(pattern="norm", learning_rate=0.2),)
    )
    outer = ml.optim.ByName(optimizer=sgd, rules=(ml.optim.Rule(pattern="layer", optimizer=inner),))
    found = several(ml.optim.BlockClip(optimizer=outer, max_norm=1e9))
    for name, learning_rate in (("layer/norm", 0.2), ("layer/w", 0.1), ("embedding", 0.1)):
        wanted = oracle(plain.Sgd(learning_rate))
        np.testing.assert_allclose(found[name], wanted, rtol=0, atol=1e-10)
    # The inner rule's variable does not come to it: the outer one takes it before.
    taken = ml.optim.Rule(pattern="norm", learning_rate=0.3)
    beside = ml.optim.ByName(
        optimizer=inner, rules=(ml.optim.Rule(pattern="layer", optimizer=sgd),)
    )
    assert taken.learning_rate == 0.3
    with pytest.raises(ml.VariableError) as caught:
        several(ml.optim.Ema(optimizer=beside))
    assert str(caught.value).startswith("ByName: a rule fits no variable.\n  pattern    'norm'\n")


def refused(*rules: ml.optim.Rule, names: Sequence[str] = NAMES) -> str:
    optimizer = ml.optim.ByName(optimizer=ml.optim.Sgd(learning_rate=0.1), rules=rules)
    with pytest.raises(ml.VariableError) as caught:
        several(optimizer, names)
    return str(caught.value)


def test_a_pattern_that_matches_nothing() -> None:
    assert refused(ml.optim.Rule(pattern="embeding$", learning_rate=1.0)) == (
        "ByName: a rule fits no variable.\n"
        "  pattern    'embeding$'\n"
        "  variables  embedding layer/norm layer/w layer/bias\n"
        "  fix: did you mean 'embedding'?"
    )
    assert refused(ml.optim.Rule(pattern="/nrom$")).endswith("fix: did you mean 'norm'?")
    many = [f"v{i}" for i in range(10)]
    assert refused(ml.optim.Rule(pattern="^decoder/.*"), names=many) == (
        "ByName: a rule fits no variable.\n"
        "  pattern    '^decoder/.*'\n"
        "  variables  v0 v1 v2 v3 v4 v5 v6 v7 and 2 more\n"
        "  fix: let it be found in one of the names, as re.search finds it"
    )


def test_a_rule_behind_another() -> None:
    first, second = ml.optim.Rule(pattern="layer"), ml.optim.Rule(pattern="norm|bias")
    assert refused(first, second) == (
        "ByName: earlier rules take all variables that a rule fits.\n"
        "  pattern  'norm|bias'\n"
        "  fits     layer/norm layer/bias\n"
        "  fix: put it before them, or leave it out"
    )


# -- averages -------------------------------------------------------------------------------------

AVERAGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "from the first step": ({"decay": 0.8}, {"decay": 0.8}),
    "from a later one": ({"decay": 0.8, "start": 3}, {"decay": 0.8, "start": 3}),
    "of a memory that grows": (
        {"decay": ml.optim.DecayRatePow(exponent=0.7)},
        {"decay": lambda step: 1 - (step + 1.0) ** -0.7},
    ),
}


@pytest.mark.parametrize("backend", ["simulated", "spmd"])
@pytest.mark.parametrize("name", AVERAGES)
def test_averages_are_the_oracles_and_change_nothing_else(name: str, backend: str) -> None:
    adam = ml.optim.AdamW(learning_rate=0.1)
    ours, numbers = AVERAGES[name]
    executable = lowered(ml.optim.Ema(optimizer=adam, **ours), "d0:3 d1:4", backend=backend)
    executable.initialize(0)
    executable.set("w", W0)
    alone = values(adam, W0, GRADS, backend=backend)
    wanted = oracles.averages(alone, **numbers)
    for i, grad in enumerate(GRADS):
        executable(grad=grad)
        np.testing.assert_array_equal(executable["w"], alone[i])
        np.testing.assert_allclose(executable["w/ema"], wanted[i], rtol=0, atol=1e-12)


def test_an_update_is_done_in_place_under_its_average() -> None:
    optimizer = ml.optim.Ema(optimizer=ml.optim.AdamW(learning_rate=0.1))
    plan = lowered(optimizer, "d0:3").plan
    ops = [step.op for step in update_in_place(plan.steps, ()) if isinstance(step, Local)]
    assert [op.read for op in ops if isinstance(op, UpdateInPlace)] == [(0,)]


def test_skipped_steps_are_not_averaged_and_a_skipped_start_averages_what_is_there() -> None:
    optimizer = ml.optim.Ema(optimizer=ml.optim.Sgd(learning_rate=1.0), decay=0.5)

    def step(grad: ml.Tensor) -> None:
        w = ml.variable("w", "d:2", init=8.0)
        loss = ml.sum(w * grad)
        ml.optim.apply_guarded(optimizer, loss, [w], ml.gradients(loss, [w]))

    executable = ml.lower(ml.plan(ml.trace(step, precision=DOUBLE, grad=ml.spec("d:2"))))
    executable.initialize(0)
    found = []
    for grad in ([np.nan, 0.0], [4.0, 4.0], [np.inf, 1.0], [-2.0, 2.0]):
        executable(grad=np.array(grad))
        found.append(executable["w/ema"].tolist())
    assert found == [[8.0, 8.0], [6.0, 6.0], [6.0, 6.0], [6.0, 4.0]]


@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
def test_averaged_shows_averages_to_every_executable_and_restores_the_bits(stored: str) -> None:
    optimizer = ml.optim.Ema(optimizer=ml.optim.Sgd(learning_rate=0.125), decay=0.75)
    precision = ml.Precision(stored=stored)

    def weight() -> ml.Tensor:
        return ml.variable("w", "d:8", init=ml.normal_init(1.0))

    def train(grad: ml.Tensor) -> None:
        w = weight()
        optimizer.apply([w], ml.gradients(ml.sum(w * grad), [w]))

    training = ml.trace(train, precision=precision, grad=ml.spec("d:8"))
    looking = ml.trace(lambda: ml.cast(weight(), "high"), precision=precision)
    tables: dict[str, str] = {"mesh": "r:2", "layout": "", "slots": "d:r"}
    trains = ml.lower(ml.plan(training, **tables, beside=(looking,)))
    looks = ml.lower(ml.plan(looking, **tables, beside=(training,)), store=trains.store)
    trains.initialize(0)
    for grad in GRADS[:, 0, :]:
        trains(grad=np.tile(grad, 2).astype("float32"))
    before, average = trains["w"], trains["w/ema"]
    with pytest.raises(KeyError), ml.optim.averaged(trains):
        np.testing.assert_array_equal(np.asarray(looks()), average.astype(before.dtype))
        raise KeyError("restored all the same")
    assert np.abs(np.asarray(looks()) - average).max() > 1e-2
    assert trains["w"].tobytes() == before.tobytes()
    assert trains["w/ema"].tobytes() == average.tobytes()


def test_there_must_be_averages() -> None:
    text = (
        "there are no averages to evaluate with.\n"
        "  variables with one  {}\n"
        "  steps               {}\n"
        "  fix: train with ml.optim.Ema(optimizer=...), and give the executable that trains"
    )
    sgd = ml.optim.Sgd(learning_rate=0.1)
    for optimizer, steps, held in ((sgd, 1, 0), (ml.optim.Ema(optimizer=sgd), 0, 1)):
        executable = lowered(optimizer, "d0:2")
        executable.initialize(0)
        for _ in range(steps):
            executable(grad=np.zeros(2))
        with pytest.raises(ml.VariableError) as caught, ml.optim.averaged(executable):
            pass
        assert str(caught.value) == text.format(held, steps)


# -- gradients clipped one by one -----------------------------------------------------------------


def test_one_wild_gradient_does_not_shrink_the_others() -> None:
    def step(wild: ml.Tensor) -> None:
        w, v = (ml.variable(name, "d:2", init=ml.zeros_init) for name in "wv")
        loss = ml.sum(w * wild) + ml.sum(v) * 0.5
        sgd = ml.optim.Sgd(learning_rate=1.0)
        ml.optim.BlockClip(optimizer=sgd, max_norm=1.0).apply([w, v], ml.gradients(loss, [w, v]))

    executable = ml.lower(ml.plan(ml.trace(step, precision=DOUBLE, wild=ml.spec("d:2"))))
    executable.initialize(0)
    executable(wild=np.array([3e9, 4e9]))
    np.testing.assert_allclose(executable["w"], [-0.6, -0.8], rtol=1e-14)
    np.testing.assert_allclose(executable["v"], [-0.5, -0.5], rtol=1e-14)
