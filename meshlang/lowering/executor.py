"""Walks the steps of a plan on a backend: stretches of local ops, collectives, loops."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext

import tensorflow as tf

import meshlang.lowering.kernels_control
import meshlang.lowering.kernels_elementwise
import meshlang.lowering.kernels_order
import meshlang.lowering.kernels_pool
import meshlang.lowering.kernels_products
import meshlang.lowering.kernels_random
import meshlang.lowering.kernels_reduce
import meshlang.lowering.kernels_running
import meshlang.lowering.kernels_runs
import meshlang.lowering.kernels_scatter
import meshlang.lowering.kernels_spatial
import meshlang.lowering.kernels_windows  # noqa: F401  (they register kernels)
from meshlang.layout.values import Branches, Collective, Local, Loop, PlanValue, Step
from meshlang.lowering.backend import Backend, Block, Kind, Value
from meshlang.lowering.in_place import UpdateInPlace
from meshlang.lowering.kernels import Here, run_kernel
from meshlang.lowering.kernels_updates import IN_PLACE
from meshlang.ops.state import Assign, Stored

Env = dict[PlanValue, Value]
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_./]")


class Executor:
    """Runs steps while a program is traced.

    Args:
        backend: of this trace.
        seed, step: values with scalar blocks.
        variable: from a variable's name to the name under which the backend keeps it.
    """

    def __init__(
        self, backend: Backend, seed: Value, step: Value, variable: Callable[[str], str]
    ) -> None:
        self.backend = backend
        self._seed = seed
        self._step = step
        self._variable = variable
        #: stacks that loops make and only loops walk: they stay lists, which copies nothing
        self._lists: set[PlanValue] = set()

    def run(self, steps: Sequence[Step], env: Env, wanted: Iterable[PlanValue]) -> None:
        """Compute all steps; afterwards `env` has what later steps and `wanted` read."""
        later = _readers(steps, wanted)
        self._lists.update(_only_walked(steps, wanted))
        stretch: list[Local] = []
        for i, step in enumerate(steps):
            if isinstance(step, Local) and not isinstance(step.op, Stored | Assign | UpdateInPlace):
                stretch.append(step)
                continue
            self._stretch(stretch, env, later, i)
            stretch = []
            with _named(step):
                self._single(step, env)
        self._stretch(stretch, env, later, len(steps))

    def _stretch(
        self, steps: Sequence[Local], env: Env, later: dict[PlanValue, int], end: int
    ) -> None:
        """Local ops in a row, as one function of blocks and coordinates."""
        if not steps:
            return
        made = {v for step in steps for v in step.outputs}
        read = dict.fromkeys(v for step in steps for v in step.inputs if v not in made)
        given = list(read)
        kept = [v for step in steps for v in step.outputs if later.get(v, -1) >= end]

        def fn(blocks: list[tf.Tensor], coordinates: dict[str, tf.Tensor]) -> list[tf.Tensor]:
            seed, count, *rest = blocks
            here = Here(self.backend.mesh, coordinates, seed, count)
            held = dict(zip(given, rest, strict=True))
            for step in steps:
                with _named(step):
                    results = run_kernel(step, here, [held[v] for v in step.inputs])
                held.update(zip(step.outputs, results, strict=True))
            return [held[v] for v in kept]

        inputs = [self._seed, self._step, *(env[v] for v in given)]
        results = self.backend.local(fn, inputs, [block_of(v) for v in kept])
        env.update(zip(kept, results, strict=True))

    def _single(self, step: Step, env: Env) -> None:
        if isinstance(step, Collective):
            self._collective(step, env)
        elif isinstance(step, Loop):
            self._loop(step, env)
        elif isinstance(step, Branches):
            self._branches(step, env)
        elif isinstance(step.op, Stored):
            made = step.outputs[0]
            env[made] = self.backend.read(self._variable(step.op.name), block_of(made))
        elif isinstance(step.op, UpdateInPlace):
            self._update(step.op, step, env)
        else:
            self._assign(step, env)

    def _assign(self, step: Local, env: Env) -> None:
        old, new = step.inputs[:2]
        assert isinstance(step.op, Assign)
        value = env[new]
        if len(step.inputs) == 3:
            inputs = [env[step.inputs[2]], value, env[old]]
            value = self.backend.local(
                lambda blocks, _: [tf.where(*blocks)], inputs, [block_of(new)]
            )[0]
        self.backend.assign(self._variable(step.op.name), value)
        env[step.outputs[0]] = value

    def _update(self, op: UpdateInPlace, step: Local, env: Env) -> None:
        """A fused kernel on the variables themselves, elementwise on whatever form they have."""
        places = [(self._variable(name), block_of(v)) for name, v in op.variables]
        handles = [self.backend.handle(name, block) for name, block in places]
        gradient, *scalars = [env[v] for v in step.inputs]
        if self._lead():  # a stack of equal scalars
            scalars = [x[0] for x in scalars]
        ok = scalars.pop() if op.guarded else None
        IN_PLACE[type(op.update)](op.update, handles, [gradient, *scalars], ok)
        for i, made in zip(op.read, step.outputs, strict=True):
            env[made] = self.backend.read(*places[i])

    def _collective(self, step: Collective, env: Env) -> None:
        if len(step.inputs) != 1:
            self._bucket(step, env)
            return
        x, backend = env[step.inputs[0]], self.backend
        if step.kind == "all_reduce":
            made = backend.all_reduce(x, step.axes, _kind(step))
        elif step.kind == "all_gather":
            made = backend.all_gather(x, step.axes, step.dim)
        elif step.kind == "reduce_scatter":
            made = backend.reduce_scatter(x, step.axes, step.dim)
        elif step.kind == "all_to_all":
            made = backend.all_to_all(x, step.axes, step.dim, step.into)
        else:
            made = backend.permute(x, step.axes, step.sources)
        env[step.outputs[0]] = made

    def _bucket(self, step: Collective, env: Env) -> None:
        """Several all_reduces in one: flat blocks joined, reduced, cut again."""
        sizes = [v.elements for v in step.inputs]
        dtype = step.inputs[0].dtype

        def join(blocks: list[tf.Tensor], _: dict[str, tf.Tensor]) -> list[tf.Tensor]:
            return [tf.concat([tf.reshape(b, [-1]) for b in blocks], 0)]

        def cut(blocks: list[tf.Tensor], _: dict[str, tf.Tensor]) -> list[tf.Tensor]:
            parts = tf.split(blocks[0], sizes)
            return [tf.reshape(p, v.block) for p, v in zip(parts, step.outputs, strict=True)]

        joined = self.backend.local(
            join, [env[v] for v in step.inputs], [((sum(sizes),), tf.as_dtype(dtype))]
        )
        total = self.backend.all_reduce(joined[0], step.axes, _kind(step))
        parts = self.backend.local(cut, [total], [block_of(v) for v in step.outputs])
        env.update(zip(step.outputs, parts, strict=True))

    # -- loops --------------------------------------------------------------------------------

    def _loop(self, loop: Loop, env: Env) -> None:
        """A while loop of carries, a list for each stack, and running sums."""
        n, m = len(loop.carry), len(loop.carry) + len(loop.ys)
        given, results = loop.given, loop.made
        walked = given.stacks
        stacks, kept_lists = [env[v] for v in walked], [v in self._lists for v in walked]
        fixed = dict(zip(loop.fixed, (env[v] for v in given.fixed), strict=True))
        lead = self._lead()
        lists = [_new_list(v, loop.trips, lead, self.backend.mesh.size) for v in loop.ys]
        sums = [self._zeros(v) for v in loop.sums]
        start = [tf.constant(0), *(env[v] for v in given.carry), *lists, *sums]
        counts = [self._alone(env[v]) for v in given.trips]
        trips = counts[0] if counts else loop.trips

        def body(values: list[tf.Tensor]) -> list[tf.Tensor]:
            turn, rest = values[0], values[1:]
            trip = trips - 1 - turn if loop.op.body.reverse else turn
            inner: Env = {**fixed, loop.trip: self._spread(trip)}
            inner.update(zip(loop.carry, rest[:n], strict=True))
            for place, stack, held in zip(loop.xs, stacks, kept_lists, strict=True):
                form = _form(place, lead, self.backend.mesh.size)
                inner[place] = (
                    _item(stack, trip, form, tf.as_dtype(place.dtype))
                    if held
                    else _cut(stack, trip, form, lead)
                )
            self.run(loop.steps, inner, [*loop.carry_out, *loop.ys, *loop.sums])
            after = [inner[v] for v in loop.carry_out]
            filled = [
                tf.raw_ops.TensorListSetItem(input_handle=held, index=trip, item=inner[v])
                for held, v in zip(rest[n:m], loop.ys, strict=True)
            ]
            added = [
                self._added(total, inner[v], v)
                for total, v in zip(rest[m:], loop.sums, strict=True)
            ]
            return [turn + 1, *after, *filled, *added]

        def goes_on(values: list[tf.Tensor]) -> tf.Tensor:
            if loop.decision is None:
                return values[0] < trips
            holds = self._decided(loop, values[0], values[1 : n + 1], env)
            return tf.logical_and(holds, values[0] < trips) if loop.op.body.bounded else holds

        turns, *after = self.backend.while_loop(goes_on, body, start)
        env.update(zip(results.carry, after[:n], strict=True))
        for made, held, y in zip(results.stacks, after[n:m], loop.ys, strict=True):
            if made not in self._lists:
                held = _whole_list(held, y, loop.trips, lead, self.backend.mesh.size)
            env[made] = held
        env.update(zip(results.sums, after[m:], strict=True))
        env.update((made, self._spread(turns)) for made in results.trips)

    def _decided(self, loop: Loop, turn: tf.Tensor, carry: list[Value], env: Env) -> Value:
        """Whether there is another trip; processors agree, for the predicate is whole."""
        decision = loop.decision
        assert decision is not None
        inner: Env = {decision.trip: self._spread(turn)}
        inner.update(zip(decision.carry, carry, strict=True))
        inner.update(zip(decision.fixed, (env[v] for v in loop.given.decision), strict=True))
        self.run(decision.steps, inner, [decision.predicate])
        return inner[decision.predicate]

    def _branches(self, step: Branches, env: Env) -> None:
        """A cond: each branch begins with what it is given, and ends with the results."""

        def done(place: int) -> Callable[[], list[Value]]:
            branch, given = step.branches[place], step.given[place]

            def run() -> list[Value]:
                inner = dict(zip(branch.fixed, (env[v] for v in given), strict=True))
                self.run(branch.steps, inner, branch.outs)
                return [inner[v] for v in branch.outs]

            return run

        made = self.backend.cond(env[step.inputs[0]], done(0), done(1))
        env.update(zip(step.outputs, made, strict=True))

    def _alone(self, scalar: Value) -> tf.Tensor:
        """A scalar that is equal on all processors, once."""
        return scalar[0] if self._lead() else scalar

    def _lead(self) -> int:
        """How many dims a value has in front of its block."""
        return self._seed.shape.rank or 0

    def _spread(self, scalar: tf.Tensor) -> Value:
        return self.backend.local(lambda *_: [tf.identity(scalar)], [], [((), tf.int32)])[0]

    def _zeros(self, v: PlanValue) -> Value:
        block = block_of(v)
        return self.backend.local(lambda *_: [tf.zeros(*block)], [], [block])[0]

    def _added(self, total: Value, more: Value, v: PlanValue) -> Value:
        return self.backend.local(
            lambda blocks, _: [blocks[0] + blocks[1]], [total, more], [block_of(v)]
        )[0]


def _named(step: Step) -> AbstractContextManager[object]:
    """Put TensorFlow's ops under the scope and the name of the op that they do, for profiles.

    The op's name begins with a point. A slash at the end keeps TensorFlow from numbering scopes.
    """
    if isinstance(step, Loop | Branches):
        return nullcontext()
    name = step.kind if isinstance(step, Collective) else type(step.op).__name__
    path = f"{step.scope}/.{name}/".lstrip("/")
    return tf.name_scope(_NOT_IN_NAMES.sub("_", path).lstrip("_"))


def _kind(step: Collective) -> Kind:
    """The reduction in the backend's terms: a checker cannot narrow a str by itself."""
    return "max" if step.reduce == "max" else "min" if step.reduce == "min" else "sum"


def block_of(v: PlanValue) -> Block:
    """The shape and dtype of one processor's block."""
    return v.block, tf.as_dtype(v.dtype)


def _readers(steps: Sequence[Step], wanted: Iterable[PlanValue]) -> dict[PlanValue, int]:
    """The last step that reads each value; past the end for what is wanted."""
    last: dict[PlanValue, int] = {}
    for i, step in enumerate(steps):
        for v in step.inputs:
            last[v] = i
    last.update(dict.fromkeys(wanted, len(steps)))
    return last


def _form(v: PlanValue, lead: int, size: int) -> list[int]:
    return [*([size] * lead), *v.block]


def _new_list(v: PlanValue, count: int, lead: int, size: int) -> tf.Tensor:
    return tf.raw_ops.TensorListReserve(
        element_shape=tf.constant(_form(v, lead, size), tf.int32),
        num_elements=count,
        element_dtype=tf.as_dtype(v.dtype),
    )


def _whole_list(held: tf.Tensor, y: PlanValue, count: int, lead: int, size: int) -> Value:
    """The list as one tensor, its dim behind those in front of the block."""
    form = _form(y, lead, size)
    stacked = tf.raw_ops.TensorListStack(
        input_handle=held,
        element_shape=tf.constant(form, tf.int32),
        element_dtype=tf.as_dtype(y.dtype),
        num_elements=count,
    )
    stacked = tf.ensure_shape(stacked, [count, *form])
    if not lead:
        return stacked
    return tf.transpose(stacked, [1, 0, *range(2, len(form) + 1)])


def _only_walked(steps: Sequence[Step], wanted: Iterable[PlanValue]) -> set[PlanValue]:
    """The stacks made by loops of which nothing is read but one item a trip, by other loops."""
    made: set[PlanValue] = set()
    read = set(wanted)
    for step in steps:
        walked: Sequence[PlanValue] = ()
        if isinstance(step, Loop):
            n = len(step.carry)
            made.update(step.outputs[n : n + len(step.ys)])
            walked = step.inputs[n : n + len(step.xs)]
            read.update(step.inputs[:n], step.inputs[n + len(step.xs) :])
        else:
            read.update(step.inputs)
        read.update(v for v in walked if v not in made)
    return made - read


def _item(held: tf.Tensor, trip: tf.Tensor, form: list[int], dtype: tf.DType) -> Value:
    """One item of a list, as it was put there."""
    shape = tf.constant(form, tf.int32)
    item = tf.raw_ops.TensorListGetItem(
        input_handle=held, index=trip, element_shape=shape, element_dtype=dtype
    )
    return tf.ensure_shape(item, form)


def _cut(stack: Value, trip: tf.Tensor, form: list[int], lead: int) -> Value:
    """One index of a stack. Without dims in front it is a view: TensorFlow copies nothing."""
    return tf.ensure_shape(stack[:, trip] if lead else stack[trip], form)
