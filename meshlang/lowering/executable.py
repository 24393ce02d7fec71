"""What `meshlang.lower` returns: a plan on devices, with the variables it keeps."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from meshlang.errors import (
    ArrayError,
    CheckError,
    LayoutError,
    MeshlangError,
    VariableError,
    did_you_mean,
    message,
)
from meshlang.layout.cost import Key
from meshlang.layout.plan import Plan, plan
from meshlang.layout.values import PlanValue
from meshlang.lowering import runtime
from meshlang.lowering.backend import Backend, Launched, Machine, Values
from meshlang.lowering.blocks import Result, assemble, box, checked_array, cut_blocks
from meshlang.lowering.counting import Counter, Ran
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

if TYPE_CHECKING:
    from meshlang.lowering.checkpoint import Saving

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
        blocks = cut_blocks(array, value, self.machine.mesh, self.machine.processors)
        joined = self.machine.join(blocks)
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

    def __init__(
        self, plan_: Plan, machine: Machine, store: Store, *, counted: bool = False
    ) -> None:
        self.plan = plan_
        self.store = store
        self._machine = machine
        for name, value in plan_.variables.items():
            store.add(plan_.program.variables[name], value)
        self._updates = plan_.program.updates_variables
        self._launched: Launched | None = None
        self._seeds: dict[int, list[tf.Tensor]] = {}
        #: what `meshlang.summary` handed out in the last call, by name
        self.summaries: dict[str, Result] = {}
        self._called = False
        self._counter = Counter(machine) if counted else None
        # Each process must raise what a check finds on any: the flags are summed within the step.
        self._paid = machine.peers.count > 1

    def initialize(self, seed: int = 0) -> None:
        """Give every variable its initial value, which depends on the seed and its name alone.

        The step becomes 0. Variables that only other executables of the store have keep theirs.
        """
        self.store.seed, self.store.step = seed, 0
        for name, blocks in initial_blocks(self.plan, seed, self._machine.processors):
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
        flat = _handed_out(self.plan)
        if self.plan.checks:
            self._raise_what_failed([place[len(flat) :] for place in results])
        made = [
            Result(self._machine, value, [place[i] for place in results])
            for i, value in enumerate(flat)
        ]
        count = len(flat) - len(self.plan.summaries)
        self.summaries = dict(zip(self.plan.summaries, made[count:], strict=True))
        made = iter(made[:count])
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
            if self._counter:
                self._counter.reset()

    def ran(self) -> dict[Key, Ran]:
        """What each processor has run, by (kind, axes), if this was lowered with `counted=True`.

        Raises:
            MeshlangError: nothing was counted.

        Example:
            >>> import meshlang as ml
            >>> program = ml.trace(lambda x: ml.sum(x), x=ml.spec("d:4"))
            >>> run = ml.lower(ml.plan(program, mesh="a:2", layout="d:a"), counted=True)
            >>> float(run(x=[1.0, 2.0, 3.0, 4.0]))
            10.0
            >>> run.ran()
            {('all_reduce', ('a',)): Ran(collectives=1, elements=1, bytes=4)}
        """
        if self._counter is None:
            raise MeshlangError(
                message("the collectives were not counted.", fix="ml.lower(plan, counted=True)")
            )
        return self._counter.counts()

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

    def begin_save(
        self, path: str | os.PathLike[str], extra: Mapping[str, Any] | None = None
    ) -> Saving:
        """Copy the variables as they are now, for a checkpoint that is written beside the steps.

        Call `write` of what this returns, in a thread; see `checkpoint.Saving`.
        """
        from meshlang.lowering import checkpoint

        return checkpoint.Saving(self.store, path, tables=self.plan.tables, extra=extra)

    def restore(
        self,
        path: str | os.PathLike[str],
        *,
        only: str = "",
        names: Mapping[str, str] | None = None,
        cast: bool = False,
    ) -> Manifest:
        """Read them back, saved under whatever mesh and layout; see `checkpoint.restore`.

        Args:
            path: the directory of a checkpoint.
            only: a regular expression of the variables to read; all, if it is empty.
            names: from regular expressions of variables' names to those in the checkpoint.
            cast: read floats of another dtype too.
        """
        from meshlang.lowering import checkpoint

        return checkpoint.restore(self.store, path, only=only, names=names, cast=cast)

    def needed(self, name: str) -> tuple[slice, ...]:
        """The part of an input that this process's processors hold: the rest is never looked at.

        A process of several may load this part alone, into an array of the whole shape.

        Example:
            >>> import meshlang as ml
            >>> run = ml.lower(ml.plan(ml.trace(ml.exp, x=ml.spec("d:4"))))
            >>> run.needed("x")
            (slice(0, 4, None),)
        """
        if name not in self.plan.inputs:
            raise _no_input(name, self.plan.inputs)
        return box(self.plan.inputs[name], self._machine.mesh, self._machine.processors)

    @property
    def step(self) -> int:
        """How many times the variables have been updated."""
        return self.store.step

    def _launch(self) -> Launched:
        blocks = [_SEED, _STEP, *(block_of(v) for v in self.plan.inputs.values())]

        def program(backend: Backend, values: Values) -> Values:
            if self._counter:
                backend = self._counter.counting(backend, lead=values[0].shape.rank or 0)
            return _run_plan(self.plan, self.store, backend, values, self._paid)

        return self._machine.launch(program, blocks)

    def _raise_what_failed(self, found: list[list[Any]]) -> None:
        """An error for the first check that counted anything, on whatever processor."""
        mesh = self._machine.mesh
        for i, (value, text) in enumerate(self.plan.checks):
            blocks = self._machine.blocks([place[i] for place in found])
            others = [a for a in mesh.names if a not in value.pending]
            count = int(blocks[0]) if self._paid else 0
            for processor, block in () if self._paid else enumerate(blocks):
                at = mesh.coordinates(processor)
                count += 0 if any(at[a] for a in others) else int(block)
            if count:
                raise CheckError(text(count))

    def _arguments(self, given: list[list[np.ndarray]], seed: int, step: int) -> list[list[Any]]:
        """For each place: the seed, the step, and its part of each input."""
        if seed not in self._seeds:  # conversion takes as long as a small program runs
            self._seeds = {seed: [tf.constant(x) for x in self._equal(np.int64(seed))]}
        joined = [self._machine.join(list(blocks)) for blocks in given]
        joined = [self._seeds[seed], self._equal(np.int32(step)), *joined]
        return [[part[i] for part in joined] for i in range(len(self._machine.places))]

    def _equal(self, scalar: np.generic) -> list[Any]:
        """A scalar that is the same on all processors, for each place."""
        return self._machine.join([np.asarray(scalar)] * len(self._machine.processors))

    def _checked(self, arrays: Mapping[str, Any]) -> list[list[np.ndarray]]:
        """The blocks of each input, in the plan's order."""
        wanted = self.plan.inputs
        for name in arrays:
            if name not in wanted:
                raise _no_input(name, wanted)
        for name in wanted:
            if name not in arrays:
                raise ArrayError(
                    message(f"input {name!r} is missing.", [("wanted", wanted[name].shape)])
                )
        mesh, mine = self._machine.mesh, self._machine.processors
        return [
            cut_blocks(checked_array(f"input {name!r}", arrays[name], v), v, mesh, mine)
            for name, v in wanted.items()
        ]


def _no_input(name: str, wanted: Iterable[str]) -> ArrayError:
    listed = f"the inputs are: {' '.join(wanted) or 'none'}"
    return ArrayError(message(f"no input named {name!r}.", fix=did_you_mean(name, wanted, listed)))


def _handed_out(plan_: Plan) -> list[PlanValue]:
    """The results of a call, then the summaries."""
    return [*leaves(plan_.results), *plan_.summaries.values()]


def _run_plan(
    plan_: Plan, store: Store, backend: Backend, values: Values, pay_checks: bool
) -> Values:
    """The body of a traced program: seed, step and inputs in, results out."""
    seed, step, *inputs = values
    env = dict(zip(plan_.inputs.values(), inputs, strict=True))
    wanted = [*_handed_out(plan_), *(flag for flag, _ in plan_.checks)]
    steps = update_in_place(plan_.steps, wanted)
    Executor(backend, seed, step, store.key).run(steps, env, wanted)
    if pay_checks:
        for flag, _ in plan_.checks:
            env[flag] = backend.all_reduce(env[flag], flag.pending, "sum")
    return [env[v] for v in wanted]


def lower(
    plan_: Plan, *, backend: str = "spmd", store: Store | None = None, counted: bool = False
) -> Executable:
    """Put a plan on devices.

    Args:
        plan_: from `meshlang.plan`.
        backend: "spmd", one program on each device with TensorFlow's collectives between them; or
            "simulated", any mesh on one device, the oracle.
        store: another executable's `store`, to share its variables.
        counted: count collectives while it runs, for `Executable.ran`.

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
    return Executable(plan_, machine, store or Store(machine), counted=counted)


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
