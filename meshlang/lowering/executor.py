"""Walks the steps of a plan on a backend: stretches of local ops, collectives, loops."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import tensorflow as tf

import meshlang.lowering.kernels_order
import meshlang.lowering.kernels_products
import meshlang.lowering.kernels_random  # noqa: F401  (they register kernels)
from meshlang.layout.values import Collective, Local, Loop, PlanValue, Step
from meshlang.lowering.backend import Backend, Block, Value
from meshlang.lowering.in_place import UpdateInPlace
from meshlang.lowering.kernels import Here, run_kernel
from meshlang.lowering.kernels_updates import IN_PLACE
from meshlang.ops.state import Assign, Stored

Env = dict[PlanValue, Value]


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

    def run(self, steps: Sequence[Step], env: Env, wanted: Iterable[PlanValue]) -> None:
        """Compute all steps; afterwards `env` has what later steps and `wanted` read."""
        later = _readers(steps, wanted)
        stretch: list[Local] = []
        for i, step in enumerate(steps):
            if isinstance(step, Local) and not isinstance(step.op, Stored | Assign | UpdateInPlace):
                stretch.append(step)
                continue
            self._stretch(stretch, env, later, i)
            stretch = []
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
            kind = "max" if step.reduce == "max" else "min" if step.reduce == "min" else "sum"
            made = backend.all_reduce(x, step.axes, kind)
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
        """Several sums in one: flat blocks joined, reduced, cut again."""
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
        total = self.backend.all_reduce(joined[0], step.axes, "sum")
        parts = self.backend.local(cut, [total], [block_of(v) for v in step.outputs])
        env.update(zip(step.outputs, parts, strict=True))

    # -- loops --------------------------------------------------------------------------------

    def _loop(self, loop: Loop, env: Env) -> None:
        """A while loop of carries, a list for each stack, and running sums."""
        n, m = len(loop.carry), len(loop.carry) + len(loop.ys)
        count = loop.trips
        stacks = [env[v] for v in loop.inputs[n : n + len(loop.xs)]]
        fixed = dict(
            zip(loop.fixed, (env[v] for v in loop.inputs[n + len(loop.xs) :]), strict=True)
        )
        lead = self._lead()
        lists = [_new_list(v, count, lead, self.backend.mesh.size) for v in loop.ys]
        sums = [self._zeros(v) for v in loop.sums]
        start = [tf.constant(0), *(env[v] for v in loop.inputs[:n]), *lists, *sums]

        def body(values: list[tf.Tensor]) -> list[tf.Tensor]:
            turn, rest = values[0], values[1:]
            trip = count - 1 - turn if loop.op.body.reverse else turn
            inner: Env = {**fixed, loop.trip: self._spread(trip)}
            inner.update(zip(loop.carry, rest[:n], strict=True))
            for place, stack in zip(loop.xs, stacks, strict=True):
                inner[place] = _cut_stack(stack, trip, lead)
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

        after = self.backend.while_loop(lambda values: values[0] < count, body, start)[1:]
        env.update(zip(loop.outputs[:n], after[:n], strict=True))
        for made, held, y in zip(loop.outputs[n:m], after[n:m], loop.ys, strict=True):
            env[made] = _whole_list(held, y, count, lead, self.backend.mesh.size)
        env.update(zip(loop.outputs[m:], after[m:], strict=True))

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


def _cut_stack(stack: Value, trip: tf.Tensor, lead: int) -> Value:
    shape = [*stack.shape[:lead], *stack.shape[lead + 1 :]]
    return tf.ensure_shape(tf.gather(stack, trip, axis=lead), shape)
