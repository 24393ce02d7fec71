"""Which dtypes an op takes, in words that its errors use."""

from __future__ import annotations

from collections.abc import Sequence

from meshlang.errors import DtypeError, message
from meshlang.program import FLOATS, INTEGERS
from meshlang.tensor import Tensor

_SIGNED = ("int64", "int32")
#: kind: (the dtypes, how to come to one of them)
KINDS: dict[str, tuple[tuple[str, ...], str]] = {
    "floats": (FLOATS, "ml.cast(x, 'compute')"),
    "bools": (("bool",), "compare first, e.g. x > 0"),
    "integers": (INTEGERS, "ml.cast(x, 'int32')"),
    "numbers": ((*FLOATS, *INTEGERS), "ml.cast(x, 'int32')"),
    "signed numbers": ((*FLOATS, *_SIGNED), "ml.cast(x, 'int32')"),
}


def check_kind(op: str, x: Tensor, kind: str) -> None:
    """Refuse an operand whose dtype is not of a kind."""
    dtypes, fix = KINDS[kind]
    if x.dtype not in dtypes:
        rows = [("operand", f"{x.shape} {x.dtype}")]
        raise DtypeError(message(f"{op} takes {kind}.", rows, fix))


def check_same(op: str, labels: Sequence[str], xs: Sequence[Tensor]) -> None:
    """Refuse operands of several dtypes."""
    if len({x.dtype for x in xs}) > 1:
        rows = [(name, f"{x.shape} {x.dtype}") for name, x in zip(labels, xs, strict=True)]
        raise DtypeError(
            message(
                f"{op}: the operands have several dtypes.",
                rows,
                f"ml.cast them to one, e.g. ml.cast(x, {xs[0].dtype!r})",
            )
        )
