"""A loss far above those of late is skipped, if that is asked for; others are not."""

from typing import Any

import numpy as np
import pytest

import meshlang as ml

RULE = ml.optim.SpikeRule(sigmas=4.0, interval=8)


def lowered(spikes: ml.optim.SpikeRule | None, mesh: str = "", layout: str = "") -> ml.Executable:
    """The loss is the mean of the input, whatever the weights."""

    def step(x: ml.Tensor) -> dict[str, Any]:
        w = ml.variable("w", "d:4", init=ml.ones_init)
        loss = ml.mean(x) + 0.0 * ml.sum(w)
        variables = ml.trainable_variables()
        gradients = [ml.gradients(ml.sum(w), variables)[0]]
        optimizer = ml.optim.Sgd(learning_rate=1.0)
        return {
            "applied": ml.optim.apply_guarded(
                optimizer, loss, variables, gradients, spikes=spikes
            ).applied
        }

    executable = ml.lower(ml.plan(ml.trace(step, x=ml.spec("batch:8")), mesh, layout))
    executable.initialize(0)
    return executable


def applied(executable: ml.Executable, losses: list[float]) -> list[bool]:
    return [bool(executable(x=np.full(8, loss))["applied"]) for loss in losses]


def oracle(losses: list[float], sigmas: float, interval: int) -> list[bool]:
    """The rule in plain numbers."""
    count, mean, variance, found = 0, 0.0, 0.0, []
    for loss in losses:
        bound = mean + sigmas * np.sqrt(variance)
        spike = count >= interval and loss > bound
        found.append(not spike and bool(np.isfinite(loss)))
        if np.isfinite(loss):
            rate = 1.0 / min(count + 1, interval)
            off = (bound if spike else loss) - mean
            count, mean = count + 1, mean + rate * off
            variance = (1 - rate) * (variance + rate * off * off)
    return found


def losses_with(*spikes: int) -> list[float]:
    random = np.random.default_rng(0).normal(3.0, 0.1, 40)
    random[list(spikes)] += 2.0
    return random.tolist()


@pytest.mark.parametrize("mesh, layout", [("", ""), ("a:8", "batch:a"), ("a:2 b:2", "d:a")])
def test_spikes_are_skipped_on_every_mesh(mesh: str, layout: str):
    losses = losses_with(3, 20, 31)
    losses[25] = float("nan")
    found = applied(lowered(RULE, mesh, layout), losses)
    assert [i for i, ok in enumerate(found) if not ok] == [20, 25, 31]
    assert found == oracle(losses, RULE.sigmas, RULE.interval)


def test_only_when_it_is_asked_for():
    assert all(applied(lowered(None), losses_with(3, 20, 31)))


def test_losses_that_stay_high_are_borne_after_a_while():
    losses = losses_with()[:20] + [6.0] * 40
    found = applied(lowered(RULE), losses)
    assert found[:20] == [True] * 20
    assert not found[20]
    assert all(found[-20:])
    assert found == oracle(losses, RULE.sigmas, RULE.interval)


def test_a_spike_changes_nothing():
    executable = lowered(RULE)
    applied(executable, losses_with()[:20])
    before = executable["w"]
    assert applied(executable, [50.0]) == [False]
    np.testing.assert_array_equal(executable["w"], before)
    assert int(executable["skipped_steps"]) == 1


@pytest.mark.parametrize("wrong", [{"sigmas": 0.0}, {"interval": 1}])
def test_what_judges_nothing(wrong: dict[str, float]):
    with pytest.raises(ml.MeshlangError, match=r"SpikeRule: no loss can be judged so\.\n"):
        ml.optim.SpikeRule(**wrong)
