"""Another optimizer, rate or decay for some variables, chosen by their names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace

from meshlang.errors import MeshlangError, VariableError, did_you_mean, message
from meshlang.optim.optimizer import Optimizer, Target
from meshlang.optim.patterns import check_pattern
from meshlang.optim.schedules import LearningRate
from meshlang.optim.wrappers import check_optimizer


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What is different for variables of some names.

    Attributes:
        pattern: a regular expression; the rule is for variables in whose names it is found.
        optimizer: instead of the one for all; None keeps that.
        learning_rate: instead of that optimizer's; None keeps it.
        weight_decay: the same.
    """

    pattern: str
    optimizer: Optimizer | None = None
    learning_rate: LearningRate | None = None
    weight_decay: float | None = None

    def __post_init__(self) -> None:
        check_pattern("Rule", "pattern", self.pattern)
        if self.optimizer is not None:
            check_optimizer("Rule", "optimizer", self.optimizer)


@dataclass(frozen=True, kw_only=True)
class ByName(Optimizer):
    """For each variable the first rule that fits its name, and `optimizer` where none does.

    Every rule must serve some variable: one that fits none, or only those of earlier rules, is
    an error when the optimizer is applied, and not a model that silently trains otherwise.

    Attributes:
        optimizer: for all variables that no rule names.
        rules: in the order in which they are tried.

    Slots: those of each variable's optimizer.

    Example:
        >>> import meshlang as ml
        >>> optimizer = ml.optim.ByName(
        ...     optimizer=ml.optim.AdamW(learning_rate=0.1, weight_decay=0.5),
        ...     rules=(
        ...         ml.optim.Rule(pattern="norm$", weight_decay=0.0),
        ...         ml.optim.Rule(pattern="^embedding", optimizer=ml.optim.Sgd(learning_rate=1.0)),
        ...     ))
        >>> def fn():
        ...     names = ["dense", "norm", "embedding"]
        ...     variables = [ml.variable(name, "d:1", init=1.0) for name in names]
        ...     loss = 0.0 * ml.sum(ml.add_n(variables))
        ...     optimizer.apply(variables, ml.gradients(loss, variables))
        ...     return [ml.variable(name, "d:1", init=1.0) for name in names]
        >>> ml.run(fn)
        [array([0.95], dtype=float32), array([1.], dtype=float32), array([1.], dtype=float32)]
    """

    optimizer: Optimizer
    rules: tuple[Rule, ...] = ()

    def __post_init__(self) -> None:
        check_optimizer("ByName", "optimizer", self.optimizer)
        for rule in self.rules:
            self._of(rule)

    @property
    def drives(self) -> tuple[Optimizer, ...]:
        """The optimizers, that of all first and then those of the rules."""
        return (self.optimizer, *map(self._of, self.rules))

    def check(self, names: Sequence[str]) -> None:
        """Each rule serves some variable, and each optimizer takes what it is given."""
        served: dict[int, list[str]] = {}
        for name in names:
            served.setdefault(self._first(name), []).append(name)
        for i, rule in enumerate(self.rules):
            if i not in served:
                raise _serves_none(rule, names)
        for i, theirs in served.items():
            self._optimizer(i).check(theirs)

    def update(self, target: Target) -> Iterable[None]:
        """See the class."""
        return self._optimizer(self._first(target.variable.name)).update(target)

    def _first(self, name: str) -> int:
        """The number of the rule for a variable, -1 for none."""
        found = (i for i, rule in enumerate(self.rules) if re.search(rule.pattern, name))
        return next(found, -1)

    def _optimizer(self, i: int) -> Optimizer:
        return self.optimizer if i < 0 else self._of(self.rules[i])

    def _of(self, rule: Rule) -> Optimizer:
        """A rule's optimizer, with its rate and decay."""
        optimizer = rule.optimizer or self.optimizer
        known = [field.name for field in fields(optimizer)]
        changes = {"learning_rate": rule.learning_rate, "weight_decay": rule.weight_decay}
        changes = {name: value for name, value in changes.items() if value is not None}
        for name in changes:
            if name not in known:
                kind = type(optimizer).__name__
                raise MeshlangError(
                    message(
                        f"ByName: a rule sets {name}, which {kind} does not have.",
                        [("pattern", repr(rule.pattern)), (f"of {kind}", " ".join(known))],
                        f"put ByName inside of {kind}, not around it"
                        if optimizer.drives
                        else "give the rule an optimizer of its own",
                    )
                )
        return replace(optimizer, **changes)


def _serves_none(rule: Rule, names: Sequence[str]) -> VariableError:
    """The error for a rule that is of no use."""
    fitting = [name for name in names if re.search(rule.pattern, name)]
    if fitting:
        return VariableError(
            message(
                "ByName: earlier rules take all variables that a rule fits.",
                [("pattern", repr(rule.pattern)), ("fits", _listed(fitting))],
                "put it before them, or leave it out",
            )
        )
    # A pattern is near to a whole name, or to a part of one.
    parts = {part: None for name in names for part in (name, *name.split("/"))}
    otherwise = "let it be found in one of the names, as re.search finds it"
    return VariableError(
        message(
            "ByName: a rule fits no variable.",
            [("pattern", repr(rule.pattern)), ("variables", _listed(names))],
            did_you_mean(rule.pattern.strip("^$"), parts, otherwise),
        )
    )


def _listed(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return " ".join(names[:most]) + more if names else "none"
