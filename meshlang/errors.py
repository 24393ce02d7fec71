"""What users are told when something is wrong: what, the operands as a table, the fix.

Every error that a user can cause is a subclass of `MeshlangError`, which is a `ValueError`.
Messages never contain values of tensors.
"""

import difflib
from collections.abc import Iterable


class MeshlangError(ValueError):
    """Base of all errors that meshlang raises for a mistake in a user's program or call."""


class DimError(MeshlangError):
    """Named dims do not fit together."""


class DtypeError(MeshlangError):
    """A dtype is unknown or does not suit an op."""


class LayoutError(MeshlangError):
    """A layout cannot be used for a program on a mesh."""


class MeshError(MeshlangError):
    """A mesh is malformed or does not fit the devices."""


class NotationError(MeshlangError):
    """A string in one of the small notations does not parse."""


class ProgramError(MeshlangError):
    """A program is used in a way it cannot be: outside of a trace, across programs, ..."""


class VariableError(MeshlangError):
    """A variable is declared twice in different ways, or assigned something else than it holds."""


class ArrayError(MeshlangError):
    """An array given to an executable has the wrong shape, dtype or name."""


class CheckError(MeshlangError):
    """What `meshlang.check` was told to look for was there when the program ran."""


class ClusterError(MeshlangError):
    """The processes of a run are not described as they are, or do not agree on what they run."""


class PeerError(MeshlangError):
    """Another process of the run did not come, or is gone; the run can be started again."""


class CheckpointError(MeshlangError):
    """A checkpoint is missing, damaged, or of another model."""


def message(headline: str, rows: Iterable[tuple[str, object]] = (), fix: str = "") -> str:
    """Format an error: the headline, the operands as a table, the fix.

    >>> print(message("no dim named 'x'.", [("shape", "[batch:2]")], "use 'batch'"))
    no dim named 'x'.
      shape  [batch:2]
      fix: use 'batch'
    """
    rows = [(label, str(value)) for label, value in rows]
    width = max((len(label) for label, _ in rows), default=0)
    lines = [headline, *(f"  {label:<{width}}  {value}" for label, value in rows)]
    if fix:
        lines.append(f"  fix: {fix}")
    return "\n".join(lines)


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """A fix that proposes the known name nearest to `name`.

    >>> did_you_mean("d_modle", ["batch", "d_model"])
    "did you mean 'd_model'?"
    >>> did_you_mean("x", ["batch"], otherwise="use one of: batch")
    'use one of: batch'
    """
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else otherwise
