"""All processors of a mesh as one stack on one device; collectives are reshapes and sums.

A value is a tensor whose leading dim counts the processors. It is the oracle of the spmd backend
and runs meshes of any size on any machine.
"""

from collections.abc import Callable, Iterable, MutableMapping, Sequence

import numpy as np
import tensorflow as tf

from meshlang.layout.mesh import Mesh
from meshlang.lowering import control, runtime
from meshlang.lowering.backend import (
    Axes,
    Block,
    Blocks,
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
from meshlang.lowering.peers import Alone, Peers
from meshlang.lowering.waiting import Meeting, States


class SimulatedBackend:
    """See `meshlang.lowering.backend.Backend`."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self._handles: dict[str, tf.Tensor] = {}
        self._graph = tf.compat.v1.get_default_graph()

    def local(self, fn: Stretch, values: Sequence[Value], outputs: Sequence[Block]) -> Values:
        """Map `fn` over the processors, one after the other."""
        names, size = self.mesh.names, self.mesh.size
        places = np.array([list(self.mesh.coordinates(p).values()) for p in range(size)], np.int32)
        places = places.reshape(size, len(names))

        def one(stacks: tuple[Blocks, tf.Tensor]) -> Blocks:
            blocks, coordinates = stacks
            results = fn(list(blocks), {name: coordinates[i] for i, name in enumerate(names)})
            return checked(results, outputs)

        if size == 1:
            alone = one(([tf.squeeze(x, 0) for x in values], tf.constant(places[0])))
            return [tf.expand_dims(x, 0) for x in alone]
        specs = [tf.TensorSpec(shape, dtype) for shape, dtype in outputs]
        return list(tf.map_fn(one, (list(values), tf.constant(places)), fn_output_signature=specs))

    def all_reduce(self, x: Value, axes: Axes, kind: Kind) -> Value:
        members = self._members(x, axes)
        reduced = reduce_members(members, kind)
        return self._stack(tf.broadcast_to(reduced, members.shape), axes)

    def all_gather(self, x: Value, axes: Axes, dim: int) -> Value:
        members = self._members(x, axes)  # [member, rest, *block]
        whole = _merge(members, dim + 1)
        return self._stack(tf.broadcast_to(whole, [members.shape[0], *whole.shape]), axes)

    def reduce_scatter(self, x: Value, axes: Axes, dim: int) -> Value:
        total = reduce_members(self._members(x, axes), "sum")
        return self._stack(_cut(total, dim + 1, self.mesh.ways(axes)), axes)

    def all_to_all(self, x: Value, axes: Axes, split_dim: int, concat_dim: int) -> Value:
        pieces = _cut(self._members(x, axes), split_dim + 2, self.mesh.ways(axes))
        return self._stack(_merge_second(pieces, concat_dim), axes)

    def permute(self, x: Value, axes: Axes, sources: Sequence[int]) -> Value:
        found = tf.gather(self._members(x, axes), [max(source, 0) for source in sources])
        if min(sources) < 0:
            some = tf.reshape([source >= 0 for source in sources], [-1] + [1] * x.shape.rank)
            found = tf.where(some, found, tf.zeros_like(found))
        return self._stack(found, axes)

    def while_loop(
        self,
        cond: Callable[[Values], Value],
        body: Callable[[Values], Values],
        loop_vars: Sequence[Value],
    ) -> Values:
        return control.while_loop(lambda values: _agreed(cond(values)), body, loop_vars)

    def cond(
        self, predicate: Value, true_fn: Callable[[], Values], false_fn: Callable[[], Values]
    ) -> Values:
        return control.cond(_agreed(predicate), true_fn, false_fn)

    def handle(self, name: str, block: Block) -> tf.Tensor:
        if name not in self._handles:
            shape, dtype = block
            with self._graph.as_default():
                stack = tf.TensorSpec([self.mesh.size, *shape], dtype)
                self._handles[name] = runtime.variable(name, stack)
        return self._handles[name]

    def read(self, name: str, block: Block) -> Value:
        handle, (shape, dtype) = self.handle(name, block), block
        stack = tf.raw_ops.ReadVariableOp(resource=handle, dtype=dtype)
        return tf.ensure_shape(stack, [self.mesh.size, *shape])

    def assign(self, name: str, value: Value) -> None:
        handle = self.handle(name, (tuple(value.shape[1:]), value.dtype))
        tf.raw_ops.AssignVariableOp(resource=handle, value=value)

    def _members(self, x: Value, axes: Axes) -> tf.Tensor:
        """From [processor, *block] to [member, group, *block]."""
        sizes = [size for _, size in self.mesh.axes]
        block = x.shape[1:]
        grid = tf.transpose(tf.reshape(x, [*sizes, block.num_elements()]), self._order(axes))
        return tf.reshape(grid, [self.mesh.ways(axes), -1, *block])

    def _stack(self, members: tf.Tensor, axes: Axes) -> Value:
        """From [member, group, *block] to [processor, *block]."""
        sizes = [size for _, size in self.mesh.axes]
        block, order = members.shape[2:], self._order(axes)
        grid = tf.reshape(members, [*(sizes[i] for i in order[:-1]), block.num_elements()])
        return tf.reshape(tf.transpose(grid, np.argsort(order)), [self.mesh.size, *block])

    def _order(self, axes: Axes) -> list[int]:
        """The axes' places in the mesh, then the other axes', then the blocks'."""
        names = self.mesh.names
        others = [i for i, name in enumerate(names) if name not in axes]
        return [*(names.index(axis) for axis in axes), *others, len(names)]


class SimulatedMachine:
    """See `meshlang.lowering.backend.Machine`: one place, which holds all processors."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        device = runtime.local_devices()[0]
        self.processors = tuple(range(mesh.size))
        self.places = (Place(device, self.processors),)
        self.peers: Peers = Alone()
        self.meetings: MutableMapping[int, Meeting] = {}

    def spec(self, block: Block) -> tf.TensorSpec:
        shape, dtype = block
        return tf.TensorSpec([self.mesh.size, *shape], dtype)

    def join(self, blocks: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [np.stack(blocks)]

    def blocks(self, values: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        (stack,) = values
        return tf.unstack(stack)

    def gather(self, name: str, values: Sequence[tf.Tensor]) -> list[np.ndarray]:
        return [block.numpy() for block in self.blocks(values)]

    def states(self) -> States:
        return {}

    def launch(self, program: Program, arguments: Sequence[Block]) -> Launched:
        specs = [self.spec(block) for block in arguments]
        (place,) = self.places

        @tf.function(autograph=False, input_signature=specs)
        def all_processors(*stacks: Value) -> Values:
            with tf.device(place.device):
                return list(program(SimulatedBackend(self.mesh), list(stacks)))

        step = all_processors.get_concrete_function()

        def run(values: Sequence[Sequence[object]]) -> list[Values]:
            (at_place,) = values
            return [step(*as_tensors(at_place, specs))]

        return run

    def forget(self, names: Iterable[str]) -> None:
        (place,) = self.places
        for name in names:
            runtime.free(name, place.device)


def check_whole(stack: np.ndarray, mesh: Mesh, axes: Axes, name: str) -> None:
    """Refuse a value that should be whole over `axes` but differs between processors.

    Args:
        stack: the blocks of all processors, stacked.
        mesh: the processors.
        axes: those over which the value is whole.
        name: what to call it.
    """
    blocks = np.asarray(stack)
    for processor in range(mesh.size):
        first = mesh.group(processor, axes)[0]
        same = np.array_equal(_bits(blocks[first]), _bits(blocks[processor]))
        if not same:
            raise AssertionError(
                f"{name} should be whole over {'+'.join(axes)}, "
                f"but processors {first} and {processor} hold different blocks"
            )


def _bits(block: np.ndarray) -> np.ndarray:
    """Bytes of a block: NaNs equal themselves there."""
    return np.ascontiguousarray(block).reshape(-1).view(np.uint8)


def _agreed(predicate: tf.Tensor) -> tf.Tensor:
    """The predicate, if all processors have the same."""
    if predicate.shape.rank == 0:
        return predicate
    agree = tf.reduce_all(tf.equal(predicate, predicate[0]))
    with tf.control_dependencies([tf.Assert(agree, ["processors disagree on a predicate"])]):
        return tf.identity(predicate[0])


def _cut(x: tf.Tensor, dim: int, pieces: int) -> tf.Tensor:
    """Cut along `dim`; the pieces become the leading dim."""
    shape = list(x.shape)
    cut = tf.reshape(x, [*shape[:dim], pieces, shape[dim] // pieces, *shape[dim + 1 :]])
    order = [dim, *(i for i in range(len(shape) + 1) if i != dim)]
    return tf.transpose(cut, order)


def _merge(pieces: tf.Tensor, dim: int) -> tf.Tensor:
    """Join the pieces that the leading dim counts along `dim` of one piece."""
    order = [*range(1, dim + 1), 0, *range(dim + 1, pieces.shape.rank)]
    shape = list(pieces.shape[1:])
    shape[dim] *= pieces.shape[0]
    return tf.reshape(tf.transpose(pieces, order), shape)


def _merge_second(pieces: tf.Tensor, dim: int) -> tf.Tensor:
    """From [to, from, group, *block] to [to, group, *block], joined along the block's `dim`."""
    order = [0, 2, *range(3, dim + 3), 1, *range(dim + 3, pieces.shape.rank)]
    to, sender, group, *block = pieces.shape
    block[dim] *= sender
    return tf.reshape(tf.transpose(pieces, order), [to, group, *block])
