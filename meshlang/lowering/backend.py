"""What a lowered plan is written against: values, local stretches, five collectives, loops.

A *value* stands for one tensor's blocks on all processors and is opaque to the plan's executor: a
`Backend` alone knows its form. Two exist: `meshlang.lowering.spmd` runs one program on every
device, `meshlang.lowering.simulated` runs all processors as one stack on one device.
"""

from collections.abc import Callable, Iterable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import tensorflow as tf

from meshlang.layout.mesh import Mesh
from meshlang.lowering.peers import Peers
from meshlang.lowering.waiting import Meeting, States

Axes = tuple[str, ...]
Kind = Literal["sum", "max", "min"]
Block = tuple[tuple[int, ...], tf.DType]  # the shape and dtype of one processor's piece
Value = tf.Tensor
Blocks = list[tf.Tensor]
Values = list[Value]
Stretch = Callable[[Blocks, dict[str, tf.Tensor]], Blocks]


class Backend(Protocol):
    """What happens inside of a program: exists only while the program is traced.

    `axes` name the members of a group, the first one outermost: `Mesh.group` gives their order. All
    processors call the same methods in the same order. dtypes: bool, int32, int64, float16,
    bfloat16, float32, float64; what only moves may also be int8, uint8, int16, uint16, uint32 or
    uint64.
    """

    mesh: Mesh

    def local(self, fn: Stretch, values: Sequence[Value], outputs: Sequence[Block]) -> Values:
        """Run `fn(blocks, coordinates)` on every processor; it may not use collectives.

        `coordinates` maps each axis to this processor's place on it, an int32 scalar. The results
        must have the shapes and dtypes of `outputs`. `fn` may use tensors from outside if they are
        no values but equal for all processors, as a loop's trip.
        """
        ...

    def all_reduce(self, x: Value, axes: Axes, kind: Kind) -> Value:
        """The sum, maximum or minimum of the members' blocks, on every member.

        Sums of float16 and bfloat16 go through float32; maxima and minima carry NaNs on, as
        TensorFlow's do. For bool, "max" is any and "min" is all; there is no "sum".
        """
        ...

    def all_gather(self, x: Value, axes: Axes, dim: int) -> Value:
        """The members' blocks, joined along `dim`, on every member."""
        ...

    def reduce_scatter(self, x: Value, axes: Axes, dim: int) -> Value:
        """The sum of the members' blocks, cut along `dim`: member i keeps the i-th piece."""
        ...

    def all_to_all(self, x: Value, axes: Axes, split_dim: int, concat_dim: int) -> Value:
        """Cut along `split_dim`, send the i-th piece to member i, join along `concat_dim`."""
        ...

    def permute(self, x: Value, axes: Axes, sources: Sequence[int]) -> Value:
        """Member i gets the block of member `sources[i]`, or zeros if that is -1.

        No member sends twice.
        """
        ...

    def while_loop(
        self,
        cond: Callable[[Values], Value],
        body: Callable[[Values], Values],
        loop_vars: Sequence[Value],
    ) -> Values:
        """Repeat `body` while `cond` holds, which must be equal on all processors.

        `cond` gives a value of scalar blocks, or a plain scalar. Loop variables may be values or
        plain tensors: a trip counter, a TensorList of values.
        """
        ...

    def cond(
        self,
        predicate: Value,
        true_fn: Callable[[], Values],
        false_fn: Callable[[], Values],
    ) -> Values:
        """Run one of two branches; `predicate` is as in `while_loop`."""
        ...

    def handle(self, name: str, block: Block) -> tf.Tensor:
        """The variable of this name, which lives on the devices and outlives the program.

        For TensorFlow's fused optimizer kernels. It holds the value's form at each place.
        """
        ...

    def read(self, name: str, block: Block) -> Value:
        """The value of a variable, after all assigns before it; outside of loops and branches."""
        ...

    def assign(self, name: str, value: Value) -> None:
        """Make or replace a variable; outside of loops and branches."""
        ...


Program = Callable[[Backend, Values], Values]


@dataclass(frozen=True, slots=True)
class Place:
    """A device of this process and the processors whose blocks lie there."""

    device: str
    processors: tuple[int, ...]


class Launched(Protocol):
    """A program on its devices."""

    def __call__(self, arguments: Sequence[Sequence[object]], /) -> list[Values]:
        """Run it once: `arguments[place][i]` in, `results[place][i]` out.

        Arguments are arrays or tensors, of the form that `Machine.join` gives.
        """
        ...


class Machine(Protocol):
    """The places that hold values, and a way to run programs on them.

    In a run of several processes each has a machine of its own, over the same mesh.

    Attributes:
        mesh: all processors.
        places: the devices of this process.
        processors: those that have their blocks there, in the order of the places.
        peers: the processes that share the mesh.
        meetings: of several processes, the collectives of their programs by number.
    """

    mesh: Mesh
    places: tuple[Place, ...]
    processors: tuple[int, ...]
    peers: Peers
    meetings: MutableMapping[int, Meeting]

    def spec(self, block: Block) -> tf.TensorSpec:
        """The form that a value has at each place."""
        ...

    def join(self, blocks: Sequence[np.ndarray]) -> list[np.ndarray]:
        """From the blocks of `processors`, in order, to one array for each place."""
        ...

    def blocks(self, values: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """From one value's parts at the places to the blocks of `processors`, in order."""
        ...

    def gather(self, name: str, values: Sequence[tf.Tensor]) -> list[np.ndarray]:
        """The blocks of all processors of the mesh; all processes call it at the same time.

        Args:
            name: of what is gathered, for the error if some process does not.
            values: one value's parts at this machine's places.

        Raises:
            PeerError: another process gathers something else, nothing, or is gone.
        """
        ...

    def states(self) -> States:
        """Of several processes, which collective each of `processors` is in; in any thread."""
        ...

    def launch(self, program: Program, arguments: Sequence[Block]) -> Launched:
        """Trace `program(backend, values)` once and put it on all places.

        Args:
            program: calls the backend's methods and returns values.
            arguments: the blocks of the values it is called with.
        """
        ...

    def forget(self, names: Iterable[str]) -> None:
        """Free variables at all places; names that hold nothing are passed over."""
        ...


def checked(results: Sequence[tf.Tensor], outputs: Sequence[Block]) -> Blocks:
    """The results of a local stretch, if they are what the plan says."""
    found = [(tuple(result.shape), result.dtype) for result in results]
    wanted = [(tuple(shape), tf.as_dtype(dtype)) for shape, dtype in outputs]
    if found != wanted:
        raise TypeError(f"a local stretch makes {found}, and the plan says {wanted}")
    return list(results)


def as_tensors(arrays: Sequence[object], specs: Sequence[tf.TensorSpec]) -> list[tf.Tensor]:
    """Arguments in the dtypes that a program was traced with."""
    pairs = zip(arrays, specs, strict=True)
    return [tf.convert_to_tensor(array, spec.dtype) for array, spec in pairs]


def reduce_members(x: tf.Tensor, kind: Kind) -> tf.Tensor:
    """Reduce over the leading dim, in its order; short floats are summed in float32."""
    if x.dtype == tf.bool:
        if kind == "sum":
            raise TypeError("truth values have no sum; cast them first")
        return tf.reduce_any(x, 0) if kind == "max" else tf.reduce_all(x, 0)
    if kind == "sum":
        wide = tf.float32 if x.dtype in (tf.float16, tf.bfloat16) else x.dtype
        return tf.cast(tf.reduce_sum(tf.cast(x, wide), 0), x.dtype)
    return tf.reduce_max(x, 0) if kind == "max" else tf.reduce_min(x, 0)
