"""From a program to the steps of each processor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from meshlang.dims import Dim, Shape
from meshlang.errors import LayoutError, MeshlangError, message
from meshlang.layout.builder import Builder
from meshlang.layout.layout import Tables
from meshlang.layout.payment import Axes, Payments, passing
from meshlang.layout.values import Loop, PlanValue
from meshlang.ops.contract import Einsum
from meshlang.ops.control import Body, Scan
from meshlang.ops.rearrange import Regroup, Rename
from meshlang.ops.reduce import Reduce
from meshlang.ops.state import Assign, Keep, Stored, ToSlot, Use
from meshlang.program import Node, Spec
from meshlang.tensor import Tensor

_MOVES = (Rename, Regroup, Use, Keep, ToSlot, Assign, Scan)


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
) -> None:
    """Plan nodes in order; `env` knows the inputs, and afterwards every tensor's value."""
    nodes = live_nodes(nodes, (*results, *sums))
    for node in nodes:
        _check_placements(node, builder.tables)
    made = _made_pending(builder.tables)
    payments = Payments(nodes, builder.tables, made, results, sums, trips)
    for node in nodes:
        with builder.at(node.scope, node.op):
            xs = _operands(builder, node, env)
            outs = [Spec(y.shape, y.dtype) for y in node.outputs]
            try:
                values = node.op.plan(builder, xs, outs)
            except MeshlangError as error:
                raise _located(error, node) from None
            for y, value in zip(node.outputs, values, strict=True):
                late = payments.late.get(y, False)
                env[y] = value if late or not value.pending else builder.pay(value)


def _operands(builder: Builder, node: Node, env: dict[Tensor, PlanValue]) -> list[PlanValue]:
    """The operands' values; pending ones that cannot pass are paid first."""
    if passing(builder.tables, node, [env[x].pending for x in node.inputs]) is None:
        for x in node.inputs:
            env[x] = builder.pay(env[x])
    return [env[x] for x in node.inputs]


def _made_pending(tables: Tables) -> Any:
    def made(node: Node) -> list[Axes]:
        if isinstance(node.op, Scan):
            return _loop_pending(node.op.body, tables)
        narrow = node.outputs[0].dtype in ("bfloat16", "float16") if node.outputs else False
        if narrow and isinstance(node.op, Einsum | Reduce):
            return [()]
        first = node.op.creates_pending(tables.axes, node.inputs)
        return [first, *(() for _ in node.outputs[1:])]

    return made


def _loop_pending(body: Body, tables: Tables) -> list[Axes]:
    """Only sums leave a loop pending: those that are cheaper paid once, after it."""
    results = (*body.carry_out, *body.ys)
    nodes = live_nodes(body.program.nodes, (*results, *body.sums))
    made = _made_pending(tables)
    inner = Payments(nodes, tables, made, results, body.sums, body.dim.size)
    late = [inner.pending(s) for s in body.sums]
    return [*(() for _ in body.carry), *(() for _ in body.ys), *late]


def plan_loop(
    builder: Builder, op: Scan, xs: list[PlanValue], outs: Sequence[Spec]
) -> list[PlanValue]:
    """The steps of one trip, in a builder of their own, and the loop around them."""
    body = op.body
    for dim in (*body.xs_dims, *body.ys_dims):
        builder.whole_only(op, dim)
    inner = Builder(builder.tables, builder.precision, builder.counter)
    env: dict[Tensor, PlanValue] = {}
    for t in (body.trip, *body.carry, *body.xs, *body.fixed):
        env[t] = builder.counter.value(t.shape, t.dtype, builder.placement(t.shape))
    begin = dict(env)
    results = (*body.carry_out, *body.ys)
    emit(inner, body.program.nodes, env, results, body.sums, body.dim.size)
    n, m = len(body.carry), len(body.carry) + len(body.ys)
    made = []
    for i, spec in enumerate(outs):
        pending = env[body.sums[i - m]].pending if i >= m else ()
        placement = builder.placement(spec.shape)
        made.append(builder.counter.value(spec.shape, spec.dtype, placement, pending))
    builder.steps.append(
        Loop(
            op=op,
            inputs=tuple(xs),
            outputs=tuple(made),
            steps=inner.steps,
            trip=begin[body.trip],
            carry=[begin[t] for t in body.carry],
            xs=[begin[t] for t in body.xs],
            fixed=[begin[t] for t in body.fixed],
            carry_out=[env[t] for t in body.carry_out],
            ys=[env[t] for t in body.ys],
            sums=[env[t] for t in body.sums],
            scope=builder.scope,
        )
    )
    assert n <= m <= len(made)
    return made


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
