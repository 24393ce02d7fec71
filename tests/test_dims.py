"""Dims, twins and shapes: what they are, and what is said when they do not fit."""

from collections.abc import Callable

import pytest

from meshlang.dims import WHOLE, Dim, Shape, Twin, check_twins, is_kept, kept, ordinary, twin_of
from meshlang.errors import DimError

BATCH, D = Dim("batch", 2), Dim("d_model", 3)
SHAPE = Shape((BATCH, D))


def said(fn: Callable[[], object]) -> str:
    with pytest.raises(DimError) as error:
        fn()
    return str(error.value)


# -- dims -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dim", "label"),
    [
        (Dim("experts", 8), "experts"),
        (Dim("experts", 8, WHOLE), "experts*"),
        (Dim("experts", 8, Twin("beside", ("group",))), "experts|group"),
        (Dim("experts", 8, Twin("kept", ("experts", "d"))), "experts'"),
        (Dim("experts", 8, Twin("slot", ("experts", "d"))), "experts'"),
    ],
)
def test_labels(dim: Dim, label: str):
    assert (dim.label, repr(dim), dim.plain()) == (label, f"{label}:8", Dim("experts", 8))


def test_a_dim_and_its_twin_are_two():
    assert Dim("experts", 8) != Dim("experts", 8, WHOLE)
    assert len({Dim("experts", 8), Dim("experts", 8, WHOLE), Dim("experts", 8)}) == 2


@pytest.mark.parametrize("size", [0, -1])
def test_sizes_are_positive(size: int):
    assert (
        said(lambda: Dim("batch", size)) == f"dim 'batch' has size {size}, which is not positive."
    )


# -- shapes ---------------------------------------------------------------------------------------


def test_parse():
    shape = Shape.parse("batch:2, experts*:8; experts2|group:4")
    assert repr(shape) == str(shape) == "[batch:2 experts*:8 experts2|group:4]"
    assert shape.names == ("batch", "experts", "experts2")
    assert (shape.sizes, shape.size) == ((2, 8, 4), 64)
    assert Shape.parse(shape) is shape
    assert Shape.parse([BATCH, D]) == SHAPE
    assert (Shape.parse(""), Shape().size) == (Shape(), 1)


def test_looking_up():
    shape = Shape.parse("batch:2 experts*:8")
    assert shape["batch"] == shape[0] == BATCH
    assert shape["experts"] == shape["experts*"] == Dim("experts", 8, WHOLE)
    assert (shape.place("experts"), shape.find("length")) == (1, None)
    assert "experts" in shape
    assert "experts*" in shape
    assert BATCH in shape
    assert Dim("experts", 8) not in shape
    assert shape.pick("experts* batch") == (shape[1], shape[0])


def test_arithmetic():
    assert repr(SHAPE + "heads:4") == "[batch:2 d_model:3 heads:4]"
    assert SHAPE + Dim("heads", 4) == SHAPE + Shape((Dim("heads", 4),))
    assert SHAPE - "batch" == SHAPE - Shape((BATCH,)) == Shape((D,))
    assert repr(SHAPE.swap(BATCH, Dim("a", 1), Dim("b", 2))) == "[a:1 b:2 d_model:3]"
    assert Shape.parse("a*:1 b:2").plain() == Shape.parse("a:1 b:2")


def test_a_name_twice():
    assert (
        said(lambda: Shape.parse("batch:2 d:3 batch*:2"))
        == """dim 'batch' stands twice in one shape.
  dims  [batch:2 d:3 batch*:2]
  fix: rename one of them: x.rename(batch='other')"""
    )


def test_a_size_missing():
    assert (
        said(lambda: Shape.parse("batch:2 d_model"))
        == """dim 'd_model' needs a size here.
  shape  batch:2 d_model
  fix: d_model:SIZE"""
    )


def test_an_unknown_name():
    assert (
        said(lambda: SHAPE["d_modle"])
        == """no dim named 'd_modle'.
  shape  [batch:2 d_model:3]
  fix: did you mean 'd_model'?"""
    )
    assert (
        said(lambda: SHAPE - "vocab")
        == """no dim named 'vocab'.
  shape  [batch:2 d_model:3]
  fix: the dims are: batch d_model"""
    )
    assert (
        said(lambda: SHAPE.pick("batch*"))
        == """no dim named 'batch*'.
  shape  [batch:2 d_model:3]
  fix: did you mean 'batch'?"""
    )


# -- twins ----------------------------------------------------------------------------------------


def test_twins_of_marks():
    assert (twin_of(""), twin_of("*"), twin_of("|group")) == (
        None,
        WHOLE,
        Twin("beside", ("group",)),
    )
    assert (
        said(lambda: Shape.parse("d_model':4"))
        == """a kept dim cannot be written down: it belongs to a variable.
  fix: take it from the variable's shape"""
    )


def test_kept_and_back():
    shape = Shape.parse("d_model:4 experts*:8")
    held = kept(shape)
    assert repr(held) == "[d_model':4 experts':8]"
    assert [d.twin for d in held] == [Twin("kept", ("d_model", "experts*"))] * 2
    assert (is_kept(held), is_kept(shape)) == (True, False)
    assert ordinary(held) == ordinary(kept(shape, "slot")) == shape
    assert ordinary(shape) == shape


def test_two_sizes():
    assert (
        said(lambda: check_twins("add", [SHAPE, Shape.parse("d_model:4")]))
        == """add: dim 'd_model' has two sizes, 3 and 4.
  operand 0  [batch:2 d_model:3]
  operand 1  [d_model:4]
  fix: rename one of them, or give both the same size"""
    )


MEETINGS = {
    ("experts:8", "experts*:8"): """add: dim 'experts' meets its twin 'experts*'.
  operand 0  [experts:8]
  operand 1  [experts*:8]
  fix: bring one to the other: ml.whole(x, 'experts') or ml.divided(x, 'experts')""",
    ("experts|group:8", "experts:8"): """add: dim 'experts|group' meets its twin 'experts'.
  operand 0  [experts|group:8]
  operand 1  [experts:8]
  fix: ml.divided(x, 'experts'), or ml.exchange with 'group'""",
    ("experts|group:8", "experts*:8"): """add: dim 'experts|group' meets its twin 'experts*'.
  operand 0  [experts|group:8]
  operand 1  [experts*:8]
  fix: bring both under one twin, with ml.whole or ml.divided(x, 'experts')""",
}


@pytest.mark.parametrize("shapes", MEETINGS)
def test_a_dim_and_its_twin_in_one_op(shapes: tuple[str, str]):
    assert said(lambda: check_twins("add", map(Shape.parse, shapes))) == MEETINGS[shapes]


def test_a_kept_dim_and_an_ordinary_one():
    assert (
        said(lambda: check_twins("multiply", [kept(SHAPE), SHAPE]))
        == """multiply: dim "batch'" meets its twin 'batch'.
  operand 0  [batch':2 d_model':3]
  operand 1  [batch:2 d_model:3]
  fix: use the variable through ml.variable, or both operands under the same twin"""
    )


def test_equal_dims_fit():
    check_twins("add", [SHAPE, Shape.parse("d_model:3"), Shape()])
