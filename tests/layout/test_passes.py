"""Passes over the steps: what nobody needs goes, small sums go together, equal moves are one."""

from typing import Any

import numpy as np
import pytest

import meshlang as ml
from meshlang.layout import passes
from meshlang.layout.cost import transfers
from meshlang.layout.values import Collective, Loop


def kinds(plan: ml.Plan) -> list[str]:
    """What the steps are called, in order."""
    found = []
    for step in plan.steps:
        if isinstance(step, Collective):
            found.append(f"{step.kind} of {len(step.inputs)}")
        else:
            found.append(step.op.label)
    return found


def plan_of(fn, layout: str, mesh: str = "r:2 c:2", **specs: Any) -> ml.Plan:
    return ml.plan(ml.trace(fn, **specs), mesh, layout)


# -- what nobody needs ----------------------------------------------------------------------------


def test_unused_ops_are_not_planned():
    def fn(x):
        _unused = ml.exp(ml.sum(x, "d"))
        return ml.tanh(x)

    assert kinds(plan_of(fn, "d:r", x=ml.spec("d:4"))) == ["tanh"]


def test_a_moved_value_that_nobody_reads_is_not_moved():
    """The gradient of a sum needs no values: what was gathered for it is left out."""

    def fn(x):
        return ml.gradients(ml.sum(x.rename(d="e")), [x])[0]

    assert kinds(plan_of(fn, "d:r", x=ml.spec("d:4"))) == [
        "constant",
        "expand",
        "cut",
        "reshape",
    ]


def test_loops_lose_stacks_sums_and_operands_that_nobody_reads():
    def fn(x, unused):
        def body(carry, part):
            return carry + part, (ml.exp(carry), ml.tanh(part) * unused)

        last, (_, _) = ml.scan(body, ml.zeros(""), x, over="n")
        return last

    plan = plan_of(fn, "", x=ml.spec("n:4"), unused=ml.spec(""))
    (loop,) = [step for step in plan.steps if isinstance(step, Loop)]
    assert (len(loop.ys), len(loop.fixed), len(loop.outputs)) == (0, 0, 1)
    assert [str(s.op.label) for s in loop.steps if not isinstance(s, Collective)] == ["add"]


def test_assignments_stay():
    def fn(x):
        w = ml.variable("w", "d:4", init=0.0)
        ml.assign(w, w + x)
        return ml.sum(x)

    assert "assign" in kinds(plan_of(fn, "", x=ml.spec("d:4")))


# -- moves ----------------------------------------------------------------------------------------


def test_equal_moves_happen_once():
    def fn(x):
        return ml.tanh(x.rename(d="e")), ml.exp(x.rename(d="e"))

    assert kinds(plan_of(fn, "d:r", x=ml.spec("d:4"))).count("all_gather of 1") == 1


def test_a_sum_that_two_ops_need_is_paid_once():
    def fn(x):
        total = ml.sum(x, "d")
        return ml.tanh(total), ml.exp(total)

    assert kinds(plan_of(fn, "d:r", x=ml.spec("d:4 k:4"))).count("all_reduce of 1") == 1


def test_parameters_are_gathered_for_each_pass_and_once_in_it():
    """The forward copy need not be held; two uses in one pass share a copy."""

    def fn(x):
        w = ml.variable("w", "d:4 e:4", init=1.0)
        y = ml.einsum(ml.tanh(ml.einsum(x, w, reduce="d")).rename(e="d"), w, reduce="d")
        return ml.gradients(ml.sum(y * y), [x])[0]

    program = ml.trace(fn, x=ml.spec("b:4 d:4"))
    gathers = list(transfers(ml.plan(program, "r:2", "b:r", params="d:r")))
    assert [t.kind for t in gathers] == ["all_gather", "all_gather"]
    assert not list(transfers(ml.plan(program, "r:2", "b:r")))


# -- buckets --------------------------------------------------------------------------------------


def sums_of(sizes: list[int], layout: str = "b:r", dtypes: tuple[str, ...] = ("float32",)):
    """A program that sums one tensor of each size over b."""

    def fn(**xs):
        return {name: ml.tanh(ml.sum(x, "b")) for name, x in xs.items()}

    specs: dict[str, Any] = {
        f"x{i}": ml.spec(f"b:4 d{i}:{size}", dtypes[i % len(dtypes)])
        for i, size in enumerate(sizes)
    }
    return plan_of(fn, layout, **specs)


def reduced(plan: ml.Plan) -> list[str]:
    return [kind for kind in kinds(plan) if kind.startswith("all_reduce")]


def test_small_sums_share_one_collective():
    plan = sums_of([3, 5, 7])
    assert reduced(plan) == ["all_reduce of 3"]
    cost = plan.cost.over("r")
    assert (cost.sums, cost.collectives, cost.elements) == (3, 1, 15)


def test_large_sums_stay_alone():
    small, large = passes.SMALL // 4, passes.SMALL // 4 + 1
    assert reduced(sums_of([large, small, large, small])) == [
        "all_reduce of 1",
        "all_reduce of 1",
        "all_reduce of 2",
    ]


def test_a_bucket_holds_so_much(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(passes, "BUCKET", 4 * 10)
    assert reduced(sums_of([6, 4, 1, 9, 3])) == [
        "all_reduce of 2",
        "all_reduce of 2",
        "all_reduce of 1",
    ]


def test_dtypes_and_axes_do_not_mix():
    assert reduced(sums_of([3, 3, 3, 3], dtypes=("float32", "float64"))) == ["all_reduce of 2"] * 2

    def fn(x, y):
        return ml.exp(ml.sum(x, "b")), ml.exp(ml.sum(y, "k"))

    plan = plan_of(fn, "b:r k:c", x=ml.spec("b:4 d:3"), y=ml.spec("k:4 d:3"))
    assert reduced(plan) == ["all_reduce of 1"] * 2


def test_a_sum_of_what_another_sum_made_comes_after_it():
    def fn(x, y):
        first = ml.exp(ml.sum(x, "b"))
        return ml.tanh(ml.sum(ml.exp(first * y), "k")), ml.exp(ml.sum(y * y, "k"))

    plan = plan_of(fn, "b:r k:r", x=ml.spec("b:4 d:3"), y=ml.spec("k:4 d:3"))
    assert reduced(plan) == ["all_reduce of 1", "all_reduce of 2"]
    x, y = np.ones((4, 3), np.float32), np.full((4, 3), 0.1, np.float32)
    found = ml.run(
        fn, "r:2", "b:r k:r", backend="simulated", x=ml.constant(x, "b d"), y=ml.constant(y, "k d")
    )
    np.testing.assert_allclose(found[0], np.tanh(4 * np.exp(np.exp(4.0) * 0.1)) * np.ones(3), 1e-6)
    np.testing.assert_allclose(found[1], np.exp(0.04) * np.ones(3), 1e-6)


def test_local_steps_wait_with_their_sums():
    """So that the second sum is met before the first must be paid."""

    def fn(x, y):
        first = ml.exp(ml.sum(x, "b"))
        second = ml.exp(ml.sum(y, "b"))
        return first + second

    plan = plan_of(fn, "b:r", x=ml.spec("b:4 d:3"), y=ml.spec("b:4 d:3"))
    assert kinds(plan) == ["sum", "sum", "all_reduce of 2", "exp", "exp", "add"]


def test_a_loop_waits_for_nothing():
    """What a loop reads is paid before it; in its body buckets are its own."""

    def fn(x, y):
        first = ml.exp(ml.sum(x, "b"))
        other = ml.sum(y, "b")

        def body(carry, _):
            parts = ml.sum(carry * x, "b"), ml.sum(carry + x, "b")
            return ml.exp(parts[0]) + ml.exp(parts[1]), None

        return ml.scan(body, first, over="n:3")[0], ml.exp(other)

    plan = plan_of(fn, "b:r", x=ml.spec("b:4 d:3"), y=ml.spec("b:4 d:3"))
    assert kinds(plan) == ["sum", "sum", "all_reduce of 2", "exp", "scan", "exp"]
    (loop,) = [step for step in plan.steps if isinstance(step, Loop)]
    inside = [len(s.inputs) for s in loop.steps if isinstance(s, Collective)]
    assert inside == [2]


def test_maxima_share_a_collective_but_not_with_sums():
    def fn(x):
        return ml.max(x, "b"), ml.max(-x, "b"), ml.sum(x, "b"), ml.sum(x * x, "b")

    plan = plan_of(fn, "b:r", x=ml.spec("b:4 d:3"))
    found = [x for x in kinds(plan) if "of" in x]
    assert found == ["all_reduce of 2"] * 2
    reduced = [s.reduce for s in plan.steps if isinstance(s, Collective)]
    assert sorted(reduced) == ["max", "sum"]
