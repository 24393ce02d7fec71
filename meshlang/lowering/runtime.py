"""TensorFlow's devices and keys: everything that needs its semi-private interface."""

import itertools
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.core.framework.attr_value_pb2 import AttrValue, NameAttrList
from tensorflow.python.eager import context  # pyright: ignore[reportMissingImports]

from meshlang.errors import ClusterError, MeshError, message
from meshlang.layout.mesh import Mesh
from meshlang.lowering import cluster
from meshlang.lowering.peers import Peers
from meshlang.lowering.quiet import quiet_stderr
from meshlang.tf_config import ClusterSpec, Timeouts, check_port, from_environment

VERSION = "2.21"

#: the variable of each device in which it notes its collectives
NOTE = "note"

# Group keys and instance keys are the process's, as TensorFlow's collective executor is: a group
# key used with a second set of devices, or an instance key with a second shape, poisons it.
_keys_lock = threading.Lock()
_group_keys: dict[tuple[int, ...], int] = {}
_instance_keys = itertools.count(1)


def start(
    devices: int | None = None, kind: str = "cpu", *, timeouts: Timeouts | None = None
) -> None:
    """Start TensorFlow with so many devices; call it before anything else uses TensorFlow.

    A CPU is cut into virtual devices. GPUs are taken as they are; they take memory as they need it,
    and send by NCCL. A second call is fine as long as
    it asks for no more devices than there are. Grappler's meta-optimizer is switched off for the
    whole process; where virtual devices are as many as the cores, so are threads inside of ops.

    If TF_CONFIG names several processes, this one opens its server, waits for the others, and
    checks that all see each other's devices in the same order. A run of one opens no port.

    Args:
        devices: how many in this process; None takes one CPU, or all GPUs.
        kind: "cpu" or "gpu".
        timeouts: how long processes wait for each other.

    Raises:
        ClusterError: TF_CONFIG is malformed, this process's port is taken, or the processes have
            different numbers of devices.
        MeshError: if TensorFlow has already started with fewer devices, or the machine has too few.
        PeerError: some process did not start in time.

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
        spec = from_environment()
        if spec and len(spec.addresses) > 1:
            _configure(wanted, kind)
            _start_cluster(spec, timeouts or Timeouts(), kind)
        else:
            with quiet_stderr():
                _configure(wanted, kind)
                if kind == "gpu":
                    context.context().configure_collective_ops(use_nccl_communication=True)
                tf.config.list_logical_devices()
    _enough(wanted, len(_local_devices(kind)), kind, fix)


def has_gpus(count: int) -> bool:
    """Whether the machine has so many GPUs; starts nothing."""
    return len(tf.config.list_physical_devices("GPU")) >= count


def devices_for(mesh: Mesh) -> list[str]:
    """The names of the devices of a mesh's processors that live in this process, in their order.

    Starts as many virtual CPUs as the mesh needs if TensorFlow has not started yet. Where GPUs were
    started, they are taken. Processors are numbered over (process, device of the process).

    Raises:
        MeshError: if the mesh is larger than what TensorFlow has started with, or has not as many
            processors in each process.
    """
    if not _initialized():
        spec = from_environment()
        start(max(1, mesh.size // len(spec.addresses)) if spec else mesh.size)
    start()
    names, processes = local_devices(), cluster.peers().count
    if mesh.size % processes:
        raise MeshError(
            message(
                f"the mesh has {mesh.size} processors, which {processes} processes cannot share.",
                [("mesh", mesh or "(one processor)"), ("processes", processes)],
                "give it a multiple of the number of processes",
            )
        )
    share = mesh.size // processes
    if len(names) < share:
        where = f" in each of {processes} processes" if processes > 1 else ""
        kind = "gpu" if "GPU" in names[0] else "cpu"
        raise MeshError(
            message(
                f"the mesh has {share} processors{where}; "
                f"TensorFlow has started with {len(names)}.",
                [("mesh", mesh or "(one processor)"), ("devices", f"{len(names)} {kind}")],
                _fix(share, kind),
            )
        )
    return names[:share]


def local_devices() -> list[str]:
    """The names of this process's devices: its GPUs if it has some, else its CPUs."""
    return _local_devices("gpu") or _local_devices("cpu")


def position(peers: Peers) -> int:
    """This process's place in the order of processors; see `meshlang.tf_config`."""
    if not isinstance(peers, cluster.ClusterPeers):
        return 0
    return peers.spec.order.index(peers.index)


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


def note(device: str, number: int) -> None:
    """Note on a device in which collective it is."""
    with tf.device(device):
        handle = variable(NOTE, tf.TensorSpec([], tf.int64))
        tf.raw_ops.AssignVariableOp(resource=handle, value=tf.constant(number, tf.int64))


def noted(device: str) -> int:
    """What was noted last; also while the device is in a step."""
    with tf.device(device):
        handle = variable(NOTE, tf.TensorSpec([], tf.int64))
        return int(tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.int64))


def nodes_in_functions() -> int:
    """How many nodes all functions have that TensorFlow holds: how large programs are.

    >>> before = nodes_in_functions()
    >>> _ = tf.function(lambda: tf.constant(1) + 2, autograph=False).get_concrete_function()
    >>> nodes_in_functions() > before
    True
    """
    held = context.context()
    return sum(len(held.get_function_def(n).node_def) for n in held.list_function_names())


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


def flat(traced: Any) -> Callable[[Sequence[tf.Tensor]], Any]:
    """A traced function by the tensors of its arguments in one row; it may capture nothing.

    Binding them by name and checking them anew would take as long as a small program runs.
    """
    assert not traced.captured_inputs
    return traced.inference_fn.call_preflattened


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
        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, enable=True)
        return
    tf.config.set_visible_devices([], "GPU")
    cpu = tf.config.list_physical_devices("CPU")[0]
    virtual = [tf.config.LogicalDeviceConfiguration()] * devices
    tf.config.set_logical_device_configuration(cpu, virtual)
    if 1 < devices >= _cores():
        # The devices are the parallelism: threads inside of ops would only fight over the cores.
        tf.config.threading.set_intra_op_parallelism_threads(1)


def _start_cluster(spec: ClusterSpec, limits: Timeouts, kind: str) -> None:
    """Open the server, and check that all processes have as many devices in the same order."""
    check_port(spec)
    cluster.open_servers(spec, limits, use_nccl=kind == "gpu")
    devices, peers = local_devices(), cluster.peers()
    found = peers.gather("devices", str(len(devices)), limits.agree)
    if len(set(found)) > 1:
        rows = [(f"process {i}", f"{count} devices") for i, count in enumerate(found)]
        headline = "the processes have different numbers of devices."
        raise ClusterError(message(headline, rows, "give all of them the same number"))
    first = position(peers) * len(devices)
    check_ranks(devices, range(first, first + len(devices)), len(devices) * peers.count)


def check_ranks(devices: Sequence[str], ranks: Sequence[int], size: int) -> None:
    """Gather the rank that each device expects to have over all devices of the run.

    Args:
        devices: those of this process.
        ranks: the rank that each is expected to have.
        size: devices of all processes.

    Raises:
        ClusterError: TensorFlow ranks them otherwise: blocks would be mixed up, without a word.
    """
    where = {"group_size": size, "group_key": group_key(range(size))}
    where |= {"instance_key": instance_key(), "timeout_seconds": cluster.timeouts().agree}

    @tf.function(autograph=False)
    def gathered() -> list[tf.Tensor]:
        found = []
        for device, rank in zip(devices, ranks, strict=True):
            with tf.device(device):
                token = variable("ordering_token", tf.TensorSpec([], tf.float32))
                mine = tf.constant([rank], tf.int32)
                found.append(
                    tf.raw_ops.CollectiveGatherV2(input=mine, ordering_token=[token], **where)
                )
        return found

    for device, found in zip(devices, gathered(), strict=True):
        if found.numpy().tolist() != list(range(size)):
            raise ClusterError(
                message(
                    "TensorFlow ranks the devices of this run in another order than the mesh.",
                    [("device", device), ("its order", " ".join(map(str, found.numpy())))],
                    "this is a fault of meshlang's: please report it",
                )
            )


def _local_devices(kind: str) -> list[str]:
    """The names of the devices of one kind in this process; a cluster lists all processes'."""
    names = [device.name for device in tf.config.list_logical_devices(kind.upper())]
    mine = f"/task:{cluster.peers().index}/"
    return [name for name in names if mine in name or "/task:" not in name]


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
