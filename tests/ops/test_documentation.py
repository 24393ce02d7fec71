"""Every public op says which dims it takes and returns, and shows an example that runs."""

import inspect

import pytest

import meshlang as ml
import meshlang.ops
from meshlang.ops.functions import BINARY, UNARY

OPS = [name for name in meshlang.ops.__all__ if inspect.isfunction(getattr(ml, name))]


@pytest.mark.parametrize("name", OPS)
def test_an_op_is_documented(name: str):
    text = getattr(ml, name).__doc__ or ""
    assert "Dims:\n" in text
    assert "Example:\n" in text or name in UNARY or name in BINARY


def test_the_text_of_a_table_function():
    assert (
        ml.exp.__doc__
        == """\
Elementwise: e to the x.

Dims:
    x        [dims...], floats
    returns  the same
"""
    )
    assert (
        ml.less.__doc__
        == """\
Elementwise: x < y.

Dims:
    x, y     one side's dims contain the other's; numbers
    returns  the larger dims, bools
"""
    )
