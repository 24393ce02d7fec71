"""Blocks as slices of whole tensors in TensorFlow's checkpoint format.

Each distinct block is written once, by one processor, and blocks are read under any other cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from meshlang import faults
from meshlang.layout.values import PlanValue
from meshlang.lowering.blocks import Index, block_index
from meshlang.manifest import Part, describe_part

if TYPE_CHECKING:
    from meshlang.lowering.executable import Store

#: the tensors of a checkpoint, as a name in its directory
BUNDLE = "bundle"

_HOST = "/CPU:0"

#: dtypes whose slices TensorFlow refuses to read, and those that carry their bits
CARRIED_AS = {"float16": "int16", "uint32": "int32"}

# A name, a slice in TensorFlow's notation, and the block that is written there.
Piece = tuple[str, str, Any]
# What each place of this process writes, under the name of its part.
Pieces = Mapping[str, Sequence[Piece]]


def pieces(store: Store, *, copied: bool) -> Pieces:
    """What the places of this process write: of equal blocks one, by turns, as all hold it.

    Args:
        store: the variables.
        copied: copy the blocks into the host's memory, so that they may be written later.
    """
    machine, found = store.machine, {}
    names = {
        p: f"part-{place.processors[0]:05d}" for place in machine.places for p in place.processors
    }
    for turn, (name, (_, value)) in enumerate(store.variables.items()):
        blocks = dict(zip(names, machine.blocks(store.parts(name, value)), strict=True))
        for spec, processor in _writers(store, value, turn).items():
            if processor in blocks:
                block = blocks[processor].numpy() if copied else blocks[processor]
                found.setdefault(names[processor], []).append((name, spec, block))
    return found


def write_parts(found: Pieces, directory: Path, step: int) -> list[Part]:
    """Write this process's parts, bring them to the disk, and say what they are.

    Blocks of one place go through the host's memory at once, those of several do not.
    """
    parts = []
    for name, some in found.items():
        names, slices, blocks = (list(column) for column in zip(*some, strict=True))
        with tf.device(_HOST):
            tf.raw_ops.SaveV2(
                prefix=str(directory / name),
                tensor_names=names,
                shape_and_slices=slices,
                tensors=[_carried(tf.convert_to_tensor(block)) for block in blocks],
            )
        parts.append(describe_part(directory, name))
        faults.point("ckpt.within_write", step)
    return parts


def merge(parts: Sequence[Part], directory: Path) -> None:
    """Make one bundle of all processes' parts, and tell `tf.train.load_checkpoint` its name."""
    if parts:
        with tf.device(_HOST):
            tf.raw_ops.MergeV2Checkpoints(
                checkpoint_prefixes=[str(directory / part.name) for part in parts],
                destination_prefix=str(directory / BUNDLE),
                delete_old_dirs=False,
            )
    (directory / "checkpoint").write_text(f'model_checkpoint_path: "{BUNDLE}"\n')


def read_parts(
    store: Store, path: Path, name: str, value: PlanValue, source: tuple[str, str]
) -> list[Any]:
    """What each place of this process holds of a variable; equal blocks are read once.

    Args:
        store: the variables.
        path: the checkpoint's directory.
        name: the variable's.
        value: how it lies.
        source: the tensor's name and dtype in the checkpoint.
    """
    machine, (tensor, dtype) = store.machine, source
    slices = [
        slice_text(value.shape.sizes, block_index(value, machine.mesh, processor))
        for processor in machine.processors
    ]
    distinct = list(dict.fromkeys(slices))
    with tf.device(_HOST):
        read = tf.raw_ops.RestoreV2(
            prefix=str(path / BUNDLE),
            tensor_names=[tensor] * len(distinct),
            shape_and_slices=distinct,
            dtypes=[CARRIED_AS.get(dtype, dtype)] * len(distinct),
        )
        blocks = {
            spec: tf.cast(tf.bitcast(b, dtype) if dtype in CARRIED_AS else b, value.dtype)
            for spec, b in zip(distinct, read, strict=True)
        }
    return machine.join([blocks[spec] for spec in slices])


def slice_text(sizes: Sequence[int], index: Index) -> str:
    """A block in the notation of SaveV2: the whole shape, then start and length along each dim.

    >>> slice_text((8, 16), (slice(4, 8), slice(0, 16)))
    '8 16 4,4:-'
    >>> slice_text((8, 16), (slice(0, 8), slice(0, 16)))
    ''
    """
    parts = [
        "-" if (part.start, part.stop) == (0, size) else f"{part.start},{part.stop - part.start}"
        for size, part in zip(sizes, index, strict=True)
    ]
    if set(parts) <= {"-"}:
        return ""
    return f"{' '.join(map(str, sizes))} {':'.join(parts)}"


def _writers(store: Store, value: PlanValue, turn: int) -> dict[str, int]:
    """For each distinct block the processor that writes it, the same on every process."""
    mesh = store.machine.mesh
    holders: dict[str, list[int]] = {}
    for processor in range(mesh.size):
        index = block_index(value, mesh, processor)
        holders.setdefault(slice_text(value.shape.sizes, index), []).append(processor)
    return {spec: alike[turn % len(alike)] for spec, alike in holders.items()}


def _carried(block: tf.Tensor) -> tf.Tensor:
    carrier = CARRIED_AS.get(block.dtype.name)
    return tf.bitcast(block, carrier) if carrier else block
