"""What optimizers that drive others share: an update that is held back, and checks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from meshlang.errors import MeshlangError, message
from meshlang.optim.optimizer import Optimizer, Target
from meshlang.tensor import Tensor

Slots = Sequence[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Proposal(Target):
    """A target that is not assigned: what an update would give it is kept in `given`."""

    given: list[tuple[Tensor, Slots]] = field(default_factory=list)

    def assign(self, value: Tensor, slots: Slots = ()) -> None:
        """Keep the new value and the slots (old, new)."""
        self.given.append((value, slots))


def proposal(target: Target) -> Proposal:
    """The same variable at the same step, to be updated on trial."""
    return Proposal(**{f.name: getattr(target, f.name) for f in fields(Target)})


@dataclass(frozen=True, kw_only=True)
class Wrapper(Optimizer):
    """What changes the updates of one optimizer.

    Attributes:
        optimizer: the one that is driven.
    """

    optimizer: Optimizer

    @property
    def drives(self) -> tuple[Optimizer, ...]:
        """The optimizer."""
        return (self.optimizer,)

    def check(self, names: Sequence[str]) -> None:
        """See `Optimizer.check`."""
        self.optimizer.check(names)


def check_optimizer(owner: str, what: str, value: Any) -> None:
    """Refuse what is no optimizer."""
    if not isinstance(value, Optimizer):
        raise MeshlangError(
            message(
                f"{owner}: {what} is no optimizer.",
                [(what, f"{value!r}, a {type(value).__name__}")],
                f"{what}=ml.optim.AdamW(learning_rate=1e-3)",
            )
        )


def within(optimizer: Optimizer) -> Iterator[Optimizer]:
    """An optimizer and all that it drives."""
    yield optimizer
    for inner in optimizer.drives:
        yield from within(inner)
