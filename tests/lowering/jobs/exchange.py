"""Every collective over all processors against NumPy, and what peers say to each other.

Argument: the processors of each process.
"""

import sys

import numpy as np

from meshlang.errors import PeerError
from meshlang.layout.mesh import Mesh
from meshlang.lowering import cluster, runtime
from meshlang.lowering.spmd import SpmdMachine

runtime.start(devices=int(sys.argv[1]))
peers = cluster.peers()
size = peers.count * int(sys.argv[1])
mesh = Mesh.parse(f"all:{size}")
machine = SpmdMachine(mesh, runtime.devices_for(mesh))
blocks = np.random.default_rng(0).normal(size=(size, size, 2))
around = [*range(1, size), 0]


def program(b, values):
    (x,) = values
    axes = ("all",)
    return [
        b.all_to_all(x, axes, 0, 0),
        b.reduce_scatter(x, axes, 0),
        b.all_gather(x, axes, 0),
        b.all_reduce(x, axes, "max"),
        b.permute(x, axes, around),
    ]


step = machine.launch(program, [((size, 2), np.float64)])
mine = [[blocks[p]] for p in machine.processors]
wanted = [
    blocks.transpose(1, 0, 2),
    blocks.sum(0)[:, None],
    np.broadcast_to(blocks.reshape(-1, 2), (size, size * size, 2)),
    np.broadcast_to(blocks.max(0), (size, size, 2)),
    blocks[around],
]
for _ in range(3):
    results = step(mine)
for p, place in zip(machine.processors, results, strict=True):
    for found, value in zip(place, wanted, strict=True):
        np.testing.assert_allclose(found, value[p], rtol=1e-12, atol=1e-12)
everywhere = machine.gather("blocks", [place[4] for place in results])
np.testing.assert_array_equal(everywhere, blocks[around])

assert peers.gather("who", f"I am {peers.index}", 30.0) == [f"I am {i}" for i in range(peers.count)]
assert peers.broadcast("word", f"of {peers.index}", 30.0) == "of 0"
peers.post("only", str(peers.index))
assert peers.find("only", 30.0) in {str(i) for i in range(peers.count)}
assert peers.find("nothing", 0.1) is None
peers.barrier("what comes before", 60.0)
if peers.index != 1:  # process 1 does not come
    try:
        peers.barrier("a thing", 5.0)
    except PeerError as error:
        print(str(error).replace("\n", "|"), flush=True)
peers.barrier("the end", 60.0)
print("all right", flush=True)
