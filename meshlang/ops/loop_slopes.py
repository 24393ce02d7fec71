"""The gradient of a loop: a loop the other way, over values that the forward loop saves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from meshlang.dims import Dim, Shape
from meshlang.errors import ProgramError, message
from meshlang.ops.branches import Cond
from meshlang.ops.create import Constant, Random, Range, zeros
from meshlang.ops.elementwise import AddN, Binary, Cast, StopGradient, Unary, Where
from meshlang.ops.loops import Body, Scan, begin, emit, stacked, stacked_like, unkept_of, walked_dim
from meshlang.ops.rearrange import Arrange, Expand, Rename, arrange
from meshlang.ops.state import Keep, Use
from meshlang.program import FLOATS, Node, Op, Program, tracing, within
from meshlang.tensor import Tensor


def loop_cotangents(
    xs: list[Tensor], ys: list[Tensor], gs: list[Tensor | None]
) -> list[Tensor | None]:
    """A loop from the last trip to the first, over values that the forward loop saves as stacks."""
    from meshlang.grad import backprop

    program = tracing("a gradient")
    node = ys[0].node
    assert node is not None
    body: Body = node.op.body  # type: ignore[attr-defined]
    count = _count(body, xs, ys)
    n_carry, n_ys = len(body.carry), len(body.ys)
    back = begin(program, body.dim, None, reverse=not body.reverse)
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
        back.ys, back.ys_dims, keeps = _stacked(body, back, xs[n_carry:], found)
        back.sums = [found[f] for f in body.fixed if f in found]
    saved.cast_again()
    stacks = [*(g for _, g in stack_gs), *saved.stacks]
    outputs = iter(emit(program, back, inits, stacks, count))
    of_carry = {i: next(outputs) for i in floats}
    result: list[Tensor | None] = [of_carry.get(i) for i in range(n_carry)]
    result += [_kept(program, next(outputs), keeps[x]) if x in found else None for x in body.xs]
    result += [next(outputs) if f in found else None for f in body.fixed]
    return result + [None] * (len(xs) - len(result))


def _count(body: Body, xs: list[Tensor], ys: list[Tensor]) -> Tensor | None:
    """How many trips there were, where the program alone does not say."""
    if body.test is None:
        return xs[-1] if body.counted else None
    if not body.bounded:
        raise ProgramError(
            message(
                "gradients: a while_loop without max_trips has no gradient.",
                [("carry", c.shape) for c in body.carry],
                "ml.while_loop(..., max_trips=100): what trips compute is saved for so many",
            )
        )
    return ys[-1]


def _stacked(
    body: Body, back: Body, operands: list[Tensor], found: dict[Tensor, Tensor]
) -> tuple[list[Tensor], list[Dim], dict[Tensor, list[Keep | Arrange]]]:
    """The cotangents of slices, their stacked dims, and how the stacks are kept after the loop.

    Those of a variable are kept in each trip, so that no more than a slice of them lies whole. Only
    where a loop around this one adds up the stacks they are kept after both: sums over processors
    then wait for all trips.
    """
    ys, dims, keeps = [], [], {}
    for x, dim, operand in zip(body.xs, body.xs_dims, operands, strict=False):
        if x not in found:
            continue
        along = stacked_like(walked_dim(dim), found[x].shape)
        around = operand.program
        captured = around.captures.values() if around and around.trips else ()
        shared = operand in captured
        y, ops = unkept_of(back.program, found[x]) if shared else (found[x], [])
        keeps[x] = [stacked(op, along) for op in ops]
        if ops:
            back.loose.add(y)
            along = stacked_like(walked_dim(dim), y.shape)
        ys.append(y)
        dims.append(along)
    return ys, dims, keeps


def _kept(program: Program, stack: Tensor, ops: Sequence[Op]) -> Tensor:
    for op in ops:
        (stack,) = program.add(op, stack)
    return stack


def _cotangent(g: Tensor | None, carry: Tensor) -> Tensor:
    return zeros(carry.shape, carry.dtype) if g is None else arrange(g, carry.shape)


class _Origin(NamedTuple):
    """What a value of a body is made from.

    Attributes:
        outside: from nothing that trips hand on or cut from stacks.
        trip: from the trip's index, maybe.
        cheap: by ops that are sooner done again than read back.
    """

    outside: bool
    trip: bool
    cheap: bool


_CHEAP = (
    *(Constant, Range, Expand, Arrange, Rename, Use, Cast),
    *(Unary, Binary, Where, StopGradient, AddN),
)
#: ops that give what they take, in another form: one of both is saved
_FORMS = (Expand, Arrange, StopGradient)
_BITS = {"bool": 8, "uint8": 8, "bfloat16": 16, "float16": 16, "int32": 32, "float32": 32}


def _origins(body: Body) -> dict[Tensor, _Origin]:
    found = {f: _Origin(True, False, True) for f in body.fixed}
    found[body.trip] = _Origin(True, True, True)
    found |= {x: _Origin(False, False, False) for x in (*body.carry, *body.xs)}
    for node in body.program.nodes:
        of = [found[x] for x in node.inputs]
        hard = isinstance(node.op, Random | Scan | Cond)
        origin = _Origin(
            outside=all(o.outside for o in of) and not hard,
            trip=any(o.trip for o in of),
            cheap=all(o.cheap for o in of) and isinstance(node.op, _CHEAP),
        )
        found |= dict.fromkeys(node.outputs, origin)
    return found


@dataclass(eq=False)
class _Saved:
    """Finds, for a backward body, what a forward body computed.

    What trips hand on, or compute from that, is saved as stacks on demand. What comes from outside
    is computed again: in each trip if that is cheap, or once before the loop.
    """

    body: Body
    node: Node
    inputs: list[Tensor]
    back: Body
    stacks: list[Tensor] = field(default_factory=list)
    known: dict[Tensor, Tensor] = field(default_factory=dict)
    _hoisted: dict[Tensor, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._origins = _origins(self.body)

    def find(self, x: Tensor) -> Tensor | None:
        if x.program is not self.body.program:
            return None
        if x not in self.known:
            self.known[x] = self._make(x)
        return self.known[x]

    def _make(self, x: Tensor) -> Tensor:
        body, back = self.body, self.back
        if x is body.trip:
            return back.trip
        if x in body.fixed:
            return back.program.own(self._outer(x))
        if x in body.xs:
            place = body.xs.index(x)
            return self._cut(self.inputs[len(body.carry) + place], body.xs_dims[place])
        # The stacks of a loop inside are saved while its gradient is made: later than the origins.
        origin = self._origins.get(x, _Origin(False, False, False))
        if x.node is not None and ((origin.outside and origin.cheap) or self._is_a_form(x.node)):
            inputs = [back.program.own(i) for i in x.node.inputs]
            made = back.program.add(x.node.op.anew(), *inputs)
            return made[x.node.outputs.index(x)]
        if origin.outside and not origin.trip:
            return back.program.own(self._outer(x))
        return self._cut(self._stack(x), stacked_like(body.dim, x.shape))

    def _is_a_form(self, node: Node) -> bool:
        """Whether its operand is saved instead: a wider cast only where it is saved anyway."""
        if not isinstance(node.op, Cast):
            return isinstance(node.op, _FORMS)
        (x,) = node.inputs
        return x in self.known or _BITS.get(x.dtype, 64) <= _BITS.get(node.op.dtype, 0)

    def _outer(self, x: Tensor) -> Tensor:
        """A value that is the same in all trips, around the loop: computed there once."""
        body, program = self.body, self.back.program.parent
        assert program is not None
        if x in body.fixed:
            return self.inputs[len(body.carry) + len(body.xs) + body.fixed.index(x)]
        if x not in self._hoisted:
            assert x.node is not None
            made = program.add(x.node.op.anew(), *(self._outer(i) for i in x.node.inputs))
            self._hoisted.update(zip(x.node.outputs, made, strict=True))
        return self._hoisted[x]

    def _stack(self, x: Tensor) -> Tensor:
        """Let the forward loop also stack this value; its place is before the sums."""
        body, node = self.body, self.node
        dim = stacked_like(body.dim, x.shape)
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

    def cast_again(self) -> None:
        """Where a value and its cast would both be saved, the backward trips cast it instead.

        The stack of the cast is then read by nobody, and plans drop it.
        """
        for x, cut in self.known.items():
            given = x.node.inputs[0] if x.node and isinstance(x.node.op, Cast) else None
            if given not in self.known or cut not in self.back.xs:
                continue
            if self.known[given].node is not None:
                continue
            place = self.back.xs.index(cut)
            first = place - (len(self.back.xs) - len(self.stacks))
            del self.back.xs[place], self.back.xs_dims[place], self.stacks[first]
            assert x.node is not None
            node = Node(x.node.op, (self.known[given],), (cut,), x.node.scope)
            cut.node = node
            self.back.program.nodes.insert(0, node)
