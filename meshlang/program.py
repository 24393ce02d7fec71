"""Programs: ops on named tensors, in the order in which they were traced.

The one ambient state of meshlang is the program being traced, a context variable. Ops called
outside of a trace run at once, on the values their operands hold.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from meshlang.dims import Dim, Shape
from meshlang.errors import DtypeError, MeshlangError, ProgramError, did_you_mean, message
from meshlang.structure import leaves, rebuild
from meshlang.tensor import Tensor

if TYPE_CHECKING:
    from meshlang.layout.builder import Builder, PlanValue
    from meshlang.variables import Variable

FLOATS = ("float64", "float32", "bfloat16", "float16")
#: floats whose sums over processors are held and paid in high precision
NARROW = ("bfloat16", "float16")
INTEGERS = ("int64", "int32", "uint32", "uint8")
DTYPES = (*FLOATS, *INTEGERS, "bool")


@dataclass(frozen=True, slots=True)
class Precision:
    """The dtypes behind the three names that models use.

    stored   what variables hold
    compute  what activations and products are in
    high     what sums over processors, softmax statistics and routers are in
    """

    stored: str = "float32"
    compute: str = "float32"
    high: str = "float32"

    def __post_init__(self) -> None:
        for name in ("stored", "compute", "high"):
            if getattr(self, name) not in FLOATS:
                raise DtypeError(
                    message(
                        f"precision {name!r} is {getattr(self, name)!r}, not a float dtype.",
                        fix=f"use one of {', '.join(FLOATS)}",
                    )
                )


class Spec(NamedTuple):
    """The shape and dtype of a tensor that does not exist yet."""

    shape: Shape
    dtype: str


@dataclass(frozen=True)
class Op:
    """What an op is: a frozen record with four methods. Subclasses are the language.

    `infer` says what comes out, `vjp` how cotangents go back, `plan` what each processor does.
    The kernel that computes it on blocks stands in `meshlang/lowering/`.
    """

    @property
    def label(self) -> str:
        """How the op is printed: the class's name, `OneHot` as ``one_hot``."""
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(self).__name__).lower()

    @property
    def detail(self) -> str:
        """What is printed behind the operands."""
        return ""

    @property
    def bodies(self) -> tuple[Program, ...]:
        """The programs inside: of a trip, of a test, of branches."""
        return ()

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        """Shapes and dtypes of the results."""
        raise NotImplementedError

    def vjp(
        self, xs: Sequence[Tensor], ys: Sequence[Tensor], gs: Sequence[Any]
    ) -> Sequence[Tensor | None]:
        """Cotangents of the operands, from those of the results. An op without one says why.

        Of several results some may have no cotangent, None; the only one of an op always has.
        """
        raise ProgramError(
            message(
                f"{self.label} has no gradient.",
                [("operand", x) for x in xs],
                "wrap its operand or its result in ml.stop_gradient",
            )
        )

    def plan(
        self, b: Builder, xs: Sequence[PlanValue], outs: Sequence[Spec]
    ) -> Sequence[PlanValue]:
        """Local ops and collectives. By default: the op itself, on blocks."""
        return b.local(self, xs, outs)

    def passes(self, i: int) -> str:
        """How a pending sum in operand `i` goes through.

        "no": it is paid first. "alone": the other operands may not be pending. "together": all
        operands are equally pending, as in a sum of them. "move": the dims move, see `plan`.
        "unread": its numbers are not looked at, and may stay pending.
        """
        return "no"

    def anew(self) -> Op:
        """The op as it is computed once more, for a backward pass that does not save its result."""
        return self

    def creates_pending(
        self, axes_of: Callable[[Dim], tuple[str, ...]], xs: Any
    ) -> tuple[str, ...]:
        """The axes over which the result is a pending sum, given where dims lie."""
        return ()

    def flops(self, sizes: dict[str, int]) -> int:
        """Multiply-adds count two; only contractions count.

        Args:
            sizes: of all dims of operands and results, by name: of a block, or of all.
        """
        return 0


@dataclass(eq=False, slots=True)
class Node:
    """One op in a program, with its operands and results."""

    op: Op
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...] = ()
    scope: str = ""
    #: the call of `meshlang.recompute` that it belongs to
    region: object | None = None


@dataclass(frozen=True, slots=True)
class InputSpec:
    """What `meshlang.spec` returns: the shape and dtype of an input of a program."""

    shape: Shape
    dtype: str


@dataclass(eq=False)
class Program:
    """Ops in order, with inputs and results. Made by `meshlang.trace`.

    A body of a loop is a program too: its `parent` is the one around it.
    """

    parent: Program | None = None
    precision: Precision = field(default_factory=Precision)
    nodes: list[Node] = field(default_factory=list)
    inputs: dict[str, Tensor] = field(default_factory=dict)
    results: Any = None
    variables: dict[str, Variable] = field(default_factory=dict)
    #: what a variable holds at this point of the trace, by name
    latest: dict[str, Tensor] = field(default_factory=dict)
    used: dict[tuple[str, str], Tensor] = field(default_factory=dict)
    #: tensors of the programs around this one, and what stands for them here
    captures: dict[Tensor, Tensor] = field(default_factory=dict)
    #: how a backward body finds the values that its forward body saved
    lookup: Callable[[Tensor], Tensor | None] | None = None
    #: the scan dim that variables made here get in front, and the stacks so made
    stack_dim: Dim | None = None
    stacks: dict[Tensor, Tensor] = field(default_factory=dict)
    unrolls: list[Any] = field(default_factory=list)
    #: trip counters of the loops around, outermost first
    trips: tuple[Tensor, ...] = ()
    scopes: list[str] = field(default_factory=list)
    #: the call of `meshlang.recompute` whose function is being traced
    region: object | None = None
    #: what `meshlang.check` counted, and what to say of it
    checks: list[tuple[Tensor, Callable[[int], str]]] = field(default_factory=list)
    #: what `meshlang.summary` was given, by its name with the scope
    summaries: dict[str, Tensor] = field(default_factory=dict)
    random_ids: int = 0

    @property
    def root(self) -> Program:
        """The outermost program."""
        return self if self.parent is None else self.parent.root

    @property
    def outputs(self) -> list[Tensor]:
        """The result tensors, flattened."""
        return list(leaves(self.results))

    def every_node(self) -> Iterator[Node]:
        """The ops in order, each followed by those of the programs inside of it."""
        for node in self.nodes:
            yield node
            for body in node.op.bodies:
                yield from body.every_node()

    @property
    def updates_variables(self) -> bool:
        """Whether a call changes state, and so advances the step."""
        return any(type(node.op).__name__ == "Assign" for node in self.nodes)

    def own(self, x: Tensor) -> Tensor:
        """The tensor of this program that stands for `x`."""
        if x.program is self:
            return x
        if x.value is not None:
            from meshlang.ops.create import Constant

            return self.add(Constant(x.value, x.shape, x.dtype))[0]
        found = self.captures.get(x)
        if found is None and self.lookup is not None:
            found = self.lookup(x)
        if found is None:
            found = self._capture(x)
        return found

    def _capture(self, x: Tensor) -> Tensor:
        if self.parent is None:
            raise ProgramError(
                message(
                    "a tensor of another program is used here.",
                    [("tensor", x)],
                    "pass it as an input: ml.trace(fn, name=ml.spec(...))",
                )
            )
        outer = self.parent.own(x)
        if outer not in self.captures:
            self.captures[outer] = Tensor(outer.shape, outer.dtype, self)
        self.captures[x] = self.captures[outer]
        return self.captures[x]

    def add(self, op: Op, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Append an op."""
        xs = tuple(self.own(x) for x in inputs)
        scope = "/".join(self.root.scopes)
        try:
            specs = op.infer(*xs)
        except MeshlangError as error:
            if scope and not getattr(error, "located", False):
                located = type(error)(f"{scope}/{error}")
                located.located = True  # type: ignore[attr-defined]
                raise located from None
            raise
        node = Node(op, xs, scope=scope, region=self.region)
        node.outputs = tuple(Tensor(s.shape, s.dtype, self, node) for s in specs)
        self.nodes.append(node)
        return node.outputs

    def __str__(self) -> str:
        from meshlang.printer import program_text

        return program_text(self)


_current: ContextVar[Program | None] = ContextVar("program", default=None)


def current() -> Program | None:
    """The program being traced, or None."""
    return _current.get()


def tracing(what: str) -> Program:
    """The program being traced; an error that names `what` when there is none."""
    program = _current.get()
    if program is None:
        raise ProgramError(
            message(
                f"{what} belongs to a program, and none is being traced.",
                fix="call it inside of the function given to ml.trace or ml.run",
            )
        )
    return program


@contextmanager
def within(program: Program) -> Iterator[Program]:
    """Make `program` the one being traced."""
    token = _current.set(program)
    try:
        yield program
    finally:
        _current.reset(token)


@contextmanager
def scope(name: str) -> Iterator[None]:
    """Name what is made inside: variables, and ops in plans and errors.

    >>> import meshlang as ml
    >>> def fn():
    ...     with ml.scope("layer"):
    ...         return ml.variable("w", "d:2", init=ml.zeros_init)
    >>> list(ml.trace(fn).variables)
    ['layer/w']
    """
    scopes = tracing("ml.scope").root.scopes
    scopes.append(name)
    try:
        yield
    finally:
        scopes.pop()


def apply(op: Op, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Add an op to the program being traced; outside of a trace, run it at once."""
    program = _current.get()
    if program is not None:
        return program.add(op, *inputs)
    return import_module("meshlang.lowering.eager").run_op(op, inputs)


def spec(shape: str | Shape, dtype: str = "compute") -> InputSpec:
    """The shape and dtype of an input of a program.

    >>> spec("batch:16 length:128", "int32").shape
    [batch:16 length:128]
    """
    return InputSpec(Shape.parse(shape), dtype)


def trace(fn: Callable[..., Any], *, precision: Precision | None = None, **specs: Any) -> Program:
    """Run a Python function once, on named tensors without values, and keep its ops.

    Args:
        fn: takes one tensor for each spec, by keyword, and returns tensors, nested as it likes.
        precision: what "stored", "compute" and "high" mean; float32 all by default.
        **specs: `meshlang.spec` of each input.

    >>> import meshlang as ml
    >>> program = ml.trace(lambda x: ml.sum(x * x, "d"), x=ml.spec("d:4"))
    >>> program.outputs
    [Tensor[] float32]
    """
    program = Program(precision=precision or Precision())
    for name, wanted in specs.items():
        dtype = dtype_name(wanted.dtype, program)
        program.inputs[name] = Tensor(wanted.shape, dtype, program)
    with within(program):
        results = fn(**program.inputs)
        program.results = rebuild(results, lambda x: program.own(as_tensor(x)))
    return program


def dtype_name(name: str, program: Program | None = None) -> str:
    """The concrete dtype behind a name; "stored", "compute", "high" are the program's policy."""
    if name in ("stored", "compute", "high"):
        program = program or _current.get()
        policy = program.root.precision if program else Precision()
        return getattr(policy, name)
    if name not in DTYPES:
        known = ("stored", "compute", "high", *DTYPES)
        listed = ", ".join(known)
        raise DtypeError(
            message(f"no dtype {name!r}.", fix=did_you_mean(name, known, f"one of {listed}"))
        )
    return name


def as_tensor(x: Any, dtype: str | None = None) -> Tensor:
    """A tensor for a tensor, a variable, a Python number or a NumPy scalar."""
    if isinstance(x, Tensor):
        return x
    if hasattr(x, "as_tensor"):
        return x.as_tensor()
    from meshlang.ops.create import constant

    if isinstance(x, bool | np.bool_):
        return constant(x, "", dtype or "bool")
    if isinstance(x, int | np.integer):
        return constant(x, "", dtype or "int32")
    if isinstance(x, float | np.floating):
        return constant(x, "", dtype or "compute")
    if isinstance(x, np.ndarray):
        raise _nameless(x)
    raise ProgramError(
        message(
            f"a {type(x).__name__} is not a tensor.",
            fix="give a tensor, a number, or ml.constant(array, 'dim names')",
        )
    )


def _nameless(x: np.ndarray) -> MeshlangError:
    """An array has no names: say how to give it some."""
    return ProgramError(
        message(
            "an array has no named dims.",
            [("array", f"shape {x.shape}, {x.dtype}")],
            "name them: ml.constant(array, 'batch d_model')",
        )
    )


def both(x: Any, y: Any) -> tuple[Tensor, Tensor]:
    """Two operands as tensors; a Python number takes the other's dtype."""
    if isinstance(x, Tensor) or hasattr(x, "as_tensor"):
        x = as_tensor(x)
        return x, _beside(y, x)
    y = as_tensor(y)
    return _beside(x, y), y


def _beside(number: Any, x: Tensor) -> Tensor:
    """A number in the dtype of the tensor that it meets."""
    if isinstance(number, float | np.floating) and x.dtype in INTEGERS:
        raise DtypeError(
            message(
                "a float meets integers.",
                [("float", number), ("integers", f"{x.shape} {x.dtype}")],
                "ml.cast(x, 'compute') first, or give an int",
            )
        )
    return as_tensor(number, x.dtype)
