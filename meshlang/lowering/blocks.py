"""Between whole arrays on the host and blocks on processors."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import tensorflow as tf

from meshlang.errors import ArrayError, message
from meshlang.layout.mesh import Mesh
from meshlang.layout.values import PlanValue
from meshlang.lowering.backend import Machine
from meshlang.lowering.simulated import SimulatedMachine, check_whole

Index = tuple[slice, ...]


def checked_array(what: str, array: Any, value: PlanValue) -> np.ndarray:
    """An array of the shape and dtype that a plan's value has."""
    array = np.asarray(array)
    held = tf.as_dtype(value.dtype).as_numpy_dtype
    fits = array.dtype == held or (
        array.dtype.kind == np.dtype(held).kind and np.can_cast(array.dtype, held, "same_kind")
    )
    if value.dtype == "bfloat16" and array.dtype.kind == "f":
        fits = True
    if array.shape != value.shape.sizes or not fits:
        raise ArrayError(
            message(
                f"{what} has the wrong {'dtype' if array.shape == value.shape.sizes else 'shape'}.",
                [
                    ("given", f"{list(array.shape)} {array.dtype}"),
                    ("wanted", f"{list(value.shape.sizes)} {value.dtype}"),
                    ("dims", value.shape),
                ],
            )
        )
    return array.astype(held, copy=False)


def block_index(value: PlanValue, mesh: Mesh, processor: int) -> Index:
    """The part of the whole array that a processor holds."""
    at = mesh.coordinates(processor)
    index = []
    for axes, size in zip(value.placement, value.block, strict=True):
        piece = 0
        for axis in axes:
            piece = piece * mesh[axis] + at[axis]
        index.append(slice(piece * size, (piece + 1) * size))
    return tuple(index)


def cut_blocks(
    array: np.ndarray, value: PlanValue, mesh: Mesh, processors: Sequence[int] | None = None
) -> list[np.ndarray]:
    """The block of each processor, in order; of some of them, or of all of the mesh."""
    wanted = range(mesh.size) if processors is None else processors
    return [array[block_index(value, mesh, p)] for p in wanted]


def box(value: PlanValue, mesh: Mesh, processors: Sequence[int]) -> Index:
    """The smallest part of the whole array that holds the blocks of some processors."""
    blocks = [block_index(value, mesh, p) for p in processors]
    return tuple(
        slice(min(s.start for s in column), max(s.stop for s in column))
        for column in zip(*blocks, strict=True)
    )


def is_run(value: PlanValue) -> bool:
    """Whether each block is a run of the whole array's elements, in row-major order."""
    divided = [i for i, axes in enumerate(value.placement) if axes]
    return not divided or (divided == [divided[0]] and prod(value.block[: divided[0]]) == 1)


def holder(value: PlanValue, mesh: Mesh, processor: int) -> int:
    """The first processor that holds the same block as this one."""
    used = {a for axes in value.placement for a in axes}
    return mesh.group(processor, tuple(a for a in mesh.names if a not in used))[0]


def first_holder(value: PlanValue, mesh: Mesh, processor: int) -> bool:
    """Whether no processor before this one holds its block."""
    return holder(value, mesh, processor) == processor


def assemble(
    machine: Machine, value: PlanValue, parts: Sequence[tf.Tensor], name: str
) -> np.ndarray:
    """The whole array. In a simulation, copies that must be equal are compared.

    Where this process does not have all blocks, all processes must ask for it at the same time.
    """
    mesh = machine.mesh
    if isinstance(machine, SimulatedMachine):
        used = {a for axes in value.placement for a in axes}
        spare = tuple(a for a in mesh.names if a not in used and mesh[a] > 1)
        if spare:
            check_whole(parts[0].numpy(), mesh, spare, name)
    whole = np.empty(value.shape.sizes, tf.as_dtype(value.dtype).as_numpy_dtype)
    local = {holder(value, mesh, p): i for i, p in reversed([*enumerate(machine.processors)])}
    if all(p in local for p in range(mesh.size) if first_holder(value, mesh, p)):
        blocks = machine.blocks(parts)
        found = {p: blocks[i].numpy() for p, i in local.items()}
    else:
        found = dict(enumerate(machine.gather(f"{name} {value}", parts)))
    for processor, block in found.items():
        if first_holder(value, mesh, processor):
            whole[block_index(value, mesh, processor)] = block
    return whole


class Result:
    """A result of a call, on the devices until it is read."""

    def __init__(self, machine: Machine, value: PlanValue, parts: list[tf.Tensor]) -> None:
        self._machine = machine
        self._value = value
        self._parts = parts
        self._array: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the whole."""
        return self._value.shape.sizes

    def numpy(self) -> np.ndarray:
        """The whole array, fetched once.

        Where its blocks lie on several processes, all of them must read it, in the same order.
        """
        if self._array is None:
            self._array = assemble(self._machine, self._value, self._parts, "a result")
        return self._array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = self.numpy()
        return array if dtype is None else array.astype(dtype)

    def __float__(self) -> float:
        return float(self.numpy())

    def __int__(self) -> int:
        return int(self.numpy())

    def __bool__(self) -> bool:
        return bool(self.numpy())

    def __format__(self, spec: str) -> str:
        return format(self.numpy().item() if not self.shape else self.numpy(), spec)

    def __repr__(self) -> str:
        return repr(self.numpy())

    __str__ = __repr__
