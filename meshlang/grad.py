"""Gradients: the backward pass as more of the same program."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from meshlang.dims import Shape
from meshlang.errors import DimError, DtypeError, ProgramError, message
from meshlang.ops.create import full, zeros
from meshlang.ops.elementwise import add_n
from meshlang.ops.rearrange import arrange
from meshlang.ops.recomputed import Again
from meshlang.ops.state import Assign, ToSlot, Use, slot_shape
from meshlang.program import FLOATS, Node, Op, Program, as_tensor, current, tracing
from meshlang.tensor import Tensor
from meshlang.variables import Variable, stored


def gradients(ys: Any, xs: Any, cotangents: Any = None) -> list[Tensor]:
    """How `ys` change with each of `xs`: the backward pass as more ops of the same program.

    Inside of a loop's function the carry and the slices that it is given count as constants.

    Args:
        ys: a tensor, or several whose contributions add up.
        xs: tensors, or variables, as `meshlang.trainable_variables` or `meshlang.variable` gives
            them. Of a variable that was assigned, the value that `ys` were computed from.
        cotangents: for each y one of its dims and dtype; ones, for scalars, when left out.

    Returns:
        One gradient for each x, zeros where no y depends on it.

    Dims:
        ys, cotangents   [dims...], alike
        returns          those of each x in its order; for a variable those of its update

    Raises:
        DimError: a y is not a scalar and has no cotangent, or the cotangent has other dims.
        DtypeError: a y or an x is no float, or a cotangent has another dtype than its y.
        ProgramError: an x is no part of the program, or an op on the way has no gradient.

    Example:
        >>> import meshlang as ml
        >>> def fn(x):
        ...     return ml.gradients(ml.sum(x * x), [x])[0]
        >>> ml.run(fn, x=ml.constant([1.0, 2.0], "d"))
        array([2., 4.], dtype=float32)
    """
    program = tracing("ml.gradients")
    ys = [program.own(as_tensor(y)) for y in _several(ys)]
    cotangents = [_one(y) for y in ys] if cotangents is None else _several(cotangents)
    seeds = _seeds(ys, [as_tensor(g) for g in cotangents])
    nodes = _nodes_so_far(program)
    targets = [_target(x, program, nodes, ys) for x in _several(xs)]
    found = backprop(nodes, seeds, targets)
    return [
        arrange(found[t], _dims(t)) if t in found else zeros(_dims(t), t.dtype) for t in targets
    ]


def _several(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _seeds(ys: list[Tensor], cotangents: list[Tensor]) -> dict[Tensor, list[Tensor]]:
    if len(ys) != len(cotangents):
        raise DimError(
            message(
                "gradients: each y has one cotangent.",
                [("ys", len(ys)), ("cotangents", len(cotangents))],
                "give as many cotangents as ys, in the same order",
            )
        )
    seeds: dict[Tensor, list[Tensor]] = {}
    for y, g in zip(ys, cotangents, strict=True):
        rows = [("y", f"{y.shape} {y.dtype}"), ("cotangent", f"{g.shape} {g.dtype}")]
        if y.dtype not in FLOATS or y.dtype != g.dtype:
            raise DtypeError(
                message("gradients: y and its cotangent are floats of one dtype.", rows, "ml.cast")
            )
        if set(y.shape) != set(g.shape):
            raise DimError(
                message("gradients: a cotangent has the dims of its y.", rows, "expand or sum it")
            )
        seeds.setdefault(y, []).append(g)
    return seeds


@dataclass(frozen=True)
class Given(Op):
    """In backward passes only: a tensor from around a loop, as the loop's function sees it."""

    def vjp(self, xs, ys, gs):
        return (gs[0],)


@dataclass(frozen=True)
class Sliced(Op):
    """In backward passes only: a variable's slice, as the function of the loop sees it."""

    def vjp(self, xs, ys, gs):
        raise ProgramError(
            message(
                "gradients: a variable made in a scan is differentiated inside of that scan, "
                "where there is a slice of it.",
                [("variable", xs[0].shape), ("slice", ys[0].shape)],
                "call ml.gradients after ml.scan, or with respect to what ml.variable returned",
            )
        )


def _nodes_so_far(program: Program) -> list[Node]:
    """The ops of this program and of those around it, and what leads from them into it."""
    if program.parent is None:
        return list(program.nodes)
    around = _nodes_so_far(program.parent)
    for outer, inner in program.captures.items():
        if outer.program is program.parent:
            around.append(Node(Given(), (outer,), (inner,)))
    for outer, cut in program.stacks.items():
        around.append(Node(Sliced(), (outer,), (cut,)))
    return [*around, *program.nodes]


def _target(x: Any, program: Program, nodes: list[Node], ys: list[Tensor]) -> Tensor:
    """The tensor whose cotangent is meant: for a variable's value the variable, as it is kept."""
    if isinstance(x, Variable):
        return _version(stored(program.root, x), nodes, ys)
    x = as_tensor(x)
    if x.node is not None and isinstance(x.node.op, Use | ToSlot):
        return x.node.inputs[0]
    around: Program | None = program
    while around is not None and x.program is not around:
        around = around.parent
    if around is None:
        raise ProgramError(
            message(
                "gradients: an x is no part of the program.",
                [("x", f"{x.shape} {x.dtype}")],
                "differentiate with respect to inputs, variables, or what was computed from them",
            )
        )
    if x.dtype not in FLOATS:
        raise DtypeError(
            message("gradients: an x is no float.", [("x", f"{x.shape} {x.dtype}")], "ml.cast")
        )
    return x


def _version(latest: Tensor, nodes: list[Node], ys: list[Tensor]) -> Tensor:
    """The last value of a variable that some y was computed from; if none, the latest one."""
    value = latest
    while value.node is not None and isinstance(value.node.op, Assign):
        if not _depending(nodes, {value})[1].isdisjoint(ys):
            return value
        value = value.node.inputs[0]
    return value


def _dims(t: Tensor) -> Shape:
    kept = any(d.twin is not None and d.twin.kind == "kept" for d in t.shape)
    return slot_shape(t.shape) if kept else t.shape


def _one(y: Tensor) -> Tensor:
    if len(y.shape):
        raise DimError(
            message(
                "gradients: what is not a scalar needs a cotangent.",
                [("y", y.shape)],
                "sum it first: ml.sum(y), or give cotangents=",
            )
        )
    return full("", 1, y.dtype)


def backprop(
    nodes: Sequence[Node], seeds: Mapping[Tensor, list[Tensor]], targets: Iterable[Tensor]
) -> dict[Tensor, Tensor]:
    """Walk nodes backwards; ops are added to the program being traced.

    Args:
        nodes: of the program whose results are differentiated, in order.
        seeds: cotangents of its tensors.
        targets: the tensors whose cotangents are wanted.

    Returns:
        Those of the targets that anything depends on.
    """
    targets = dict.fromkeys(targets)  # in order: processes trace the same program each for itself
    live, reached = _depending(nodes, targets)
    cotangents = {t: list(gs) for t, gs in seeds.items()}
    again = Again(nodes)
    for node in reversed(nodes):
        if node not in live:
            continue
        if not any(y in cotangents for y in node.outputs):
            continue
        scope_before, current_scopes = _enter(node)
        try:
            gs = [_total(cotangents[y]) if y in cotangents else None for y in node.outputs]
            if node.region is not None:
                again.begin(node.region, next(g for g in gs if g is not None))
            ys = [again.of(y, node) for y in node.outputs]
            xs = [again.of(x, node) for x in node.inputs]
            back = node.op.vjp(xs, ys, gs)
        finally:
            current_scopes[:] = scope_before
        for x, g in zip(node.inputs, back, strict=True):
            if g is not None and x.dtype in FLOATS and x in reached:
                cotangents.setdefault(x, []).append(g)
    return {t: _total(cotangents[t]) for t in targets if t in cotangents}


def _depending(nodes: Sequence[Node], targets: Iterable[Tensor]) -> tuple[set[Node], set[Tensor]]:
    """What depends on the targets: ops, and tensors, the targets among them."""
    reached, live = set(targets), set()
    for node in nodes:
        if any(x in reached for x in node.inputs):
            live.add(node)
            reached.update(node.outputs)
    return live, reached


def _total(gs: list[Tensor]) -> Tensor:
    """The sum of contributions, which it replaces in their list."""
    gs[:] = [add_n([arrange(g, gs[0].shape) for g in gs])]
    return gs[0]


def _enter(node: Node) -> tuple[list[str], list[str]]:
    """Backward ops stand under the scope of what they differentiate."""
    program = current()
    if program is None:
        raise ProgramError("backprop outside of a trace")
    scopes = program.root.scopes
    before = list(scopes)
    scopes[:] = [*node.scope.split("/"), "grad"] if node.scope else ["grad"]
    return before, scopes
