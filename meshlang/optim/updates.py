"""Updates as ops: one variable with its slots at once, so that a lowering may do it in place.

As ops of the language they are pure: values in, values out. Where the new values are only
assigned to the variables that the old ones came from, TensorFlow's fused kernels change these
variables where they lie; see `meshlang.lowering.in_place`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from meshlang.errors import ProgramError, message
from meshlang.program import Op, Spec
from meshlang.tensor import Tensor


@dataclass(frozen=True)
class Update(Op):
    """New values of a variable and its slots.

    Operands: the value, the slots, the gradient, then scalars; all of one dtype, the first ones of
    the same dims. The last scalar multiplies the gradient if `scaled`.
    Results: the new value, the new slots.
    """

    slots: ClassVar[int]

    scaled: bool

    @property
    def changed(self) -> int:
        """How many operands are states: the value and the slots."""
        return 1 + self.slots

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        first = xs[0]
        assert all(x.shape == first.shape for x in xs[: self.changed + 1])
        assert all(x.dtype == first.dtype for x in xs)
        return tuple(Spec(first.shape, first.dtype) for _ in xs[: self.changed])

    def vjp(self, xs, ys, gs):
        raise ProgramError(
            message(
                f"{self.label} has no gradient: it is one step of training, not part of a model.",
                [("operand", x) for x in xs[: self.changed]],
                "write the update with ops, to train through it",
            )
        )


@dataclass(frozen=True)
class AdamUpdate(Update):
    """Adam with decoupled decay; see `meshlang.optim.AdamW`.

    Scalars: the rate, what each moment is divided by, and with `decayed` the part of the value
    that is taken away.
    """

    slots: ClassVar[int] = 2

    beta1: float
    beta2: float
    epsilon: float
    decayed: bool

    @property
    def label(self) -> str:
        return "adam_update"


@dataclass(frozen=True)
class MomentumUpdate(Update):
    """A velocity and a step along it; see `meshlang.optim.Sgd`. Scalars: the rate."""

    slots: ClassVar[int] = 1

    momentum: float
    nesterov: bool

    @property
    def label(self) -> str:
        return "momentum_update"


@dataclass(frozen=True)
class DescentUpdate(Update):
    """The value minus the rate times the gradient. Scalars: the rate."""

    slots: ClassVar[int] = 0

    @property
    def label(self) -> str:
        return "descent_update"
