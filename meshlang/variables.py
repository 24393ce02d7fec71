"""Variables: what a program keeps between steps.

A variable is made of *kept* dims: it lies where its own axes and the table `params` put it. Using
it (`meshlang.variable` returns it so) moves it to ordinary dims; gradients with respect to it, and
optimizers' slots, have the dims of its update, which the table `slots` may divide further.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from meshlang.dims import Dim, Shape, is_kept, kept
from meshlang.errors import ProgramError, VariableError, message
from meshlang.ops.state import Assign, Stored, ToSlot, Unstack, Use
from meshlang.program import FLOATS, Program, as_tensor, dtype_name, tracing
from meshlang.tensor import Operators, Tensor

Initializer = Callable[[Shape], Any]


@dataclass(frozen=True, eq=False)
class Variable(Operators):
    """A named value that outlives a step.

    In an op it stands for its value under the dims of its update, so that optimizers written as
    plain elementwise code move nothing.

    Attributes:
        name: with its scopes, unique in a program.
        shape: kept dims (or those of an update, for an optimizer's slot).
        logical: the shape that was asked for, without the dims of scans around it.
        dtype: of the stored value.
        init: makes the initial value of a shape from random bits; see `meshlang.initializers`.
        trainable: whether `meshlang.trainable_variables` lists it.
    """

    name: str
    shape: Shape
    logical: Shape
    dtype: str
    init: Any
    trainable: bool

    def as_tensor(self) -> Tensor:
        """The latest value, under the dims of its update."""
        program = tracing("a variable")
        return _under_slot_dims(stored(program, self))

    def __repr__(self) -> str:
        return f"Variable {self.name} {self.shape} {self.dtype}"


def variable(
    name: str,
    shape: str | Shape,
    *,
    init: Any,
    dtype: str = "stored",
    trainable: bool = True,
    use: str = "compute",
) -> Tensor:
    """A variable's value, ready for use; the variable is made when the name is new.

    Args:
        name: within the scopes around; the same name again gives the same variable.
        shape: dims with sizes. Kept dims (of a gradient, say) make an optimizer's slot, whose
            value has those dims.
        init: an initializer, or a number.
        dtype: what it is stored in.
        trainable: False for slots and counters.
        use: what a trainable float is used in: "high" for routers, which must not be rounded.

    Returns:
        The value under ordinary dims, a trainable float in `use` (a slot: its own dims).

    Raises:
        VariableError: the name was used with another shape or dtype.

    Example:
        >>> import meshlang as ml
        >>> def fn(x):
        ...     w = ml.variable("w", "d:2 out:3", init=ml.ones_init)
        ...     return ml.einsum(x, w, reduce="d")
        >>> ml.run(fn, x=ml.constant([1.0, 2.0], "d"))
        array([3., 3., 3.], dtype=float32)
    """
    program = tracing("ml.variable")
    shape = Shape.parse(shape)
    full = "/".join([*program.root.scopes, name])
    slot = is_kept(shape)
    dtype = dtype_name(dtype, program)
    held = _declare(program, full, shape, shape, dtype, init, trainable and not slot)
    if slot:
        return held
    computed = trainable and dtype in FLOATS
    return _used(program, held, full, dtype_name(use, program) if computed else dtype)


def _used(program: Program, held: Tensor, name: str, dtype: str) -> Tensor:
    """The value under ordinary dims; one move serves every use of one value in a program."""
    key = (name, dtype)
    if key in program.used and program.used[key].node.inputs[0] is held:  # type: ignore[union-attr]
        return program.used[key]
    program.used[key] = program.add(Use(dtype), held)[0]
    return program.used[key]


def _declare(
    program: Program,
    name: str,
    dims: Shape,
    logical: Shape,
    dtype: str,
    init: Any,
    trainable: bool,
) -> Tensor:
    """The stored value in this program. Scans around it put their dim in front."""
    if program.unrolls:
        return _declare_unrolled(program, name, dims, logical, dtype, init, trainable)
    if program.parent is None:
        return stored(program, _make(program, name, dims, logical, dtype, init, trainable))
    if program.stack_dim is None:
        return program.own(_declare(program.parent, name, dims, logical, dtype, init, trainable))
    stacked = Shape((program.stack_dim, *dims))
    outer = _declare(program.parent, name, stacked, logical, dtype, init, trainable)
    if outer not in program.stacks:
        program.stacks[outer] = Tensor(Shape(outer.shape[1:]), dtype, program)
    return program.stacks[outer]


def _declare_unrolled(program: Program, name: str, dims: Shape, *rest: Any) -> Tensor:
    """In a scan written out: the slice of this trip, one op cutting the stack for all trips."""
    inner, unroll = program.unrolls, program.unrolls[-1]
    program.unrolls = inner[:-1]
    try:
        outer = _declare(program, name, Shape((unroll.dim, *dims)), *rest)
    finally:
        program.unrolls = inner
    if outer not in unroll.pieces:
        unroll.pieces[outer] = program.add(Unstack(outer.shape[0].name), outer)
    return unroll.pieces[outer][unroll.index]


def _make(
    program: Program,
    name: str,
    dims: Shape,
    logical: Shape,
    dtype: str,
    init: Any,
    trainable: bool,
) -> Variable:
    shape = dims if is_kept(dims) else kept(dims)
    found = program.variables.get(name)
    if found is None:
        found = Variable(name, shape, logical, dtype, init, trainable)
        program.variables[name] = found
    if (found.shape, found.dtype) != (shape, dtype):
        raise VariableError(
            message(
                f"variable {name!r} stands twice, in two forms.",
                [("first", f"{found.shape} {found.dtype}"), ("now", f"{shape} {dtype}")],
                "give one of them another name, or another scope: with ml.scope('decoder'):",
            )
        )
    return found


def stored(program: Program, found: Variable) -> Tensor:
    """The latest value of a variable as it is kept, in this program."""
    root = program.root
    if found.name not in root.latest:
        root.latest[found.name] = root.add(Stored(found.name, found.shape, found.dtype))[0]
    return program.own(root.latest[found.name])


def _under_slot_dims(x: Tensor) -> Tensor:
    if not is_kept(x.shape) or all(d.twin is None or d.twin.kind == "slot" for d in x.shape):
        return x
    return tracing("a variable").add(ToSlot(), x)[0]


def variable_of(x: Any, program: Program) -> Variable | None:
    """The variable that a value is the use of, if it is one."""
    if isinstance(x, Variable):
        return x
    while isinstance(x, Tensor):
        if x.node is None:  # of a loop or a branch, perhaps taken from around it
            captures = x.program.captures if x.program else {}
            x = next((outer for outer, mine in captures.items() if mine is x), None)
            continue
        if isinstance(x.node.op, Stored):
            return program.root.variables[x.node.op.name]
        if not isinstance(x.node.op, Use | ToSlot | Assign):
            return None
        x = x.node.inputs[0]
    return None


def assign(target: Any, value: Any, when: Any = None) -> None:
    """Give a variable a new value; reads that follow see it.

    Args:
        target: a `Variable`, or what `meshlang.variable` returned.
        value: the dims and dtype of the variable; ordinary dims, or those of its update.
        when: a bool scalar; where it is False the variable keeps its value.

    Raises:
        VariableError: not a variable, or other dims or dtype than it has, or `when` is no bool
            scalar.
        ProgramError: inside of a branch or a loop.

    Example:
        >>> import meshlang as ml
        >>> def fn():
        ...     count = ml.variable("count", "", init=5, dtype="int32", trainable=False)
        ...     ml.assign(count, count + 1)
        ...     return count, ml.variable("count", "", init=5, dtype="int32", trainable=False)
        >>> ml.run(fn)
        (array(5, dtype=int32), array(6, dtype=int32))
    """
    program = tracing("ml.assign")
    found = variable_of(target, program)
    if found is None:
        raise VariableError(
            message(
                "only a variable can be assigned.",
                [("target", target)],
                "give what ml.variable returned, or one of ml.trainable_variables()",
            )
        )
    if program.parent is not None or program.unrolls:
        raise ProgramError(
            message(
                f"variable {found.name!r} is assigned inside of a loop or a branch.",
                fix="return the new value from the body, and assign it after",
            )
        )
    value = as_tensor(value, found.dtype)
    if sorted(value.shape.plain(), key=repr) != sorted(found.shape.plain(), key=repr) or (
        value.dtype != found.dtype
    ):
        raise VariableError(
            message(
                f"variable {found.name!r} cannot hold this value.",
                [
                    ("variable", f"{found.shape} {found.dtype}"),
                    ("value", f"{value.shape} {value.dtype}"),
                ],
                "rename its dims, or ml.cast(value, 'stored')",
            )
        )
    old = stored(program, found)
    guards = () if when is None else (_guard(found.name, as_tensor(when)),)
    program.latest[found.name] = program.add(Assign(found.name), old, value, *guards)[0]


def _guard(name: str, when: Tensor) -> Tensor:
    if len(when.shape) or when.dtype != "bool":
        raise VariableError(
            message(
                f"variable {name!r} is assigned under a condition that is no bool scalar.",
                [("when", f"{when.shape} {when.dtype}")],
                "ml.all(when), or compare: when > 0",
            )
        )
    return when


def trainable_variables() -> list[Variable]:
    """The trainable variables of the program being traced, in order of their making.

    Example:
        >>> import meshlang as ml
        >>> def fn():
        ...     w = ml.variable("w", "d:2", init=1.0)
        ...     return ml.gradients(ml.sum(w * w), ml.trainable_variables())
        >>> ml.run(fn)
        [array([2., 2.], dtype=float32)]
    """
    found = tracing("ml.trainable_variables").root.variables.values()
    return [v for v in found if v.trainable]


def step(dtype: str = "int32") -> Tensor:
    """How many times the variables have been updated: a scalar, 0 in the first step.

    Args:
        dtype: of the result.

    Example:
        >>> import meshlang as ml
        >>> ml.run(lambda: ml.step("float32") + 1.0)
        array(1., dtype=float32)
    """
    from meshlang.ops.elementwise import cast
    from meshlang.ops.state import Step

    return cast(tracing("ml.step").add(Step())[0], dtype)


def stack_of(dim: Dim, shape: Shape) -> Shape:
    """The shape of a stack of such tensors along `dim`, which takes over kept dims' owner."""
    first = next((d.twin for d in shape if d.twin and d.twin.kind in ("kept", "slot")), None)
    return Shape((Dim(dim.name, dim.size, first) if first else dim, *shape))
