"""The calculator, the closed forms and the golden tables agree with each other."""

from fractions import Fraction

import pytest

from tests.oracles import communication as comm


@pytest.mark.parametrize("row", comm.TWO_LAYERS_TABLE, ids=lambda row: row.layout or "whole")
def test_two_layers_calculator(row: comm.TwoLayers) -> None:
    mesh, layout = comm.mesh_sizes(row.mesh), comm.entries(row.layout)
    paid, products = comm.sums(comm.TWO_LAYERS, comm.TWO_LAYERS_SIZES, layout, mesh)
    assert len(products) == 6
    assert sum(s.payload for s in paid) == row.payload
    assert sum(s.wire for s in paid) == row.wire
    assert sum(p.flops for p in products) == row.flops
    assert {p.duplication for p in products} == {row.duplication}


@pytest.mark.parametrize("row", comm.TWO_LAYERS_TABLE[1:], ids=lambda row: row.layout)
def test_two_layers_closed_form(row: comm.TwoLayers) -> None:
    mesh, layout = comm.mesh_sizes(row.mesh), comm.entries(row.layout)
    ways = [mesh.get(layout.get(dim, ""), 1) for dim in ("batch", "d_io", "d_h")]
    assert comm.two_layers(64, 128, 256, *ways) == (row.payload, row.wire, row.flops)


def test_first_layer_without_gradient_of_its_input() -> None:
    """The face of d_h is then carried once: the difference is b/r * d_io elements."""
    layout, mesh = {"batch": "rows", "d_h": "cols"}, {"rows": 4, "cols": 2}
    arguments = comm.TWO_LAYERS, comm.TWO_LAYERS_SIZES, layout, mesh
    with_dx, without_dx = comm.sums(*arguments)[0], comm.sums(*arguments, frozenset("x"))[0]
    assert {s.tensor for s in with_dx} - {s.tensor for s in without_dx} == {"d x"}
    assert sum(s.payload for s in with_dx) - sum(s.payload for s in without_dx) == 64 // 4 * 128


def _split(paid: list[comm.Sum], axis: str) -> list[comm.Sum]:
    return [s for s in paid if s.axes == (axis,)]


@pytest.mark.parametrize(("mesh", "model", "row"), comm.TRANSFORMER_TABLE)
def test_transformer_step(mesh: str, model: comm.Transformer, row: comm.StepCost) -> None:
    sizes = comm.mesh_sizes(mesh)
    assert comm.transformer_step(model, sizes["data"], sizes["model"]) == row
    layout = comm.entries(comm.TRANSFORMER_LAYOUT)
    program, dims = comm.transformer_program(model)
    paid, products = comm.sums(program, dims, layout, sizes, frozenset({"onehot"}))
    large, data = _split(paid, "model"), _split(paid, "data")
    loss = 1 if sizes["data"] > 1 else 0
    assert len(large) + len(data) == len(paid)
    assert (len(large), sum(s.payload for s in large)) == (row.model_sums, row.model_payload)
    assert len(data) + loss == row.data_sums
    assert sum(s.payload for s in data) + loss == row.data_payload
    scalars = comm.wire("all_reduce", row.small_payload, sizes["model"])
    scalars += comm.wire("all_reduce", loss, sizes["data"])
    assert sum(s.wire for s in paid) + scalars == row.wire
    # Only the norms' scales are applied by every processor of the axis model.
    norms = model.layers * (1 if model.parallel else 2) + 1
    duplicated = [p for p in products if p.duplication > 1]
    assert len(duplicated) == (3 * norms if sizes["model"] > 1 else 0)


def test_transformer_of_5_billion_parameters() -> None:
    """The published model of 4.9 billion parameters on 16 x 32: 109.05 M and 153.1 M elements."""
    model = comm.Transformer(256, 256, 1024, 8 * 32, 256, 8192 * 32, 32768, 6)
    step = comm.transformer_step(model, 16, 32)
    assert (step.model_sums, step.model_payload) == (26, 109_051_904)
    assert round(step.data_payload / 1e6, 1) == 153.1


@pytest.mark.parametrize("row", comm.MOE_TABLE)
def test_exchanges(row: comm.Exchange) -> None:
    inputs = row.tokens, row.group_size, row.experts, row.d_model, row.capacity_factor
    assert comm.exchange(*inputs, row.processors) == row


@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_divided_parameters(n: int) -> None:
    parameters = 24736
    part = Fraction(n - 1, n)
    assert comm.zero3(parameters, n).wire == 3 * part * parameters
    assert comm.zero1(parameters, n).wire == 2 * part * parameters
    assert comm.data_parallel(parameters, n).wire == 2 * part * parameters
    assert sum(comm.zero3(parameters, n).counts.values()) == (3 if n > 1 else 0)


def test_two_dims_on_one_axis() -> None:
    message = "two of the dims a b lie on one axis under {'a': 'm', 'b': 'm'}"
    with pytest.raises(ValueError) as error:
        comm.einsum([["a", "b"]], ["a"], {"a": 2, "b": 2}, {"a": "m", "b": "m"}, {"m": 2})
    assert str(error.value) == message
