"""Errors of what people run: in flags, gin files and modules; and a run that goes nowhere."""

from collections.abc import Sequence

from meshlang.errors import MeshlangError


class ConfigError(MeshlangError):
    """The flags, the gin files or the user's modules cannot be used as they are."""


class NotFiniteError(MeshlangError):
    """Too many steps in a row were skipped, since a loss or a gradient was not finite."""


def all_of(problems: Sequence[str], where: str) -> ConfigError:
    """One error that tells every problem, so that none waits for another to be mended.

    >>> print(all_of(["no flag named '--stpes'.", "no mesh.\\n  fix: --mesh=''"], "the flags"))
    2 problems in the flags.
    1. no flag named '--stpes'.
    2. no mesh.
         fix: --mesh=''
    """
    if len(problems) == 1:
        return ConfigError(problems[0])
    lines = [f"{len(problems)} problems in {where}."]
    for number, problem in enumerate(problems, start=1):
        first, *rest = problem.splitlines()
        label = f"{number}. "
        lines.append(label + first)
        lines.extend(" " * len(label) + line for line in rest)
    return ConfigError("\n".join(lines))
