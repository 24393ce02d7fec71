"""One program, traced once, called on every local device, with TensorFlow's collectives between.

A value is one processor's block. What differs between processors comes in as arguments: the
coordinates, the keys of the groups it belongs to, its variables, and a token that keeps its
collectives in their order.
"""

from collections.abc import Callable, Iterable, MutableMapping, Sequence
from functools import partial
from math import prod
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.types.experimental import ConcreteFunction

from meshlang.errors import ClusterError, message
from meshlang.layout.mesh import Mesh
from meshlang.lowering import cluster, control, runtime, wire
from meshlang.lowering.backend import (
    Axes,
    Block,
    Kind,
    Launched,
    Place,
    Program,
    Stretch,
    Value,
    Values,
    as_tensors,
    checked,
    reduce_members,
)
from meshlang.lowering.peers import Peers
from meshlang.lowering.waiting import Meeting, States

# The processors of a mesh in groups: one row a group, members in the order of processors, which is
# the order in which TensorFlow ranks them.
Groups = tuple[tuple[int, ...], ...]


class SpmdBackend:
    """See `meshlang.lowering.backend.Backend`.

    Args:
        mesh: the processors.
        coordinates: this processor's place, int32 of shape [axes of the mesh].
        keys: the group keys of this processor, int32 of unknown length. Which groups they stand for
            is found out while tracing: `groups` lists them in order.
        token: a resource; collectives that take it stay in order.
        meetings: filled with the collectives, by the numbers that each device notes when it comes
            and goes; None notes nothing.
    """

    def __init__(
        self,
        mesh: Mesh,
        coordinates: tf.Tensor,
        keys: tf.Tensor,
        token: tf.Tensor,
        meetings: MutableMapping[int, Meeting] | None = None,
    ) -> None:
        self.mesh = mesh
        self.meetings = meetings
        self.groups: list[Groups] = []
        self._coordinates = dict(zip(mesh.names, tf.unstack(coordinates), strict=True))
        self._keys = keys
        self._key_of: dict[Groups, tf.Tensor] = {}
        self._handles: dict[str, tf.Tensor] = {}
        self._token = token
        self._graph = tf.compat.v1.get_default_graph()

    def local(self, fn: Stretch, values: Sequence[Value], outputs: Sequence[Block]) -> Values:
        return checked(fn(list(values), dict(self._coordinates)), outputs)

    def all_reduce(self, x: Value, axes: Axes, kind: Kind) -> Value:
        if self.mesh.ways(axes) == 1:
            return x
        sent, back = wire.to_reduce(x, kind)
        merge = {"sum": "Add", "max": "Max", "min": "Min"}[kind]
        reduce = partial(tf.raw_ops.CollectiveReduceV2, merge_op=merge, final_op="Id")
        return back(self._meet(reduce, sent, axes, self._groups_of(axes)))

    def all_gather(self, x: Value, axes: Axes, dim: int) -> Value:
        if self.mesh.ways(axes) == 1:
            return x
        return self._merge(self._gather(x, axes, self._groups_of(axes)), axes, dim)

    def reduce_scatter(self, x: Value, axes: Axes, dim: int) -> Value:
        if self.mesh.ways(axes) == 1:
            return x
        return reduce_members(self._exchange(self._cut(x, axes, dim), axes), "sum")

    def all_to_all(self, x: Value, axes: Axes, split_dim: int, concat_dim: int) -> Value:
        if self.mesh.ways(axes) == 1:
            return x
        return self._merge(self._exchange(self._cut(x, axes, split_dim), axes), axes, concat_dim)

    def permute(self, x: Value, axes: Axes, sources: Sequence[int]) -> Value:
        if list(sources) == list(range(len(sources))):
            return x
        # From the members' order over `axes` to their ranks, which are equal in all groups.
        members = self.mesh.group(0, axes)
        ranks = [sorted(members).index(member) for member in members]
        from_rank = [-1] * len(ranks)
        for member, source in enumerate(sources):
            from_rank[ranks[member]] = ranks[source] if source >= 0 else -1
        paired = wire.pair_rounds(from_rank)
        if paired is None:
            gathered = self._gather(x, axes, self._groups_of(axes))
            found = gathered[self._mine([max(source, 0) for source in from_rank], axes)]
        else:
            found = self._swap(x, axes, *paired)
        if min(from_rank) >= 0:
            return found
        some = self._mine([int(source >= 0) for source in from_rank], axes) == 1
        return tf.where(some, found, tf.zeros_like(found))

    def while_loop(
        self,
        cond: Callable[[Values], Value],
        body: Callable[[Values], Values],
        loop_vars: Sequence[Value],
    ) -> Values:
        return control.while_loop(cond, body, loop_vars)

    def cond(
        self, predicate: Value, true_fn: Callable[[], Values], false_fn: Callable[[], Values]
    ) -> Values:
        return control.cond(predicate, true_fn, false_fn)

    def handle(self, name: str, block: Block) -> tf.Tensor:
        if name not in self._handles:
            with self._graph.as_default():
                self._handles[name] = runtime.variable(name, tf.TensorSpec(*block))
        return self._handles[name]

    def read(self, name: str, block: Block) -> Value:
        handle, (shape, dtype) = self.handle(name, block), block
        return tf.ensure_shape(tf.raw_ops.ReadVariableOp(resource=handle, dtype=dtype), shape)

    def assign(self, name: str, value: Value) -> None:
        handle = self.handle(name, (tuple(value.shape), value.dtype))
        tf.raw_ops.AssignVariableOp(resource=handle, value=value)

    def _meet(
        self, op: Callable[..., tf.Tensor], sent: tf.Tensor, axes: Axes, groups: Groups
    ) -> tf.Tensor:
        """One of TensorFlow's collectives; of several processes each notes when it is in one."""
        meeting = self._meeting(groups)
        if self.meetings is None:
            return op(input=sent, **meeting)
        number = meeting["instance_key"]
        scope, _, kind = tf.get_current_name_scope().rpartition("/")
        self.meetings[number] = Meeting(kind.strip("."), scope, axes, groups)
        note, dtype = self.handle(runtime.NOTE, ((), tf.int64)), tf.int64
        before = tf.raw_ops.AssignVariableOp(resource=note, value=tf.constant(number, dtype))
        with tf.control_dependencies([before]):
            received = op(input=sent, **meeting)
        with tf.control_dependencies([received]):
            tf.raw_ops.AssignVariableOp(resource=note, value=tf.constant(-number, dtype))
        return received

    def _meeting(self, groups: Groups) -> dict[str, Any]:
        """Where the members of a collective meet: the arguments that all collectives share.

        Not its `timeout_seconds`: each collective that has one keeps a thread asleep for so long,
        of which a run soon has thousands. Who is gone is found by heartbeats.
        """
        if groups not in self._key_of:
            with self._graph.as_default():  # inner loops and branches then share it
                self._key_of[groups] = self._keys[len(self.groups)]
            self.groups.append(groups)
        return {
            "group_size": len(groups[0]),
            "group_key": self._key_of[groups],
            "instance_key": runtime.instance_key(),
            "ordering_token": [self._token],
        }

    def _groups_of(self, axes: Axes) -> Groups:
        """The groups over `axes`."""
        return _rows(self._grid(axes).reshape(-1, self.mesh.ways(axes)))

    def _grid(self, axes: Axes) -> np.ndarray:
        """The processors, `axes` last in the mesh's order."""
        names, sizes = self.mesh.names, [size for _, size in self.mesh.axes]
        order = sorted(range(len(names)), key=lambda i: names[i] in axes)
        return np.arange(self.mesh.size).reshape(sizes).transpose(order)

    def _rank(self, axes: Axes) -> tf.Tensor:
        """This processor's rank in its group over `axes`: int32 scalar."""
        rank = tf.constant(0)
        for axis in (name for name in self.mesh.names if name in axes):
            rank = rank * self.mesh[axis] + self._coordinates[axis]
        return rank

    def _mine(self, by_rank: Sequence[int], axes: Axes) -> tf.Tensor:
        """This processor's entry of a table: int32 scalar."""
        return tf.constant(by_rank, tf.int32)[self._rank(axes)]

    def _gather(self, x: Value, axes: Axes, groups: Groups) -> tf.Tensor:
        """[member by rank, *block]; `axes` are those in whose place the groups stand."""
        sent, back = wire.to_move(x)
        sent = tf.expand_dims(sent, 0)
        gathered = self._meet(tf.raw_ops.CollectiveGatherV2, sent, axes, groups)
        return back(tf.ensure_shape(gathered, [len(groups[0]), *x.shape]))

    def _exchange(self, pieces: tf.Tensor, axes: Axes) -> tf.Tensor:
        """From [to rank, *piece] to [from rank, *piece]."""
        members = self.mesh.ways(axes)
        steps = wire.radices(members)
        sent, back = wire.to_move(pieces)
        if steps is None:
            gathered = self._gather(sent, axes, self._groups_of(axes))
            return back(tf.gather(gathered, self._rank(axes), axis=1))
        # A rank is a number with a digit for each step; each step trades one digit of "to" for the
        # same digit of "from".
        rows = self._grid(axes).reshape(-1, *steps)
        digits = tf.reshape(sent, [*steps, -1])
        for i, radix in enumerate(steps):
            to_front = [i, *(k for k in range(len(steps) + 1) if k != i)]
            turned = _transpose(digits, to_front)
            groups = _rows(np.moveaxis(rows, i + 1, -1).reshape(-1, radix))
            received = self._meet(tf.raw_ops.CollectiveAllToAllV2, turned, axes, groups)
            received = tf.ensure_shape(received, turned.shape)
            digits = _transpose(received, np.argsort(to_front).tolist())
        return back(tf.reshape(digits, pieces.shape))

    def _swap(self, x: Value, axes: Axes, rounds: list[list[int]], when: list[int]) -> Value:
        """Swap blocks with a partner in each round, and take what is wanted."""
        table = self._grid(axes).reshape(-1, self.mesh.ways(axes))
        found = x
        for i, partners in enumerate(rounds):
            pairs = {
                tuple(sorted((row[a], row[b]))) for row in table for a, b in enumerate(partners)
            }
            both = self._gather(x, axes, tuple(sorted((int(a), int(b)) for a, b in pairs)))
            theirs = both[self._mine([int(b > a) for a, b in enumerate(partners)], axes)]
            if when == [i] * len(when):
                return theirs
            wanted = self._mine([int(round_ == i) for round_ in when], axes) == 1
            found = tf.where(wanted, theirs, found)
        return found

    def _cut(self, x: Value, axes: Axes, dim: int) -> tf.Tensor:
        """From a block to [to rank, *piece]: member i of `axes` gets the i-th piece along `dim`."""
        sizes = [self.mesh[axis] for axis in axes]
        shape = list(x.shape)
        outer, inner = prod(shape[:dim]), prod(shape[dim + 1 :])
        shape[dim] //= self.mesh.ways(axes)
        cut = tf.reshape(x, [outer, *sizes, shape[dim] * inner])
        order = [1 + axes.index(name) for name in self.mesh.names if name in axes]
        front = _transpose(cut, [*order, 0, len(sizes) + 1])
        return tf.reshape(front, [self.mesh.ways(axes), *shape])

    def _merge(self, pieces: tf.Tensor, axes: Axes, dim: int) -> Value:
        """From [from rank, *piece] to a block: member i of `axes` gave the i-th piece of `dim`."""
        ordered = [name for name in self.mesh.names if name in axes]
        shape = list(pieces.shape[1:])
        outer, inner = prod(shape[:dim]), prod(shape[dim:])
        grid = tf.reshape(pieces, [*(self.mesh[name] for name in ordered), outer, inner])
        places = [ordered.index(axis) for axis in axes]
        merged = _transpose(grid, [len(axes), *places, len(axes) + 1])
        shape[dim] *= self.mesh.ways(axes)
        return tf.reshape(merged, shape)


class SpmdMachine:
    """See `meshlang.lowering.backend.Machine`: one place for each processor of this process.

    Args:
        mesh: the processors of all processes.
        devices: the device of each of this process's; see `runtime.devices_for`.
    """

    def __init__(self, mesh: Mesh, devices: Sequence[str]) -> None:
        self.mesh = mesh
        self.peers: Peers = cluster.peers()
        first = runtime.position(self.peers) * len(devices)
        self.processors = tuple(range(first, first + len(devices)))
        self.places = tuple(
            Place(device, (p,)) for p, device in zip(self.processors, devices, strict=True)
        )
        self.meetings: MutableMapping[int, Meeting] = {}
        self._gathers: dict[tf.TensorSpec, ConcreteFunction] = {}
        for device in devices:
            runtime.note(device, 0)

    def spec(self, block: Block) -> tf.TensorSpec:
        return tf.TensorSpec(*block)

    def join(self, blocks: Sequence[np.ndarray]) -> list[np.ndarray]:
        return list(blocks)

    def blocks(self, values: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        return list(values)

    def gather(self, name: str, values: Sequence[tf.Tensor]) -> list[np.ndarray]:
        if self.peers.count == 1:
            return [block.numpy() for block in values]
        host = "/device:CPU:0"
        with tf.device(host):
            mine = tf.stack([tf.identity(block) for block in values])
        # Who reads alone is told so; it would wait within TensorFlow else, and upset later keys.
        self._agree("reading", f"{name} {list(mine.shape)} {mine.dtype.name}")
        with cluster.watched(self.peers), tf.device(host):
            return list(self._gather_function(mine)(mine).numpy())

    def states(self) -> States:
        """Which collective each processor of this process is in."""
        return {place.processors[0]: runtime.noted(place.device) for place in self.places}

    def launch(self, program: Program, arguments: Sequence[Block]) -> Launched:
        specs = [self.spec(block) for block in arguments]
        traced, groups = self._trace(program, specs)
        for row in {row: None for rows in groups for row in rows}:  # in one order on all processes
            runtime.group_key(self._devices(row))
        self._agree("tracing", f"{runtime.instance_key()} {hash(tuple(groups))}")

        @tf.function(autograph=False, input_signature=[[specs] * len(self.places)])
        def every_device(values: list[Values]) -> list[Values]:
            results = []
            for place, inputs in zip(self.places, values, strict=True):
                # On each device its own token: it also tells TensorFlow that the calls do not wait
                # for each other, as calls that share no resource.
                with tf.device(place.device):
                    token = runtime.variable("ordering_token", tf.TensorSpec([], tf.float32))
                    coordinates, keys = self._context(place.processors[0], groups)
                    results.append(runtime.call(traced, coordinates, keys, token, *inputs))
            return results

        step = runtime.flat(every_device.get_concrete_function())

        def run(values: Sequence[Sequence[object]]) -> list[Values]:
            try:
                with cluster.watched(self.peers):
                    return step([x for place in values for x in as_tensors(place, specs)])
            except tf.errors.CancelledError as error:
                # TensorFlow reports who was stopped, not who failed inside of a loop or branch.
                error.add_note('To see what failed, use ml.lower(plan, backend="simulated").')
                raise

        return run

    def forget(self, names: Iterable[str]) -> None:
        for name in names:
            for place in self.places:
                runtime.free(name, place.device)

    def _trace(
        self, program: Program, specs: list[tf.TensorSpec]
    ) -> tuple[ConcreteFunction, list[Groups]]:
        """The program as one concrete function for all devices, and the groups it meets in."""
        place = tf.TensorSpec([len(self.mesh.names)], tf.int32)
        keys, token = tf.TensorSpec([None], tf.int32), tf.TensorSpec([], tf.resource)
        found: list[Groups] = []

        @tf.function(autograph=False, input_signature=[place, keys, token, *specs])
        def one_device(
            coordinates: tf.Tensor, keys: tf.Tensor, token: tf.Tensor, *values: Value
        ) -> Values:
            meetings = self.meetings if self.peers.count > 1 else None
            backend = SpmdBackend(self.mesh, coordinates, keys, token, meetings)
            results = list(program(backend, list(values)))
            found.extend(backend.groups)
            return results

        return one_device.get_concrete_function(), found

    def _context(self, processor: int, groups: list[Groups]) -> tuple[tf.Tensor, tf.Tensor]:
        """A processor's coordinates, and the keys of its groups."""
        mine = [next(row for row in rows if processor in row) for rows in groups]
        keys = [runtime.group_key(self._devices(row)) for row in mine]
        coordinates = list(self.mesh.coordinates(processor).values())
        return tf.constant(coordinates, tf.int32), tf.constant(keys, tf.int32)

    def _devices(self, row: Sequence[int]) -> list[int]:
        """The numbers among all processes' devices of those that some processors have."""
        share, started = len(self.places), len(runtime.local_devices())
        return [p // share * started + p % share for p in row]

    def _agree(self, doing: str, text: str) -> None:
        """Refuse to go on where other processes do something else."""
        if self.peers.count == 1:
            return
        found = self.peers.gather(doing, text, cluster.timeouts().agree)
        if len(set(found)) > 1:
            rows = [(f"process {i}", other) for i, other in enumerate(found)]
            headline = f"the processes differ in {doing}."
            fix = "all processes must make the same calls in the same order"
            raise ClusterError(message(headline, rows, fix))

    def _gather_function(self, mine: tf.Tensor) -> ConcreteFunction:
        """From [processor of this process, *block] to [processor, *block]."""
        spec = tf.TensorSpec(mine.shape, mine.dtype)
        if spec not in self._gathers:
            share, size = len(self.places), self.peers.count
            meeting = {
                "group_size": size,
                "group_key": runtime.group_key([-1 - process for process in range(size)]),
                "instance_key": runtime.instance_key(),
            }

            @tf.function(autograph=False, input_signature=[spec])
            def gathered(x: tf.Tensor) -> tf.Tensor:
                token = runtime.variable("reading_token", tf.TensorSpec([], tf.float32))
                sent, back = wire.to_move(x)
                whole = tf.raw_ops.CollectiveGatherV2(input=sent, ordering_token=[token], **meeting)
                return back(tf.ensure_shape(whole, [share * size, *x.shape[1:]]))

            self._gathers[spec] = gathered.get_concrete_function()
        return self._gathers[spec]


def _rows(table: np.ndarray) -> Groups:
    return tuple(tuple(int(processor) for processor in row) for row in table)


def _transpose(x: tf.Tensor, order: list[int]) -> tf.Tensor:
    """`tf.transpose`, left out where it changes nothing."""
    return x if order == sorted(order) else tf.transpose(x, order)
