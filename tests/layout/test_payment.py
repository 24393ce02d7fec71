"""When a pending sum is paid, example by example.

`paid` lists what a small program sends on ``r:2 c:4``, where ``i`` lies along c and ``b`` along r:
an einsum or a sum over ``i`` is pending over c.
"""

import re
from collections.abc import Callable
from typing import Any

import pytest

import meshlang as ml
from meshlang.layout.cost import transfers

X = ml.spec("b:8 i:16")
W = ml.spec("i:16 o:32")
LAYOUT = "b:r i:c"


def paid(fn: Callable[..., object], layout: str = LAYOUT, **specs: Any) -> list[str]:
    """One line for each value that is sent: what, over which axes, which tensor."""
    plan = ml.plan(ml.trace(fn, **specs), "r:2 c:4", layout)
    return [
        f"{t.kind} over {'+'.join(t.axes)} of {t.source.shape}"
        + (f" {t.trips} times" if t.trips > 1 else "")
        for t in transfers(plan)
    ]


def product(x: ml.Tensor, w: ml.Tensor) -> ml.Tensor:
    return ml.einsum(x, w, reduce="i")


# -- where it is made -----------------------------------------------------------------------------


def test_a_result_is_paid():
    assert paid(product, x=X, w=W) == ["all_reduce over c of [b:8 o:32]"]


def test_before_what_is_not_linear():
    assert paid(lambda x, w: ml.sum(ml.relu(product(x, w)), "o"), x=X, w=W) == [
        "all_reduce over c of [b:8 o:32]"
    ]


def test_ties_pay_early():
    text = ml.plan(ml.trace(lambda x, w: -product(x, w), x=X, w=W), "r:2 c:4", LAYOUT).text()
    order = re.findall("einsum|all_reduce|negative", text)
    assert order == ["einsum", "all_reduce", "negative"]


def test_one_whole_consumer_is_enough():
    def fn(x, w):
        y = product(x, w)
        return ml.relu(y), ml.sum(y, "o")

    assert paid(fn, x=X, w=W) == ["all_reduce over c of [b:8 o:32]"]


def test_a_product_of_two_pending_values():
    def fn(x, w):
        y = product(x, w)
        return ml.sum(y * y, "o")

    assert paid(fn, x=X, w=W) == ["all_reduce over c of [b:8 o:32]"]


def test_a_sum_with_a_whole_value():
    def fn(x, w, bias):
        return ml.sum(product(x, w) + bias, "o")

    assert paid(fn, x=X, w=W, bias=ml.spec("o:32")) == ["all_reduce over c of [b:8 o:32]"]


def test_an_op_with_a_dim_on_the_pending_axis():
    """Each processor of c has other rows of v: the partial sums must be added first."""

    def fn(x, w, v):
        return ml.einsum(product(x, w), v, reduce="o")

    assert paid(fn, x=X, w=W, v=ml.spec("o:32 k:4"), layout="b:r i:c k:c") == [
        "all_reduce over c of [b:8 o:32]"
    ]


def test_a_narrowing_cast():
    def fn(x, w):
        return ml.sum(ml.cast(ml.cast(product(x, w), "bfloat16"), "float32"), "o")

    assert paid(fn, x=X, w=W) == ["all_reduce over c of [b:8 o:32]"]


# -- later, where it costs less -------------------------------------------------------------------


def test_a_sum_over_more_dims():
    assert paid(lambda x, w: ml.sum(product(x, w), "o"), x=X, w=W) == ["all_reduce over c of [b:8]"]


def test_a_sum_over_two_axes_is_paid_over_both_at_once():
    assert paid(lambda x, w: ml.sum(product(x, w)), x=X, w=W) == ["all_reduce over r+c of []"]


def test_through_products_casts_and_rearranging():
    def fn(x, w, scale):
        y = ml.cast(product(x, w) * scale / 3.0, "float64")
        y = ml.arrange(y.expand(k=2).rename(o="p"), "p b k")
        return ml.sum(ml.slice(y, "p", start=2, size=4), "p b")

    assert paid(fn, x=X, w=W, scale=ml.spec("o:32")) == ["all_reduce over r+c of [k:2]"]


def test_through_a_product_with_a_matrix():
    def fn(x, w, v):
        return ml.einsum(product(x, w), v, reduce="o")

    assert paid(fn, x=X, w=W, v=ml.spec("o:32 k:4")) == ["all_reduce over c of [b:8 k:4]"]


def test_through_a_choice_against_zero():
    """A zero is a part of any sum; another number is not."""

    def fn(x, w, mask, other):
        return ml.sum(ml.where(mask, product(x, w), other), "o")

    mask = ml.spec("b:8 o:32", "bool")
    assert paid(lambda **k: fn(other=0.0, **k), x=X, w=W, mask=mask) == [
        "all_reduce over c of [b:8]"
    ]
    assert paid(lambda **k: fn(other=1.0, **k), x=X, w=W, mask=mask) == [
        "all_reduce over c of [b:8 o:32]"
    ]


def test_a_pending_mask_is_paid():
    def fn(x, w):
        return ml.sum(ml.where(product(x, w) > 0.0, 1.0, 0.0), "o")

    assert paid(fn, x=X, w=W) == ["all_reduce over c of [b:8 o:32]"]


def test_several_small_consumers_may_cost_more_than_one_large_sum():
    def fn(count):
        def several(x, w, vs):
            y = product(x, w)
            return [ml.einsum(y, vs.rename(k=f"k{i}"), reduce="o") for i in range(count)]

        return several

    specs: dict[str, Any] = {"x": X, "w": W, "vs": ml.spec("o:32 k:16")}
    assert paid(fn(1), **specs) == ["all_reduce over c of [b:8 k0:16]"]
    assert paid(fn(2), **specs) == ["all_reduce over c of [b:8 o:32]"]  # a tie


# -- sums of pending values -----------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_sum_of_pending_values_is_paid_once(count: int):
    def fn(x, w):
        return ml.add_n([product(x, w) for _ in range(count)])

    assert paid(fn, x=X, w=W) == ["all_reduce over c of [b:8 o:32]"]


def test_a_chain_of_additions_is_paid_once():
    def fn(x, w):
        return product(x, w) + product(x, w * 2.0) - product(x, w * 3.0)

    assert paid(fn, x=X, w=W) == ["all_reduce over c of [b:8 o:32]"]


def test_values_pending_over_different_axes_are_paid_before_they_are_added():
    def fn(x, w, z, v):
        return product(x, w) + ml.einsum(z, v, reduce="j")

    specs: dict[str, Any] = {"x": X, "w": W, "z": ml.spec("b:8 j:4"), "v": ml.spec("j:4 o:32")}
    assert paid(fn, layout="i:c j:r", **specs) == [
        "all_reduce over c of [b:8 o:32]",
        "all_reduce over r of [b:8 o:32]",
    ]
    assert paid(fn, layout="i:c j:c", **specs) == ["all_reduce over c of [b:8 o:32]"]


def test_an_addend_that_comes_paid_is_no_reason_to_wait():
    """The second addend goes through a small tensor, where it is paid.

    So the first one is paid whole in any case, and best before its other consumer.
    """

    def fn(x, w, u):
        y = product(x, w) * u
        small = ml.sum(product(x, w) * u, "o")
        return ml.add_n([y, small.expand(o=32) * u])

    found = paid(fn, x=X, w=W, u=ml.spec("b:8 o:32"))
    assert found == ["all_reduce over c of [b:8 o:32]", "all_reduce over c of [b:8]"]

    def shared(x, w, u):
        y = product(x, w)
        return ml.add_n([y * u, ml.sum(y * u, "o").expand(o=32) * u])

    assert paid(shared, x=X, w=W, u=ml.spec("b:8 o:32")) == ["all_reduce over c of [b:8 o:32]"]


# -- cuts -----------------------------------------------------------------------------------------


def test_a_sum_that_is_cut_is_a_reduce_scatter():
    def fn(x, w):
        return product(x, w).rename(o="p")

    assert paid(fn, x=X, w=W, layout="b:r i:c p:c") == ["reduce_scatter over c of [b:8 o:32]"]


def test_a_sum_that_is_cut_along_two_axes_at_once():
    def fn(x, w):
        return ml.einsum(x, w, reduce="b i").rename(o="p")

    w = ml.spec("b:8 i:16 o:32")
    assert paid(fn, x=X, w=w, layout="b:r i:c p:r+c") == ["reduce_scatter over r+c of [o:32]"]


def test_what_a_cut_leaves_pending_is_paid_after_it():
    """Half of the axes are scattered; the sum over the others moves less then."""

    def fn(x, w):
        return ml.einsum(x, w, reduce="b i").rename(o="p")

    w = ml.spec("b:8 i:16 o:32")
    assert paid(fn, x=X, w=w, layout="b:r i:c p:c") == [
        "reduce_scatter over c of [o:32]",
        "all_reduce over r of [p:32]",
    ]


def test_a_cut_and_a_whole_use_are_one_all_reduce():
    def fn(x, w):
        y = product(x, w)
        return y.rename(o="p"), ml.relu(y)

    assert paid(fn, x=X, w=W, layout="b:r i:c p:c") == ["all_reduce over c of [b:8 o:32]"]


def test_two_different_cuts_cost_what_an_all_reduce_costs():
    def fn(x, w):
        y = product(x, w)
        return y.rename(o="p"), y.rename(b="q")

    assert paid(fn, x=X, w=W, layout="i:c p:c q:c") == ["all_reduce over c of [b:8 o:32]"]


def test_a_move_off_the_pending_axes():
    """The rows are gathered while the sum is pending, and both are less after the sum over o."""

    def fn(x, w):
        return ml.sum(product(x, w).rename(b="k"), "o")

    assert paid(fn, x=X, w=W) == ["all_gather over r of [b:8 o:32]", "all_reduce over c of [k:8]"]


# -- loops ----------------------------------------------------------------------------------------


def test_sums_of_a_loop_are_paid_once_after_it():
    def fn(x, w):
        return ml.accumulate(lambda part: product(part, w), x, over="micro")

    found = paid(fn, x=ml.spec("micro:5 b:8 i:16"), w=W)
    assert found == ["all_reduce over c of [b:8 o:32]"]


def test_gradients_of_microbatches_are_paid_once():
    """Of the weights, which are the same in all trips; the activations' sums are paid in each."""

    def fn(x):
        w = ml.variable("w", "i:16 o:32", init=ml.zeros_init)

        def micro(part):
            loss = ml.sum(ml.square(ml.einsum(part, w, reduce="i")))
            return ml.gradients(loss, ml.trainable_variables())

        return ml.accumulate(micro, x, over="micro")

    assert paid(fn, x=ml.spec("micro:5 b:8 i:16")) == [
        "all_reduce over c of [b:8 o:32] 5 times",
        "all_reduce over r of [i:16 o:32]",
    ]


def test_carries_and_stacks_are_paid_in_each_trip():
    def fn(x, w):
        def body(carry, part):
            y = product(part, w)
            return carry + y, y

        return ml.scan(body, ml.zeros("b:8 o:32"), x, over="n")

    assert paid(fn, x=ml.spec("n:3 b:8 i:16"), w=W) == ["all_reduce over c of [b:8 o:32] 3 times"]


def test_a_gradient_of_a_loop_invariant_is_paid_once():
    """The backward loop adds what each trip contributes, pending; it is paid after the loop."""

    def fn(x):
        w = ml.variable("w", "o:32 o2:32", init=ml.zeros_init)

        def body(carry, _):
            return ml.tanh(ml.einsum(carry, w, reduce="o")).rename(o2="o"), None

        last, _ = ml.scan(body, x, over="n:7")
        return ml.gradients(ml.sum(last), ml.trainable_variables())

    found = paid(fn, layout="b:r", x=ml.spec("b:8 o:32"))
    assert found == ["all_reduce over r of [o:32 o2:32]"]
