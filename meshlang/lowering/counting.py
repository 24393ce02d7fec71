"""Counts the collectives that a program really runs, where the program is running.

The counts are ops of the traced program: what stands in a loop counts once a trip, and in a branch
only when the branch is taken.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import tensorflow as tf

from meshlang.layout.cost import Key
from meshlang.lowering import runtime
from meshlang.lowering.backend import Axes, Backend, Block, Kind, Machine, Stretch, Value, Values

_COUNTS: Block = ((3,), tf.int64)
_counters = itertools.count()


@dataclass(frozen=True, slots=True)
class Ran:
    """What one processor did of one kind of collective over one set of axes.

    Attributes:
        collectives: how many.
        elements, bytes: their payload, as `meshlang.layout.cost.Traffic` counts it.
    """

    collectives: int
    elements: int
    bytes: int


class Counter:
    """The counts of one executable, kept by the machine beside its variables."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._prefix = f"counter{next(_counters)}"
        self._names: dict[Key, str] = {}

    def counting(self, backend: Backend, lead: int) -> Backend:
        """A backend that counts what it passes on.

        Args:
            backend: of the trace.
            lead: how many dims its values have in front of a block.
        """
        return CountingBackend(backend, self._name, lead)

    def reset(self) -> None:
        """Count from zero."""
        spec = self._machine.spec(_COUNTS)
        for name in self._names.values():
            for place in self._machine.places:
                with tf.device(place.device):
                    handle = runtime.variable(name, spec)
                    zeros = tf.zeros(spec.shape, spec.dtype)
                    tf.raw_ops.AssignVariableOp(resource=handle, value=zeros)

    def counts(self) -> dict[Key, Ran]:
        """Since `reset`, by (kind, axes) as in `Cost.traffic`; equal on all processors."""
        found = {}
        for key, name in self._names.items():
            parts = [self._read(name, place.device) for place in self._machine.places]
            blocks = {tuple(map(int, block)) for block in self._machine.blocks(parts)}
            assert len(blocks) == 1, f"processors ran different numbers of {key}: {blocks}"
            ran = Ran(*blocks.pop())
            if ran.collectives:
                found[key] = ran
        return found

    def _name(self, kind: str, axes: Axes) -> str:
        return self._names.setdefault((kind, axes), f"{self._prefix}/{kind}/{'+'.join(axes)}")

    def _read(self, name: str, device: str) -> tf.Tensor:
        spec = self._machine.spec(_COUNTS)
        with tf.device(device):
            handle = runtime.variable(name, spec)
            return tf.raw_ops.ReadVariableOp(resource=handle, dtype=spec.dtype)


class CountingBackend:
    """See `meshlang.lowering.backend.Backend`: passes all on, and counts collectives."""

    def __init__(self, backend: Backend, name: Callable[[str, Axes], str], lead: int) -> None:
        self.mesh = backend.mesh
        self._backend, self._name, self._lead = backend, name, lead

    def local(self, fn: Stretch, values: Sequence[Value], outputs: Sequence[Block]) -> Values:
        return self._backend.local(fn, values, outputs)

    def all_reduce(self, x: Value, axes: Axes, kind: Kind) -> Value:
        made = self._backend.all_reduce(x, axes, kind)
        return self._count("all_reduce", axes, payload=x, made=made)

    def all_gather(self, x: Value, axes: Axes, dim: int) -> Value:
        made = self._backend.all_gather(x, axes, dim)
        return self._count("all_gather", axes, payload=made, made=made)

    def reduce_scatter(self, x: Value, axes: Axes, dim: int) -> Value:
        made = self._backend.reduce_scatter(x, axes, dim)
        return self._count("reduce_scatter", axes, payload=x, made=made)

    def all_to_all(self, x: Value, axes: Axes, split_dim: int, concat_dim: int) -> Value:
        made = self._backend.all_to_all(x, axes, split_dim, concat_dim)
        return self._count("all_to_all", axes, payload=x, made=made)

    def permute(self, x: Value, axes: Axes, sources: Sequence[int]) -> Value:
        made = self._backend.permute(x, axes, sources)
        return self._count("permute", axes, payload=x, made=made)

    def while_loop(
        self,
        cond: Callable[[Values], Value],
        body: Callable[[Values], Values],
        loop_vars: Sequence[Value],
    ) -> Values:
        return self._backend.while_loop(cond, body, loop_vars)

    def cond(
        self, predicate: Value, true_fn: Callable[[], Values], false_fn: Callable[[], Values]
    ) -> Values:
        return self._backend.cond(predicate, true_fn, false_fn)

    def handle(self, name: str, block: Block) -> tf.Tensor:
        return self._backend.handle(name, block)

    def read(self, name: str, block: Block) -> Value:
        return self._backend.read(name, block)

    def assign(self, name: str, value: Value) -> None:
        self._backend.assign(name, value)

    def _count(self, kind: str, axes: Axes, *, payload: Value, made: Value) -> Value:
        """The result of a collective, and one more of its kind when it is there."""
        elements = prod(payload.shape[self._lead :])
        one = [1, elements, elements * payload.dtype.size]
        form = [*made.shape[: self._lead], len(one)]
        handle = self._backend.handle(self._name(kind, axes), _COUNTS)
        with tf.control_dependencies([made]):
            value = tf.constant(np.broadcast_to(one, form), tf.int64)
            tf.raw_ops.AssignAddVariableOp(resource=handle, value=value)
        return made
