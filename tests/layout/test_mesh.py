"""Meshes: notation, numbering, groups, errors."""

import pytest

import meshlang as ml
from meshlang.layout.mesh import Mesh


@pytest.mark.parametrize(
    "text", ["rows:2 cols:4", "rows:2;cols:4", "rows:2, cols:4", " rows:2,cols:4 "]
)
def test_entries_are_separated_as_you_like(text: str):
    mesh = Mesh.parse(text)
    assert mesh.axes == (("rows", 2), ("cols", 4))
    assert (mesh.names, mesh.size, mesh["cols"], str(mesh)) == (
        ("rows", "cols"),
        8,
        4,
        "rows:2 cols:4",
    )


def test_the_empty_mesh_is_one_processor():
    mesh = Mesh.parse("")
    assert (mesh.size, mesh.names, mesh.coordinates(0), mesh.group(0, ())) == (1, (), {}, (0,))


def test_a_mesh_passes_through():
    mesh = Mesh.parse("a:2")
    assert Mesh.parse(mesh) is mesh


def test_numbers_are_row_major():
    mesh = Mesh.parse("a:2 b:3 c:4")
    assert mesh.coordinates(17) == {"a": 1, "b": 1, "c": 1}
    for processor in range(mesh.size):
        at = mesh.coordinates(processor)
        assert processor == (at["a"] * 3 + at["b"]) * 4 + at["c"]
        assert mesh.processor(at) == processor


def test_groups_list_the_first_axis_as_the_outer_one():
    mesh = Mesh.parse("a:2 b:2 c:2")
    assert mesh.group(5, ("a", "b")) == (1, 3, 5, 7)
    assert mesh.group(5, ("b", "a")) == (1, 5, 3, 7)
    assert mesh.group(5, ()) == (5,)


def test_blocks_count_the_first_axis_as_the_outer_one():
    mesh = Mesh.parse("a:2 b:4")
    blocks = [mesh.block(p, (("b", "a"), ())) for p in range(8)]
    assert blocks == [(0, 0), (2, 0), (4, 0), (6, 0), (1, 0), (3, 0), (5, 0), (7, 0)]


def test_ways_are_the_product_of_sizes():
    mesh = Mesh.parse("a:2 b:3")
    assert [mesh.ways(axes) for axes in ((), ("a",), ("b", "a"))] == [1, 2, 6]


ERRORS = {
    "data:2 data:4": """axis 'data' stands twice in one mesh.
  mesh  data:2 data:4
  fix: name each axis once""",
    "data:0": """axis 'data' has size 0.
  mesh  data:0
  fix: sizes are positive; to switch an axis off, give it size 1""",
    "data:2 model:many": """the size of axis 'model' is 'many', not a number.
  mesh  data:2 model:many
  fix: write axis:size, e.g. 'data:2 model:4'""",
}


@pytest.mark.parametrize("text", ERRORS)
def test_errors(text: str):
    with pytest.raises(ml.MeshError) as error:
        Mesh.parse(text)
    assert str(error.value) == ERRORS[text]


NOTATION_ERRORS = {
    "data:2 model=4": """an entry of a mesh reads name:value.
  data:2 model=4
         ^""",
    "data:2, :4": """an entry of a mesh reads name:value.
  data:2, :4
          ^""",
    "data:2 8:4": """an entry of a mesh reads name:value.
  data:2 8:4
         ^""",
}


@pytest.mark.parametrize("text", NOTATION_ERRORS)
def test_errors_of_notation_point_at_the_place(text: str):
    with pytest.raises(ml.NotationError) as error:
        Mesh.parse(text)
    assert str(error.value) == NOTATION_ERRORS[text]
