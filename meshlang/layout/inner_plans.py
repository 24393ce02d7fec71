"""Plans inside of plans: the trips of a loop, the branches of a cond."""

from __future__ import annotations

from collections.abc import Sequence

from meshlang.layout.builder import Builder
from meshlang.layout.payment import is_zero
from meshlang.layout.planner import emit, leaving
from meshlang.layout.values import Branch, Branches, Decision, Loop, PlanValue
from meshlang.ops import branches
from meshlang.ops.branches import Cond
from meshlang.ops.loops import Predicate, Scan
from meshlang.program import Spec
from meshlang.tensor import Tensor


def plan_loop(
    builder: Builder, op: Scan, xs: list[PlanValue], outs: Sequence[Spec]
) -> list[PlanValue]:
    """The steps of one trip, in a builder of their own, and the loop around them."""
    body = op.body
    for dim in (*body.xs_dims, *body.ys_dims):
        builder.whole_only(op, dim)
    inner = Builder(builder.tables, builder.precision, builder.counter)
    env = _begin(builder, [body.trip, *body.carry, *body.xs, *body.fixed])
    begin = dict(env)
    results, sums = leaving(body)
    emit(inner, body.program.nodes, env, results, sums, body.dim.size)
    ends: list[PlanValue | None] = [env[t] for t in (*body.carry_out, *body.ys, *body.sums)]
    ends += [None] * (len(outs) - len(ends))  # the number of trips, which none of them makes
    made = [_result(builder, spec, end) for spec, end in zip(outs, ends, strict=True)]
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
            decision=_decision(builder, body.test) if body.test else None,
        )
    )
    return made


def _result(builder: Builder, spec: Spec, end: PlanValue | None) -> PlanValue:
    """What comes out of a loop where each trip ends with this value."""
    pending = end.pending if end else ()
    dtype = end.dtype if end and pending else spec.dtype
    return builder.counter.value(spec.shape, dtype, builder.placement(spec.shape), pending)


def _decision(builder: Builder, test: Predicate) -> Decision:
    inner = Builder(builder.tables, builder.precision, builder.counter)
    env = _begin(builder, [test.trip, *test.carry, *test.fixed])
    begin = dict(env)
    emit(inner, test.program.nodes, env, [test.predicate])
    return Decision(
        steps=inner.steps,
        trip=begin[test.trip],
        carry=[begin[t] for t in test.carry],
        fixed=[begin[t] for t in test.fixed],
        predicate=env[test.predicate],
    )


def plan_cond(
    builder: Builder, op: Cond, xs: list[PlanValue], outs: Sequence[Spec]
) -> list[PlanValue]:
    """The steps of both branches, whose results are pending alike."""
    late = builder.late
    inner, made = zip(*(_branch(builder, branch, late) for branch in op.branches), strict=True)
    outputs = []
    for i, spec in enumerate(outs):
        if late[i]:
            zeros = [is_zero(branch.outs[i]) for branch in op.branches]
            spec, pending = _made_alike(inner, made, i, zeros, spec)
        else:
            pending = ()
        placement = builder.placement(spec.shape)
        outputs.append(builder.counter.value(spec.shape, spec.dtype, placement, pending))
    builder.steps.append(Branches(op, tuple(xs), tuple(outputs), made, builder.scope))
    return outputs


def _made_alike(
    inner: Sequence[Builder], made: Sequence[Branch], i: int, zeros: Sequence[bool], spec: Spec
) -> tuple[Spec, tuple[str, ...]]:
    """Result i, pending in both branches or paid in both; a zero is a part of any sum."""
    ends = [branch.outs[i] for branch in made]
    pending = ends[0].pending or ends[1].pending
    if any(set(v.pending) != set(pending) and not z for v, z in zip(ends, zeros, strict=True)):
        pending = ()
        ends = [b.paid(v, spec.dtype) for b, v in zip(inner, ends, strict=True)]
    dtype = next((v.dtype for v in ends if v.pending), spec.dtype)
    for builder, branch, value in zip(inner, made, ends, strict=True):
        branch.outs[i] = builder.cast(value, dtype)
    return Spec(spec.shape, dtype), pending


def _branch(
    builder: Builder, branch: branches.Branch, late: Sequence[bool]
) -> tuple[Builder, Branch]:
    inner = Builder(builder.tables, builder.precision, builder.counter)
    env = _begin(builder, branch.fixed)
    begin = dict(env)
    paid = [y for y, stays in zip(branch.outs, late, strict=True) if not stays]
    unpaid = [y for y, stays in zip(branch.outs, late, strict=True) if stays]
    emit(inner, branch.program.nodes, env, paid, unpaid=unpaid)
    found = Branch(
        steps=inner.steps,
        fixed=[begin[t] for t in branch.fixed],
        outs=[env[t] for t in branch.outs],
    )
    return inner, found


def _begin(builder: Builder, tensors: Sequence[Tensor]) -> dict[Tensor, PlanValue]:
    """What an inner plan begins with: paid, and where dims lie."""
    return {t: builder.counter.value(t.shape, t.dtype, builder.placement(t.shape)) for t in tensors}
