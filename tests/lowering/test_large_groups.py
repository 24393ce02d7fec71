"""Groups of 12 members and more, where TensorFlow's own all-to-all mixes up its buffers."""

import subprocess
import sys

PROGRAM = """
import numpy as np
import tensorflow as tf
from meshlang.layout.mesh import Mesh
from meshlang.lowering import runtime
from meshlang.lowering.spmd import SpmdMachine
from meshlang.lowering.simulated import SimulatedMachine

runtime.start(16)

def check(text):
    mesh = Mesh.parse(text)
    axes = tuple(reversed(mesh.names))
    g = mesh.size
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(g, 2)) for _ in range(g)]
    def program(b, v):
        def body(values):
            trip, x = values
            return [trip + 1, b.all_to_all(x, axes, 0, 0)]
        _, looped = b.while_loop(lambda v: v[0] < 13, body, [tf.constant(0), v[0]])
        shifted = b.permute(v[0], axes, [*range(1, g), 0])
        return [b.all_to_all(v[0], axes, 0, 1), b.reduce_scatter(v[0], axes, 0),
                b.all_gather(v[0], axes, 1), b.all_reduce(v[0], axes, "max"), shifted, looped]
    found = []
    for machine in (SpmdMachine(mesh, runtime.devices_for(mesh)), SimulatedMachine(mesh)):
        step = machine.launch(program, [((g, 2), tf.float64)])
        for _ in range(5):
            results = step([[part] for part in machine.join(x)])
            values = zip(*results, strict=True)
            found.append([np.array(machine.blocks(value)) for value in values])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-13)
    members = mesh.group(0, axes)
    want = np.array([x[m] for m in members])
    for rank, processor in enumerate(members):
        np.testing.assert_array_equal(found[0][0][processor], want[:, rank].reshape(1, -1))

for text in ("all:11", "all:12", "a:4 b:3", "all:13", "all:16", "a:2 b:8"):
    check(text)
    print(text)
"""


def test_exchanges_of_large_groups():
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True, timeout=240, check=True
    )
    assert result.stdout.splitlines()[-1] == "a:2 b:8"
