"""Checkpoints: every distinct block is written once, and read back under any layout.

The tensors are a bundle in TensorFlow's own format, with slices: `tf.train.load_checkpoint` opens
the directory and shows whole tensors. Around them stands what `meshlang.manifest` describes.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import tensorflow as tf

import meshlang
from meshlang import manifest
from meshlang.errors import CheckpointError, message
from meshlang.layout.layout import Tables
from meshlang.layout.values import PlanValue
from meshlang.lowering.blocks import Index, block_index
from meshlang.manifest import Entry, Manifest

if TYPE_CHECKING:
    from meshlang.lowering.executable import Store

_BUNDLE = "bundle"
_HOST = "/CPU:0"

#: dtypes whose slices TensorFlow refuses to read, and those that carry their bits
_CARRIED_AS = {"float16": "int16", "uint32": "int32"}

#: TensorFlow ends the process, without an exception, at a slice of a tensor with more
_MOST_DIMS = 8

# A name, a slice in TensorFlow's notation, and the block that is written there.
Piece = tuple[str, str, tf.Tensor]


def save(
    store: Store,
    path: str | os.PathLike[str],
    *,
    tables: Tables,
    extra: Mapping[str, Any] | None = None,
) -> Manifest:
    """Write all variables, the step and the seed as one checkpoint, which appears complete.

    A checkpoint that has this name already is moved to ``<path>.stale-<uuid>`` and stays there.
    float16 and uint32 tensors are written as int16 and int32 of the same bits: with
    `tf.train.load_checkpoint`, view them (``array.view("float16")``).

    Args:
        store: the variables.
        path: the directory to make; its parents are made if need be.
        tables: the mesh and the layout, noted for readers.
        extra: noted in the manifest, anything that JSON can hold.

    Raises:
        CheckpointError: it cannot be written.
        VariableError: a variable has no value yet.
    """
    path = Path(path)
    noted = json.loads(json.dumps(dict(extra or {}), allow_nan=False))
    store.check_ready()
    tensors = _tensors(store)
    _check_dims(tensors)
    written = path.with_name(f"{path.name}.tmp-{uuid4().hex}")
    try:
        written.mkdir(parents=True)
        _merge(_write_parts(store, written), written)
        found = Manifest(
            meshlang=meshlang.__version__,
            step=int(store.step),
            seed=int(store.seed),
            mesh=str(tables.mesh),
            layout=str(tables.layout),
            params=str(tables.params),
            slots=str(tables.slots),
            tensors=tensors,
            files=manifest.describe(written),
            extra=noted,
        )
        manifest.commit(found, written, path)
    except (OSError, tf.errors.OpError) as error:
        rows = [("path", path), ("reason", _reason(error))]
        raise CheckpointError(message("the checkpoint could not be written.", rows)) from error
    finally:
        shutil.rmtree(written, ignore_errors=True)
    return found


def restore(store: Store, path: str | os.PathLike[str]) -> Manifest:
    """Read the variables of a store, the step and the seed from a checkpoint.

    Each processor's block is read from the file, whatever the mesh and layout it was saved under;
    no processor's memory holds a whole tensor that it keeps divided. If reading fails half-way, the
    store's variables have no value until they are restored or initialized.

    Args:
        store: the variables; the checkpoint must hold these and no others.
        path: the directory of a checkpoint.

    Raises:
        CheckpointError: it is missing, damaged, or of another model (all differences are listed).
    """
    path = Path(path)
    found = manifest.read(path)
    _check_same_tensors(_tensors(store), found.tensors, path)
    store.ready.difference_update(store.variables)
    try:
        for name, (_, value) in store.variables.items():
            store.write_parts(name, value, _read_parts(store, path, name, value))
    except tf.errors.OpError as error:
        raise manifest.damage(path, found, _reason(error)) from error
    store.seed, store.step = found.seed, found.step
    return found


def _tensors(store: Store) -> dict[str, Entry]:
    return {
        name: Entry(value.shape.names, value.shape.sizes, value.dtype)
        for name, (_, value) in store.variables.items()
    }


def _write_parts(store: Store, directory: Path) -> list[str]:
    """One bundle for each place that has something to write; their prefixes.

    A place's blocks go through the host's memory at once, those of several places do not.
    """
    pieces: dict[int, list[Piece]] = {}
    for turn, (name, (_, value)) in enumerate(store.variables.items()):
        for processor, piece in _pieces(store, turn, name, value):
            pieces.setdefault(processor, []).append(piece)
    prefixes = []
    for place in store.machine.places:
        mine = [piece for p in place.processors for piece in pieces.get(p, [])]
        if mine:
            prefixes.append(str(directory / f"part-{place.processors[0]:05d}"))
            names, slices, blocks = (list(column) for column in zip(*mine, strict=True))
            with tf.device(_HOST):
                tf.raw_ops.SaveV2(
                    prefix=prefixes[-1],
                    tensor_names=names,
                    shape_and_slices=slices,
                    tensors=[_carried(block) for block in blocks],
                )
    return prefixes


def _pieces(store: Store, turn: int, name: str, value: PlanValue) -> list[tuple[int, Piece]]:
    """What each processor writes of a variable: of equal blocks one, by turns, as they all could.

    Args:
        store: the variables.
        turn: the variable's number.
        name: its name.
        value: how it lies.
    """
    machine = store.machine
    holders: dict[str, list[int]] = {}
    for processor in range(machine.mesh.size):
        index = block_index(value, machine.mesh, processor)
        holders.setdefault(_slice(value.shape.sizes, index), []).append(processor)
    blocks = machine.blocks(store.parts(name, value))
    writers = [(spec, alike[turn % len(alike)]) for spec, alike in holders.items()]
    return [(processor, (name, spec, blocks[processor])) for spec, processor in writers]


def _merge(prefixes: Sequence[str], directory: Path) -> None:
    """Make one bundle of the parts, and tell `tf.train.load_checkpoint` its name."""
    if prefixes:
        with tf.device(_HOST):
            tf.raw_ops.MergeV2Checkpoints(
                checkpoint_prefixes=prefixes,
                destination_prefix=str(directory / _BUNDLE),
                delete_old_dirs=False,
            )
    (directory / "checkpoint").write_text(f'model_checkpoint_path: "{_BUNDLE}"\n')


def _read_parts(store: Store, path: Path, name: str, value: PlanValue) -> list[Any]:
    """What each place holds of a variable; equal blocks are read once."""
    machine = store.machine
    slices = [
        _slice(value.shape.sizes, block_index(value, machine.mesh, processor))
        for processor in range(machine.mesh.size)
    ]
    distinct = list(dict.fromkeys(slices))
    with tf.device(_HOST):
        read = tf.raw_ops.RestoreV2(
            prefix=str(path / _BUNDLE),
            tensor_names=[name] * len(distinct),
            shape_and_slices=distinct,
            dtypes=[_CARRIED_AS.get(value.dtype, value.dtype)] * len(distinct),
        )
        blocks = {
            spec: tf.bitcast(block, value.dtype) if value.dtype in _CARRIED_AS else block
            for spec, block in zip(distinct, read, strict=True)
        }
    return machine.join([blocks[spec] for spec in slices])


def _slice(sizes: Sequence[int], index: Index) -> str:
    """A block in the notation of SaveV2: the whole shape, then start and length along each dim.

    >>> _slice((8, 16), (slice(4, 8), slice(0, 16)))
    '8 16 4,4:-'
    >>> _slice((8, 16), (slice(0, 8), slice(0, 16)))
    ''
    """
    parts = [
        "-" if (part.start, part.stop) == (0, size) else f"{part.start},{part.stop - part.start}"
        for size, part in zip(sizes, index, strict=True)
    ]
    if set(parts) <= {"-"}:
        return ""
    return f"{' '.join(map(str, sizes))} {':'.join(parts)}"


def _carried(block: tf.Tensor) -> tf.Tensor:
    carrier = _CARRIED_AS.get(block.dtype.name)
    return tf.bitcast(block, carrier) if carrier else block


def _reason(error: Any) -> str:
    """One line of what the system or TensorFlow said; TensorFlow's exceptions have a message."""
    return str(getattr(error, "message", error)).partition("\n")[0]


def _check_dims(tensors: Mapping[str, Entry]) -> None:
    """Refuse what TensorFlow's format cannot hold."""
    rows = [(name, entry) for name, entry in tensors.items() if len(entry.shape) > _MOST_DIMS]
    if rows:
        headline = f"a checkpoint holds variables of at most {_MOST_DIMS} dims."
        raise CheckpointError(message(headline, rows, "merge dims of these variables"))


def _check_same_tensors(ours: Mapping[str, Entry], theirs: Mapping[str, Entry], path: Path) -> None:
    """Refuse a checkpoint of another model, listing all that differs."""
    rows = [("missing", f"{n} {ours[n]}") for n in ours if n not in theirs]
    rows += [("unexpected", f"{n} {theirs[n]}") for n in theirs if n not in ours]
    rows += [
        ("differing", f"{n} {theirs[n]} in the checkpoint, {ours[n]} in the program")
        for n in ours
        if n in theirs and not ours[n].fits(theirs[n])
    ]
    if rows:
        tensors = f"{len(rows)} tensor{'s do' if len(rows) > 1 else ' does'}"
        raise CheckpointError(
            message(
                f"the checkpoint is of another model: {tensors} not fit.",
                [("path", path), *rows],
                "restore into the program that wrote it, or start anew in another directory",
            )
        )
