"""What `meshlang.lower` returns: a plan on devices, with the variables it keeps."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
import tensorflow as tf

from meshlang.errors import (
    ArrayError,
    CheckError,
    LayoutError,
    VariableError,
    did_you_mean,
    message,
)
from meshlang.layout.plan import Plan, plan
from meshlang.layout.values import PlanValue
from meshlang.lowering import runtime
from meshlang.lowering.backend import Backend, Launched, Machine, Values
from meshlang.lowering.blocks import Result, assemble, cut_blocks
from meshlang.lowering.executor import Executor, block_of
from meshlang.lowering.in_place import update_in_place
from meshlang.lowering.initial import initial_blocks
from meshlang.lowering.quiet import quiet_stderr
from meshlang.lowering.simulated import SimulatedMachine
from meshlang.lowering.spmd import SpmdMachine
from meshlang.manifest import Manifest
from meshlang.program import Precision
from meshlang.structure import leaves, rebuild
from meshlang.tensor import Tensor
from meshlang.variables import Variable

_SEED = ((), tf.int64)
_STEP = ((), tf.int32)
_stores = itertools.count()


class Store:
    """The variables of executables that share them, with the seed and the step.

    Attributes:
        machine: where they lie.
        variables: by name, with the blocks as they are kept.
        seed: of random numbers, set by `Executable.initialize`.
        step: how many updates there have been.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.variables: dict[str, tuple[Variable, PlanValue]] = {}
        self.ready: set[str] = set()
        self.seed = 0
        self.step = 0
        self._prefix = f"store{next(_stores)}"

    def key(self, name: str) -> str:
        """The name under which the machine keeps a variable."""
        return f"{self._prefix}/{name}"

    def add(self, variable: Variable, value: PlanValue) -> None:
        """Make room for a variable; one that is there must lie in the same way."""
        held = self.variables.setdefault(variable.name, (variable, value))[1]
        now = (value.shape.plain(), value.dtype, value.placement)
        if (held.shape.plain(), held.dtype, held.placement) != now:
            raise VariableError(
                message(
                    f"variable {variable.name!r} of the store lies otherwise in this plan.",
                    [("in the store", held), ("in the plan", value)],
                    "plan both programs with the same mesh, layout, params and slots",
                )
            )

    def find(self, name: str) -> PlanValue:
        """The blocks of a variable."""
        if name not in self.variables:
            known = list(self.variables)
            listed = f"the variables are: {' '.join(known) or 'none'}"
            raise VariableError(
                message(f"no variable named {name!r}.", fix=did_you_mean(name, known, listed))
            )
        return self.variables[name][1]

    def read(self, name: str) -> np.ndarray:
        """A variable as a NumPy array."""
        value = self.find(name)
        return assemble(self.machine, value, self.parts(name, value), name)

    def parts(self, name: str, value: PlanValue) -> list[tf.Tensor]:
        """What each place holds of a variable."""
        self._check_ready(name)
        parts = []
        for place in self.machine.places:
            with tf.device(place.device):
                spec = self.machine.spec(block_of(value))
                handle = runtime.variable(self.key(name), spec)
                parts.append(tf.raw_ops.ReadVariableOp(resource=handle, dtype=spec.dtype))
        return parts

    def write(self, name: str, array: Any) -> None:
        """Give a variable the value of an array."""
        value = self.find(name)
        array = checked_array(f"variable {name!r}", array, value)
        joined = self.machine.join(cut_blocks(array, value, self.machine.mesh))
        self.write_parts(name, value, joined)

    def write_parts(self, name: str, value: PlanValue, parts: list[Any]) -> None:
        """Put at each place what it holds of a variable.

        Places that are given the same array share one copy, until they are first written to.
        """
        spec, made = self.machine.spec(block_of(value)), {}
        for place, part in zip(self.machine.places, parts, strict=True):
            with tf.device(place.device):
                if id(part) not in made:
                    made[id(part)] = tf.convert_to_tensor(part, spec.dtype)
                handle = runtime.variable(self.key(name), spec)
                tf.raw_ops.AssignVariableOp(resource=handle, value=made[id(part)])
        self.ready.add(name)

    def _check_ready(self, name: str) -> None:
        if name not in self.ready:
            raise VariableError(
                message(f"variable {name!r} has no value yet.", fix="call initialize(seed=0)")
            )

    def check_ready(self) -> None:
        """Refuse to run before all variables have values."""
        for name in self.variables:
            self._check_ready(name)


class Executable:
    """A plan, traced once, that runs on devices. Made by `lower`.

    Call it with one NumPy array for each input; it returns what the traced function returned, with
    results that are fetched when they are read.
    """

    def __init__(self, plan_: Plan, machine: Machine, store: Store) -> None:
        self.plan = plan_
        self.store = store
        self._machine = machine
        for name, value in plan_.variables.items():
            store.add(plan_.program.variables[name], value)
        self._updates = plan_.program.updates_variables
        self._launched: Launched | None = None
        self._called = False

    def initialize(self, seed: int = 0) -> None:
        """Give every variable its initial value, which depends on the seed and its name alone.

        The step becomes 0. Variables that only other executables of the store have keep theirs.
        """
        self.store.seed, self.store.step = seed, 0
        for name, blocks in initial_blocks(self.plan, seed):
            self.store.write_parts(name, self.store.find(name), self._machine.join(blocks))

    def __call__(self, **arrays: Any) -> Any:
        """Run once.

        Raises:
            ArrayError: an input is missing, unknown, or of another shape or dtype.
            CheckError: a `meshlang.check` found what it looks for.
            VariableError: a variable has no value yet.
        """
        self.store.check_ready()
        given = self._checked(arrays)
        arguments = self._arguments(given, self.store.seed, self.store.step)
        with nullcontext() if self._called else quiet_stderr():  # kernels log when they first run
            self.build()
            assert self._launched is not None
            results = self._launched(arguments)
        self._called = True
        if self._updates:
            self.store.step += 1
        flat = list(leaves(self.plan.results))
        if self.plan.checks:
            self._raise_what_failed([place[len(flat) :] for place in results])
        made = iter(
            Result(self._machine, value, [place[i] for place in results])
            for i, value in enumerate(flat)
        )
        return rebuild(self.plan.results, lambda _: next(made))

    def build(self) -> None:
        """Trace the program for the devices, if that has not been done; else the first call does.

        Variables need no values yet.

        Example:
            >>> import meshlang as ml
            >>> run = ml.lower(ml.plan(ml.trace(ml.exp, x=ml.spec("d:2"))))
            >>> run.build()
            >>> run(x=[0.0, 0.0])
            array([1., 1.], dtype=float32)
        """
        if self._launched is None:
            self._launched = self._launch()

    def __getitem__(self, name: str) -> np.ndarray:
        """A variable as a NumPy array."""
        return self.store.read(name)

    def set(self, name: str, array: Any) -> None:
        """Give a variable the value of an array of its shape."""
        self.store.write(name, array)

    def save(
        self, path: str | os.PathLike[str], extra: Mapping[str, Any] | None = None
    ) -> Manifest:
        """Write all variables, the step and the seed as one checkpoint; see `checkpoint.save`."""
        from meshlang.lowering import checkpoint

        return checkpoint.save(self.store, path, tables=self.plan.tables, extra=extra)

    def restore(self, path: str | os.PathLike[str]) -> Manifest:
        """Read them back, saved under whatever mesh and layout; see `checkpoint.restore`."""
        from meshlang.lowering import checkpoint

        return checkpoint.restore(self.store, path)

    @property
    def step(self) -> int:
        """How many times the variables have been updated."""
        return self.store.step

    def _launch(self) -> Launched:
        blocks = [_SEED, _STEP, *(block_of(v) for v in self.plan.inputs.values())]

        def program(backend: Backend, values: Values) -> Values:
            return _run_plan(self.plan, self.store, backend, values)

        return self._machine.launch(program, blocks)

    def _raise_what_failed(self, found: list[list[Any]]) -> None:
        """An error for the first check that counted anything, on whatever processor."""
        mesh = self._machine.mesh
        for i, (value, text) in enumerate(self.plan.checks):
            blocks = self._machine.blocks([place[i] for place in found])
            others = [a for a in mesh.names if a not in value.pending]
            count = 0
            for processor, block in enumerate(blocks):
                at = mesh.coordinates(processor)
                count += 0 if any(at[a] for a in others) else int(block)
            if count:
                raise CheckError(text(count))

    def _arguments(self, given: list[list[np.ndarray]], seed: int, step: int) -> list[list[Any]]:
        """For each place: the seed, the step, and its part of each input."""
        size = self._machine.mesh.size
        scalars = [np.full(size, seed, np.int64), np.full(size, step, np.int32)]
        joined = [self._machine.join(list(blocks)) for blocks in (*scalars, *given)]
        return [[part[i] for part in joined] for i in range(len(self._machine.places))]

    def _checked(self, arrays: Mapping[str, Any]) -> list[list[np.ndarray]]:
        """The blocks of each input, in the plan's order."""
        wanted = self.plan.inputs
        for name in arrays:
            if name not in wanted:
                listed = f"the inputs are: {' '.join(wanted) or 'none'}"
                raise ArrayError(
                    message(f"no input named {name!r}.", fix=did_you_mean(name, wanted, listed))
                )
        for name in wanted:
            if name not in arrays:
                raise ArrayError(
                    message(f"input {name!r} is missing.", [("wanted", wanted[name].shape)])
                )
        mesh = self._machine.mesh
        return [
            cut_blocks(checked_array(f"input {name!r}", arrays[name], v), v, mesh)
            for name, v in wanted.items()
        ]


def _run_plan(plan_: Plan, store: Store, backend: Backend, values: Values) -> Values:
    """The body of a traced program: seed, step and inputs in, results out."""
    seed, step, *inputs = values
    env = dict(zip(plan_.inputs.values(), inputs, strict=True))
    wanted = [*leaves(plan_.results), *(flag for flag, _ in plan_.checks)]
    steps = update_in_place(plan_.steps, wanted)
    Executor(backend, seed, step, store.key).run(steps, env, wanted)
    return [env[v] for v in wanted]


def checked_array(what: str, array: Any, value: PlanValue) -> np.ndarray:
    """An array of the shape and dtype that a plan's value has."""
    array = np.asarray(array)
    held = tf.as_dtype(value.dtype).as_numpy_dtype
    fits = array.dtype == held or (
        array.dtype.kind == np.dtype(held).kind and np.can_cast(array.dtype, held, "same_kind")
    )
    if value.dtype == "bfloat16" and array.dtype.kind == "f":
        fits = True
    if array.shape != value.shape.sizes or not fits:
        raise ArrayError(
            message(
                f"{what} has the wrong {'dtype' if array.shape == value.shape.sizes else 'shape'}.",
                [
                    ("given", f"{list(array.shape)} {array.dtype}"),
                    ("wanted", f"{list(value.shape.sizes)} {value.dtype}"),
                    ("dims", value.shape),
                ],
            )
        )
    return array.astype(held, copy=False)


def lower(plan_: Plan, *, backend: str = "spmd", store: Store | None = None) -> Executable:
    """Put a plan on devices.

    Args:
        plan_: from `meshlang.plan`.
        backend: "spmd", one program on each device with TensorFlow's collectives between them; or
            "simulated", any mesh on one device, the oracle.
        store: another executable's `store`, to share its variables.

    Raises:
        MeshError: the mesh is larger than the devices.

    Example:
        >>> import meshlang as ml
        >>> program = ml.trace(lambda x: ml.sum(x), x=ml.spec("d:4"))
        >>> run = ml.lower(ml.plan(program, mesh="a:2", layout="d:a"))
        >>> float(run(x=[1.0, 2.0, 3.0, 4.0]))
        10.0
    """
    if backend not in _MACHINES:
        raise LayoutError(
            message(f"no backend {backend!r}.", fix=f"use one of: {' '.join(_MACHINES)}")
        )
    machine = store.machine if store else _MACHINES[backend](plan_)
    return Executable(plan_, machine, store or Store(machine))


def _spmd(plan_: Plan) -> Machine:
    return SpmdMachine(plan_.mesh, runtime.devices_for(plan_.mesh))


def _simulated(plan_: Plan) -> Machine:
    runtime.start()
    return SimulatedMachine(plan_.mesh)


_MACHINES: dict[str, Callable[[Plan], Machine]] = {"spmd": _spmd, "simulated": _simulated}


def run(
    fn: Callable[..., Any],
    mesh: str = "",
    layout: str = "",
    seed: int = 0,
    *,
    params: str = "",
    slots: str = "",
    precision: Precision | None = None,
    backend: str = "spmd",
    **arrays: Any,
) -> Any:
    """Trace, plan, lower and run a function once: for a first look.

    Args:
        fn: takes a tensor for each array and returns tensors, nested as it likes.
        mesh: see `meshlang.plan`; so for `layout`, `params` and `slots`.
        layout: which dim lies along which axes.
        seed: of initial values and random ops.
        params: axes over which variables are kept divided besides.
        slots: axes over which gradients and slots are divided besides.
        precision: see `meshlang.trace`.
        backend: see `lower`.
        **arrays: tensors with values, from `meshlang.constant`.

    Returns:
        What `fn` returns, as NumPy arrays.

    Example:
        >>> import meshlang as ml
        >>> x = ml.constant([[1.0, 2.0], [3.0, 4.0]], "batch d")
        >>> ml.run(lambda x: ml.sum(x, "batch"), mesh="data:2", layout="batch:data", x=x)
        array([4., 6.], dtype=float32)
    """
    from meshlang.program import spec, trace

    for name, array in arrays.items():
        if not isinstance(array, Tensor):
            raise ArrayError(
                message(
                    f"run: input {name!r} has no named dims.",
                    [("given", type(array).__name__)],
                    f"{name}=ml.constant(array, 'dim names')",
                )
            )
    specs = {name: spec(x.shape, x.dtype) for name, x in arrays.items()}
    program = trace(fn, precision=precision, **specs)
    planned = plan(program, mesh, layout, params=params, slots=slots)
    executable = lower(planned, backend=backend)
    executable.initialize(seed)
    results = executable(**{name: x.numpy() for name, x in arrays.items()})
    return rebuild(results, lambda r: r.numpy())
