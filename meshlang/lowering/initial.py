"""Initial values of variables: every processor's block, computed at once, without a trace."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from meshlang.initializers import Initializer, constant_init
from meshlang.layout.mesh import Mesh
from meshlang.layout.plan import Plan, plan
from meshlang.layout.values import Local, PlanValue, Step
from meshlang.lowering.blocks import first_holder, spread
from meshlang.lowering.kernels import Here, run_kernel
from meshlang.program import Program, within
from meshlang.variables import Variable


def initial_blocks(plan_: Plan, seed: int) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Each variable of a plan with the block of every processor.

    A block that several processors hold is computed once; none is cut from a whole array, so that
    no machine need hold one.
    """
    drawn = {}
    for name, variable in plan_.program.variables.items():
        value, init = plan_.variables[name], _initializer(variable)
        if isinstance(init, Initializer) and init.kind == "constant":
            block = np.full(value.block, init.mean, tf.as_dtype(value.dtype).as_numpy_dtype)
            yield name, [block] * plan_.mesh.size
        else:
            drawn[name] = variable
    yield from _drawn(plan_, drawn, seed)


def _drawn(
    plan_: Plan, variables: dict[str, Variable], seed: int
) -> Iterator[tuple[str, list[np.ndarray]]]:
    init, mesh = _plan_of_initial_values(plan_, variables), plan_.mesh
    made: dict[PlanValue, dict[int, np.ndarray]] = {v: {} for v in init.results.values()}
    for processor in range(mesh.size):
        wanted = [v for v in made if first_holder(v, mesh, processor)]
        blocks = _blocks_now(mesh, init.steps, wanted, processor, seed)
        for value, block in zip(wanted, blocks, strict=True):
            made[value][processor] = block
    for name, value in init.results.items():
        yield name, spread(value, mesh, made[value])


def _plan_of_initial_values(plan_: Plan, variables: dict[str, Variable]) -> Plan:
    """A plan whose results are the initial values, as the variables are kept."""
    program = Program(precision=plan_.program.precision)
    with within(program):
        program.results = {
            name: _initializer(v)(v.shape, v.dtype, v.name) for name, v in variables.items()
        }
    tables = plan_.tables
    return plan(
        program,
        tables.mesh,
        tables.layout,
        params=tables.params,
        slots=tables.slots,
        beside=[plan_.program],
    )


def _initializer(variable: Variable):
    return variable.init if callable(variable.init) else constant_init(float(variable.init))


def _blocks_now(
    mesh: Mesh, steps: Sequence[Step], wanted: Sequence[PlanValue], processor: int, seed: int
) -> list[np.ndarray]:
    """Run local steps for one processor."""
    needed, run = set(wanted), []
    for step in reversed(steps):
        assert isinstance(step, Local), "initial values need no collectives"
        if any(v in needed for v in step.outputs):
            needed.update(step.inputs)
            run.append(step)
    coordinates = {axis: tf.constant(at) for axis, at in mesh.coordinates(processor).items()}
    here = Here(mesh, coordinates, tf.constant(seed, tf.int64), tf.constant(0))
    held: dict[PlanValue, tf.Tensor] = {}
    for step in reversed(run):
        results = run_kernel(step, here, [held[v] for v in step.inputs])
        held.update(zip(step.outputs, results, strict=True))
    return [held[v].numpy() for v in wanted]
