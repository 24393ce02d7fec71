"""What is wrong with a model's configuration."""

from collections.abc import Iterable

import meshlang as ml


class ModelError(ml.MeshlangError):
    """The parts or sizes of a model do not fit together."""


def one_of(what: str, given: str, known: Iterable[str]) -> str:
    """The text for a choice that does not exist.

    >>> print(one_of("FeedForward.activation", "rleu", ["relu", "silu"]))
    FeedForward.activation is 'rleu', which does not exist.
      known  relu silu
      fix: did you mean 'relu'?
    """
    known = list(known)
    fix = ml.errors.did_you_mean(given, known, "use one of them")
    rows = [("known", " ".join(known))]
    return ml.errors.message(f"{what} is {given!r}, which does not exist.", rows, fix)
