"""What a loop is made of: its body, the op, and how both come out of a traced function."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from meshlang.dims import Dim, Shape, is_kept, split_label
from meshlang.errors import DimError, message
from meshlang.ops.debug import add_summary
from meshlang.ops.elementwise import AddN, add_n, cast
from meshlang.ops.rearrange import Arrange, arrange
from meshlang.ops.state import Keep
from meshlang.program import Op, Program, Spec, as_tensor, within
from meshlang.structure import leaves, named_leaves
from meshlang.tensor import Tensor


@dataclass(eq=False)
class Predicate:
    """What decides before each trip of a `while_loop` whether there is one.

    Attributes:
        program: the ops that decide.
        trip: the index of the trip that would be next.
        carry, fixed: inputs handed on, and the same each time.
        predicate: the result, a bool scalar.
    """

    program: Program
    trip: Tensor
    carry: list[Tensor]
    fixed: list[Tensor] = field(default_factory=list)
    predicate: Tensor = field(init=False)


@dataclass(eq=False)
class Body:
    """What one trip does: a program with its inputs and results by role.

    Attributes:
        program: the ops of a trip.
        dim: the dim that is walked; its size is the number of trips, or the most there may be.
        reverse: from the last index to the first.
        trip: the index of this trip, a scalar.
        carry, xs, fixed: inputs handed on, cut from stacks, and the same in each trip.
        xs_dims: the stacked dim of each of `xs`, with its twin.
        carry_out, ys, sums: results handed on, stacked, and summed over trips.
        ys_dims: the stacked dim of each of `ys`.
        loose: those of `ys` that may be stacked pending, for a loop around adds the stacks.
        test: decides how many trips there are; their number is the last result.
        bounded: False if `dim` does not say how many trips there may be.
        counted: whether the last operand says how many trips there are.
    """

    program: Program
    dim: Dim
    reverse: bool
    trip: Tensor
    carry: list[Tensor] = field(default_factory=list)
    xs: list[Tensor] = field(default_factory=list)
    xs_dims: list[Dim] = field(default_factory=list)
    fixed: list[Tensor] = field(default_factory=list)
    carry_out: list[Tensor] = field(default_factory=list)
    ys: list[Tensor] = field(default_factory=list)
    ys_dims: list[Dim] = field(default_factory=list)
    sums: list[Tensor] = field(default_factory=list)
    loose: set[Tensor] = field(default_factory=set)
    test: Predicate | None = None
    bounded: bool = True
    counted: bool = False

    def specs(self) -> tuple[Spec, ...]:
        """Shapes and dtypes of the results of the whole loop."""
        stacked = zip(self.ys, self.ys_dims, strict=True)
        return (
            *(Spec(c.shape, c.dtype) for c in self.carry),
            *(Spec(Shape((d, *y.shape)), y.dtype) for y, d in stacked),
            *(Spec(s.shape, s.dtype) for s in self.sums),
            *([Spec(Shape(), "int32")] if self.test else []),
        )

    def another(self) -> Body:
        """The same trips, whose stacks grow on their own."""
        return replace(self, ys=list(self.ys), ys_dims=list(self.ys_dims))


@dataclass(frozen=True, eq=False)
class Scan(Op):
    """A loop over a dim. Results: see `Body.specs`.

    Operands: carries, stacks, fixed values, those of the test, the number of trips if counted.
    """

    body: Body

    @property
    def detail(self) -> str:
        body = self.body
        way = " reverse" if body.reverse else ""
        if body.counted:
            return f"over {body.dim.label}, as many trips as counted, at most {body.dim.size}{way}"
        return f"over {body.dim.label}, {body.dim.size} trips{way}"

    @property
    def bodies(self) -> tuple[Program, ...]:
        test = self.body.test
        return (self.body.program, test.program) if test else (self.body.program,)

    def anew(self) -> Scan:
        return type(self)(self.body.another())

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        return self.body.specs()

    def plan(self, b, xs, outs):
        return b.loop(self, xs, outs)

    def vjp(self, xs, ys, gs):
        from meshlang.ops.loop_slopes import loop_cotangents

        return loop_cotangents(list(xs), list(ys), list(gs))


@dataclass(frozen=True, eq=False)
class WhileLoop(Scan):
    """Trips as long as a test holds. The number of trips is the last result."""

    @property
    def label(self) -> str:
        return "while_loop"

    @property
    def detail(self) -> str:
        body = self.body
        return f"at most {body.dim.size} trips" if body.bounded else "counted as one trip"


# -- from a traced function to the op -------------------------------------------------------------


def begin(program: Program, dim: Dim, xs: Any, reverse: bool = False) -> Body:
    """A body whose slices are those of `xs`, and nothing else yet."""
    inner, trip = inside(program)
    body = Body(inner, dim, reverse, trip)
    for x in leaves(xs):
        stacked = x.shape[dim.name]
        body.xs_dims.append(stacked)
        body.xs.append(Tensor(Shape(d for d in x.shape if d != stacked), x.dtype, inner))
    return body


def inside(program: Program) -> tuple[Program, Tensor]:
    """A program for the trips of a loop in another one, and their index."""
    inner = Program(parent=program, precision=program.precision)
    trip = Tensor(Shape(), "int32", inner)
    inner.trips = (*(inner.own(t) for t in program.trips), trip)
    return inner, trip


def emit(
    program: Program,
    body: Body,
    carry: list[Tensor],
    xs: list[Tensor],
    count: Tensor | None = None,
) -> list[Tensor]:
    """Append the loop: stacks of variables and captured values become operands."""
    for outer, cut in body.program.stacks.items():
        xs.append(outer)
        body.xs.append(cut)
        body.xs_dims.append(outer.shape[0])
    xs = [_in_front(x, d) for x, d in zip(xs, body.xs_dims, strict=True)]
    unkept = [unkept_of(body.program, s) for s in body.sums]
    body.sums = [s for s, _ in unkept]
    summaries = list(body.program.summaries.items())
    own = len(carry) + len(body.ys)
    body.ys += [x for _, x in summaries]
    body.ys_dims += [stacked_like(body.dim, x.shape) for _, x in summaries]
    checks = list(body.program.checks)
    body.sums += [flag for flag, _ in checks]
    fixed, body.fixed = captured(program, body.program)
    if body.test is not None:
        more, body.test.fixed = captured(program, body.test.program)
        fixed += more
    body.counted = count is not None
    op = (WhileLoop if body.test else Scan)(body)
    made = list(program.add(op, *carry, *xs, *fixed, *([] if count is None else [count])))
    for (name, _), stack in zip(summaries, made[own:], strict=False):
        add_summary(program, name, stack)
    del made[own : own + len(summaries)]
    m = own
    for i, (_, ops) in enumerate(unkept):
        for op in ops:
            (made[m + i],) = program.add(op, made[m + i])
    flags = made[m + len(unkept) : m + len(unkept) + len(checks)]
    program.checks += [(flag, what) for flag, (_, what) in zip(flags, checks, strict=True)]
    return made


def captured(program: Program, inner: Program) -> tuple[list[Tensor], list[Tensor]]:
    """What an inner program took from around it: the tensors there, and those inside."""
    outers: dict[Tensor, Tensor] = {}
    for outer, mine in inner.captures.items():
        outers.setdefault(mine, program.own(outer))
    return list(outers.values()), list(outers)


def unkept_of(program: Program, x: Tensor) -> tuple[Tensor, list[Keep | Arrange]]:
    """What a variable's cotangent is kept from, in a body; the ops that keep it are to follow.

    So the sum over processors that is pending in it is scattered once after the loop, not in each
    trip.
    """
    node = x.node
    if node is None:
        return x, []
    if isinstance(node.op, Arrange):
        given, ops = unkept_of(program, node.inputs[0])
        return (given, [*ops, node.op]) if ops else (x, [])
    parts = [y.node for y in node.inputs] if isinstance(node.op, AddN) else [node]
    found = {p.op for p in parts if p is not None and isinstance(p.op, Keep)}
    if len(found) != 1 or not all(p is not None and p.op in found for p in parts):
        return x, []
    (op,) = found
    with within(program):
        wide = [cast(p.inputs[0], op.dtype) for p in parts if p is not None]
        return add_n([arrange(w, wide[0].shape) for w in wide]), [op]


def _in_front(x: Tensor, dim: Dim) -> Tensor:
    return arrange(x, Shape((dim, *(d for d in x.shape if d != dim))))


def stacked(op: Keep | Arrange, dim: Dim) -> Keep | Arrange:
    """The op for a stack of its operands along `dim`."""
    shape = Shape((dim, *op.shape))
    return Keep(shape, op.dtype) if isinstance(op, Keep) else Arrange(shape)


def stacked_like(dim: Dim, shape: Shape) -> Dim:
    """A stacked dim stands under the same twin as kept dims that it stands beside."""
    twin = next((d.twin for d in shape if d.twin and is_kept(Shape((d,)))), None)
    owned = twin is not None and dim.name in (split_label(label)[0] for label in twin.of)
    return Dim(dim.name, dim.size, twin) if owned else dim


def walked_dim(dim: Dim) -> Dim:
    """A stacked dim as a loop walks it."""
    return dim.plain() if dim.twin and dim.twin.kind in ("kept", "slot") else dim


def same(
    program: Program, words: tuple[str, tuple[str, str], str], before: Any, after: Any
) -> list[Tensor]:
    """The leaves of `after` in the order of those of `before`, whose dims and dtypes they have."""
    olds = dict(named_leaves(before))
    news = {path: program.own(as_tensor(t)) for path, t in named_leaves(after)}
    fits = olds.keys() == news.keys() and all(
        set(o.shape) == set(news[path].shape) and o.dtype == news[path].dtype
        for path, o in olds.items()
    )
    if not fits:
        headline, labels, fix = words
        rows = zip(labels, (listed(olds), listed(news)), strict=True)
        raise DimError(message(headline, rows, fix))
    return [arrange(news[path], o.shape) for path, o in olds.items()]


def listed(named: dict[str, Tensor]) -> str:
    """Tensors with their paths, for an error."""
    return (
        ", ".join(f"{path} {t.shape} {t.dtype}".strip() for path, t in named.items()) or "nothing"
    )
