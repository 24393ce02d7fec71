"""What can be wrong with gin statements, found without binding or building anything.

Every function returns problems as texts, all there are; launch.gin_config makes errors of them.
"""

import inspect
from collections.abc import Iterable, Sequence
from typing import Any

from launch.flags import MACROS
from launch.gin_lookup import MACRO, Bindings, Key, Registry, placeholders, replaced
from launch.gin_source import Macro, Reference, Statement
from launch.gin_types import UNKNOWN, Built, Factory, described, fits
from meshlang.errors import did_you_mean, message

_REGISTER = "register it in a module of yours: --module=my_package.my_model"


def names(statements: Iterable[Statement], registry: Registry) -> tuple[list[str], list[Statement]]:
    """Configurables and parameters that do not exist, each told once.

    Returns:
        The problems, and the statements that have none.
    """
    problems: dict[str, str] = {}  # by headline, the first place speaks for all
    known = []
    for statement in statements:
        found = _name_problems(statement, registry)
        for problem in found:
            problems.setdefault(problem.splitlines()[0], problem)
        if not found:
            known.append(statement)
    return list(problems.values()), known


def macros(statements: Sequence[Statement], registry: Registry) -> list[str]:
    """Macros that are used and never set, each told once."""
    defined = [statement.name for statement in statements if not statement.argument]
    problems: dict[str, str] = {}
    for statement in statements:
        for part in placeholders(statement.value):
            if not isinstance(part, Macro) or part.name in defined:
                continue
            if registry.constant(part.name) is UNKNOWN:
                fix = did_you_mean(
                    part.name, [*defined, *registry.constants()], f"set it: {part.name} = VALUE"
                )
                text = message(f"no macro named {part.name!r}.", [("at", statement)], fix)
                problems.setdefault(part.name, text)
    return list(problems.values())


def required(bindings: Bindings) -> list[str]:
    """Values marked ``%gin.REQUIRED`` that nothing gave."""
    problems = []
    for key, statement in bindings.table.items():
        if any(map(bindings.registry.is_required, placeholders(statement.value))):
            problems.append(_missing(key, [("required at", statement)], bindings))
    return problems


def needed(root: str, bindings: Bindings) -> list[str]:
    """Parameters that have neither a default nor a binding, in all that building `root` builds.

    Args:
        root: A complete selector.
        bindings: What applies.
    """
    walk = _Walk(bindings)
    walk.call(root, "", (), None)
    return walk.problems


def types(bindings: Bindings) -> list[str]:
    """Values that do not suit their parameters' annotations."""
    return [
        problem
        for key, statement in bindings.table.items()
        if (problem := _type_problem(key, statement, bindings))
    ]


def unused(bindings: Bindings) -> list[Statement]:
    """The bindings that no call so far was given."""
    used = {bindings.at(*parameter) for parameter in bindings.registry.called()}
    return [statement for key, statement in bindings.table.items() if key not in used]


def unused_text(statements: Sequence[Statement], bindings: Bindings) -> str:
    """The problem that `statements` are not used, with their lines."""
    macro_names = [key[0] for key in bindings.table if key[1] == MACRO]
    lines = []
    for statement in statements:
        others = [name for name in macro_names if name != statement.name]
        hint = "" if statement.argument else did_you_mean(statement.name, others)
        lines.append(f"  {statement}{f'  ({hint})' if hint else ''}")
    many = len(statements) > 1
    headline = f"{len(statements)} gin binding{'s were' if many else ' was'} used by nothing."
    them, their = ("them", "their names or scopes") if many else ("it", "its name or scope")
    return "\n".join([headline, *lines, f"  fix: remove {them}, or correct {their}"])


def _name_problems(statement: Statement, registry: Registry) -> list[str]:
    problems = []
    at = ("at", statement)
    for part in placeholders(statement.value):
        if isinstance(part, Reference):
            problems.append(_selector_problem(part.name.rpartition("/")[2], at, registry))
    if statement.argument:
        problem = _selector_problem(statement.selector, at, registry)
        problems.append(problem or _parameter_problem(statement, registry))
    return [problem for problem in problems if problem]


def _selector_problem(name: str, at: tuple[str, object], registry: Registry) -> str:
    selectors = registry.selectors(name)
    if len(selectors) == 1:
        return ""
    if not selectors:
        fix = did_you_mean(name, registry.names(), _REGISTER)
        return message(f"no configurable named {name!r}.", [at], fix)
    rows = [("one" if number == 0 else "another", full) for number, full in enumerate(selectors)]
    fix = "write more of its name"
    return message(f"several configurables are named {name!r}.", [at, *rows], fix)


def _parameter_problem(statement: Statement, registry: Registry) -> str:
    parameters = registry.parameters(registry.selectors(statement.selector)[0])
    kinds = {parameter.kind for parameter in parameters.values()}
    if statement.argument in parameters or inspect.Parameter.VAR_KEYWORD in kinds:
        return ""
    fix = did_you_mean(
        statement.argument, parameters, f"its parameters: {', '.join(parameters) or 'none'}"
    )
    headline = f"{statement.selector!r} has no parameter {statement.argument!r}."
    return message(headline, [("at", statement)], fix)


def _missing(key: Key, rows: Iterable[tuple[str, object]], bindings: Bindings) -> str:
    name = _shown(key, bindings.registry)
    flags = {macro: f"--{flag}" for flag, macro in MACROS.items()}
    fix = f"{flags.get(name, f'--gin.{name}')}=VALUE"
    return message(f"missing gin value: {name!r}.", rows, fix)


def _shown(key: Key, registry: Registry) -> str:
    """The name by which a user binds a parameter or a macro."""
    scope, selector, parameter = key
    if selector == MACRO:
        return scope
    return f"{scope}{'/' if scope else ''}{registry.short(selector)}.{parameter}"


class _Walk:
    """Follows what gin will call, from one configurable on.

    A reference without a scope is called in the scope of its caller, a macro's in the macro's.
    """

    def __init__(self, bindings: Bindings) -> None:
        self.problems: list[str] = []
        self._bindings = bindings
        self._seen: set[tuple[str, str]] = set()

    def call(
        self,
        selector: str,
        scope: str,
        callers: tuple[tuple[str, str], ...],
        asked_by: Statement | None,
    ) -> None:
        """Collect the problems of one call, and of the calls that its bindings make."""
        me = (selector, scope)
        if me in callers:
            rows = [("path", self._path((*callers[callers.index(me) :], me))), ("at", asked_by)]
            self.problems.append(message("a gin value is made of itself.", rows))
        if me in self._seen:
            return
        self._seen.add(me)
        path = (*callers, me)
        registry = self._bindings.registry
        unbound = registry.needed(selector)
        parameters = set(unbound) | {key[2] for key in self._bindings.table if key[1] == selector}
        for parameter in sorted(parameters):
            key = self._bindings.at(scope, selector, parameter)
            if key is not None:
                self._follow(self._bindings.table[key], scope, path)
            elif parameter in unbound:
                rows = [("needed by", self._path(path))]
                rows += [("built at", str(asked_by))] if asked_by else []
                missing = _missing(("", selector, parameter), rows, self._bindings)
                self.problems.append(missing)

    def _follow(self, statement: Statement, scope: str, path: tuple[tuple[str, str], ...]) -> None:
        registry = self._bindings.registry
        for part in placeholders(statement.value):
            if isinstance(part, Macro):
                if self._bindings.macro(part.name):
                    self.call(MACRO, part.name, path, statement)
            elif part.called:
                own, _, name = part.name.rpartition("/")
                self.call(registry.selectors(name)[0], own or scope, path, statement)

    def _path(self, calls: Sequence[tuple[str, str]]) -> str:
        """The calls in order, each with its scope if that is not its caller's."""
        words = []
        caller_scope = ""
        for selector, scope in calls:
            inherited = not scope or scope == caller_scope
            name = self._bindings.registry.short(selector)
            words.append(name if inherited else f"{scope}/{name}")
            if selector == MACRO:
                words[-1] = f"%{scope}"
            caller_scope = scope
        return " > ".join(words)


def _type_problem(key: Key, statement: Statement, bindings: Bindings) -> str:
    _, selector, name = key
    annotation = bindings.registry.annotation(selector, name)
    value = _value(statement.value, bindings, ())
    parameter = bindings.registry.parameters(selector).get(name)
    if fits(value, annotation) or (value is None and parameter and parameter.default is None):
        return ""
    rows: list[tuple[str, object]] = [("at", statement)]
    for part in placeholders(statement.value):
        macro = bindings.macro(part.name) if isinstance(part, Macro) else None
        rows += [("where", macro)] if macro else []
    rows.append(("expected", described(annotation)))
    fix = _type_fix(value, annotation, bindings.registry)
    return message(f"wrong type for {_shown(key, bindings.registry)!r}.", rows, fix)


def _type_fix(value: Any, annotation: Any, registry: Registry) -> str:
    if isinstance(value, Factory) and inspect.isclass(value.target):
        if fits(Built(value.target), annotation):
            return f"for what it builds: @{registry.short(registry.selector_of(value.target))}()"
    if isinstance(value, str) and len(registry.selectors(value)) == 1:
        target = registry.target(registry.selectors(value)[0])
        if inspect.isclass(target) and fits(Built(target), annotation):
            return f"for what it builds: @{value}()"
        if fits(Factory(target), annotation):
            return f"for the configurable: @{value}"
    return ""


def _value(value: Any, bindings: Bindings, within: tuple[str, ...]) -> Any:
    """What is known of a value: macros are followed, references become what they give."""

    def known(part: Reference | Macro) -> Any:
        if isinstance(part, Reference):
            name = part.name.rpartition("/")[2]
            target = bindings.registry.target(bindings.registry.selectors(name)[0])
            if not part.called:
                return Factory(target)
            return Built(target) if inspect.isclass(target) else UNKNOWN
        statement = bindings.macro(part.name)
        if bindings.registry.is_required(part) or part.name in within:
            return UNKNOWN
        if statement is None:
            return bindings.registry.constant(part.name)
        return _value(statement.value, bindings, (*within, part.name))

    return replaced(value, known)
