"""Programs on both backends: local stretches, loops, branches, variables, and what is traced."""

import numpy as np
import pytest
import tensorflow as tf

from meshlang.layout.mesh import Mesh
from meshlang.lowering import runtime
from meshlang.lowering.simulated import SimulatedMachine, check_whole
from meshlang.lowering.spmd import SpmdMachine

MESH = Mesh.parse("data:2 model:4")
ROW = ((4,), tf.float64)
ROWS = [np.arange(4.0) + 10 * p for p in range(8)]
NUMBER = ((), tf.int32)


def place(blocks, coordinates):
    """A local stretch: add this processor's number, made of its coordinates."""
    number = coordinates["data"] * 4 + coordinates["model"]
    return [blocks[0] + tf.cast(number, blocks[0].dtype)]


def test_local_knows_its_coordinates(run):
    (found,) = run(MESH, lambda b, v: b.local(place, v, [ROW]), ROWS)
    np.testing.assert_array_equal(found, [row + p for p, row in enumerate(ROWS)])


def test_local_makes_values_from_nothing(run):
    def program(b, v):
        return b.local(lambda _, at: [at["model"], tf.cast(at["data"], tf.float32)], [], specs)

    specs = [((), tf.int32), ((), tf.float32)]
    models, data = run(MESH, program)
    assert [int(block) for block in models] == [0, 1, 2, 3, 0, 1, 2, 3]
    assert [float(block) for block in data] == [0, 0, 0, 0, 1, 1, 1, 1]


def test_local_on_one_processor_has_no_coordinates(run):
    def program(b, v):
        return b.local(lambda blocks, at: [blocks[0] * (2 + len(at))], v, [ROW])

    (found,) = run(Mesh.parse(""), program, ROWS[:1])
    np.testing.assert_array_equal(found, [2 * ROWS[0]])


def test_local_refuses_what_the_plan_does_not_say(run):
    with pytest.raises(TypeError, match=r"makes .*\(3,\).* and the plan says .*\(4,\)"):
        run(MESH, lambda b, v: b.local(lambda blocks, _: [blocks[0][1:]], v, [ROW]), ROWS)


def loop_of_collectives(b, v):
    """Four trips of shift, place, sum; a plain counter beside the value."""

    def body(values):
        trip, x = values
        x = b.permute(x, ("model",), (3, 0, 1, 2))
        (x,) = b.local(
            lambda blocks, at: [place(blocks, at)[0] * tf.cast(trip, x.dtype)], [x], [ROW]
        )
        return [trip + 1, b.all_reduce(x, ("data",), "sum")]

    return b.while_loop(lambda values: values[0] < 4, body, [tf.constant(0), v[0]])[1:]


def test_a_loop_holds_collectives(run):
    (found,) = run(MESH, loop_of_collectives, ROWS)
    x = np.array(ROWS)
    for trip in range(4):
        x = x.reshape(2, 4, 4)[:, [3, 0, 1, 2]].reshape(8, 4)
        x = (x + np.arange(8)[:, None]) * trip
        x = np.repeat(x.reshape(2, 4, 4).sum(0)[None], 2, 0).reshape(8, 4)
    np.testing.assert_allclose(found, x, rtol=1e-14)


def test_many_trips_with_collectives_of_three_kinds(run):
    mesh = Mesh.parse("a:2 b:2")
    x = [np.arange(4.0) + p for p in range(4)]

    def program(b, v):
        def body(values):
            trip, x = values
            x = b.all_to_all(x, ("b", "a"), 0, 0)
            x = b.all_gather(b.reduce_scatter(x, ("a",), 0), ("a",), 0)
            (x,) = b.local(lambda blocks, _: [blocks[0] / 2], [x], [ROW])
            return [trip + 1, x]

        return b.while_loop(lambda values: values[0] < 200, body, [tf.constant(0), v[0]])[1:]

    (found,) = run(mesh, program, x)
    want = np.array(x)
    for _ in range(200):
        b_a_piece = want.reshape(2, 2, 2, 2)  # a b, pieces for b a
        traded = np.einsum("abBA->ABba", b_a_piece).reshape(2, 2, 4)
        want = np.repeat(traded.mean(0)[None], 2, 0).reshape(4, 4)
    np.testing.assert_allclose(found, want, rtol=1e-12)


def count_up(b, v):
    """While the largest number of all processors is below 50, double and recurse into branches."""

    def below(values):
        largest = b.all_reduce(values[0], ("data", "model"), "max")
        return b.local(lambda blocks, _: [blocks[0] < 50], [largest], [((), tf.bool)])[0]

    def body(values):
        total = b.all_reduce(values[0], ("model",), "sum")
        whole = b.all_reduce(total, ("data",), "sum")
        (large,) = b.local(lambda blocks, _: [blocks[0] > 30], [whole], [((), tf.bool)])

        def grow():
            return b.local(lambda blocks, _: [blocks[0] * 2], values, [NUMBER])

        def spread():
            return [b.all_reduce(b.cond(large, grow, lambda: list(values))[0], ("data",), "sum")]

        return b.cond(large, grow, spread)

    return b.while_loop(below, body, [v[0]])


def test_branches_in_a_loop_with_a_collective_in_the_predicate(run):
    numbers = [np.int32(p % 3) for p in range(8)]
    (found,) = run(MESH, count_up, numbers)
    x = np.array(numbers)
    while x.max() < 50:
        x = x * 2 if x.sum() > 30 else np.tile(x.reshape(2, 4).sum(0), 2)
    assert [int(block) for block in found] == x.tolist()


def test_a_branch_may_have_no_results(run):
    def program(b, v):
        assert b.cond(tf.constant(True), lambda: [], lambda: []) == []
        return v

    (found,) = run(MESH, program, ROWS)
    np.testing.assert_array_equal(found, ROWS)


def test_simulated_processors_must_agree_on_a_predicate():
    machine = SimulatedMachine(MESH)
    step = machine.launch(
        lambda b, v: b.cond(v[0], lambda: [v[0]], lambda: [v[0]]), [((), tf.bool)]
    )
    assert step([[np.full(8, True)]])[0][0].numpy().all()
    with pytest.raises(tf.errors.InvalidArgumentError, match="processors disagree on a predicate"):
        step([[np.arange(8) == 3]])


def failing(b, v):
    """Processor 5 fails inside of a branch, while the others wait for it."""

    def branch():
        def check(blocks, at):
            fine = tf.Assert(place([tf.constant(0)], at)[0] != 5, ["five fails"])
            with tf.control_dependencies([fine]):
                return [tf.identity(blocks[0])]

        return [b.all_reduce(b.local(check, v, [ROW])[0], ("model",), "sum")]

    return b.cond(tf.constant(True), branch, lambda: list(v))


def test_a_failure_stops_all_and_leaves_the_process_usable():
    machine = SpmdMachine(MESH, runtime.devices_for(MESH))
    sums = machine.launch(lambda b, v: [b.all_reduce(v[0], ("model",), "sum")], [ROW])
    arguments = [[row] for row in ROWS]
    with pytest.raises(tf.errors.CancelledError) as error:
        machine.launch(failing, [ROW])(arguments)
    assert error.value.__notes__ == ['To see what failed, use ml.lower(plan, backend="simulated").']
    with pytest.raises(tf.errors.InvalidArgumentError, match="five fails"):
        SimulatedMachine(MESH).launch(failing, [ROW])([[np.array(ROWS)]])
    np.testing.assert_array_equal(sums(arguments)[0][0], sum(ROWS[:4]))


@pytest.mark.parametrize("backend", [SimulatedMachine, SpmdMachine])
def test_variables_live_on_their_devices_and_are_ordered(backend):
    devices = [] if backend is SimulatedMachine else [runtime.devices_for(MESH)]
    machine, name = backend(MESH, *devices), f"test of variables {backend.__name__}"
    parts = machine.join(ROWS)

    def put(b, v):
        b.assign(name, v[0])
        return []

    def twice(b, v):
        before = b.read(name, ROW)
        b.assign(name, b.local(place, [before], [ROW])[0])
        between = b.all_reduce(b.read(name, ROW), ("data",), "sum")
        handle = b.handle(name, ROW)
        tf.raw_ops.AssignAddVariableOp(resource=handle, value=between)
        return [before, between, b.read(name, ROW)]

    machine.launch(put, [ROW])([[part] for part in parts])
    results = machine.launch(twice, [])([[]] * len(machine.places))
    before, between, after = (
        np.array(machine.blocks(value)) for value in zip(*results, strict=True)
    )
    x = np.array(ROWS) + np.arange(8)[:, None]
    total = np.tile(x.reshape(2, 4, 4).sum(0), (2, 1))
    np.testing.assert_array_equal(before, ROWS)
    np.testing.assert_array_equal(between, total)
    np.testing.assert_array_equal(after, x + total)

    machine.forget([name, "no such variable"])
    with pytest.raises(tf.errors.FailedPreconditionError, match=name):
        machine.launch(lambda b, v: [b.read(name, ROW)], [])([[]] * len(machine.places))


def test_spmd_traces_once_for_all_devices():
    traces = []

    def program(b, v):
        traces.append(b)
        return [b.all_reduce(v[0], ("model",), "sum")]

    machine = SpmdMachine(MESH, runtime.devices_for(MESH))
    step = machine.launch(program, [ROW])
    for _ in range(3):
        step([[row] for row in ROWS])
    assert len(traces) == 1


def test_arguments_take_the_dtypes_of_the_program():
    machine = SimulatedMachine(Mesh.parse("all:2"))
    step = machine.launch(lambda b, v: list(v), [((1,), tf.bfloat16), ((), tf.int32)])
    ((x, y),) = step([[[[1.5], [2.5]], [3, 4]]])
    assert (x.dtype, y.dtype) == (tf.bfloat16, tf.int32)


def test_loops_and_branches_stay_functional_and_their_bodies_whole():
    from meshlang.lowering.control import cond, while_loop

    @tf.function(autograph=False)
    def program(x):
        inner = lambda v: while_loop(lambda w: w[0] < 3.0, lambda w: [w[0] + 1.0], v)  # noqa: E731
        (x,) = while_loop(lambda v: v[0] < 2.0, inner, [x])
        return cond(x > 0.0, lambda: [x * 2.0], lambda: [x])

    graph = program.get_concrete_function(tf.TensorSpec([], tf.float32)).graph.as_graph_def()
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    control = [n for n in nodes if n.op in ("While", "StatelessWhile", "If", "StatelessIf")]
    assert len(control) == 3
    assert {n.attr["_lower_using_switch_merge"].b for n in control} == {False}
    assert float(program(0.0)[0]) == 6.0
    # The bodies are called, not inlined: oneDNN takes their products.
    apart = [f for f in graph.library.function if f.attr["_noinline"].b]
    assert len(apart) == 4


def test_check_whole_names_the_processors_that_differ():
    stack = np.array([[1.0, np.nan], [1.0, np.nan], [2.0, 0.0], [2.0, 0.5]])
    mesh = Mesh.parse("a:2 b:2")
    check_whole(stack[:, :1], mesh, ("b",), "x")
    check_whole(stack[:2], Mesh.parse("b:2"), ("b",), "x")
    with pytest.raises(AssertionError) as error:
        check_whole(stack, mesh, ("b",), "x")
    assert str(error.value) == (
        "x should be whole over b, but processors 2 and 3 hold different blocks"
    )
