"""`cond`: one of two functions, chosen when the program runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from meshlang.dims import Shape
from meshlang.errors import DimError, DtypeError, message
from meshlang.ops.create import Constant, zeros
from meshlang.ops.debug import refuse_summaries
from meshlang.ops.rearrange import Expand, arrange
from meshlang.program import Node, Op, Program, Spec, as_tensor, tracing, within
from meshlang.structure import leaves, named_leaves, rebuild
from meshlang.tensor import Tensor


@dataclass(eq=False)
class Branch:
    """What is done in one of the cases.

    Attributes:
        program: the ops.
        fixed: inputs, from the operands of the cond.
        outs: results.
    """

    program: Program
    fixed: list[Tensor] = field(default_factory=list)
    outs: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Cond(Op):
    """One of two branches. Operands: the predicate, what the first is given, and the second."""

    branches: tuple[Branch, Branch]

    @property
    def bodies(self) -> tuple[Program, ...]:
        return tuple(branch.program for branch in self.branches)

    def anew(self) -> Cond:
        first, second = (Branch(b.program, b.fixed, list(b.outs)) for b in self.branches)
        return Cond((first, second))

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        return tuple(Spec(y.shape, y.dtype) for y in self.branches[0].outs)

    def plan(self, b, xs, outs):
        return b.cond(self, xs, outs)

    def vjp(self, xs, ys, gs):
        return _cotangents(list(xs), list(ys), list(gs))


def cond(predicate: Any, true_fn: Callable[[], Any], false_fn: Callable[[], Any]) -> Any:
    """What one of two functions returns: the first where the predicate holds, else the second.

    Only that one is computed, its collectives included, and in the backward pass its gradient. A
    plan counts the dearer one. Nothing is assigned inside.

    Args:
        predicate: a bool scalar.
        true_fn: takes nothing; returns tensors, nested as you like, and may use any others.
        false_fn: returns the same nesting, dims and dtypes.

    Dims:
        predicate  []
        returns    [dims...], as both functions

    Raises:
        DimError: the predicate has a dim left in it, or the functions return different things.
        DtypeError: the predicate is not bools.

    Source: Yu et al., Dynamic control flow in large-scale machine learning, 2018.

    Example:
        >>> import meshlang as ml
        >>> def fn(x):
        ...     return ml.cond(ml.sum(x) > 0.0, lambda: ml.sqrt(x), lambda: ml.zeros("d:2"))
        >>> ml.run(fn, x=ml.constant([4.0, 9.0], "d"))
        array([2., 3.], dtype=float32)
    """
    program = tracing("ml.cond")
    chosen = program.own(check_predicate("cond", as_tensor(predicate)))
    made = [_traced(program, fn) for fn in (true_fn, false_fn)]
    (first, result), (second, other) = made
    second.outs = _alike(second.program, result, other)
    _hand_checks_on(program, first, second)
    outputs = iter(emit(program, chosen, first, second))
    return rebuild(result, lambda _: next(outputs))


def check_predicate(op: str, predicate: Tensor) -> Tensor:
    """Refuse what does not decide between two ways."""
    if predicate.dtype != "bool":
        raise DtypeError(
            message(
                f"{op}: the predicate is no bool.",
                [("predicate", f"{predicate.shape} {predicate.dtype}")],
                "compare: x > 0",
            )
        )
    if len(predicate.shape):
        raise DimError(
            message(
                f"{op}: the predicate has dims left in it, and processors could go apart.",
                [("predicate", predicate.shape)],
                "ml.any(predicate) or ml.all(predicate); elementwise choice is ml.where",
            )
        )
    return predicate


def _traced(program: Program, fn: Callable[[], Any]) -> tuple[Branch, Any]:
    branch = Branch(_begun(program))
    with within(branch.program):
        result = rebuild(fn(), lambda y: branch.program.own(as_tensor(y)))
    refuse_summaries("cond", branch.program)
    branch.outs = list(leaves(result))
    return branch, result


def _begun(program: Program) -> Program:
    inner = Program(parent=program, precision=program.precision)
    inner.trips = tuple(inner.own(t) for t in program.trips)
    return inner


def _alike(program: Program, result: Any, other: Any) -> list[Tensor]:
    """The results of the second branch, in the order of dims of those of the first."""
    firsts, seconds = dict(named_leaves(result)), dict(named_leaves(other))
    fits = list(firsts) == list(seconds) and all(
        set(x.shape) == set(seconds[path].shape) and x.dtype == seconds[path].dtype
        for path, x in firsts.items()
    )
    if not fits:
        rows = [(what, _listed(named)) for what, named in (("true", firsts), ("false", seconds))]
        raise DimError(
            message(
                "cond: the two functions return different things.",
                rows,
                "return the same nesting of the same dims and dtypes from both",
            )
        )
    with within(program):
        return [arrange(seconds[path], x.shape) for path, x in firsts.items()]


def _listed(named: dict[str, Tensor]) -> str:
    words = (f"{path} {t.shape} {t.dtype}".strip() for path, t in named.items())
    return ", ".join(words) or "nothing"


def _hand_checks_on(program: Program, first: Branch, second: Branch) -> None:
    """A check in the branch that is not taken found nothing."""
    for branch, other in ((first, second), (second, first)):
        for flag, _ in branch.program.checks:
            branch.outs.append(flag)
            with within(other.program):
                other.outs.append(zeros(flag.shape, flag.dtype))


def emit(program: Program, predicate: Tensor, first: Branch, second: Branch) -> list[Tensor]:
    """Append the cond: what the branches took from around them becomes operands."""
    given = []
    for branch in (first, second):
        outers: dict[Tensor, Tensor] = {}
        for outer, mine in branch.program.captures.items():
            outers.setdefault(mine, program.own(outer))
        branch.fixed = list(outers)
        given += outers.values()
    made = list(program.add(Cond((first, second)), predicate, *given))
    checks = [*first.program.checks, *second.program.checks]
    flags = made[len(made) - len(checks) :]
    program.checks += [(flag, what) for flag, (_, what) in zip(flags, checks, strict=True)]
    return made


# -- the gradient ---------------------------------------------------------------------------------


def _cotangents(xs: list[Tensor], ys: list[Tensor], gs: list[Tensor | None]) -> list[Tensor | None]:
    """A cond on the same predicate, over values that the branches save."""
    program = tracing("a gradient")
    node = ys[0].node
    assert node is not None and isinstance(node.op, Cond)
    backs, found = [], []
    for place in (0, 1):
        back = Branch(_begun(program))
        back.program.lookup = _Saved(node, xs, back.program, place).find
        found.append(_slopes(node.op.branches[place], back, gs))
        backs.append(back)
    # Operands are listed for each branch; of one that both have there is one cotangent.
    wanted: dict[Tensor, dict[int, Tensor]] = {}
    operands = iter(xs[1:])
    for place, branch in enumerate(node.op.branches):
        for mine, x in zip(branch.fixed, operands, strict=False):
            if mine in found[place]:
                wanted.setdefault(x, {})[place] = found[place][mine]
    for slopes in wanted.values():
        shape, dtype = next((g.shape, g.dtype) for g in slopes.values())
        for place, back in enumerate(backs):
            with within(back.program):
                made = slopes[place] if place in slopes else zeros(shape, dtype)
                back.outs.append(arrange(made, shape))
    if not wanted:
        return [None] * len(xs)
    total = dict(zip(wanted, emit(program, xs[0], *backs), strict=False))
    return [None, *(total.pop(x, None) for x in xs[1:])]


def _slopes(branch: Branch, back: Branch, gs: list[Tensor | None]) -> dict[Tensor, Tensor]:
    from meshlang.grad import backprop

    with within(back.program):
        seeds: dict[Tensor, list[Tensor]] = {}
        for y, g in zip(branch.outs, gs, strict=False):
            if g is not None:
                seeds.setdefault(y, []).append(back.program.own(g))
        return backprop(branch.program.nodes, seeds, branch.fixed)


@dataclass(eq=False)
class _Saved:
    """Finds, for a backward branch, what a branch computed: a result of the cond on demand.

    Where the branch is not taken, that result is zeros, which nobody reads.
    """

    node: Node
    inputs: list[Tensor]
    program: Program
    place: int
    known: dict[Tensor, Tensor] = field(default_factory=dict)

    def find(self, x: Tensor) -> Tensor | None:
        assert isinstance(self.node.op, Cond)
        if x.program is not self.node.op.branches[self.place].program:
            return None
        if x not in self.known:
            self.known[x] = self._make(x)
        return self.known[x]

    def _make(self, x: Tensor) -> Tensor:
        assert isinstance(self.node.op, Cond)
        branches = self.node.op.branches
        mine, other = branches[self.place], branches[1 - self.place]
        if x in mine.fixed:
            before = 1 + self.place * len(branches[0].fixed)
            return self.program.own(self.inputs[before + mine.fixed.index(x)])
        if x.node is not None and isinstance(x.node.op, Constant | Expand):
            inputs = [self.program.own(i) for i in x.node.inputs]
            return self.program.add(x.node.op, *inputs)[0]
        mine.outs.append(x)
        with within(other.program):
            other.outs.append(zeros(Shape(x.shape), x.dtype))
        made = Tensor(x.shape, x.dtype, self.node.outputs[0].program, self.node)
        self.node.outputs = (*self.node.outputs, made)
        return self.program.own(made)
