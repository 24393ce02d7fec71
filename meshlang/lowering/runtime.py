"""TensorFlow's devices and keys: everything that needs its semi-private interface."""

import itertools
import os
import threading
from collections.abc import Iterable, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.core.framework.attr_value_pb2 import AttrValue, NameAttrList
from tensorflow.python.eager import context  # pyright: ignore[reportMissingImports]

from meshlang.errors import MeshError, message
from meshlang.layout.mesh import Mesh
from meshlang.lowering.quiet import quiet_stderr

VERSION = "2.21"

# Group keys and instance keys are the process's, as TensorFlow's collective executor is: a group
# key used with a second set of devices, or an instance key with a second shape, poisons it.
_keys_lock = threading.Lock()
_group_keys: dict[tuple[int, ...], int] = {}
_instance_keys = itertools.count(1)


def start(devices: int | None = None, kind: str = "cpu") -> None:
    """Start TensorFlow with so many devices; call it before anything else uses TensorFlow.

    A CPU is cut into virtual devices, GPUs are taken as they are. A second call is fine as long as
    it asks for no more devices than there are. Grappler's meta-optimizer is switched off for the
    whole process; where virtual devices are as many as the cores, so are threads inside of ops.

    Args:
        devices: how many; None takes one CPU, or all GPUs.
        kind: "cpu" or "gpu".

    Raises:
        MeshError: if TensorFlow has already started with fewer devices, or the machine has too few.

    >>> start(devices=8)
    >>> len(tf.config.list_logical_devices("CPU"))
    8
    """
    check_version(tf.__version__)
    if kind not in ("cpu", "gpu"):
        raise MeshError(message(f"no devices of kind {kind!r}.", fix="use 'cpu' or 'gpu'"))
    if devices is not None and devices < 1:
        raise MeshError(message(f"{devices} devices were asked for.", fix="ask for at least one"))
    # Grappler works on the copies of the program for all devices at once: seconds at the first
    # step, and no later step is faster for it.
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    wanted, fix = devices or 1, _fix(devices or 1, kind)
    if kind == "gpu":
        _enough(wanted, len(tf.config.list_physical_devices("GPU")), kind, fix)
    if not _initialized():
        with quiet_stderr():
            _configure(wanted, kind)
            tf.config.list_logical_devices()
    _enough(wanted, len(tf.config.list_logical_devices(kind.upper())), kind, fix)


def has_gpus(count: int) -> bool:
    """Whether the machine has so many GPUs; starts nothing."""
    return len(tf.config.list_physical_devices("GPU")) >= count


def devices_for(mesh: Mesh) -> list[str]:
    """The names of the devices of a mesh's processors, in their order.

    Starts as many virtual CPUs as the mesh needs if TensorFlow has not started yet. Where GPUs were
    started, they are taken.

    Raises:
        MeshError: if the mesh is larger than what TensorFlow has started with.
    """
    start(None if _initialized() else mesh.size)
    kind = "gpu" if tf.config.list_logical_devices("GPU") else "cpu"
    names = [device.name for device in tf.config.list_logical_devices(kind.upper())]
    if len(names) < mesh.size:
        raise MeshError(
            message(
                f"the mesh has {mesh.size} processors; TensorFlow has started with {len(names)}.",
                [("mesh", mesh or "(one processor)"), ("devices", f"{len(names)} {kind}")],
                _fix(mesh.size, kind),
            )
        )
    return names[: mesh.size]


def group_key(devices: Sequence[int]) -> int:
    """The key of the collectives among these devices, given by their global numbers.

    Equal in all processes that ask for the same groups in the same order.
    """
    with _keys_lock:
        return _group_keys.setdefault(tuple(sorted(devices)), len(_group_keys) + 1)


def instance_key() -> int:
    """A key for one collective of one trace, never given twice in a process."""
    with _keys_lock:
        return next(_instance_keys)


def variable(name: str, spec: tf.TensorSpec) -> tf.Tensor:
    """The handle of the variable that has this name on the current device.

    Every device has its own: one traced function finds another variable on each of them.
    """
    return tf.raw_ops.VarHandleOp(
        dtype=spec.dtype, shape=spec.shape, shared_name=f"meshlang/{name}", name="variable"
    )


def free(name: str, device: str) -> None:
    """Free the variable of this name on a device, if there is one."""
    with tf.device(device):
        handle = tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[], shared_name=f"meshlang/{name}")
        tf.raw_ops.DestroyResourceOp(resource=handle, ignore_lookup_error=True)


def call(traced: Any, *arguments: tf.Tensor) -> list[tf.Tensor]:
    """While tracing: call a function that was traced before, as ``traced(*arguments)`` would.

    But TensorFlow does not work out the shapes in the whole function at each call, which for many
    devices takes longer than tracing it. The function may capture nothing.
    """
    graph = tf.compat.v1.get_default_graph()
    traced.add_to_graph(graph)
    types = [tensor.dtype.as_datatype_enum for tensor in traced.outputs]
    call_ = graph.create_op(
        "StatefulPartitionedCall",
        list(arguments),
        types,
        attrs={
            "Tin": _types(x.dtype.as_datatype_enum for x in arguments),
            "Tout": _types(types),
            "f": AttrValue(func=NameAttrList(name=traced.name)),
            "_disable_call_shape_inference": AttrValue(b=True),
        },
    )
    return list(call_.outputs)


def check_version(version: str) -> None:
    """Refuse a TensorFlow whose collectives were not checked."""
    if not version.startswith(VERSION + "."):
        raise MeshError(
            message(
                f"meshlang drives the collectives of TensorFlow {VERSION}; this is {version}.",
                fix=f"pip install 'tensorflow=={VERSION}.*'",
            )
        )


def _configure(devices: int, kind: str) -> None:
    """Tell TensorFlow about devices and threads, before it initializes."""
    if kind == "gpu":
        return
    tf.config.set_visible_devices([], "GPU")
    cpu = tf.config.list_physical_devices("CPU")[0]
    virtual = [tf.config.LogicalDeviceConfiguration()] * devices
    tf.config.set_logical_device_configuration(cpu, virtual)
    if 1 < devices >= _cores():
        # The devices are the parallelism: threads inside of ops would only fight over the cores.
        tf.config.threading.set_intra_op_parallelism_threads(1)


def _cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _types(enums: Iterable[int]) -> AttrValue:
    return AttrValue(list=AttrValue.ListValue(type=enums))


def _initialized() -> bool:
    return context.context()._initialized


def _enough(wanted: int, have: int, kind: str, fix: str) -> None:
    """Refuse to go on with fewer devices than wanted."""
    if have < wanted:
        headline = f"{wanted} devices of kind {kind!r} were asked for, and there are {have}."
        raise MeshError(message(headline, fix=fix))


def _fix(devices: int, kind: str) -> str:
    """What to do when there are too few devices."""
    if kind == "gpu":
        return 'use a smaller mesh, or no devices: ml.lower(plan, backend="simulated")'
    return (
        f"call ml.start(devices={devices}) before anything else uses TensorFlow, "
        'or use no devices: ml.lower(plan, backend="simulated")'
    )
