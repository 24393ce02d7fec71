"""Variables as one file of the safetensors format, and back: for other frameworks.

Needs the package `safetensors`: ``pip install 'meshlang[safetensors]'``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import tensorflow as tf

from meshlang import manifest
from meshlang.errors import CheckpointError, message
from meshlang.lowering.fitting import matches, renamed_as, sources
from meshlang.lowering.slices import BUNDLE, CARRIED_AS
from meshlang.manifest import Entry

if TYPE_CHECKING:
    from meshlang.lowering.executable import Executable

# What the format calls the dtypes of variables.
_DTYPES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "int16": "I16",
    "uint16": "U16",
    "int32": "I32",
    "uint32": "U32",
    "int64": "I64",
    "uint64": "U64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
}


def export(
    checkpoint: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    only: str = "",
    names: Mapping[str, str] | None = None,
) -> list[str]:
    """Write the tensors of a checkpoint as one safetensors file, which appears complete.

    Nothing but the checkpoint is needed: neither its program nor devices; and the memory for what
    is written. The names of dims are in the file's metadata, as JSON under "dims".

    Args:
        checkpoint: the checkpoint's directory.
        path: the file to write.
        only: a regular expression; tensors whose names match it whole are written, all if empty.
        names: from regular expressions of tensors' names to those in the file.

    Returns:
        The names in the file.

    Raises:
        CheckpointError: the checkpoint is missing or damaged, an expression matches nothing, two
            tensors would have one name, or the file cannot be written.
    """
    safetensors = _package()
    checkpoint, path = Path(checkpoint), Path(path)
    found = manifest.read(checkpoint)
    chosen = {n: e for n, e in found.tensors.items() if not only or matches(only, n)}
    renamed = {name: renamed_as(name, names or {}) for name in chosen}
    _check_names(renamed, only, checkpoint)
    reader = tf.train.load_checkpoint(str(checkpoint / BUNDLE))
    arrays = {}
    try:
        for name, entry in chosen.items():
            array = np.asarray(reader.get_tensor(name))
            arrays[renamed[name]] = array.view(entry.dtype) if entry.dtype in CARRIED_AS else array
    except tf.errors.OpError as error:
        raise manifest.damage(checkpoint, found, str(error.message).partition("\n")[0]) from error
    dims = {renamed[name]: list(entry.dims) for name, entry in chosen.items()}
    notes = {"meshlang": found.meshlang, "step": str(found.step), "dims": json.dumps(dims)}
    _write(safetensors, arrays, notes, path)
    return list(arrays)


def load(
    executable: Executable,
    path: str | os.PathLike[str],
    *,
    only: str = "",
    names: Mapping[str, str] | None = None,
    cast: bool = False,
) -> None:
    """Give variables the values of the tensors of a safetensors file. The step stays as it is.

    One tensor after the other goes through the host's memory.

    Args:
        executable: whose variables are set.
        path: the file; it must hold these variables and no others.
        only: a regular expression: variables whose names match it whole are set. The file may hold
            more, and other variables stay as they are.
        names: from regular expressions of variables' names to those in the file.
        cast: take floats of another dtype too, rounded to the variable's.

    Raises:
        CheckpointError: the file is none, or does not fit; all differences are listed.
    """
    safetensors, path = _package(), Path(path)
    try:
        with safetensors.safe_open(str(path), framework="numpy") as file:
            theirs = _entries(file)
            ours = {name: _unnamed(value) for name, value in executable.plan.variables.items()}
            wanted = sources(ours, theirs, path, only=only, names=names, cast=cast)
            for name, (source, _) in wanted.items():
                dtype = tf.as_dtype(ours[name].dtype).as_numpy_dtype
                executable.set(name, np.asarray(file.get_tensor(source)).astype(dtype, copy=False))
    except (OSError, safetensors.SafetensorError) as error:
        rows = [("path", path), ("reason", str(error).partition("\n")[0])]
        raise CheckpointError(message("this is no safetensors file.", rows)) from error


def _package() -> Any:
    try:
        import safetensors
        import safetensors.numpy
    except ModuleNotFoundError as error:
        fix = "pip install 'meshlang[safetensors]'"
        raise CheckpointError(message("safetensors is not installed.", fix=fix)) from error
    return safetensors


def _write(
    safetensors: Any, arrays: Mapping[str, np.ndarray], notes: Mapping[str, str], path: Path
) -> None:
    """Beside the file and then in its place: a crash leaves none or a whole one."""
    beside = path.with_name(f"{path.name}.tmp-{uuid4().hex}")
    plain = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            safetensors.numpy.save_file(plain, str(beside), metadata=dict(notes))
            manifest.to_disk(beside)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    except (OSError, safetensors.SafetensorError) as error:
        rows = [("path", path), ("reason", error)]
        raise CheckpointError(message("the file could not be written.", rows)) from error


def _entries(file: Any) -> dict[str, Entry]:
    """What a file holds. Its dims have no names that count."""
    dtypes = {theirs: ours for ours, theirs in _DTYPES.items()}
    found = {}
    for name in file.keys():
        part = file.get_slice(name)
        shape = tuple(part.get_shape())
        dtype = dtypes.get(part.get_dtype(), str(part.get_dtype()))
        found[name] = Entry(tuple(f"dim{i}" for i in range(len(shape))), shape, dtype)
    return found


def _unnamed(value: Any) -> Entry:
    sizes = value.shape.sizes
    return Entry(tuple(f"dim{i}" for i in range(len(sizes))), sizes, value.dtype)


def _check_names(renamed: Mapping[str, str], only: str, checkpoint: Path) -> None:
    rows: list[tuple[str, object]] = [("path", checkpoint)]
    if not renamed:
        fix = "a name must match as a whole: 'encoder/.*', not 'encoder'"
        raise CheckpointError(message("no tensor matches.", [*rows, ("only", only)], fix))
    taken: dict[str, str] = {}
    for name, new in renamed.items():
        if new in taken:
            rows += [("name in the file", new), ("tensors", f"{taken[new]} and {name}")]
            raise CheckpointError(message("two tensors would have one name.", rows))
        taken[new] = name
