"""Tests of the lowering share one process, hence one number of virtual devices."""

from collections.abc import Callable

import numpy as np
import pytest

from meshlang.layout.mesh import Mesh
from meshlang.lowering import runtime
from meshlang.lowering.backend import Machine, Program
from meshlang.lowering.simulated import SimulatedMachine
from meshlang.lowering.spmd import SpmdMachine

collect_ignore = ["jobs"]  # scripts, of which tests start one for each process

Run = Callable[..., list[list[np.ndarray]]]


@pytest.fixture(scope="session", autouse=True)
def devices() -> None:
    runtime.start(devices=8)


def make_machine(backend: str, mesh: Mesh) -> Machine:
    if backend == "simulated":
        return SimulatedMachine(mesh)
    return SpmdMachine(mesh, runtime.devices_for(mesh))


@pytest.fixture(params=["spmd", "simulated"])
def run(request: pytest.FixtureRequest) -> Run:
    """`run(mesh, program, *blocks)`: `blocks[i][p]` in, `results[i][p]` out, p a processor."""

    def call(mesh: Mesh, program: Program, *blocks: list[np.ndarray]) -> list[list[np.ndarray]]:
        machine = make_machine(request.param, mesh)
        specs = [(value[0].shape, value[0].dtype) for value in blocks]
        parts = [machine.join(value) for value in blocks]
        launched = machine.launch(program, specs)
        results = launched([[part[i] for part in parts] for i in range(len(machine.places))])
        values = zip(*results, strict=True)
        return [[block.numpy() for block in machine.blocks(value)] for value in values]

    return call
