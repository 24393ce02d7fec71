"""Collectives that run are those of the plan: how many, over which axes, how many bytes."""

from typing import Any

import numpy as np
import pytest

import meshlang as ml
from meshlang.layout.cost import Key
from meshlang.lowering.counting import Ran
from models.layers import Attention, FeedForward
from models.moe import MixtureOfExperts, Top2Router
from models.transformer import Transformer

DENSE = "batch:data heads:model d_ff:model vocab:model"
SUM: Key = ("all_reduce", ("a",))
BACKENDS = pytest.mark.parametrize("backend", ["spmd", "simulated"])


def planned(plan: ml.Plan, times: int = 1) -> dict[Key, Ran]:
    """What a plan says of so many calls, in the form of what ran."""
    return {
        key: Ran(times * t.collectives, times * t.elements, times * t.bytes)
        for key, t in plan.cost.traffic.items()
    }


def run(plan: ml.Plan, backend: str, times: int = 1, **arrays: Any) -> dict[Key, Ran]:
    """Call a plan so many times; what ran."""
    executable = ml.lower(plan, backend=backend, counted=True)
    executable.initialize(seed=0)
    rng = np.random.default_rng(0)
    given = {
        name: rng.integers(0, 8, v.shape.sizes, np.int32)
        if v.dtype == "int32"
        else rng.standard_normal(v.shape.sizes).astype(np.float32)
        for name, v in plan.inputs.items()
    }
    for _ in range(times):
        executable(**given | arrays)
    return executable.ran()


def training(*, moe: bool, unroll: bool, micro: int = 1, compute: str = "float32") -> ml.Program:
    """A step of Adam for a small transformer, with clipping, in so many microbatches."""
    mixture = MixtureOfExperts(
        experts=8, d_expert=8, router=Top2Router(), group="batch length -> group token:8"
    )
    model = Transformer(
        vocab=16,
        layers=4,
        d_model=8,
        attention=Attention(heads=4, d_head=4),
        feed_forward=FeedForward(d_ff=16),
        moe=mixture if moe else None,
        moe_every=2,
        unroll=unroll,
    )
    optimizer = ml.optim.AdamW(learning_rate=1e-2)

    def one(batch: dict[str, ml.Tensor]) -> dict[str, Any]:
        sums = model(batch, train=True)
        objective = sums.loss + (0.0 if sums.auxiliary is None else sums.auxiliary)
        gradients = ml.gradients(objective, ml.trainable_variables())
        return {"loss": sums.loss, "gradients": gradients}

    def step(**batch: ml.Tensor) -> ml.Tensor:
        if micro == 1:
            found = one(batch)
        else:
            cut = {n: x.split(batch=f"batch micro:{micro}") for n, x in batch.items()}
            found = ml.accumulate(one, cut, over="micro")
        weights = ml.trainable_variables()
        applied = ml.optim.apply_guarded(
            optimizer, found["loss"], weights, found["gradients"], max_norm=1.0
        )
        return found["loss"] + applied.gradient_norm

    ids = ml.spec("batch:16 length:8", "int32")
    return ml.trace(step, precision=ml.Precision(compute=compute), tokens=ids, targets=ids)


EXPERTS: dict[str, Any] = {"moe": True, "unroll": False}
STEPS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "dense, scan": ({"moe": False, "unroll": False}, {}),
    "dense, written out": ({"moe": False, "unroll": True}, {}),
    "experts, scan": (EXPERTS, {}),
    "experts, written out": ({"moe": True, "unroll": True}, {}),
    "experts, accumulated": ({**EXPERTS, "micro": 2}, {}),
    "experts, bfloat16": ({**EXPERTS, "compute": "bfloat16"}, {}),
    "parameters divided": (EXPERTS, {"params": "d_model:data"}),
    "slots divided": ({"moe": False, "unroll": False}, {"slots": "d_model:data"}),
}


def on_backends() -> list[Any]:
    """Every step on devices; simulated, which takes longer, two of them and the rest if asked."""
    soon = ("dense, written out", "experts, scan")
    return [
        *((name, "spmd") for name in STEPS),
        *((name, "simulated") for name in soon),
        *(
            pytest.param(name, "simulated", marks=pytest.mark.slow)
            for name in STEPS
            if name not in soon
        ),
    ]


@pytest.mark.parametrize(("name", "backend"), on_backends())
def test_a_training_step(name: str, backend: str) -> None:
    sizes, tables = STEPS[name]
    layout = f"{DENSE} group:data experts:model" if sizes["moe"] else DENSE
    plan = ml.plan(training(**sizes), "data:2 model:4", layout, **tables)
    kinds = {kind for kind, _ in plan.cost.traffic}
    assert "all_reduce" in kinds
    assert ("all_gather" in kinds) or not tables
    assert run(plan, backend, times=2) == planned(plan, times=2)


@BACKENDS
def test_experts_that_travel_along_the_data(backend: str) -> None:
    plan = ml.plan(training(**EXPERTS), "data:8", "batch:data group:data experts:data")
    assert plan.cost.traffic["all_to_all", ("data",)].collectives > 0
    assert run(plan, backend) == planned(plan)


@BACKENDS
def test_a_convolution_with_halos(backend: str) -> None:
    def step(x: ml.Tensor) -> list[ml.Tensor]:
        filters = ml.variable("filters", "kh:3 kw:5 c:2 k:4", init=ml.normal_init(1.0))
        y = ml.conv(x, filters, {"h": "kh", "w": "kw"}, reduce="c", padding="same")
        loss = ml.sum(y * y)
        return [loss, *ml.gradients(loss, ml.trainable_variables())]

    program = ml.trace(step, x=ml.spec("batch:2 h:8 w:16 c:2"))
    plan = ml.plan(program, "rows:2 columns:4", "h:rows w:columns")
    assert {axes for kind, axes in plan.cost.traffic if kind == "permute"} == {
        ("rows",),
        ("columns",),
    }
    assert run(plan, backend) == planned(plan)


def looped(trips: int) -> ml.Program:
    """So many trips of at most six, each with a sum, as has the decision to make one."""

    def step(x: ml.Tensor) -> ml.Tensor:
        def body(c: list[ml.Tensor]) -> list[ml.Tensor]:
            h, n = c
            return [h * ml.sum(h, "d"), n + 1]

        def goes_on(c: list[ml.Tensor]) -> ml.Tensor:
            return ml.logical_and(c[1] < trips, ml.sum(c[0] * c[0]) > -1.0)

        return ml.while_loop(goes_on, body, [x, ml.zeros("", "int32")], max_trips=6)[0]

    return ml.trace(step, x=ml.spec("batch:3 d:8"))


@BACKENDS
@pytest.mark.parametrize("trips", [0, 2, 6])
def test_a_loop_counts_the_trips_it_makes(trips: int, backend: str) -> None:
    """The plan counts six trips and seven decisions: the most that can be."""
    plan = ml.plan(looped(trips), "a:4", "d:a")
    found = run(plan, backend)[SUM]
    most = plan.cost.traffic[SUM]
    assert (most.collectives, most.elements) == (6 + 7, 6 * 3 + 7)
    assert found == Ran(trips + trips + 1, 3 * trips + trips + 1, 4 * (3 * trips + trips + 1))


@BACKENDS
@pytest.mark.parametrize("taken", [True, False])
def test_the_branch_not_taken_counts_nothing(taken: bool, backend: str) -> None:
    """The plan counts the dearer branch."""

    def step(x: ml.Tensor, yes: ml.Tensor) -> ml.Tensor:
        return ml.cond(
            yes, lambda: ml.sum(x, "d"), lambda: ml.sum(ml.sum(x, "batch"), "d").expand(batch=3)
        )

    program = ml.trace(step, x=ml.spec("batch:3 d:8"), yes=ml.spec("", "bool"))
    plan = ml.plan(program, "a:4", "d:a")
    found = run(plan, backend, yes=np.array(taken))
    assert planned(plan) == {SUM: Ran(1, 3, 12)}
    assert found == {SUM: Ran(1, 3, 12) if taken else Ran(1, 1, 4)}


def test_who_did_not_ask_pays_and_gets_nothing() -> None:
    plan = ml.plan(looped(2), "a:4", "d:a")
    step = ml.lower(plan)
    step(x=np.ones((3, 8), np.float32))
    with pytest.raises(ml.MeshlangError) as error:
        step.ran()
    assert str(error.value) == (
        "the collectives were not counted.\n  fix: ml.lower(plan, counted=True)"
    )
