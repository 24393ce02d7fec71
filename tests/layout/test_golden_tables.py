"""The published cost tables, by equality: no collective more, no byte less.

What must come out stands in tests/oracles/communication.py, where it is derived twice from
elsewhere. Counts are elements per processor.
"""

import re
from fractions import Fraction

import pytest

import meshlang as ml
from meshlang.layout.cost import Transfer, transfers
from tests.layout import programs
from tests.oracles import communication as comm

WRITTEN_OUT = pytest.mark.parametrize("unroll", [False, True], ids=["scan", "written out"])


# -- two dense layers -----------------------------------------------------------------------------


@pytest.mark.parametrize("row", comm.TWO_LAYERS_TABLE, ids=lambda row: row.layout or "whole")
def test_two_layers(row: comm.TwoLayers):
    cost = ml.plan(programs.two_layers(), row.mesh, row.layout).cost
    assert {kind for kind, _ in cost.traffic} <= {"all_reduce"}
    assert (cost.all.elements, cost.all.wire_elements) == (row.payload, row.wire)
    assert (cost.all.bytes, cost.all.wire_bytes) == (4 * row.payload, 4 * row.wire)
    assert cost.flops == row.flops
    assert cost.duplicated_flops == row.flops - Fraction(row.flops, row.duplication)


@pytest.mark.parametrize("row", comm.TWO_LAYERS_TABLE, ids=lambda row: row.layout or "whole")
def test_two_layers_pay_each_sum_of_the_calculator(row: comm.TwoLayers):
    mesh, layout = comm.mesh_sizes(row.mesh), comm.entries(row.layout)
    paid, _ = comm.sums(comm.TWO_LAYERS, comm.TWO_LAYERS_SIZES, layout, mesh)
    plan = ml.plan(programs.two_layers(), row.mesh, row.layout)
    found = sorted((t.axes, t.elements) for t in transfers(plan))
    assert found == sorted((s.axes, s.payload) for s in paid)


# -- a training step of a transformer -------------------------------------------------------------


def _over(sent: list[Transfer], axis: str) -> list[Transfer]:
    return [t for t in sent if t.axes == (axis,)]


def _sums(sent: list[Transfer]) -> tuple[int, int]:
    """How many in a step, and their payload."""
    return sum(t.trips for t in sent), sum(t.trips * t.elements for t in sent)


@WRITTEN_OUT
@pytest.mark.parametrize(
    ("mesh", "model", "row"),
    comm.TRANSFORMER_TABLE,
    ids=[f"{mesh} {m.tied=} {m.parallel=}" for mesh, m, _ in comm.TRANSFORMER_TABLE],
)
def test_transformer_step(mesh: str, model: comm.Transformer, row: comm.StepCost, unroll: bool):
    plan = ml.plan(programs.transformer(model, unroll=unroll), mesh, comm.TRANSFORMER_LAYOUT)
    sent = list(transfers(plan))
    assert {t.kind for t in sent} <= {"all_reduce"}
    data, along_model = _over(sent, "data"), _over(sent, "model")
    assert len(data) + len(along_model) == len(sent)
    activations = model.batch // plan.mesh["data"] * model.length * model.d_model
    large = [t for t in along_model if t.elements == activations]
    small = [t for t in along_model if t.elements != activations]
    assert _sums(large) == (row.model_sums, row.model_payload)
    assert _sums(small) == (3 if row.model_sums else 0, row.small_payload)
    assert [t.step.reduce for t in small] == (["max", "sum", "sum"] if small else [])
    assert _sums(data) == (row.data_sums, row.data_payload)
    assert plan.cost.all.wire_elements == row.wire


@WRITTEN_OUT
def test_small_gradients_share_collectives(unroll: bool):
    """Counted before bucketing and after it, apart; the bytes are the same."""
    program = programs.transformer(comm.Transformer(), unroll=unroll)
    data = ml.plan(program, "data:4", "batch:data").cost.over("data")
    assert data.sums == 20
    assert data.collectives < data.sums
    assert (data.elements, data.wire_elements) == (24737, Fraction(74211, 2))


@WRITTEN_OUT
def test_flops_of_a_transformer_are_the_calculators(unroll: bool):
    """Of the products, only those with the norms' scales are computed by several processors."""
    model = comm.Transformer()
    mesh, layout = {"data": 2, "model": 4}, comm.entries(comm.TRANSFORMER_LAYOUT)
    program, sizes = comm.transformer_program(model)
    _, products = comm.sums(program, sizes, layout, mesh, frozenset({"onehot"}))
    tokens = model.batch * model.length * model.d_model // 2  # of a processor
    norms = 2 * model.layers + 1
    # A lookup and its gradient are no products. A norm multiplies by its scale, elementwise, and
    # its gradient has two contractions: of the scale, and of the mean of squares.
    lookups = 2 * 2 * tokens * model.vocab // 4
    scales = 3 * 2 * norms * tokens
    wanted = sum(p.flops for p in products) - lookups - scales + 2 * 2 * norms * tokens
    cost = ml.plan(
        programs.transformer(model, unroll=unroll), "data:2 model:4", comm.TRANSFORMER_LAYOUT
    ).cost
    assert cost.flops == wanted
    assert cost.duplicated_flops == 2 * 2 * norms * tokens * Fraction(3, 4)


# -- a mixture of experts -------------------------------------------------------------------------


@pytest.mark.parametrize("row", comm.MOE_TABLE, ids=lambda row: f"{row.experts} experts")
def test_experts_and_groups_on_one_axis(row: comm.Exchange):
    plan = ml.plan(programs.mixture(row), f"data:{row.processors}", "group:data experts:data")
    travels = [t for t in transfers(plan) if t.kind == "all_to_all"]
    assert [(t.trips, t.elements) for t in travels] == [(1, row.payload)] * 4
    assert plan.cost.traffic["all_to_all", ("data",)].wire_elements == row.wire
    # Besides: the gradients of the norm and of the router, which is whole, and the loss.
    others = [t for t in transfers(plan) if t.kind != "all_to_all"]
    small = [1, row.d_model, row.d_model * row.experts]
    assert {t.kind for t in others} == {"all_reduce"}
    assert sorted(t.elements for t in others) == small


@pytest.mark.parametrize("row", comm.MOE_TABLE, ids=lambda row: f"{row.experts} experts")
def test_experts_and_groups_on_two_axes_exchange_nothing(row: comm.Exchange):
    """Each processor has the rows of its group for its experts already; results are summed."""
    plan = ml.plan(programs.mixture(row), "data:2 model:2", "group:data experts:model")
    assert {t.kind for t in transfers(plan)} == {"all_reduce"}


# -- divided parameters ---------------------------------------------------------------------------


def _parameter_traffic(cost: ml.Plan) -> dict[str, int]:
    kinds = ("all_reduce", "reduce_scatter", "all_gather")
    return {k: t.elements for k in kinds for (kind, _), t in cost.cost.traffic.items() if kind == k}


@pytest.mark.parametrize("n", [2, 3, 4, 8])
def test_parameters_divided_cost_three_passes(n: int):
    """Gathered for the forward and again for the backward pass, gradients scattered: 3(n-1)/n."""
    sizes = {"batch": 24, "d_io": 48, "d_h": 96}
    parameters = 2 * sizes["d_io"] * sizes["d_h"]
    plan = ml.plan(programs.two_layers(**sizes), f"data:{n}", "batch:data", params="d_h:data")
    wanted = comm.zero3(parameters, n)
    counts = {kind: times * parameters for kind, times in wanted.counts.items()}
    assert _parameter_traffic(plan) == counts
    assert plan.cost.all.wire_elements == wanted.wire
    assert plan.cost.variable_bytes == 4 * parameters // n


@WRITTEN_OUT
@pytest.mark.parametrize("n", [2, 4, 8])
def test_divided_parameters_of_a_transformer(n: int, unroll: bool):
    """The embedding is looked up, and so is not needed again in the backward pass."""
    model = comm.Transformer()
    program = programs.transformer(model, unroll=unroll)
    parameters = sum(v.shape.size for v in program.variables.values())
    plan = ml.plan(program, f"data:{n}", "batch:data", params="d_model:data")
    assert _parameter_traffic(plan) == {
        "all_reduce": 1,  # the loss
        "reduce_scatter": parameters,
        "all_gather": 2 * parameters - model.vocab * model.d_model,
    }
    assert plan.cost.variable_bytes == 4 * parameters // n


@WRITTEN_OUT
@pytest.mark.parametrize("n", [2, 4, 8])
def test_slots_divided_cost_what_data_parallelism_costs(n: int, unroll: bool):
    """Gradients scattered, new parameters gathered: 2(n-1)/n."""
    program = programs.transformer(comm.Transformer(), unroll=unroll)
    parameters = sum(v.shape.size for v in program.variables.values())
    plan = ml.plan(program, f"data:{n}", "batch:data", slots="d_model:data")
    wanted = comm.zero1(parameters, n)
    counts = {kind: times * parameters for kind, times in wanted.counts.items()}
    assert _parameter_traffic(plan) == {"all_reduce": 1, **counts}
    loss = comm.wire("all_reduce", 1, n)
    assert plan.cost.all.wire_elements == wanted.wire + loss
    whole = ml.plan(program, f"data:{n}", "batch:data").cost
    assert whole.all.wire_elements == comm.data_parallel(parameters, n).wire + loss


def test_an_axis_of_size_one_sends_nothing():
    program = programs.transformer(comm.Transformer(), unroll=False)
    plan = ml.plan(program, "data:1 model:1", comm.TRANSFORMER_LAYOUT, params="d_model:data")
    assert plan.cost.traffic == {}
    assert not re.search("all_|reduce_scatter|permute", plan.text())
