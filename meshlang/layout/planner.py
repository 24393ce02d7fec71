"""From a program to the steps of each processor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from meshlang.dims import Dim, Shape
from meshlang.errors import LayoutError, MeshlangError, message
from meshlang.layout.builder import Builder
from meshlang.layout.layout import Tables
from meshlang.layout.payment import Axes, Payments, is_zero, passing
from meshlang.layout.values import PlanValue
from meshlang.ops.blockwise import LocalMap
from meshlang.ops.branches import Cond
from meshlang.ops.loops import Body, Scan
from meshlang.ops.rearrange import Regroup, Rename
from meshlang.ops.recomputed import Barrier, Custom, Later
from meshlang.ops.state import Assign, Keep, Stored, ToSlot, Use
from meshlang.program import NARROW, Node, Spec
from meshlang.tensor import Tensor

_MOVES = (Rename, Regroup, Use, Keep, ToSlot, Assign, Scan, Cond, Custom, Barrier, Later)


def live_nodes(nodes: Sequence[Node], results: Iterable[Tensor]) -> list[Node]:
    """The nodes that results or assignments need, in order."""
    needed, live = set(results), []
    for node in reversed(nodes):
        if isinstance(node.op, Assign) or any(y in needed for y in node.outputs):
            needed.update(node.inputs)
            live.append(node)
    return live[::-1]


def emit(
    builder: Builder,
    nodes: Sequence[Node],
    env: dict[Tensor, PlanValue],
    results: Sequence[Tensor],
    sums: Sequence[Tensor] = (),
    trips: int = 1,
    unpaid: Sequence[Tensor] = (),
) -> None:
    """Plan nodes in order; `env` knows the inputs, and afterwards every tensor's value.

    For `results`, `sums`, `trips` and `unpaid` see `Payments`.
    """
    nodes = live_nodes(nodes, (*results, *sums, *unpaid))
    for node in nodes:
        _check_placements(node, builder.tables)
    made = _made_pending(builder.tables)
    payments = Payments(nodes, builder.tables, made, results, sums, trips, unpaid)
    for node in nodes:
        late = [payments.late.get(y, False) for y in node.outputs]
        with builder.at(node.scope, node.op, late):
            xs, outs = _operands(builder, node, env)
            try:
                values = node.op.plan(builder, xs, outs)
            except MeshlangError as error:
                raise _located(error, node) from None
            for y, value, stays in zip(node.outputs, values, late, strict=True):
                env[y] = value if stays and value.pending else builder.paid(value, y.dtype)


def _operands(
    builder: Builder, node: Node, env: dict[Tensor, PlanValue]
) -> tuple[list[PlanValue], list[Spec]]:
    """The operands' values, pending ones that cannot pass paid first; and what comes out.

    A pending sum of a narrow dtype is held in high precision until it is paid, and so are the other
    operands and results of what it passes through.
    """
    if passing(builder.tables, node, [env[x].pending for x in node.inputs]) is None:
        for x in node.inputs:
            env[x] = builder.paid(env[x], x.dtype)
    xs = [env[x] for x in node.inputs]
    outs = [Spec(y.shape, y.dtype) for y in node.outputs]
    if all(v.dtype == x.dtype for v, x in zip(xs, node.inputs, strict=True)):
        return xs, outs
    xs = [builder.cast(v, builder.high) if v.dtype in NARROW else v for v in xs]
    return xs, [Spec(y.shape, builder.high if y.dtype in NARROW else y.dtype) for y in outs]


def _made_pending(tables: Tables) -> Any:
    def made(node: Node) -> list[Axes]:
        if isinstance(node.op, Scan):
            return _loop_pending(node.op.body, tables)
        if isinstance(node.op, Cond):
            return _cond_pending(node.op, tables)
        first = node.op.creates_pending(tables.axes, node.inputs)
        each = isinstance(node.op, LocalMap)
        return [first, *(first if each else () for _ in node.outputs[1:])]

    return made


def _cond_pending(op: Cond, tables: Tables) -> list[Axes]:
    """What both branches can leave pending alike: a loop around them then pays it once."""
    found = []
    for branch in op.branches:
        nodes = live_nodes(branch.program.nodes, branch.outs)
        inner = Payments(nodes, tables, _made_pending(tables), (), unpaid=branch.outs)
        found.append([inner.pending(y) for y in branch.outs])
    first, second = op.branches
    alike = []
    for x, y, one, other in zip(first.outs, second.outs, *found, strict=True):
        fits = set(one) == set(other) or is_zero(y if one else x)
        alike.append((one or other) if fits else ())
    return alike


def _loop_pending(body: Body, tables: Tables) -> list[Axes]:
    """Only sums leave a loop pending, and loose stacks: where they are cheaper paid after it."""
    results, sums = leaving(body)
    nodes = live_nodes(body.program.nodes, (*results, *sums))
    made = _made_pending(tables)
    inner = Payments(nodes, tables, made, results, sums, body.dim.size)
    ys = [inner.pending(y) if y in body.loose else () for y in body.ys]
    late = [inner.pending(s) for s in body.sums]
    trips: list[Axes] = [()] if body.test else []
    return [*(() for _ in body.carry), *ys, *late, *trips]


def leaving(body: Body) -> tuple[list[Tensor], list[Tensor]]:
    """What leaves a loop paid, and what may leave it pending."""
    paid = [y for y in body.ys if y not in body.loose]
    return [*body.carry_out, *paid], [*body.sums, *(y for y in body.ys if y in body.loose)]


# -- legality -------------------------------------------------------------------------------------


def _check_placements(node: Node, tables: Tables) -> None:
    """Dims divide by their axes, and no two dims of an op lie on one axis."""
    if isinstance(node.op, Stored):
        check_declared(f"variable {node.op.name}", node.outputs[0].shape, tables)
        return
    try:
        for y in node.outputs:
            _check_divides((node.op.label, y.shape), tables)
            _check_one_axis([(node.op.label, y.shape)], tables)
        if not isinstance(node.op, _MOVES):
            rows = [(f"operand {i}", x.shape) for i, x in enumerate(node.inputs)]
            _check_one_axis([*rows, *(("result", y.shape) for y in node.outputs)], tables)
    except LayoutError as error:
        raise _located(error, node) from None


def check_declared(what: str, shape: Shape, tables: Tables) -> None:
    """The same for an input or a variable, which can be declared otherwise."""
    _check_divides((what, shape), tables)
    _check_one_axis([(what, shape)], tables, declared=True)


def _check_divides(row: tuple[str, Shape], tables: Tables) -> None:
    """Each dim of a tensor, named for an error, divides by its axes into equal blocks."""
    for dim in row[1]:
        axes = tables.axes(dim)
        ways = tables.mesh.ways(axes)
        if dim.size % ways:
            raise LayoutError(
                message(
                    f"dim {dim.label!r} of size {dim.size} does not divide by the {ways} "
                    f"processors along {'+'.join(axes)}.",
                    [row, *tables.rows()],
                    f"make it a multiple of {ways}, or lay {dim.name!r} along fewer processors",
                )
            )


def _check_one_axis(
    tensors: Sequence[tuple[str, Shape]], tables: Tables, declared: bool = False
) -> None:
    """Axes of size 1 count: a program is legal on all meshes of these axes, or on none."""
    on: dict[str, Dim] = {}
    for dim in (dim for _, shape in tensors for dim in shape):
        for axis in tables.named_axes(dim):
            other = on.setdefault(axis, dim)
            if other.name == dim.name:
                continue
            what = "one tensor" if len(tensors) == 1 else "one op"
            hold = f"hold one of them whole here: ml.whole(x, {dim.name!r})"
            raise LayoutError(
                message(
                    f"dims {other.label!r} and {dim.label!r} of {what} are both laid out "
                    f"on axis {axis!r}.",
                    [*tensors, *tables.rows()],
                    f"declare one of them whole: '{dim.name}*:{dim.size}'" if declared else hold,
                )
            )


def _located(error: MeshlangError, node: Node) -> MeshlangError:
    """The error under the scope of the op that it concerns."""
    if not node.scope or getattr(error, "located", False):
        return error
    located = type(error)(f"{node.scope}/{node.op.label}: {error}")
    located.located = True  # type: ignore[attr-defined]
    return located
