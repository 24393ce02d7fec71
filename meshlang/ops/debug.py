"""Looking at values while a program runs: `print` and `check`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from meshlang.dims import Shape
from meshlang.dtypes import check_kind
from meshlang.errors import ProgramError
from meshlang.errors import message as error_text
from meshlang.program import FLOATS, Op, Spec, apply, as_tensor, tracing
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
