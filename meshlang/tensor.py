"""The tensor: a value of a program, known by its named dims and its dtype."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshlang.dims import Shape

if TYPE_CHECKING:
    import numpy as np

    from meshlang.program import Node, Program


class Operators:
    """Elementwise operators, for tensors and for variables, which stand for their values."""

    __slots__ = ()

    def __add__(self, other: Any) -> Tensor:
        return _ops().add(self, other)

    def __radd__(self, other: Any) -> Tensor:
        return _ops().add(other, self)

    def __sub__(self, other: Any) -> Tensor:
        return _ops().subtract(self, other)

    def __rsub__(self, other: Any) -> Tensor:
        return _ops().subtract(other, self)

    def __mul__(self, other: Any) -> Tensor:
        return _ops().multiply(self, other)

    def __rmul__(self, other: Any) -> Tensor:
        return _ops().multiply(other, self)

    def __truediv__(self, other: Any) -> Tensor:
        return _ops().divide(self, other)

    def __rtruediv__(self, other: Any) -> Tensor:
        return _ops().divide(other, self)

    def __floordiv__(self, other: Any) -> Tensor:
        return _ops().floordiv(self, other)

    def __rfloordiv__(self, other: Any) -> Tensor:
        return _ops().floordiv(other, self)

    def __mod__(self, other: Any) -> Tensor:
        return _ops().mod(self, other)

    def __rmod__(self, other: Any) -> Tensor:
        return _ops().mod(other, self)

    def __pow__(self, other: Any) -> Tensor:
        return _ops().pow(self, other)

    def __rpow__(self, other: Any) -> Tensor:
        return _ops().pow(other, self)

    def __neg__(self) -> Tensor:
        return _ops().negative(self)

    def __lt__(self, other: Any) -> Tensor:
        return _ops().less(self, other)

    def __le__(self, other: Any) -> Tensor:
        return _ops().less_equal(self, other)

    def __gt__(self, other: Any) -> Tensor:
        return _ops().greater(self, other)

    def __ge__(self, other: Any) -> Tensor:
        return _ops().greater_equal(self, other)

    def __and__(self, other: Any) -> Tensor:
        return _bits("and", self)(self, other)

    def __rand__(self, other: Any) -> Tensor:
        return _bits("and", self)(other, self)

    def __or__(self, other: Any) -> Tensor:
        return _bits("or", self)(self, other)

    def __ror__(self, other: Any) -> Tensor:
        return _bits("or", self)(other, self)

    def __xor__(self, other: Any) -> Tensor:
        return _bits("xor", self)(self, other)

    def __rxor__(self, other: Any) -> Tensor:
        return _bits("xor", self)(other, self)

    def __invert__(self) -> Tensor:
        return _bits("not", self)(self)

    def __lshift__(self, other: Any) -> Tensor:
        return _ops().left_shift(self, other)

    def __rlshift__(self, other: Any) -> Tensor:
        return _ops().left_shift(other, self)

    def __rshift__(self, other: Any) -> Tensor:
        return _ops().right_shift(self, other)

    def __rrshift__(self, other: Any) -> Tensor:
        return _ops().right_shift(other, self)


class Tensor(Operators):
    """A value of a program: named dims, a dtype, and the op that makes it.

    Operators are elementwise: ``+ - * / // % **``, comparisons ``< <= > >=``, ``& | ^ ~`` on bools
    and on the bits of integers, which ``<< >>`` move. One side's dims must contain the other's;
    Python numbers stand for scalars.
    Outside of a trace a tensor also holds its value: see `meshlang.constant`.
    """

    __slots__ = ("dtype", "node", "program", "shape", "value")

    def __init__(
        self,
        shape: Shape,
        dtype: str,
        program: Program | None,
        node: Node | None = None,
        value: np.ndarray | None = None,
    ) -> None:
        self.shape = shape
        self.dtype = dtype
        self.program = program
        self.node = node
        self.value = value

    def numpy(self) -> np.ndarray:
        """The value of a tensor made outside of a trace."""
        from meshlang.errors import ProgramError, message

        if self.value is None:
            raise ProgramError(
                message(
                    "a tensor of a program being traced has no value.",
                    [("tensor", self)],
                    "return it from the traced function, or run op by op outside of ml.trace",
                )
            )
        return self.value

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        value = self.numpy()
        return value if dtype is None else value.astype(dtype)

    def __repr__(self) -> str:
        return f"Tensor{self.shape} {self.dtype}" + (
            "" if self.value is None else f"\n{self.value}"
        )

    # -- rearranging, as methods ------------------------------------------------------------------

    def rename(self, **names: str) -> Tensor:
        """See `meshlang.rename`: ``x.rename(length="memory")``."""
        return _ops().rename(self, **names)

    def split(self, **parts: str) -> Tensor:
        """See `meshlang.split`: ``x.split(token="batch:4 length")``."""
        return _ops().split(self, **parts)

    def merge(self, **parts: str) -> Tensor:
        """See `meshlang.merge`: ``x.merge(token="batch length")``."""
        return _ops().merge(self, **parts)

    def expand(self, **sizes: int) -> Tensor:
        """See `meshlang.expand`: ``x.expand(memory=128)``."""
        return _ops().expand(self, **sizes)

    def __bool__(self) -> bool:
        from meshlang.errors import ProgramError, message

        if self.value is not None:
            return bool(self.value)
        raise ProgramError(
            message(
                "a tensor of a program being traced is neither true nor false.",
                [("tensor", self)],
                "choose with ml.where",
            )
        )


def _ops() -> Any:
    """The ops, looked up when an operator is used: they are defined on tensors."""
    import meshlang.ops

    return meshlang.ops


def _bits(word: str, x: Any) -> Any:
    """The op on truths, or on the bits of integers."""
    return getattr(_ops(), f"{'bitwise' if 'int' in x.dtype else 'logical'}_{word}")
