"""Backward passes as you want them: `recompute` instead of saving, and `custom_gradient`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from meshlang.dims import is_kept
from meshlang.errors import DimError, message
from meshlang.ops.create import Random, Range, zeros
from meshlang.ops.loops import listed
from meshlang.ops.state import Assign, Stored, Use
from meshlang.program import FLOATS, Node, Op, Spec, as_tensor, tracing
from meshlang.structure import leaves, named_leaves, rebuild
from meshlang.tensor import Tensor


@dataclass(frozen=True)
class Barrier(Op):
    """The first operand, once the second is there.

    So the recomputation does not begin before the backward pass has come to it, and TensorFlow,
    which merges equal ops, does not take the first computation for both.
    """

    def passes(self, i: int) -> str:
        return "unread" if i else "alone"

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        return (Spec(xs[0].shape, xs[0].dtype),)

    def vjp(self, xs, ys, gs):
        return (gs[0], None)

    def plan(self, b, xs, outs):
        return b.local(self, xs, outs)


@dataclass(frozen=True)
class Later(Op):
    """An op that makes its numbers from nothing, once the last operand is there: see `Barrier`."""

    op: Random | Range

    @property
    def label(self) -> str:
        return self.op.label

    def passes(self, i: int) -> str:
        return "unread"

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        return self.op.infer(*xs[:-1])

    def vjp(self, xs, ys, gs):
        return (None,) * len(xs)


def recompute(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The function, whose inner values are computed again in the backward pass, not saved.

    What it is given, and what it returns, is held in between; the price is its FLOPs and its
    collectives once more. Random numbers are the same both times. In a scan's function
    (``ml.recompute(layer)(h)``) the saved stacks hold the layers' inputs alone. Calls inside of
    `fn` belong to the outermost one.

    Args:
        fn: takes and returns tensors, nested as you like; it may use others, and variables.

    Dims:
        fn       [dims...] -> [others...]
        returns  a function from [dims...] to [others...]

    Raises:
        ProgramError: when it is called, if nothing is being traced.

    Source: Chen et al., Training deep nets with sublinear memory cost, 2016.

    Example:
        >>> import meshlang as ml
        >>> def fn(x):
        ...     y = ml.recompute(lambda x: ml.exp(ml.sin(x)))(x)
        ...     return ml.gradients(ml.sum(y), [x])[0]
        >>> ml.run(fn, x=ml.constant([0.0], "d"))
        array([1.], dtype=float32)
    """

    def call(*args: Any, **named: Any) -> Any:
        program = tracing("ml.recompute")
        before = program.region
        program.region = before or object()
        try:
            return rebuild(fn(*args, **named), lambda y: program.own(as_tensor(y)))
        finally:
            program.region = before

    return call


@dataclass(frozen=True, eq=False)
class Custom(Op):
    """Results whose gradient is given. Operands: what it is with respect to, then the results."""

    grad_fn: Callable[..., Any]
    given: Any
    results: Any

    @property
    def label(self) -> str:
        return "custom_gradient"

    def passes(self, i: int) -> str:
        return "unread" if i < self._count else "no"

    @property
    def _count(self) -> int:
        return sum(1 for _ in leaves(self.given))

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        return tuple(Spec(y.shape, y.dtype) for y in xs[self._count :])

    def plan(self, b, xs, outs):
        return xs[self._count :]

    def vjp(self, xs, ys, gs):
        given, made = iter(xs), iter(ys)
        slopes = iter(
            zeros(y.shape, y.dtype) if g is None and y.dtype in FLOATS else g
            for y, g in zip(ys, gs, strict=True)
        )
        found = self.grad_fn(
            rebuild(self.given, lambda _: next(given)),
            rebuild(self.results, lambda _: next(made)),
            rebuild(self.results, lambda _: next(slopes)),
        )
        return [*self._checked(found, list(xs)), *(None for _ in ys)]

    def _checked(self, found: Any, xs: list[Tensor]) -> list[Tensor | None]:
        paths = [path for path, _ in named_leaves(self.given)]
        slopes = {path: as_tensor(g) for path, g in named_leaves(found)}
        wanted = dict(zip(paths, xs, strict=False))
        fits = slopes.keys() <= wanted.keys() and all(
            set(g.shape) == set(wanted[path].shape) and g.dtype == wanted[path].dtype
            for path, g in slopes.items()
        )
        if not fits:
            raise DimError(
                message(
                    "custom_gradient: gradients have the nesting, dims and dtypes of the operands.",
                    [("operands", listed(wanted)), ("gradients", listed(slopes))],
                    "return one for each operand, in its place, or None for zeros",
                )
            )
        return [slopes.get(path) for path in paths]


def custom_gradient(
    fn: Callable[..., Any], grad_fn: Callable[[Any, Any, Any], Any]
) -> Callable[..., Any]:
    """The function with a gradient of your own.

    Args:
        fn: takes tensors, nested as you like, and returns tensors. What else it uses, variables
            too, counts as constant: give as an operand what has a gradient.
        grad_fn: takes the operands as a tuple, the results, and the results' gradients, nested as
            they are; returns the operands' gradients as a tuple, None for zeros. It is written in
            the language, and so has gradients itself.

    Dims:
        fn       [dims...] -> [others...]
        grad_fn  ([dims...],), [others...], [others...] -> ([dims...],)
        returns  a function from [dims...] to [others...]

    Raises:
        DimError: when a gradient is taken, if `grad_fn` returns others than the operands have.
        ProgramError: when it is called, if nothing is being traced.

    Example:
        >>> import meshlang as ml
        >>> clipped = ml.custom_gradient(
        ...     lambda x: x * 1.0, lambda xs, y, g: (ml.clip(g, -1.0, 1.0),)
        ... )
        >>> def fn(x):
        ...     return ml.gradients(ml.sum(clipped(x) * 5.0), [x])[0]
        >>> ml.run(fn, x=ml.constant([3.0], "d"))
        array([1.], dtype=float32)
    """

    def call(*args: Any) -> Any:
        program = tracing("ml.custom_gradient")
        given = rebuild(args, lambda x: program.own(as_tensor(x)))
        results = rebuild(fn(*given), lambda y: program.own(as_tensor(y)))
        op = Custom(grad_fn, given, results)
        made = iter(program.add(op, *leaves(given), *leaves(results)))
        return rebuild(results, lambda _: next(made))

    return call


@dataclass(eq=False)
class Again:
    """What one backward pass has computed again, of what the ops that it walks had computed.

    Attributes:
        nodes: those that are walked, in order.
    """

    nodes: Sequence[Node]
    _moved: dict[Tensor, Tensor] = field(default_factory=dict)
    _made: dict[object, dict[Tensor, Tensor]] = field(default_factory=dict)

    def begin(self, region: object, after: Tensor) -> None:
        """Compute all of a region again, once `after` is there; what is not read, plans drop."""
        if region in self._made:
            return
        program = tracing("a gradient")
        made = self._made[region] = {}
        scopes = program.root.scopes
        before = list(scopes)
        for node in self.nodes:
            # What a variable held then is what it was read as then.
            if node.region is not region or isinstance(node.op, Stored | Assign):
                continue
            scopes[:] = [*node.scope.split("/"), "grad"] if node.scope else ["grad"]
            inputs = [self._given(made, x, after) for x in node.inputs]
            if isinstance(node.op, Random | Range):
                found = program.add(Later(node.op), *inputs, after)
            else:
                found = program.add(node.op.anew(), *inputs)
            made.update(zip(node.outputs, found, strict=True))
        scopes[:] = before

    def _given(self, made: dict[Tensor, Tensor], x: Tensor, after: Tensor) -> Tensor:
        """What a region is given; a variable is not held back, for its use is a move."""
        if x not in made:
            held = is_kept(x.shape)
            made[x] = x if held else tracing("a gradient").add(Barrier(), x, after)[0]
        return made[x]

    def of(self, x: Tensor, node: Node) -> Tensor:
        """What an op's gradient reads: in a region its values made again, of variables new copies.

        A gathered copy of a kept variable is not saved for the backward pass: it is moved again.
        """
        if node.region is not None and x in self._made[node.region]:
            return self._made[node.region][x]
        if x.node is None or not isinstance(x.node.op, Use):
            return x
        if x not in self._moved:
            found = tracing("a gradient").add(x.node.op.anew(), x.node.inputs[0])
            self._moved[x] = found[0]
        return self._moved[x]
