"""Initial values of variables: every processor's block, computed at once, without a trace."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tensorflow as tf

from meshlang.initializers import Initializer, constant_init
from meshlang.layout.plan import Plan, plan
from meshlang.layout.values import Local, PlanValue
from meshlang.lowering.blocks import cut_blocks, holder, is_run
from meshlang.lowering.kernels import Here, run_kernel
from meshlang.program import Program, within
from meshlang.variables import Variable


def initial_blocks(
    plan_: Plan, seed: int, processors: Sequence[int]
) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Each variable of a plan with the blocks of some processors; equal ones are drawn once.

    A block that is one run of the variable's elements is drawn alone, so that no machine need hold
    the whole of a large one. Others are cut from the whole, since drawing such a block would take
    as many random numbers.
    """
    drawn = []
    for name, variable in plan_.program.variables.items():
        value, init = plan_.variables[name], _initializer(variable)
        if isinstance(init, Initializer) and init.kind == "constant":
            block = np.full(value.block, init.mean, tf.as_dtype(value.dtype).as_numpy_dtype)
            yield name, [block] * len(processors)
        else:
            drawn.append(variable)
    yield from _drawn(plan_, drawn, seed, processors)


def _drawn(
    plan_: Plan, variables: Sequence[Variable], seed: int, processors: Sequence[int]
) -> Iterator[tuple[str, list[np.ndarray]]]:
    mesh, tables = plan_.mesh, plan_.tables
    program = _program_of_initial_values(plan_, variables)
    divided = plan(
        program,
        mesh,
        tables.layout,
        params=tables.params,
        slots=tables.slots,
        beside=[plan_.program],
    )
    whole = plan(program)

    def blocks(name: str) -> list[np.ndarray]:
        value = plan_.variables[name]
        if not is_run(value):
            return cut_blocks(_drawn_by(whole, name, 0, seed), value, mesh, processors)
        holders = [holder(value, mesh, p) for p in processors]
        drawn = {p: _drawn_by(divided, name, p, seed) for p in dict.fromkeys(holders)}
        return [drawn[p] for p in holders]

    # TensorFlow lets go of Python's lock while it draws, and a virtual CPU draws with one thread.
    names, workers = [v.name for v in variables], os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        for i in range(0, len(names), workers):  # no more at a time: they may be large
            some = names[i : i + workers]
            yield from zip(some, pool.map(blocks, some), strict=True)


def _program_of_initial_values(plan_: Plan, variables: Sequence[Variable]) -> Program:
    """A program whose results are the initial values, by name."""
    program = Program(precision=plan_.program.precision)
    with within(program):
        program.results = {v.name: _initializer(v)(v.shape, v.dtype, v.name) for v in variables}
    return program


def _initializer(variable: Variable):
    return variable.init if callable(variable.init) else constant_init(float(variable.init))


def _drawn_by(init: Plan, name: str, processor: int, seed: int) -> np.ndarray:
    """One processor's block of one initial value: the steps that lead to it, run at once."""
    wanted, mesh = init.results[name], init.mesh
    needed, run = {wanted}, []
    for step in reversed(init.steps):
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
    return held[wanted].numpy()
