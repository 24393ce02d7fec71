"""Loops: `scan` and `map` over a dim, `accumulate` for microbatches, `while_loop`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from meshlang.dims import Dim, twin_of
from meshlang.dtypes import check_kind
from meshlang.errors import ArrayError, DimError, ProgramError, message
from meshlang.notation import dim_words
from meshlang.ops.branches import check_predicate
from meshlang.ops.create import constant
from meshlang.ops.debug import add_summary, refuse_summaries
from meshlang.ops.loops import Predicate, begin, emit, inside, same, stacked_like, walked_dim
from meshlang.ops.state import StackUp, Unstack
from meshlang.program import Program, as_tensor, tracing, within
from meshlang.structure import leaves, named_leaves, rebuild
from meshlang.tensor import Tensor


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
    body = begin(program, _walked("accumulate", over, xs), xs)
    with within(body.program):
        slices = iter(body.xs)
        result = fn(rebuild(xs, lambda _: next(slices)))
        result = rebuild(result, lambda r: body.program.own(as_tensor(r)))
    body.sums = list(leaves(result))
    for part in body.sums:
        check_kind("accumulate", part, "numbers")
    outputs = iter(emit(program, body, [], list(leaves(xs))))
    return rebuild(result, lambda _: next(outputs))


def map(fn: Callable[[Any], Any], xs: Any, *, over: str) -> Any:
    """Apply a function to each slice along a dim, one after the other, and stack the results.

    It is a `scan` without a carry: variables made in `fn` get the dim in front.

    Args:
        fn: takes the slices, returns tensors, nested as you like.
        xs: tensors that have the dim.
        over: the dim. It lies whole.

    Dims:
        xs       [dim rest...] each
        fn       slices [rest...] -> [others...]
        returns  [dim others...]

    Raises:
        DimError: the dim's size is unknown or not the same in all `xs`.
        LayoutError: when planned, if the layout divides the dim.

    Example:
        >>> import meshlang as ml
        >>> def fn(x):
        ...     return ml.map(lambda row: ml.sum(row * row), x, over="n")
        >>> ml.run(fn, x=ml.constant([[1.0, 2.0], [3.0, 4.0]], "n d"))
        array([ 5., 25.], dtype=float32)
    """
    return scan(lambda _, slices: (None, fn(slices)), None, xs, over=over)[1]


def while_loop(
    cond_fn: Callable[[Any], Any],
    body_fn: Callable[[Any], Any],
    carry: Any,
    *,
    max_trips: int | None = None,
) -> Any:
    """Apply a function to the carry as long as a predicate of it holds.

    How often is known when it runs, not before. With `max_trips` there are no more trips than so
    many, and the loop has a gradient: what the backward pass reads is saved for each trip.
    Variables are shared by all trips. Nothing is assigned inside. A plan counts the loop as
    `max_trips` trips, and as one trip without it.

    Args:
        cond_fn: takes the carry, returns a bool scalar.
        body_fn: takes the carry, returns the next one; dims and dtypes stay.
        carry: tensors, nested as you like, at least one.
        max_trips: the most trips there may be.

    Dims:
        cond_fn  carry [dims...] -> []
        body_fn  carry [dims...] -> the same
        returns  the last carry [dims...]

    Raises:
        ArrayError: `max_trips` is less than 1.
        DimError: the predicate has a dim left in it, or `body_fn` changes the carry's dims, dtype
            or nesting.
        DtypeError: the predicate is not bools.
        ProgramError: there is no carry; or a gradient is taken, and there is no `max_trips`.

    Source: Yu et al., Dynamic control flow in large-scale machine learning, 2018.

    Example:
        >>> import meshlang as ml
        >>> def fn(x):
        ...     return ml.while_loop(lambda x: x < 100.0, lambda x: x * 2.0, x, max_trips=20)
        >>> ml.run(fn, x=ml.constant(3.0, ""))
        array(192., dtype=float32)
    """
    program = tracing("ml.while_loop")
    carry = rebuild(carry, lambda c: program.own(as_tensor(c)))
    given = list(leaves(carry))
    if not given:
        fix = "hand on what the trips change: the predicate is made of it"
        raise ProgramError(message("while_loop: there is no carry.", fix=fix))
    if max_trips is not None and max_trips < 1:
        raise ArrayError(message(f"while_loop: max_trips={max_trips} is less than 1."))
    # A name that no user can write, and that no loop around has.
    dim = Dim(f"trips.{len(program.trips)}", max_trips or 1)
    body = begin(program, dim, None)
    body.bounded = max_trips is not None
    body.carry = [Tensor(c.shape, c.dtype, body.program) for c in given]
    with within(body.program):
        carries = iter(body.carry)
        after = body_fn(rebuild(carry, lambda _: next(carries)))
        body.carry_out = same(body.program, _WHILE, carry, after)
    tester, trip = inside(program)
    body.test = Predicate(tester, trip, [Tensor(c.shape, c.dtype, tester) for c in given])
    with within(tester):
        carries = iter(body.test.carry)
        predicate = as_tensor(cond_fn(rebuild(carry, lambda _: next(carries))))
        body.test.predicate = tester.own(check_predicate("while_loop", predicate))
    if tester.checks:
        fix = "check in the body, or after the loop"
        raise ProgramError(message("while_loop: a check in the predicate's function.", fix=fix))
    for part in (tester, body.program):
        refuse_summaries("while_loop", part)
    outputs = iter(emit(program, body, given, []))
    return rebuild(carry, lambda _: next(outputs))


def _walked(op: str, over: str, xs: Any) -> Dim:
    """The dim that a loop walks, as the slices have it: under its twin, but for kept dims."""
    named = dim_words(over)
    if len(named) != 1:
        raise DimError(
            message(f"{op}: walks over one dim.", [("over", repr(over))], "over='layers:4'")
        )
    ((name, mark, size),) = named
    found = dict.fromkeys(walked_dim(x.shape[name + mark]) for x in leaves(xs))
    if size is not None:
        found.setdefault(Dim(name, size, next((d.twin for d in found), twin_of(mark))))
    if len(found) > 1:
        rows = [(f"xs {path}".strip(), x.shape) for path, x in named_leaves(xs)]
        sizes = " ".join(repr(d) for d in found)
        raise DimError(
            message(
                f"{op}: dim {name!r} is not the same everywhere: {sizes}.",
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


def _looped(
    program: Program, fn: Callable[..., Any], carry: Any, xs: Any, dim: Dim
) -> tuple[Any, Any]:
    body = begin(program, dim, xs)
    body.program.stack_dim = dim.plain()
    body.carry = [Tensor(c.shape, c.dtype, body.program) for c in leaves(carry)]
    with within(body.program):
        slices, carries = iter(body.xs), iter(body.carry)
        after, y = fn(rebuild(carry, lambda _: next(carries)), rebuild(xs, lambda _: next(slices)))
        body.carry_out = same(body.program, _CARRY, carry, after)
        y = rebuild(y, lambda t: body.program.own(as_tensor(t)))
    body.ys = list(leaves(y))
    body.ys_dims = [stacked_like(dim, t.shape) for t in body.ys]
    outputs = iter(emit(program, body, list(leaves(carry)), list(leaves(xs))))
    return rebuild(carry, lambda _: next(outputs)), rebuild(y, lambda _: next(outputs))


_CARRY = (
    "scan: the function changes the dims, the dtype or the nesting of the carry.",
    ("carry in", "carry out"),
    "return the carry with the dims it came with",
)
_WHILE = (
    "while_loop: the function changes the dims, the dtype or the nesting of the carry.",
    ("carry in", "carry out"),
    "return the carry with the dims it came with",
)
_ROW = (
    "scan: the function returns something else in a later trip than in the first.",
    ("first y", "later y"),
    "let the function do the same in each trip",
)


def _written_out(
    program: Program, fn: Callable[..., Any], carry: Any, xs: Any, dim: Dim
) -> tuple[Any, Any]:
    pieces = {x: program.add(Unstack(dim.name), x) for x in leaves(xs)}
    held: dict[Tensor, tuple[Tensor, ...]] = {}
    trips, first_random = program.trips, program.root.random_ids
    first: Any = None
    columns: list[list[Tensor]] = []
    around, summaries = program.summaries, []
    for index in range(dim.size):
        program.unrolls.append(Unroll(dim.plain(), index, held))
        program.trips = (*trips, program.own(constant(index, "", "int32")))
        program.root.random_ids = first_random
        program.summaries = {}
        try:
            after, y = fn(carry, rebuild(xs, lambda x, i=index: pieces[x][i]))
        finally:
            program.unrolls.pop()
            program.trips = trips
            summaries.append(program.summaries)
            program.summaries = around
        carries = iter(same(program, _CARRY, carry, after))
        carry = rebuild(carry, lambda _, carries=carries: next(carries))
        first = rebuild(y, lambda t: program.own(as_tensor(t))) if index == 0 else first
        columns.append(same(program, _ROW, first, y))
    stacks = iter(
        program.add(StackUp(stacked_like(dim, column[0].shape)), *column)[0]
        for column in zip(*columns, strict=True)
    )
    for name, x in summaries[0].items():
        stack = StackUp(stacked_like(dim, x.shape))
        add_summary(program, name, program.add(stack, *(trip[name] for trip in summaries))[0])
    return carry, rebuild(first, lambda _: next(stacks))
