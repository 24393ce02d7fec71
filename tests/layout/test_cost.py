"""What a plan adds up to: traffic by axis, memory at its highest, bytes between machines."""

from fractions import Fraction
from itertools import pairwise, product
from typing import Any

import pytest

import meshlang as ml
from meshlang.layout.cost import Split, between, transfers, wire
from tests.layout import programs
from tests.oracles import communication as comm

BOTH = "batch:data d_h:model"


# -- traffic --------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", [2, 3, 4, 8, 32])
@pytest.mark.parametrize(
    "kind", ["all_reduce", "reduce_scatter", "all_gather", "all_to_all", "permute"]
)
def test_wire(kind: str, group: int):
    assert wire(kind, 96 * group, group) == comm.wire(kind, 96 * group, group)


def test_over_an_axis_and_over_all():
    cost = ml.plan(programs.two_layers(), "data:4 model:2", BOTH).cost
    data, model = cost.over("data"), cost.over("model")
    assert (data.sums, data.collectives, data.elements, data.bytes) == (2, 1, 32768, 131072)
    assert (data.wire_elements, data.wire_bytes) == (49152.0, 196608.0)
    assert (model.sums, model.collectives, model.elements) == (2, 1, 4096)
    assert (cost.all.elements, cost.all.sums) == (36864, 4)


def test_a_collective_over_two_axes_counts_in_each():
    program = ml.trace(lambda x: ml.sum(x), x=ml.spec("batch:8 d:4"))
    cost = ml.plan(program, "data:2 model:4", "batch:data+model").cost
    assert set(cost.traffic) == {("all_reduce", ("data", "model"))}
    assert cost.over("data") == cost.over("model") == cost.all
    assert cost.all.wire_elements == 2 * Fraction(7, 8)


def test_loops_count_by_trip():
    def fn(x):
        def body(outer, _):
            def inner(carry, _):
                return carry.rename(d="e").rename(e="d"), None

            return ml.scan(inner, outer, over="inner:3")[0], None

        return ml.scan(body, x, over="outer:5")[0]

    cost = ml.plan(ml.trace(fn, x=ml.spec("d:8")), "a:2", "d:a").cost
    assert (cost.all.collectives, cost.all.elements) == (15, 15 * 8)


def test_flops_count_products_only():
    def fn(x, w):
        return ml.tanh(ml.einsum(x, w, reduce="d") * 2.0)

    program = ml.trace(fn, x=ml.spec("b:4 d:8"), w=ml.spec("d:8 k:16"))
    for layout, share in (("", 1), ("b:a", 2), ("d:a", 2), ("k:a", 2)):
        cost = ml.plan(program, "a:2", layout).cost
        assert cost.flops == 2 * 4 * 8 * 16 // share
        assert cost.duplicated_flops == (cost.flops / 2 if share == 1 else 0)


# -- memory ---------------------------------------------------------------------------------------


def peak(fn: Any, mesh: str = "", layout: str = "", **specs: Any) -> int:
    return ml.plan(ml.trace(fn, **specs), mesh, layout).cost.peak_bytes


ROW = ml.spec("batch:8 d:32")
KB = 8 * 32 * 4  # bytes of one such tensor


def test_peak_of_a_chain():
    """The input stays, a value is dropped when the next one is there."""
    assert peak(lambda x: x, x=ROW) == KB
    assert peak(ml.tanh, x=ROW) == 2 * KB
    assert peak(lambda x: ml.tanh(ml.tanh(ml.tanh(ml.tanh(x)))), x=ROW) == 3 * KB


def test_peak_of_blocks():
    assert peak(lambda x: ml.tanh(ml.tanh(x)), "a:8", "batch:a", x=ROW) == 3 * KB // 8


def test_results_stay_to_the_end():
    def fn(x):
        first = ml.tanh(x)
        return first, ml.sum(ml.tanh(first) + 1.0, "d")

    # Input, first, its tanh, the sum of that and 1; and before, the number 1 itself.
    assert peak(fn, x=ROW) == 4 * KB + 4


def test_what_is_saved_for_the_backward_pass():
    """Of n layers n values are held; each backward step needs a few more."""

    def fn(layers):
        def step(x):
            y = x
            for _ in range(layers):
                y = ml.tanh(y)
            return ml.gradients(ml.sum(y), [x])[0]

        return step

    peaks = [peak(fn(n), x=ROW) for n in (2, 3, 4, 5)]
    assert {b - a for a, b in pairwise(peaks)} == {KB}


def test_new_names_and_variables_take_no_room():
    def fn(x):
        w = ml.variable("w", "d:32 k:64", init=0.0)
        y = ml.einsum(x.rename(batch="row"), w, reduce="d").rename(k="kk")
        ml.assign(ml.trainable_variables()[0], ml.variable("w", "d:32 k:64", init=0.0) * 1.0)
        return ml.sum(y)

    plan = ml.plan(ml.trace(fn, x=ROW))
    assert plan.cost.variable_bytes == 32 * 64 * 4
    # x, y, and a new value of w before it is assigned; the sum is there when that is made.
    assert plan.cost.peak_bytes <= KB + 8 * 64 * 4 + 32 * 64 * 4 + 8


def test_a_loop_holds_stacks_and_one_trip():
    def fn(x):
        return ml.scan(
            lambda carry, part: (ml.tanh(carry + part), carry), ml.sum(x, "n"), x, over="n"
        )

    size = 4 * 16
    stack = 10 * size
    # The stack that comes in and the one that goes out; carry in, last carry. In a trip: carry and
    # slice, their sum, its tanh.
    assert peak(fn, x=ml.spec("n:10 d:16")) == 2 * stack + 2 * size + 4 * size


def test_bytes_follow_the_dtype():
    assert peak(ml.tanh, x=ml.spec("batch:8 d:32", "bfloat16")) == KB
    assert peak(ml.logical_not, x=ml.spec("batch:8 d:32", "bool")) == KB // 2


# -- several machines -----------------------------------------------------------------------------


def split_of(layout: str, mesh: str, hosts: int) -> dict[str, Split]:
    program = ml.trace(lambda x: x.rename(d="e") * 1.0, x=ml.spec("batch:64 d:64"))
    return {kind: s for (kind, _), s in between(ml.plan(program, mesh, layout), hosts).items()}


@pytest.mark.parametrize(
    ("axis", "hosts", "share"),
    [
        # data:4 model:2 on 1, 2, 4, 8 machines: model lies inside while a machine has both
        ("data", 1, Fraction(0)),
        ("data", 2, Fraction(1, 3)),
        ("data", 4, Fraction(1)),
        ("data", 8, Fraction(1)),
        ("model", 1, Fraction(0)),
        ("model", 2, Fraction(0)),
        ("model", 4, Fraction(0)),
        ("model", 8, Fraction(1)),
    ],
)
def test_last_axes_lie_inside(axis: str, hosts: int, share: Fraction):
    """An all_gather of g processors on h machines crosses h-1 of its g-1 times."""
    split = split_of(f"d:{axis}", "data:4 model:2", hosts)["all_gather"]
    sent = wire("all_gather", 64 * 64 * 4, 4 if axis == "data" else 2)
    assert split.between_bytes == pytest.approx(float(sent * share), rel=1e-15)
    assert split.inside_bytes == pytest.approx(float(sent * (1 - share)), rel=1e-15)


def test_an_all_to_all_crosses_for_each_pair_on_two_machines():
    program = ml.trace(lambda x: x.rename(b="c", d="e"), x=ml.spec("b:64 d:64"))
    plan = ml.plan(program, "a:8", "b:a e:a")
    (split,) = between(plan, 2).values()
    block = 64 * 64 * 4 // 8
    assert split.between_bytes == block * 4 / 8  # four of the eight pieces go to the other machine
    assert split.inside_bytes == pytest.approx(block * 3 / 8)  # three stay, one is one's own


def test_a_permute_crosses_where_its_source_is():
    program = ml.trace(lambda x: x.rename(b="c"), x=ml.spec("b:64"))
    plan = ml.plan(program, "r:2 c:2", "b:r c:c")
    ((_, _), split), *_ = between(plan, 2).items()
    # Processors 0 1 2 3 hold blocks 0 0 1 1 and want 0 1 0 1: the two in the middle swap.
    assert (split.inside_bytes, split.between_bytes) == (64 * 4 / 2 / 2, 64 * 4 / 2 / 2)


def test_groups_that_straddle_machines():
    """Three processors a machine, groups of two: one of three groups lies on two machines."""
    program = ml.trace(lambda x: ml.sum(x, "b"), x=ml.spec("b:12 d:10"))
    plan = ml.plan(program, "data:3 model:2", "b:model")
    (split,) = between(plan, 2).values()
    sent = wire("all_reduce", 10 * 4, 2)
    assert (split.between_bytes, split.inside_bytes) == pytest.approx((sent / 3, sent * 2 / 3))


@pytest.mark.parametrize("hosts", [1, 2, 4, 8])
def test_both_parts_add_up(hosts: int):
    model = comm.Transformer()
    program = programs.transformer(model, unroll=False)
    plan = ml.plan(program, "data:2 model:4", comm.TRANSFORMER_LAYOUT, params="d_model:data")
    split, traffic = between(plan, hosts), plan.cost.traffic
    assert split.keys() == traffic.keys()
    for key, part in split.items():
        total = part.inside_bytes + part.between_bytes
        assert total == pytest.approx(traffic[key].wire_bytes, rel=1e-12)
        assert hosts > 1 or part.between_bytes == 0
        assert hosts < 8 or part.inside_bytes == 0


def test_an_all_gather_brings_each_machine_what_it_lacks_once():
    """Counted in another way: by what the processors of each machine have and shall have."""
    mesh, hosts = ml.Mesh.parse("a:2 b:3 c:4"), 4
    program = ml.trace(lambda x: x.rename(i="j"), x=ml.spec("i:24"))
    for axes in ("a", "b", "c", "a+b", "b+c", "c+a", "a+b+c"):
        plan = ml.plan(program, mesh, f"i:{axes}")
        placement = plan.inputs["x"].placement
        (sent,) = transfers(plan)
        lacking = 0
        firsts = {mesh.group(p, sent.axes)[0] for p in range(mesh.size)}
        for first, host in product(sorted(firsts), range(hosts)):
            inside = [p for p in mesh.group(first, sent.axes) if p // (mesh.size // hosts) == host]
            held = {mesh.block(p, placement) for p in inside}
            lacking += (mesh.ways(sent.axes) - len(held)) if inside else 0
        (split,) = between(plan, hosts).values()
        block = plan.inputs["x"].bytes
        assert split.between_bytes * mesh.size == pytest.approx(lacking * block), axes


@pytest.mark.parametrize("hosts", [0, 3, 16])
def test_machines_have_equally_many_processors(hosts: int):
    plan = ml.plan(programs.two_layers(), "data:4 model:2", BOTH)
    with pytest.raises(ml.MeshError) as error:
        between(plan, hosts)
    assert (
        str(error.value)
        == f"""8 processors do not divide over {hosts} machines.
  mesh  data:4 model:2
  fix: each machine has equally many processors"""
    )
