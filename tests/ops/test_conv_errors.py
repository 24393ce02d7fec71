"""What convolutions are refused, word for word."""

from collections.abc import Callable

import pytest

import meshlang as ml
from tests.harness import floats, ints, layout_error, trace_error

SHAPES = {"x": "batch:4 n:8 c_in:2", "f": "k:3 c_in:2 c_out:6"}
ERRORS = [
    (
        lambda x, f: ml.conv(x, f, {}, reduce="c_in"),
        """\
conv: along one, two or three dims.
  x        [batch:4 n:8 c_in:2]
  filters  [k:3 c_in:2 c_out:6]
  along    {}""",
    ),
    (
        lambda x, f: ml.conv(x, f.rename(k="n"), {"n": "n"}, reduce="c_in"),
        """\
conv: 'n' and 'n' are one dim of x and one of the filters.
  x        [batch:4 n:8 c_in:2]
  filters  [n:3 c_in:2 c_out:6]
  along    {'n': 'n'}
  fix: rename those of the filters, e.g. filters.rename(height='kh')""",
    ),
    (
        lambda x, f: ml.conv(x, f, {"n": "k"}, reduce="batch"),
        """\
conv: 'batch' is summed over, and the filters lack it.
  x        [batch:4 n:8 c_in:2]
  filters  [k:3 c_in:2 c_out:6]
  along    {'n': 'k'}
  reduce   'batch'
  fix: reduce names dims that x and filters share""",
    ),
    (
        lambda x, f: ml.conv(x, f, {"n": "k"}, reduce="c_in", strides={"m": 2}),
        """\
conv: strides names 'm', along which nothing slides.
  strides  {'m': 2}
  along    n
  fix: the dims are: n""",
    ),
    (
        lambda x, f: ml.conv(x, f, {"n": "k"}, reduce="c_in", dilations=5, padding="valid"),
        """\
conv: a window reaches over 11 indices, and n:8 padded has 8.
  dim       n:8
  window    3
  stride    1
  dilation  5
  padding   valid
  fix: padding='same', or a shorter window""",
    ),
    (
        lambda x, f: ml.conv(x, f, {"m": "k"}, reduce="c_in"),
        "no dim named 'm'.\n  shape  [batch:4 n:8 c_in:2]\n  fix: the dims are: batch n c_in",
    ),
    (
        lambda x, f: ml.conv(x, f.rename(c_in="c"), {"n": "k"}, reduce="c"),
        "no dim named 'c'.\n  shape  [batch:4 n:8 c_in:2]\n  fix: the dims are: batch n c_in",
    ),
    (
        lambda x, f: ml.conv_transpose(x, f, {"n": "k"}, reduce="c_in", strides=2, sizes=9),
        """\
conv_transpose: a convolution of n:9 has 5 windows, and there are 8.
  operand  [batch:4 n:8 c_in:2]
  filters  [k:3 c_in:2 c_out:6]
  along    3 stride 2 before 1
  fix: another size, or leave `sizes` out""",
    ),
]


@pytest.mark.parametrize(("fn", "text"), ERRORS)
def test_dims(fn: Callable[[ml.Tensor, ml.Tensor], ml.Tensor], text: str):
    assert trace_error(ml.DimError, fn, **SHAPES) == text


def plain(x: ml.Tensor, f: ml.Tensor) -> ml.Tensor:
    return ml.conv(x, f, {"n": "k"}, reduce="c_in")


def test_dtypes():
    assert (
        trace_error(ml.DtypeError, plain, x=SHAPES["x"], f=floats(SHAPES["f"], dtype="float32"))
        == """\
conv: the operands have several dtypes.
  x        [batch:4 n:8 c_in:2] float64
  filters  [k:3 c_in:2 c_out:6] float32
  fix: ml.cast them to one, e.g. ml.cast(x, 'float64')"""
    )
    assert (
        trace_error(ml.DtypeError, plain, **{n: ints(s, 9) for n, s in SHAPES.items()})
        == "conv takes floats.\n  operand  [batch:4 n:8 c_in:2] int32\n  fix: ml.cast(x, 'compute')"
    )


def test_uneven_blocks_of_windows():
    def halved(x: ml.Tensor, f: ml.Tensor) -> ml.Tensor:
        return ml.conv(x, f, {"n": "k"}, reduce="c_in", strides=4)

    assert (
        layout_error(halved, "r:4", "n:r", **SHAPES)
        == """\
dim 'n' of size 2 does not divide by the 4 processors along r.
  conv    [batch:4 n:2 c_out:6]
  layout  n:r
  mesh    r:4
  fix: make it a multiple of 4, or lay 'n' along fewer processors"""
    )
