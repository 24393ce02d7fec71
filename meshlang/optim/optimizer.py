"""What all optimizers share: one variable at one step, its slots, and the walk over variables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import meshlang as ml
from meshlang.dims import Shape
from meshlang.errors import ProgramError, VariableError, message
from meshlang.program import tracing
from meshlang.tensor import Tensor
from meshlang.variables import Variable, variable_of


@dataclass(frozen=True)
class Target:
    """One variable at one step. Tensors are in "high", under the dims of the update.

    Attributes:
        variable: what is updated.
        value: what it holds.
        gradient: of the same dims, not scaled yet.
        step: how many updates there have been: [] int32.
        scale: what the gradient is multiplied by, or None: [].
        when: where False nothing changes, or None: [] bool.
    """

    variable: Variable
    value: Tensor
    gradient: Tensor
    step: Tensor
    scale: Tensor | None
    when: Tensor | None

    @property
    def stacked(self) -> tuple[str, ...]:
        """The dims of scans around the variable: along them stand variables of many layers."""
        return tuple(n for n in self.variable.shape.names if n not in self.variable.logical.names)

    @property
    def scaled_gradient(self) -> Tensor:
        """The gradient times `scale`."""
        return self.gradient if self.scale is None else self.gradient * self.scale

    def sum_of_squares(self, x: Tensor) -> Tensor:
        """Of a tensor of the dims of `value`, for each layer: [dims of scans]."""
        return ml.einsum(x, x, keep=" ".join(self.stacked))

    def slot(self, kind: str, shape: Shape | None = None, init: float = 0.0) -> Tensor:
        """A state of the optimizer: the variable `NAME/kind`, in "high".

        Args:
            kind: what it holds, with the optimizer's name: "adam_m".
            shape: dims of the update, all of them when left out.
            init: its value at first.
        """
        dims = self.value.shape if shape is None else shape
        first = ml.constant_init(init) if init else ml.zeros_init
        with _outside_of_scopes():
            name = f"{self.variable.name}/{kind}"
            return ml.variable(name, dims, init=first, dtype="high", trainable=False)

    def assign(self, value: Tensor, slots: Sequence[tuple[Tensor, Tensor]] = ()) -> None:
        """Give the variable and slots (old, new) their new values, where the step counts."""
        ml.assign(self.variable, ml.cast(value, self.variable.dtype), when=self.when)
        for slot, new in slots:
            ml.assign(slot, new, when=self.when)


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """A rule that updates variables. A subclass says how one variable is updated."""

    def apply(
        self,
        variables: Sequence[Any],
        gradients: Sequence[Tensor],
        *,
        scale: Tensor | None = None,
        when: Tensor | None = None,
    ) -> None:
        """Update variables with their gradients.

        Args:
            variables: from `meshlang.trainable_variables`, or what `meshlang.variable` returned.
            gradients: from `meshlang.gradients`, one for each variable.
            scale: a scalar that multiplies every gradient; see `meshlang.optim.clip_factor`.
            when: a bool scalar; where it is False no variable and no slot changes, whatever the
                gradients hold. The number of the step advances all the same.

        Raises:
            ProgramError: not as many gradients as variables.
            VariableError: not a variable, or a gradient has other dims than its variable's update.

        Example:
            >>> import meshlang as ml
            >>> def step(x):
            ...     w = ml.variable("w", "d:2", init=ml.ones_init)
            ...     loss = ml.sum(w * x)
            ...     optimizer = ml.optim.Sgd(learning_rate=0.1)
            ...     optimizer.apply([w], ml.gradients(loss, [w]))
            ...     return ml.variable("w", "d:2", init=ml.ones_init)
            >>> ml.run(step, x=ml.constant([1.0, 2.0], "d"))
            array([0.9, 0.8], dtype=float32)
        """
        if len(variables) != len(gradients):
            raise ProgramError(
                message(
                    "an optimizer takes one gradient for each variable.",
                    [("variables", len(variables)), ("gradients", len(gradients))],
                    "optimizer.apply(variables, ml.gradients(loss, variables))",
                )
            )
        with ml.scope("optimizer"):
            step = ml.step()
            scale = None if scale is None else ml.cast(scale, "high")
            targets = [
                _target(variable, gradient, step, scale, when)
                for variable, gradient in zip(variables, gradients, strict=True)
            ]
            self.check([target.variable.name for target in targets])
            _take_turns([iter(self.update(target)) for target in targets])

    @property
    def drives(self) -> tuple[Optimizer, ...]:
        """The optimizers to which this one leaves the work."""
        return ()

    def check(self, names: Sequence[str]) -> None:
        """Refuse, before anything is updated, variables of these names.

        One that gives variables on to other optimizers asks these; most take any.
        """

    def update(self, target: Target) -> Iterable[None]:
        """Update one variable, ending in `target.assign`.

        A generator yields before it reads sums that it made over divided dims: all variables then
        make theirs first, and they are paid in one collective.
        """
        raise NotImplementedError


def _target(
    variable: Any, gradient: Tensor, step: Tensor, scale: Tensor | None, when: Tensor | None
) -> Target:
    found = variable_of(variable, tracing("an optimizer"))
    if found is None:
        raise VariableError(
            message(
                "only a variable can be optimized.",
                [("given", variable)],
                "give ml.trainable_variables(), or what ml.variable returned",
            )
        )
    value = found.as_tensor()
    if set(gradient.shape) != set(value.shape):
        raise VariableError(
            message(
                f"the gradient of variable {found.name!r} has other dims than its update.",
                [("variable", value.shape), ("gradient", gradient.shape)],
                "take it from ml.gradients(loss, variables), in the order of the variables",
            )
        )
    value, gradient = ml.cast(value, "high"), ml.cast(gradient, "high")
    return Target(found, value, ml.arrange(gradient, value.shape), step, scale, when)


def _take_turns(updates: list[Iterator[None]]) -> None:
    """Let each go on to its next yield, in turn, until all are done."""
    done = object()
    while updates:
        updates = [update for update in updates if next(update, done) is not done]


@contextmanager
def _outside_of_scopes() -> Iterator[None]:
    """A variable made inside has its bare name, wherever the optimizer is applied."""
    scopes = tracing("an optimizer").root.scopes
    before = list(scopes)
    scopes.clear()
    try:
        yield
    finally:
        scopes[:] = before
