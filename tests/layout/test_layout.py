"""Layouts: notation, where dims and their twins lie, what is refused and how it is said."""

from collections.abc import Callable
from typing import Any

import pytest

import meshlang as ml
from meshlang.dims import Dim, Twin, kept
from meshlang.layout.layout import Layout, Tables
from meshlang.layout.mesh import Mesh


def tables(mesh: str, layout: str = "", params: str = "", slots: str = "") -> Tables:
    return Tables(Mesh.parse(mesh), *map(Layout.parse, (layout, params, slots)))


# -- notation -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["b:data d:model+data", "b:data;d:model+data", "b:data, d:model+data"]
)
def test_entries_are_separated_as_you_like(text: str):
    layout = Layout.parse(text)
    assert (layout["b"], layout["d"], layout["other"]) == (("data",), ("model", "data"), ())
    assert (layout.names, str(layout)) == (("b", "d"), "b:data d:model+data")


def test_a_name_that_may_be_missing():
    layout = Layout.parse("experts?:model b:data")
    assert (layout["experts"], layout.optional) == (("model",), {"experts"})
    assert str(layout) == "experts?:model b:data"


def test_a_layout_passes_through():
    layout = Layout.parse("b:data")
    assert Layout.parse(layout) is layout


def test_a_dim_twice():
    with pytest.raises(ml.LayoutError) as error:
        Layout.parse("b:data b:model")
    assert (
        str(error.value)
        == """dim 'b' stands twice in one layout.
  layout  b:data b:model
  fix: to divide it by several axes write b:first+second"""
    )


def test_notation_points_at_the_place():
    with pytest.raises(ml.NotationError) as error:
        Layout.parse("batch:data d_ff")
    assert (
        str(error.value)
        == """an entry of a layout reads name:value.
  batch:data d_ff
             ^"""
    )


# -- where dims lie -------------------------------------------------------------------------------


def test_names_are_placements():
    found = tables("data:2 model:4", "batch:data d_ff:model vocab:data+model")
    assert found.axes(Dim("batch", 8)) == ("data",)
    assert found.axes(Dim("vocab", 8)) == ("data", "model")
    assert found.axes(Dim("length", 8)) == ()


def test_axes_of_size_one_divide_nothing():
    found = tables("data:1 model:4", "batch:data vocab:data+model")
    assert (found.axes(Dim("batch", 8)), found.axes(Dim("vocab", 8))) == ((), ("model",))
    assert found.named_axes(Dim("vocab", 8)) == ("data", "model")


@pytest.mark.parametrize(
    ("layout", "beside"),
    [
        ("experts:data group:data", ()),
        ("experts:model group:data", ("model",)),
        ("experts:data+model group:data", ("model",)),
        ("experts:model+data group:data", ("model",)),
        ("group:data", ()),
    ],
)
def test_whole_and_beside(layout: str, beside: tuple[str, ...]):
    found = tables("data:2 model:4", layout)
    assert found.axes(Dim("experts", 8, Twin("whole"))) == ()
    assert found.axes(Dim("experts", 8, Twin("beside", ("group",)))) == beside


def kept_on(found: Tables, text: str, kind: str) -> list[str]:
    shape = kept(ml.Shape.parse(text), kind)
    return [f"{d.name}:{'+'.join(found.axes(d))}" for d in shape]


PARAMS = [
    # layout, params, slots, dims, where it is kept, where it is updated
    ("f:model", "", "", "d:8 f:8", "d: f:model", "d: f:model"),
    ("f:model", "d:data", "", "d:8 f:8", "d:data f:model", "d:data f:model"),
    ("f:model", "", "d:data", "d:8 f:8", "d: f:model", "d:data f:model"),
    ("f:model", "f:data", "", "d:8 f:8", "d: f:model+data", "d: f:model+data"),
    # an axis that another dim of the variable is on already is skipped
    ("f:model", "d:model", "", "d:8 f:8", "d: f:model", "d: f:model"),
    ("f:model", "d:data f:data", "", "d:8 f:8", "d:data f:model", "d:data f:model"),
    ("f:model", "d:data f:data", "", "f:8 d:8", "f:model+data d:", "f:model+data d:"),
    ("", "d:data", "f:data+model", "d:8 f:8", "d:data f:", "d:data f:model"),
    # a variable that is declared whole has no axes of its own
    ("f:model", "d:data", "", "d:8 f*:8", "d:data f:", "d:data f:"),
    ("f:model", "d:model", "", "d:8 f*:8", "d:model f:", "d:model f:"),
]


@pytest.mark.parametrize(("layout", "params", "slots", "dims", "keeps", "updates"), PARAMS)
def test_kept_dims(layout: str, params: str, slots: str, dims: str, keeps: str, updates: str):
    found = tables("data:2 model:4", layout, params, slots)
    assert " ".join(kept_on(found, dims, "kept")) == keeps
    assert " ".join(kept_on(found, dims, "slot")) == updates


def test_what_is_skipped():
    found = tables("data:2 model:4 one:1", "f:model", "d:data+model+one f:data", "d:data g:data")
    assert found.skipped(("d", "f")) == [("d", "model"), ("f", "data")]
    assert found.skipped(("g",)) == []


# -- what is refused ------------------------------------------------------------------------------


def refused(fn: Callable[..., object], mesh: str, layout: str, **rest: Any) -> str:
    names = ("params", "slots")
    specs = {name: spec for name, spec in rest.items() if name not in names}
    given = {name: rest[name] for name in names if name in rest}
    with pytest.raises(ml.LayoutError) as error:
        ml.plan(ml.trace(fn, **specs), mesh, layout, **given)
    return str(error.value)


BATCH = ml.spec("batch:6 d_model:8")


def test_an_axis_that_the_mesh_lacks():
    assert (
        refused(ml.relu, "data:2 model:4", "batch:dada", x=BATCH)
        == """layout puts 'batch' on axis 'dada', which the mesh lacks.
  layout  batch:dada
  mesh    data:2 model:4
  fix: did you mean 'data'?"""
    )
    assert (
        refused(ml.relu, "data:2 model:4", "", params="batch:everywhere", x=BATCH)
        == """params puts 'batch' on axis 'everywhere', which the mesh lacks.
  params  batch:everywhere
  mesh    data:2 model:4
  fix: the axes are: data model"""
    )


def test_a_dim_twice_on_one_axis():
    assert (
        refused(ml.relu, "data:2 model:4", "batch:data+data", x=BATCH)
        == """layout puts 'batch' twice on one axis.
  layout  batch:data+data
  fix: name each axis of a dim once"""
    )


def test_a_name_that_no_tensor_has():
    assert (
        refused(ml.relu, "data:2", "batsch:data", x=BATCH)
        == """layout names a dim 'batsch' that no tensor has.
  layout  batsch:data
  dims    batch d_model
  fix: did you mean 'batch'?"""
    )
    assert (
        refused(ml.relu, "data:2", "batch:data", slots="experts:data", x=BATCH)
        == """slots names a dim 'experts' that no tensor has.
  slots  experts:data
  dims   batch d_model
  fix: remove it, or write experts?:... if it may be missing"""
    )


def test_a_name_that_may_be_missing_is_not_refused():
    plan = ml.plan(ml.trace(ml.relu, x=BATCH), "data:2", "batch:data experts?:data")
    assert plan.inputs["x"].block == (3, 8)


def test_names_of_other_programs_of_the_run_are_known():
    program, other = ml.trace(ml.relu, x=BATCH), ml.trace(ml.relu, x=ml.spec("beam:4"))
    ml.plan(program, "data:2", "batch:data beam:data", beside=[other])
    with pytest.raises(ml.LayoutError, match="layout names a dim 'beam' that no tensor has"):
        ml.plan(program, "data:2", "batch:data beam:data")


def test_names_inside_of_loops_are_known():
    def fn(x):
        def body(carry, _):
            inner = carry.rename(d_model="memory")
            return carry + ml.sum(inner, "memory"), None

        return ml.scan(body, x, over="n:2")[0]

    plan = ml.plan(ml.trace(fn, x=ml.spec("batch:6 d_model:8")), "data:2", "memory:data")
    assert plan.inputs["x"].block == (6, 8)


def test_a_dim_that_does_not_divide():
    assert (
        refused(ml.relu, "data:4", "batch:data", x=BATCH)
        == """dim 'batch' of size 6 does not divide by the 4 processors along data.
  input x  [batch:6 d_model:8]
  layout   batch:data
  mesh     data:4
  fix: make it a multiple of 4, or lay 'batch' along fewer processors"""
    )


def test_a_dim_of_a_result_that_does_not_divide():
    def fn(x):
        with ml.scope("decoder"):
            return ml.split(x, d_model="heads:2 d_head")

    assert (
        refused(fn, "data:2 model:2", "heads:data+model", x=BATCH)
        == """decoder/regroup: dim 'heads' of size 2 does not divide by the 4 processors along \
data+model.
  regroup  [batch:6 heads:2 d_head:4]
  layout   heads:data+model
  mesh     data:2 model:2
  fix: make it a multiple of 4, or lay 'heads' along fewer processors"""
    )


def test_a_dim_of_a_variable_that_does_not_divide():
    def fn(x):
        return ml.einsum(x, ml.variable("w", "d_model:8 d_ff:6", init=0.0), reduce="d_model")

    assert (
        refused(fn, "data:4", "", params="d_ff:data", x=BATCH)
        == """dim "d_ff'" of size 6 does not divide by the 4 processors along data.
  variable w  [d_model':8 d_ff':6]
  params      d_ff:data
  mesh        data:4
  fix: make it a multiple of 4, or lay 'd_ff' along fewer processors"""
    )


def test_two_dims_of_one_tensor_on_one_axis():
    assert (
        refused(ml.relu, "data:2", "batch:data d_model:data", x=BATCH)
        == """dims 'batch' and 'd_model' of one tensor are both laid out on axis 'data'.
  input x  [batch:6 d_model:8]
  layout   batch:data d_model:data
  mesh     data:2
  fix: declare one of them whole: 'd_model*:8'"""
    )


def test_two_dims_of_one_result_on_one_axis():
    def fn(x, w):
        return ml.einsum(x, w, reduce="k")

    specs = {"x": ml.spec("batch:6 k:4"), "w": ml.spec("k:4 d_model:8")}
    assert (
        refused(fn, "data:2", "batch:data d_model:data", **specs)
        == """dims 'batch' and 'd_model' of one tensor are both laid out on axis 'data'.
  einsum  [batch:6 d_model:8]
  layout  batch:data d_model:data
  mesh    data:2
  fix: hold one of them whole here: ml.whole(x, 'd_model')"""
    )


def test_two_dims_of_one_op_on_one_axis():
    def fn(table, tokens):
        with ml.scope("embedding"):
            return ml.gather(table, tokens, dim="vocab")

    specs = {"table": ml.spec("vocab:32 d_model:8"), "tokens": ml.spec("batch:6", "int32")}
    assert (
        refused(fn, "data:2", "batch:data vocab:data", **specs)
        == """embedding/gather: dims 'vocab' and 'batch' of one op are both laid out on axis 'data'.
  operand 0  [vocab:32 d_model:8]
  operand 1  [batch:6]
  result     [batch:6 d_model:8]
  layout     batch:data vocab:data
  mesh       data:2
  fix: hold one of them whole here: ml.whole(x, 'batch')"""
    )


def test_two_dims_of_one_variable_on_one_axis():
    def fn():
        return ml.variable("w", "d_model:8 d_ff:8", init=0.0)

    assert (
        refused(fn, "model:2", "d_model:model d_ff:model")
        == """dims "d_model'" and "d_ff'" of one tensor are both laid out on axis 'model'.
  variable w  [d_model':8 d_ff':8]
  layout      d_model:model d_ff:model
  mesh        model:2
  fix: declare one of them whole: 'd_ff*:8'"""
    )


def test_legality_does_not_depend_on_sizes_of_axes():
    wide = refused(ml.relu, "data:2", "batch:data d_model:data", x=BATCH)
    narrow = refused(ml.relu, "data:1", "batch:data d_model:data", x=BATCH)
    assert narrow == wide.replace("data:2", "data:1")


def test_a_loop_over_a_divided_dim():
    def fn(x):
        return ml.scan(lambda carry, part: (carry + part, None), ml.zeros("batch:6"), x, over="n")[
            0
        ]

    assert (
        refused(fn, "data:2", "n:data", x=ml.spec("n:4 batch:6"))
        == """scan: dim 'n' is walked one index at a time, and the layout divides it.
  dim     n:4
  axes    data
  layout  n:data
  mesh    data:2
  fix: take 'n' out of the table"""
    )
