"""Loops: `scan` over a dim, with gradients, and `accumulate` for microbatches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from meshlang.dims import Dim, Shape, is_kept, split_label, twin_of
from meshlang.dtypes import check_kind
from meshlang.errors import DimError, message
from meshlang.notation import dim_words
from meshlang.ops.create import Constant, Range, constant, zeros
from meshlang.ops.rearrange import Expand, arrange
from meshlang.ops.state import StackUp, Unstack
from meshlang.program import FLOATS, Op, Program, Spec, as_tensor, tracing, within
from meshlang.structure import leaves, named_leaves, rebuild
from meshlang.tensor import Tensor


@dataclass(eq=False)
class Body:
    """What one trip does: a program with its inputs and results by role.

    Attributes:
        program: the ops of a trip.
        dim: the dim that is walked; its size is the number of trips.
        reverse: from the last index to the first.
        trip: the index of this trip, a scalar.
        carry, xs, fixed: inputs handed on, cut from stacks, and the same in each trip.
        xs_dims: the stacked dim of each of `xs`, with its twin.
        carry_out, ys, sums: results handed on, stacked, and summed over trips.
        ys_dims: the stacked dim of each of `ys`.
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

    def specs(self) -> tuple[Spec, ...]:
        """Shapes and dtypes of the results of the whole loop."""
        stacked = zip(self.ys, self.ys_dims, strict=True)
        return (
            *(Spec(c.shape, c.dtype) for c in self.carry),
            *(Spec(Shape((d, *y.shape)), y.dtype) for y, d in stacked),
            *(Spec(s.shape, s.dtype) for s in self.sums),
        )


@dataclass(frozen=True, eq=False)
class Scan(Op):
    """A loop over a dim. Operands: carries, stacks, fixed values. Results: see `Body.specs`."""

    body: Body

    @property
    def detail(self) -> str:
        way = " reverse" if self.body.reverse else ""
        return f"over {self.body.dim.label}, {self.body.dim.size} trips{way}"

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        return self.body.specs()

    def plan(self, b, xs, outs):
        return b.loop(self, xs, outs)

    def vjp(self, xs, ys, gs):
        return _scan_vjp(self.body, list(xs), list(ys), list(gs))


@dataclass(eq=False)
class Unroll:
    """A trip of a scan that is written out."""

    dim: Dim
    index: int
    pieces: dict[Tensor, tuple[Tensor, ...]]


def scan(
    fn: Callable[[Any, Any], tuple[Any, Any]],
    carry: Any,
    xs: Any = None,
    *,
    over: str,
    unroll: bool = False,
) -> tuple[Any, Any]:
    """Apply a function along a dim: ``carry, y = fn(carry, x)`` for each index.

    Variables made in `fn` get the dim in front, one slice for each trip, so depth is a scan over
    ``layers`` and programs do not grow with it. Nothing is assigned in `fn`.

    Args:
        fn: takes the carry and the slices of `xs`; returns the next carry and a y, or None.
        carry: tensors, nested as you like; dims and dtypes stay.
        xs: tensors that have the dim, or None.
        over: the dim, with its size if `xs` does not tell. It lies whole; the layout says so, or
            `meshlang.whole`.
        unroll: write the trips out: the same variables and random bits, a larger program.

    Dims:
        xs       [dim rest...] each
        fn       carry [dims...], slices [rest...] -> carry [dims...], y [others...]
        returns  the last carry [dims...], and the ys [dim others...]

    Raises:
        DimError: the dim's size is unknown or not the same in all `xs`, or `fn` changes the carry's
            dims, dtype or nesting.
        LayoutError: when planned, if the layout divides the dim.

    Example:
        >>> import meshlang as ml
        >>> def fn(x):
        ...     return ml.scan(lambda c, x: (c + x, c), ml.zeros(""), x, over="n")
        >>> ml.run(fn, x=ml.constant([1.0, 2.0, 3.0], "n"))
        (array(6., dtype=float32), array([0., 1., 3.], dtype=float32))
    """
    program = tracing("ml.scan")
    carry = rebuild(carry, lambda c: program.own(as_tensor(c)))
    xs = rebuild(xs, lambda x: program.own(as_tensor(x)))
    dim = _walked("scan", over, xs)
    return (_written_out if unroll else _looped)(program, fn, carry, xs, dim)


def accumulate(fn: Callable[[Any], Any], xs: Any, *, over: str) -> Any:
    """The sum of ``fn(slices of xs)`` over a dim, one slice in memory at a time: microbatches.

    Variables are shared by all trips, and gradients may be taken inside: sums over processors that
    are pending are paid once, after the loop. Let `over` be the inner dim of the batch
    (``x.split(batch="batch micro:4")``), so that cutting it moves nothing.

    Args:
        fn: takes the slices, returns numbers, nested as you like, that are summed.
        xs: tensors that have the dim.
        over: the dim, with its size if `xs` does not tell. It lies whole.

    Dims:
        xs       [dim rest...] each
        fn       slices [rest...] -> [others...]
        returns  [others...]

    Raises:
        DimError: the dim's size is unknown or not the same in all `xs`.
        DtypeError: `fn` returns bools.
        LayoutError: when planned, if the layout divides the dim.

    Example:
        >>> import meshlang as ml
        >>> def fn(x):
        ...     return ml.accumulate(lambda part: ml.sum(part * part), x, over="micro")
        >>> ml.run(fn, x=ml.constant([[1.0, 2.0], [3.0, 4.0]], "batch micro"))
        array(30., dtype=float32)
    """
    program = tracing("ml.accumulate")
    xs = rebuild(xs, lambda x: program.own(as_tensor(x)))
    body = _begin(program, _walked("accumulate", over, xs), xs)
    with within(body.program):
        slices = iter(body.xs)
        result = fn(rebuild(xs, lambda _: next(slices)))
        result = rebuild(result, lambda r: body.program.own(as_tensor(r)))
    body.sums = list(leaves(result))
    for part in body.sums:
        check_kind("accumulate", part, "numbers")
    outputs = iter(_emit(program, body, [], list(leaves(xs))))
    return rebuild(result, lambda _: next(outputs))


def _walked(op: str, over: str, xs: Any) -> Dim:
    """The dim that a loop walks, as the slices have it: under its twin, but for kept dims."""
    named = dim_words(over)
    if len(named) != 1:
        raise DimError(
            message(f"{op}: walks over one dim.", [("over", repr(over))], "over='layers:4'")
        )
    ((name, mark, size),) = named
    found = dict.fromkeys(_walked_dim(x.shape[name + mark]) for x in leaves(xs))
    if size is not None:
        found.setdefault(Dim(name, size, next((d.twin for d in found), twin_of(mark))))
    if len(found) > 1:
        rows = [(f"xs {path}".strip(), x.shape) for path, x in named_leaves(xs)]
        raise DimError(
            message(
                f"{op}: dim {name!r} is not the same everywhere: {' '.join(map(repr, found))}.",
                [("over", repr(over)), *rows],
                "all slices are cut along one dim, of one size and one twin",
            )
        )
    if not found:
        raise DimError(
            message(
                f"{op}: how long is {name!r}?",
                [("over", repr(over))],
                f"give its size: over='{name}:4'",
            )
        )
    return next(iter(found))


def _begin(program: Program, dim: Dim, xs: Any, reverse: bool = False) -> Body:
    inner = Program(parent=program, precision=program.precision)
    trip = Tensor(Shape(), "int32", inner)
    inner.trips = (*(inner.own(t) for t in program.trips), trip)
    body = Body(inner, dim, reverse, trip)
    for x in leaves(xs):
        stacked = x.shape[dim.name]
        body.xs_dims.append(stacked)
        body.xs.append(Tensor(Shape(d for d in x.shape if d != stacked), x.dtype, inner))
    return body


def _looped(
    program: Program, fn: Callable[..., Any], carry: Any, xs: Any, dim: Dim
) -> tuple[Any, Any]:
    body = _begin(program, dim, xs)
    body.program.stack_dim = dim.plain()
    body.carry = [Tensor(c.shape, c.dtype, body.program) for c in leaves(carry)]
    with within(body.program):
        slices, carries = iter(body.xs), iter(body.carry)
        after, y = fn(rebuild(carry, lambda _: next(carries)), rebuild(xs, lambda _: next(slices)))
        body.carry_out = _same(body.program, _CARRY, carry, after)
        y = rebuild(y, lambda t: body.program.own(as_tensor(t)))
    body.ys = list(leaves(y))
    body.ys_dims = [_stacked_like(dim, t.shape) for t in body.ys]
    outputs = iter(_emit(program, body, list(leaves(carry)), list(leaves(xs))))
    return rebuild(carry, lambda _: next(outputs)), rebuild(y, lambda _: next(outputs))


def _emit(program: Program, body: Body, carry: list[Tensor], xs: list[Tensor]) -> list[Tensor]:
    """Append the loop: stacks of variables and captured values become operands."""
    for outer, cut in body.program.stacks.items():
        xs.append(outer)
        body.xs.append(cut)
        body.xs_dims.append(outer.shape[0])
    xs = [_in_front(x, d) for x, d in zip(xs, body.xs_dims, strict=True)]
    outers: dict[Tensor, Tensor] = {}
    for outer, inner in body.program.captures.items():
        outers.setdefault(inner, program.own(outer))
    body.fixed = list(outers)
    return list(program.add(Scan(body), *carry, *xs, *outers.values()))


def _in_front(x: Tensor, dim: Dim) -> Tensor:
    return arrange(x, Shape((dim, *(d for d in x.shape if d != dim))))


def _stacked_like(dim: Dim, shape: Shape) -> Dim:
    """A stacked dim stands under the same twin as kept dims that it stands beside."""
    twin = next((d.twin for d in shape if d.twin and is_kept(Shape((d,)))), None)
    owned = twin is not None and dim.name in (split_label(label)[0] for label in twin.of)
    return Dim(dim.name, dim.size, twin) if owned else dim


_CARRY = (
    "scan: the function changes the dims, the dtype or the nesting of the carry.",
    ("carry in", "carry out"),
    "return the carry with the dims it came with",
)
_ROW = (
    "scan: the function returns something else in a later trip than in the first.",
    ("first y", "later y"),
    "let the function do the same in each trip",
)


def _same(
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
        rows = zip(labels, (_listed(olds), _listed(news)), strict=True)
        raise DimError(message(headline, rows, fix))
    return [arrange(news[path], o.shape) for path, o in olds.items()]


def _listed(named: dict[str, Tensor]) -> str:
    return (
        ", ".join(f"{path} {t.shape} {t.dtype}".strip() for path, t in named.items()) or "nothing"
    )


def _written_out(
    program: Program, fn: Callable[..., Any], carry: Any, xs: Any, dim: Dim
) -> tuple[Any, Any]:
    pieces = {x: program.add(Unstack(dim.name), x) for x in leaves(xs)}
    held: dict[Tensor, tuple[Tensor, ...]] = {}
    trips, first_random = program.trips, program.root.random_ids
    first: Any = None
    columns: list[list[Tensor]] = []
    for index in range(dim.size):
        program.unrolls.append(Unroll(dim.plain(), index, held))
        program.trips = (*trips, program.own(constant(index, "", "int32")))
        program.root.random_ids = first_random
        try:
            after, y = fn(carry, rebuild(xs, lambda x, i=index: pieces[x][i]))
        finally:
            program.unrolls.pop()
            program.trips = trips
        carries = iter(_same(program, _CARRY, carry, after))
        carry = rebuild(carry, lambda _, carries=carries: next(carries))
        first = rebuild(y, lambda t: program.own(as_tensor(t))) if index == 0 else first
        columns.append(_same(program, _ROW, first, y))
    stacks = iter(
        program.add(StackUp(_stacked_like(dim, column[0].shape)), *column)[0]
        for column in zip(*columns, strict=True)
    )
    return carry, rebuild(first, lambda _: next(stacks))


# -- the gradient of a loop -----------------------------------------------------------------------


def _scan_vjp(
    body: Body, xs: list[Tensor], ys: list[Tensor], gs: list[Tensor | None]
) -> list[Tensor | None]:
    """A loop from the last trip to the first, over values that the forward loop saves as stacks."""
    from meshlang.grad import backprop

    program = tracing("a gradient")
    n_carry, n_xs, n_ys = len(body.carry), len(body.xs), len(body.ys)
    node = ys[0].node
    assert node is not None
    back = _begin(program, body.dim, None, reverse=not body.reverse)
    saved = _Saved(body, node, xs, back)
    back.program.lookup = saved.find
    floats = [i for i, c in enumerate(body.carry) if c.dtype in FLOATS]
    inits = [_cotangent(gs[i], body.carry[i]) for i in floats]
    stack_gs = [(i, g) for i, g in enumerate(gs[n_carry : n_carry + n_ys]) if g is not None]
    sum_gs = [(i, g) for i, g in enumerate(gs[n_carry + n_ys :]) if g is not None]
    with within(back.program):
        seeds: dict[Tensor, list[Tensor]] = {}
        for i in floats:
            back.carry.append(Tensor(body.carry[i].shape, body.carry[i].dtype, back.program))
            seeds.setdefault(body.carry_out[i], []).append(back.carry[-1])
        for i, g in stack_gs:
            along = g.shape[body.dim.name]
            cut = Shape(d for d in g.shape if d != along)
            back.xs.append(Tensor(cut, g.dtype, back.program))
            back.xs_dims.append(along)
            seeds.setdefault(body.ys[i], []).append(back.xs[-1])
        for i, g in sum_gs:
            seeds.setdefault(body.sums[i], []).append(back.program.own(g))
        found = backprop(body.program.nodes, seeds, [*body.carry, *body.xs, *body.fixed])
        back.carry_out = [_cotangent(found.get(body.carry[i]), body.carry[i]) for i in floats]
        back.ys = [found[x] for x in body.xs if x in found]
        back.sums = [found[f] for f in body.fixed if f in found]
    back.ys_dims = [
        _stacked_like(_walked_dim(d), found[x].shape)
        for x, d in zip(body.xs, body.xs_dims, strict=True)
        if x in found
    ]
    stacks = [*(g for _, g in stack_gs), *saved.stacks]
    outputs = iter(_emit(program, back, inits, stacks))
    of_carry = {i: next(outputs) for i in floats}
    result: list[Tensor | None] = [of_carry.get(i) for i in range(n_carry)]
    result += [next(outputs) if x in found else None for x in body.xs]
    result += [next(outputs) if f in found else None for f in body.fixed]
    assert len(result) == len(xs) == n_carry + n_xs + len(body.fixed)
    return result


def _cotangent(g: Tensor | None, carry: Tensor) -> Tensor:
    return zeros(carry.shape, carry.dtype) if g is None else arrange(g, carry.shape)


def _walked_dim(dim: Dim) -> Dim:
    return dim.plain() if dim.twin and dim.twin.kind in ("kept", "slot") else dim


@dataclass(eq=False)
class _Saved:
    """Finds, for a backward body, what a forward body computed: saved as stacks on demand."""

    body: Body
    node: Any
    inputs: list[Tensor]
    back: Body
    stacks: list[Tensor] = field(default_factory=list)
    known: dict[Tensor, Tensor] = field(default_factory=dict)

    def find(self, x: Tensor) -> Tensor | None:
        if x.program is not self.body.program:
            return None
        if x not in self.known:
            self.known[x] = self._make(x)
        return self.known[x]

    def _make(self, x: Tensor) -> Tensor:
        body, back = self.body, self.back
        n_carry = len(body.carry)
        if x is body.trip:
            return back.trip
        if x in body.fixed:
            outer = self.inputs[n_carry + len(body.xs) + body.fixed.index(x)]
            return back.program.own(outer)
        if x.node is not None and isinstance(x.node.op, Constant | Range | Expand):
            inputs = [back.program.own(i) for i in x.node.inputs]
            return back.program.add(x.node.op, *inputs)[0]
        if x in body.xs:
            place = body.xs.index(x)
            return self._cut(self.inputs[n_carry + place], body.xs_dims[place])
        return self._cut(self._stack(x), _stacked_like(body.dim, x.shape))

    def _stack(self, x: Tensor) -> Tensor:
        """Let the forward loop also stack this value; its place is before the sums."""
        body, node = self.body, self.node
        dim = _stacked_like(body.dim, x.shape)
        made = Tensor(Shape((dim, *x.shape)), x.dtype, node.outputs[0].program, node)
        place = len(body.carry) + len(body.ys)
        node.outputs = (*node.outputs[:place], made, *node.outputs[place:])
        body.ys.append(x)
        body.ys_dims.append(dim)
        return made

    def _cut(self, stack: Tensor, dim: Dim) -> Tensor:
        cut = Tensor(Shape(d for d in stack.shape if d != dim), stack.dtype, self.back.program)
        self.stacks.append(stack)
        self.back.xs.append(cut)
        self.back.xs_dims.append(dim)
        return cut
