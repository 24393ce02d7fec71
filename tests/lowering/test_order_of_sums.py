"""Sums are made in one order on every processor, whatever buffers happen to be free."""

import pytest

import meshlang as ml

DOUBLE = ml.Precision("float64", "float64", "float64")


@pytest.mark.parametrize("backend", ["simulated", "spmd"])
def test_a_sum_of_many_is_in_the_order_of_its_operands(backend: str) -> None:
    """Only the last operand's buffer can be taken over: `tf.add_n` would begin with it."""

    def fn(a: ml.Tensor, b: ml.Tensor, c: ml.Tensor) -> tuple[ml.Tensor, ...]:
        return ml.add_n([a, b, c * 1.0]), a, b, c

    values = {"a": 1.0, "b": 1e16, "c": -1e16}
    arrays = {n: ml.constant([v] * 8, "d", "float64") for n, v in values.items()}
    total, *_ = ml.run(fn, "x:2", "d:x", precision=DOUBLE, backend=backend, **arrays)
    assert total.tolist() == [(1.0 + 1e16) - 1e16] * 8
