"""What gin's names stand for: registered classes and functions, and the bindings that apply.

A configurable is found by the end of its dotted name, as gin-config finds it. Of several bindings
of one parameter that with the longest scope applies, and of those the last.
"""

import inspect
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from launch.gin_source import Macro, Reference, Statement, load_gin
from launch.gin_types import UNKNOWN

# What a binding binds: (scope, complete selector, parameter). A macro is the parameter `value` of
# gin.macro in the scope of its name.
Key = tuple[str, str, str]
MACRO = "gin.macro"


class Registry:
    """What is registered with gin.

    gin-config offers no public list of it; this class is all that reads its internals (0.5.0), the
    record of what was called included.
    """

    def __init__(self) -> None:
        gin = load_gin()
        self._configurables = gin.config._REGISTRY
        self._constants = gin.config._CONSTANTS
        self._called = gin.config._OPERATIVE_CONFIG
        self._required = gin.REQUIRED

    def selectors(self, name: str) -> list[str]:
        """Complete selectors that end in `name`."""
        return sorted(self._configurables.matching_selectors(name))

    def selector_of(self, target: Any) -> str:
        """The complete selector of a registered class or function, plain or wrapped."""
        for selector, configurable in self._configurables.items():
            if target in (configurable.wrapped, configurable.wrapper):
                return selector
        raise LookupError(f"{target!r} is not registered with gin")

    def names(self) -> list[str]:
        """The shortest unambiguous names of all configurables, gin's own left out."""
        return sorted(
            self.short(selector)
            for selector, _ in self._configurables.items()
            if not selector.startswith("gin.")
        )

    def short(self, selector: str) -> str:
        """The shortest unambiguous name of a complete selector."""
        return self._configurables.minimal_selector(selector)

    def target(self, selector: str) -> Any:
        """The registered class or function itself."""
        return self._configurables[selector].wrapped

    def parameters(self, selector: str) -> dict[str, inspect.Parameter]:
        """The parameters that gin may bind; `*args` and `**kwargs` among them."""
        found = self._configurables[selector]
        allowed, denied = found.allowlist, found.denylist or ()
        return {
            name: parameter
            for name, parameter in inspect.signature(found.wrapped).parameters.items()
            if name not in denied and (not allowed or name in allowed)
        }

    def needed(self, selector: str) -> list[str]:
        """The parameters without which it cannot be called."""
        return [
            name
            for name, parameter in self.parameters(selector).items()
            if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            and (parameter.default is parameter.empty or parameter.default is self._required)
        ]

    def annotation(self, selector: str, name: str) -> Any:
        """A parameter's annotation; `Any` where it has none, or one for type checkers alone."""
        target = self.target(selector)
        target = target.__init__ if inspect.isclass(target) else target
        try:
            return typing.get_type_hints(target).get(name, Any)
        except (NameError, TypeError, AttributeError):
            return Any

    def constant(self, name: str) -> Any:
        """The value of a constant, `UNKNOWN` if there is none of this name."""
        matches = self._constants.matching_selectors(name)
        return self._constants[matches[0]] if len(matches) == 1 else UNKNOWN

    def constants(self) -> list[str]:
        """The names of all constants."""
        return [name for name, _ in self._constants.items()]

    def is_required(self, value: Any) -> bool:
        """Whether a value is gin's mark that a value has to come from elsewhere."""
        return isinstance(value, Macro) and self.constant(value.name) is self._required

    def called(self) -> set[Key]:
        """The parameters of all calls so far that gin gave a value or left at its default."""
        return {
            (scope, selector, name)
            for (scope, selector), values in self._called.items()
            for name in values
        }


class Bindings:
    """The bindings that apply, out of statements with known names."""

    def __init__(self, statements: Sequence[Statement], registry: Registry) -> None:
        self.registry = registry
        self.table = {key_of(statement, registry): statement for statement in statements}

    def at(self, scope: str, selector: str, parameter: str) -> Key | None:
        """The binding that a call in `scope` gets for `parameter`."""
        parts = scope.split("/") if scope else []
        for length in range(len(parts), -1, -1):
            key = ("/".join(parts[:length]), selector, parameter)
            if key in self.table:
                return key
        return None

    def macro(self, name: str) -> Statement | None:
        """The statement that sets a macro."""
        key = self.at(name, MACRO, "value")
        return self.table[key] if key else None


def key_of(statement: Statement, registry: Registry) -> Key:
    """What a statement with a known name binds."""
    if not statement.argument:
        return (statement.name, MACRO, "value")
    return (statement.scope, registry.selectors(statement.selector)[0], statement.argument)


def placeholders(value: Any) -> Iterator[Reference | Macro]:
    """The references and macros in a value."""
    if isinstance(value, Reference | Macro):
        yield value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from placeholders(key)
            yield from placeholders(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from placeholders(part)


def replaced(value: Any, replace: Callable[[Reference | Macro], Any]) -> Any:
    """A value with each reference and macro in it replaced."""
    if isinstance(value, Reference | Macro):
        return replace(value)
    if isinstance(value, dict):
        return {replaced(key, replace): replaced(part, replace) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(replaced(part, replace) for part in value)
    return value
