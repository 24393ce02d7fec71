"""Updates in place: where plans allow it, with the same results, and with old values kept safe."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import meshlang as ml
from meshlang.layout.values import Local
from meshlang.lowering.in_place import UpdateInPlace, update_in_place
from meshlang.ops.state import Assign
from meshlang.optim.updates import AdamUpdate, DescentUpdate, MomentumUpdate, Update
from meshlang.program import apply
from meshlang.structure import leaves

DOUBLE = ml.Precision("float64", "float64", "float64")
SHAPE = "d:8 e:4"
RULES: dict[str, Update] = {
    "descent": DescentUpdate(False),
    "descent, scaled": DescentUpdate(True),
    "momentum": MomentumUpdate(False, 0.9, False),
    "nesterov, scaled": MomentumUpdate(True, 0.9, True),
    "adam": AdamUpdate(False, 0.9, 0.99, 1e-3, False),
    "adam, decayed": AdamUpdate(False, 0.9, 0.99, 1e-3, True),
    "adam, decayed and scaled": AdamUpdate(True, 0.9, 0.99, 1e-3, True),
}


def scalars(op: Update) -> list[ml.Tensor]:
    """The rate and what else a rule takes."""
    count = 1 + 2 * isinstance(op, AdamUpdate) + op.scaled + getattr(op, "decayed", False)
    return [ml.constant(0.25 + 0.125 * i, "") for i in range(count)]


def updated(op: Update, names: str = "wmv") -> tuple[list[Any], Sequence[ml.Tensor]]:
    """Variables named by letters, and their new values by a rule, not assigned yet."""
    w = ml.variable(names[0], SHAPE, init=ml.normal_init())
    gradient = ml.gradients(ml.sum(ml.square(w)), [w])[0]
    slots = [
        ml.variable(name, gradient.shape, init=ml.uniform_init(), trainable=False)
        for name in names[1 : op.changed]
    ]
    found = ml.trainable_variables()[-1]
    news = apply(op, found.as_tensor(), *slots, gradient, *scalars(op))
    return [w, *slots], news


def training(
    op: Update, fn: Callable[[list[Any], Sequence[ml.Tensor]], Any] | None = None
) -> ml.Program:
    """A program that assigns what a rule computes, after which `fn` gives its results."""

    def step() -> Any:
        targets, news = updated(op)
        for target, new in zip(targets, news, strict=True):
            ml.assign(target, new)
        return fn(targets, news) if fn else None

    return ml.trace(step, precision=DOUBLE)


def steps_of(plan: ml.Plan) -> list[Any]:
    return update_in_place(plan.steps, leaves(plan.results))


def fused(plan: ml.Plan) -> list[UpdateInPlace]:
    ops = [step.op for step in steps_of(plan) if isinstance(step, Local)]
    return [op for op in ops if isinstance(op, UpdateInPlace)]


def kept(plan: ml.Plan, kind: type) -> int:
    return sum(isinstance(step, Local) and isinstance(step.op, kind) for step in steps_of(plan))


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("layout", ["", "d:r", "d:r e:c"])
def test_an_update_takes_the_place_of_its_assigns(name: str, layout: str) -> None:
    plan = ml.plan(training(RULES[name]), "r:2 c:4", layout)
    (found,) = fused(plan)
    assert [n for n, _ in found.variables] == ["w", "m", "v"][: RULES[name].changed]
    assert (found.update, found.read, found.guarded) == (RULES[name], (), False)
    assert kept(plan, Assign) == kept(plan, Update) == 0


def test_divided_slots_leave_the_update_where_it_is() -> None:
    """The new value must be gathered from blocks that are smaller than the variable's."""
    program = training(RULES["adam"])
    assert len(fused(ml.plan(program, "r:2 c:4", "e:c", params="d:r"))) == 1
    divided = ml.plan(program, "r:2 c:4", "e:c", slots="d:r")
    assert fused(divided) == []
    assert (kept(divided, Update), kept(divided, Assign)) == (1, 3)


def test_a_result_of_the_update_leaves_it_where_it_is() -> None:
    assert fused(ml.plan(training(RULES["adam"], lambda targets, news: news[1]))) == []


@pytest.mark.parametrize("guarded", [(), (0,), (0, 1, 2)])
def test_all_or_none_of_the_assigns_are_guarded_alike(guarded: tuple[int, ...]) -> None:
    def step(ok: ml.Tensor) -> None:
        for i, (target, new) in enumerate(zip(*updated(RULES["adam"]), strict=True)):
            ml.assign(target, new, when=ok if i in guarded else None)

    plan = ml.plan(ml.trace(step, ok=ml.spec("", "bool")))
    assert [op.guarded for op in fused(plan)] == ([] if guarded == (0,) else [bool(guarded)])


def test_assigns_to_others_than_the_operands_stay() -> None:
    def step() -> None:
        (_, m, v), (_, new_m, new_v) = updated(RULES["adam"])
        ml.assign(m, new_v)
        ml.assign(v, new_m)

    assert fused(ml.plan(ml.trace(step))) == []


@pytest.mark.parametrize("backend", ["simulated", "spmd"])
@pytest.mark.parametrize("name", RULES)
def test_in_place_and_on_blocks_are_the_same(name: str, backend: str) -> None:
    programs = [training(RULES[name]), training(RULES[name], lambda targets, news: news[0])]
    plans = [ml.plan(program, "r:2 c:4", "d:r") for program in programs]
    assert [len(fused(plan)) for plan in plans] == [1, 0]
    one, other = (ml.lower(plan, backend=backend) for plan in plans)
    for executable in (one, other):
        executable.initialize(0)
        if "v" in executable.plan.variables:
            executable.set("v", executable["v"] ** 2)
        for _ in range(3):
            executable()
    for variable in one.plan.variables:
        np.testing.assert_allclose(one[variable], other[variable], rtol=1e-13)


@pytest.mark.parametrize("backend", ["simulated", "spmd"])
def test_old_values_stay_old_and_new_reads_are_new(backend: str) -> None:
    def step() -> dict[str, ml.Tensor]:
        w = ml.variable("w", SHAPE, init=ml.ones_init)
        optimizer = ml.optim.Sgd(learning_rate=0.5, momentum=0.5)
        optimizer.apply([w], ml.gradients(ml.sum(w), [w]))
        once = ml.variable("w", SHAPE, init=ml.ones_init)
        optimizer.apply([w], ml.gradients(ml.sum(w), [w]))
        return {"old": w, "once": once, "twice": ml.variable("w", SHAPE, init=ml.ones_init)}

    plan = ml.plan(ml.trace(step, precision=DOUBLE), "r:2", "d:r")
    assert [op.read for op in fused(plan)] == [(0, 1)]
    executable = ml.lower(plan, backend=backend)
    executable.initialize(0)
    found = executable()
    values = {name: set(x.numpy().ravel()) for name, x in found.items()}
    assert values == {"old": {1.0}, "once": {0.5}, "twice": {-0.25}}
    assert set(executable["w"].ravel()) == {-0.25}
    before = executable["w"]
    executable()
    assert set(before.ravel()) == {-0.25}  # what the host holds is not overwritten


@pytest.mark.parametrize("name", ["descent", "momentum", "adam"])
def test_an_update_has_no_gradient(name: str) -> None:
    def step() -> None:
        (w, *_), (new, *_) = updated(RULES[name])
        ml.gradients(ml.sum(new), [w])

    with pytest.raises(ml.ProgramError) as caught:
        ml.trace(step)
    op = RULES[name]
    rows = "".join("  operand  Tensor[d':8 e':4] float32\n" for _ in range(op.changed))
    assert str(caught.value) == (
        f"{op.label} has no gradient: it is one step of training, not part of a model.\n"
        f"{rows}  fix: write the update with ops, to train through it"
    )
