"""Looking at values while a program runs: `print`, `check` and `summary`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from meshlang.dims import Shape
from meshlang.dtypes import check_kind
from meshlang.errors import ProgramError
from meshlang.errors import message as error_text
from meshlang.program import FLOATS, Op, Program, Spec, apply, as_tensor, tracing
from meshlang.tensor import Tensor


@dataclass(frozen=True)
class Print(Op):
    """The operand, which is printed as it passes: each block once, with where it lies."""

    message: str
    most: int

    @property
    def detail(self) -> str:
        return repr(self.message)

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        return (Spec(xs[0].shape, xs[0].dtype),)

    def vjp(self, xs, ys, gs):
        return (gs[0],)


@dataclass(frozen=True)
class Bad(Op):
    """How many elements are not finite, or out of range: on each processor of its block."""

    finite: bool
    low: float | None
    high: float | None

    @property
    def label(self) -> str:
        return "check"

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        return (Spec(Shape(), "int32"),)

    def vjp(self, xs, ys, gs):
        return (None,)

    def creates_pending(self, axes_of, xs):
        return tuple(a for d in xs[0].shape for a in axes_of(d))

    def plan(self, b, xs, outs):
        return b.local(self, xs, outs, pending=self.creates_pending(b.axes, xs))


def print(x: Any, message: str = "", *, most: int = 6) -> Tensor:
    """x, whose blocks are printed to standard output whenever it is computed.

    Each block is printed once, with the place where it lies; in a loop in each trip. Blocks of
    several processors come in any order. Nothing moves for it, but a pending sum is paid. If
    nothing uses the result, it is not computed and not printed.

    Args:
        x: what to look at.
        message: printed in front.
        most: elements at the beginning and end of each dim.

    Dims:
        x        [dims...]
        returns  the same

    Example:
        >>> import meshlang as ml
        >>> ml.run(lambda x: ml.print(x * 2.0, "doubled:"), x=ml.constant([1.0, 2.0], "d"))
        array([2., 4.], dtype=float32)
    """
    return apply(Print(message, most), as_tensor(x))[0]


def check(
    x: Any,
    finite: bool = True,
    low: float | None = None,
    high: float | None = None,
    message: str = "",
) -> Tensor:
    """x, of which the host is told when elements are not finite, or out of range.

    Processors count on their own, and go on: so none waits for another. When the call has ended,
    the host raises an error that names the scope and the op; variables have then been updated.
    Inside of loops and branches it counts in each. Nothing moves for it, but a pending sum is paid.
    Reading the counts makes each call wait for its end.

    Args:
        x: what to check, whether anything uses the result or not.
        finite: whether NaN and infinity are wrong; they always are out of range.
        low: the least that is right.
        high: the most that is right.
        message: added to the error.

    Dims:
        x        [dims...], floats, or numbers if there is a range
        returns  the same

    Raises:
        CheckError: when the program has run, if there are such elements.
        DtypeError: x is not floats, and there is no range; or not numbers.
        ProgramError: nothing is being traced, or nothing would be checked.

    Example:
        >>> import meshlang as ml
        >>> ml.run(lambda x: ml.check(ml.log(x)), x=ml.constant([1.0, 0.0], "d"))
        Traceback (most recent call last):
        meshlang.errors.CheckError: log has elements that are not finite.
          tensor  [d:2] float32
          count   1
    """
    program = tracing("ml.check")
    x = program.own(as_tensor(x))
    ranged = low is not None or high is not None
    if not finite and not ranged:
        fix = "finite=True, low= or high="
        raise ProgramError(error_text("check: there is nothing to check.", fix=fix))
    check_kind("check", x, "numbers" if ranged else "floats")
    (bad,) = program.add(Bad(finite, low, high), x)
    program.checks.append((bad, _said(x, finite, low, high, message)))
    return x


def _said(
    x: Tensor, finite: bool, low: float | None, high: float | None, more: str
) -> Callable[[int], str]:
    """The error, given the count."""
    label = x.node.op.label if x.node else "a tensor from outside"
    scope = f"{x.node.scope}/" if x.node and x.node.scope else ""
    wrong = []
    if low is not None or high is not None:
        least = "" if low is None else f" from {low}"
        wrong.append(f"not{least}{'' if high is None else f' up to {high}'}")
    if finite and x.dtype in FLOATS:
        wrong.append("not finite")
    headline = f"{scope}{label} has elements that are {' or '.join(wrong)}"
    tensor = ("tensor", f"{x.shape} {x.dtype}")

    def text(count: int) -> str:
        return error_text(f"{headline}{': ' + more if more else '.'}", [tensor, ("count", count)])

    return text


def summary(x: Any, name: str) -> Tensor:
    """Hand a value out of the program, without returning it through all functions around.

    After each call ``executable.summaries`` has it by its name, the scope in front. In a `scan` or
    `accumulate` it is a stack, with the dim that is walked in front. A training run logs
    it, of many numbers their mean. Nothing moves for it, but a pending sum is paid.

    Args:
        x: what to hand out, whether anything uses the result or not.
        name: of the summary.

    Dims:
        x        [dims...]
        returns  the same

    Raises:
        ProgramError: nothing is being traced, the name is taken, or it stands in a `cond` or a
            `while_loop`, which may never come to it.

    Example:
        >>> import meshlang as ml
        >>> def fn(x):
        ...     return ml.summary(ml.sum(x), "total") * 2.0
        >>> run = ml.lower(ml.plan(ml.trace(fn, x=ml.spec("d:2"))))
        >>> float(run(x=[1.0, 2.0])), {name: float(v) for name, v in run.summaries.items()}
        (6.0, {'total': 3.0})
    """
    program = tracing("ml.summary")
    x = program.own(as_tensor(x))
    add_summary(program, "/".join([*program.root.scopes, name]), x)
    return x


def add_summary(program: Program, name: str, x: Tensor) -> None:
    """Have a tensor of a program handed out."""
    if name in program.summaries:
        rows = [("name", name), ("first", program.summaries[name].shape), ("then", x.shape)]
        fix = "another name, or ml.scope around one of them"
        raise ProgramError(error_text("summary: the name is taken.", rows, fix))
    program.summaries[name] = x


def refuse_summaries(op: str, program: Program) -> None:
    """Refuse summaries where a run may not come."""
    if program.summaries:
        rows = [("summaries", " ".join(program.summaries))]
        fix = f"return the value and summarize it after the {op}"
        raise ProgramError(error_text(f"{op}: a summary stands inside.", rows, fix))
