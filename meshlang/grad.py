"""Gradients: the backward pass as more of the same program."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from meshlang.errors import DimError, DtypeError, ProgramError, message
from meshlang.ops.create import full, zeros
from meshlang.ops.elementwise import add_n
from meshlang.ops.rearrange import arrange
from meshlang.ops.state import Use, slot_shape
from meshlang.program import FLOATS, Node, Program, as_tensor, current, tracing
from meshlang.tensor import Tensor
from meshlang.variables import stored, variable_of


def gradients(ys: Any, xs: Sequence[Any], cotangents: Any = None) -> list[Tensor]:
    """How `ys` change with each of `xs`.

    Args:
        ys: a tensor, or several whose contributions add up.
        xs: tensors, or variables; for a variable the gradient has the dims of its update.
        cotangents: of the dims of `ys`; ones, for scalars, when left out.

    Returns:
        One gradient for each x, with its dims; zeros where nothing depends on it.

    Raises:
        DimError: a y is not a scalar and has no cotangent.

    Example:
        >>> import meshlang as ml
        >>> def fn(x):
        ...     return ml.gradients(ml.sum(x * x), [x])[0]
        >>> ml.run(fn, x=ml.constant([1.0, 2.0], "d"))
        array([2., 4.], dtype=float32)
    """
    program = tracing("ml.gradients")
    ys = [as_tensor(y) for y in (ys if isinstance(ys, list | tuple) else [ys])]
    if cotangents is None:
        cotangents = [_one(y) for y in ys]
    elif not isinstance(cotangents, list | tuple):
        cotangents = [cotangents]
    targets = [_target(x, program) for x in xs]
    seeds: dict[Tensor, list[Tensor]] = {}
    for y, g in zip(ys, cotangents, strict=True):
        seeds.setdefault(program.own(y), []).append(as_tensor(g))
    found = backprop(program.nodes, seeds, targets)
    return [found[t] if t in found else zeros(_dims(t), t.dtype) for t in targets]


def _target(x: Any, program: Program) -> Tensor:
    variable = variable_of(x, program)
    if variable is not None:
        return stored(program, variable)
    return program.own(as_tensor(x))


def _dims(t: Tensor) -> Any:
    kept = any(d.twin is not None and d.twin.kind == "kept" for d in t.shape)
    return slot_shape(t.shape) if kept else t.shape


def _one(y: Tensor) -> Tensor:
    if y.dtype not in FLOATS:
        raise DtypeError(message("a gradient is of floats.", [("of", f"{y.shape} {y.dtype}")]))
    if len(y.shape):
        raise DimError(
            message(
                "the gradient of what is not a scalar needs a cotangent.",
                [("of", y.shape)],
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
    targets = set(targets)
    live = _depending(nodes, targets)
    cotangents = {t: list(gs) for t, gs in seeds.items()}
    again: dict[Tensor, Tensor] = {}
    for node in reversed(nodes):
        if node not in live:
            continue
        gs = [_total(cotangents.get(y), y) if y in cotangents else None for y in node.outputs]
        if all(g is None for g in gs):
            continue
        ys = [_gathered_again(y, again) for y in node.outputs]
        xs = [_gathered_again(x, again) for x in node.inputs]
        scope_before, current_scopes = _enter(node)
        try:
            back = node.op.vjp(xs, ys, gs)
        finally:
            current_scopes[:] = scope_before
        for x, g in zip(node.inputs, back, strict=True):
            if g is not None and x.dtype in FLOATS and (x in targets or _made_by(x) in live):
                cotangents.setdefault(x, []).append(g)
    return {t: _total(cotangents[t], t) for t in targets if t in cotangents}


def _depending(nodes: Sequence[Node], targets: set[Tensor]) -> set[Node]:
    reached = set(targets)
    live = set()
    for node in nodes:
        if any(x in reached for x in node.inputs):
            live.add(node)
            reached.update(node.outputs)
    return live


def _made_by(x: Tensor) -> Node | None:
    return x.node


def _total(gs: list[Tensor] | None, like: Tensor) -> Tensor:
    assert gs
    gs = [arrange(g, gs[0].shape) for g in gs]
    gs[:] = [add_n(gs)]
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


def _gathered_again(x: Tensor, again: dict[Tensor, Tensor]) -> Tensor:
    """A kept variable in use is not saved for the backward pass: it is moved again."""
    if x.node is None or not isinstance(x.node.op, Use):
        return x
    if x not in again:
        program = current()
        assert program is not None
        again[x] = program.add(Use(x.node.op.dtype, again=True), x.node.inputs[0])[0]
    return again[x]
