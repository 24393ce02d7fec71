"""Starting devices, and the keys of groups. What can happen once in a process runs in its own."""

import subprocess
import sys

import pytest
import tensorflow as tf

from meshlang.errors import MeshError
from meshlang.layout.mesh import Mesh
from meshlang.lowering import runtime

LATE = """
from meshlang.errors import MeshError
from meshlang.layout.mesh import Mesh
from meshlang.lowering import runtime
runtime.start(devices=2)
runtime.start(devices=1)
try:
    runtime.start(devices=8)
except MeshError as error:
    print(error)
try:
    runtime.devices_for(Mesh.parse("data:2 model:4"))
except MeshError as error:
    print(error)
"""
LATE_TEXT = """\
8 devices of kind 'cpu' were asked for, and there are 2.
  fix: call ml.start(devices=8) before anything else uses TensorFlow, or use no devices: \
ml.lower(plan, backend="simulated")
the mesh has 8 processors; TensorFlow has started with 2.
  mesh     data:2 model:4
  devices  2 cpu
  fix: call ml.start(devices=8) before anything else uses TensorFlow, or use no devices: \
ml.lower(plan, backend="simulated")
"""
BY_MESH = """
from meshlang.layout.mesh import Mesh
from meshlang.lowering import runtime
import tensorflow as tf
print(runtime.devices_for(Mesh.parse({mesh!r}))[-1])
print(tf.config.threading.get_intra_op_parallelism_threads())
print(tf.config.optimizer.get_experimental_options()["disable_meta_optimizer"])
"""
AWAKE = """
import tensorflow as tf
tf.constant(1) + 1
from meshlang.layout.mesh import Mesh
from meshlang.lowering import runtime
print(runtime.devices_for(Mesh()))
print(tf.config.optimizer.get_experimental_options()["disable_meta_optimizer"])
"""


def python(program: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, timeout=120, check=True
    ).stdout


def test_a_later_start_may_be_smaller_and_not_larger():
    assert python(LATE) == LATE_TEXT


def test_the_first_mesh_starts_its_devices_and_one_thread_each():
    found = python(BY_MESH.format(mesh="all:64")).splitlines()
    assert found == ["/device:CPU:63", "1", "True"]


def test_a_mesh_of_one_keeps_tensorflows_threads():
    found = python(BY_MESH.format(mesh="")).splitlines()
    assert found == ["/device:CPU:0", "0", "True"]


def test_tensorflow_that_is_awake_serves_a_mesh_of_one():
    assert python(AWAKE) == "['/device:CPU:0']\nTrue\n"


def test_gpus_that_are_not_there():
    if tf.config.list_physical_devices("GPU"):
        pytest.skip("there are GPUs here")
    with pytest.raises(MeshError) as error:
        runtime.start(kind="gpu")
    assert str(error.value) == (
        "1 devices of kind 'gpu' were asked for, and there are 0.\n"
        '  fix: use a smaller mesh, or no devices: ml.lower(plan, backend="simulated")'
    )


def test_what_no_machine_has():
    with pytest.raises(MeshError) as error:
        runtime.start(kind="tpu")
    assert str(error.value) == "no devices of kind 'tpu'.\n  fix: use 'cpu' or 'gpu'"
    with pytest.raises(MeshError) as error:
        runtime.start(devices=0)
    assert str(error.value) == "0 devices were asked for.\n  fix: ask for at least one"


def test_another_tensorflow_is_refused():
    runtime.check_version("2.21.1")
    with pytest.raises(MeshError) as error:
        runtime.check_version("2.210.0")
    assert str(error.value) == (
        "meshlang drives the collectives of TensorFlow 2.21; this is 2.210.0.\n"
        "  fix: pip install 'tensorflow==2.21.*'"
    )


def test_devices_are_numbered_as_processors():
    names = runtime.devices_for(Mesh.parse("data:2 model:4"))
    assert names == [f"/device:CPU:{i}" for i in range(8)]


def test_one_key_for_each_set_of_devices_and_never_one_instance_twice():
    assert runtime.group_key([100, 101]) == runtime.group_key([101, 100]) > 0
    assert runtime.group_key([100, 101]) != runtime.group_key([100, 102])
    assert len({runtime.instance_key() for _ in range(100)}) == 100
