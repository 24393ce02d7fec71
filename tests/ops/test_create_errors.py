"""What is wrong with a shape or a dtype that is to be filled, word for word."""

from collections.abc import Callable

import pytest

import meshlang as ml
from tests.harness import trace_error

LIKE: tuple[Callable[..., ml.Tensor], ...] = (
    ml.zeros_like,
    ml.ones_like,
    lambda x, dtype: ml.full_like(x, 2.0, dtype),
)
SHAPED: tuple[Callable[..., ml.Tensor], ...] = (
    ml.zeros,
    ml.ones,
    lambda shape: ml.full(shape, 2.0),
    ml.random_normal,
    lambda shape: ml.random_bernoulli(shape, 0.5),
)


@pytest.mark.parametrize("fn", LIKE)
def test_an_unknown_dtype(fn: Callable[..., ml.Tensor]):
    text = trace_error(ml.DtypeError, lambda x: fn(x, "flaot32"), x="d:2")
    assert text == "no dtype 'flaot32'.\n  fix: did you mean 'float32'?"


@pytest.mark.parametrize("fn", SHAPED)
def test_a_dim_without_a_size(fn: Callable[..., ml.Tensor]):
    text = trace_error(ml.DimError, lambda: fn("d"))
    assert text == "dim 'd' needs a size here.\n  shape  d\n  fix: d:SIZE"
