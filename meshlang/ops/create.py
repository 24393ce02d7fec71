"""New values: constants, ranges; and the op that random numbers come from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from meshlang.dims import Dim, Shape, twin_of
from meshlang.errors import ArrayError, DimError, DtypeError, message
from meshlang.notation import dim_words
from meshlang.program import (
    FLOATS,
    INTEGERS,
    Op,
    Spec,
    apply,
    as_tensor,
    current,
    dtype_name,
)
from meshlang.tensor import Tensor

#: the dtype under which NumPy holds what a program calls bfloat16 before it is lowered
_HELD = {"bfloat16": "float32"}


@dataclass(frozen=True, eq=False)
class Constant(Op):
    """An array that is part of the program. Every processor keeps its block of it."""

    array: np.ndarray = field(repr=False)
    shape: Shape
    dtype: str

    @property
    def detail(self) -> str:
        return str(self.array) if self.array.ndim == 0 else ""

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        return (Spec(self.shape, self.dtype),)

    def vjp(self, xs, ys, gs):
        return ()


@dataclass(frozen=True)
class Range(Op):
    """0, 1, 2, ... along a dim."""

    dim: Dim
    dtype: str

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        return (Spec(Shape((self.dim,)), self.dtype),)

    def vjp(self, xs, ys, gs):
        return ()


@dataclass(frozen=True)
class Random(Op):
    """Random numbers: a counter of the global element index, in declared dim order.

    The operands are the trip counters of the loops around. `key` tells apart the random ops of a
    program, and initial values by the hash of their variable's name.
    """

    kind: str
    shape: Shape
    dtype: str
    key: int

    @property
    def label(self) -> str:
        return f"random_{self.kind}"

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        return (Spec(self.shape, self.dtype),)

    def vjp(self, xs, ys, gs):
        return (None,) * len(xs)


def constant(value: Any, dims: str | Shape, dtype: str | None = None) -> Tensor:
    """Name the dims of an array: a constant of the program; outside of a trace, a value in hand.

    Args:
        value: anything that NumPy takes.
        dims: one name for each of its dims; sizes may be left out.
        dtype: when left out, float64 becomes "compute" and int64 becomes int32.

    Dims:
        returns  [dims...]

    Raises:
        ArrayError: the array has other sizes, or integers that the dtype cannot hold.
        DtypeError: there is no such dtype.

    Example:
        >>> import meshlang as ml
        >>> (ml.constant([1.0, 2.0], "d") * 2.0).numpy()
        array([2., 4.], dtype=float32)
    """
    array = np.asarray(value)
    shape = _named(array, dims) if isinstance(dims, str) else dims
    name = dtype_name(dtype or _default_dtype(array))
    if array.shape != shape.sizes:
        raise ArrayError(
            message(
                "constant: the array does not have the sizes of the shape.",
                [("array", list(array.shape)), ("shape", shape)],
                "leave the sizes out, or give those of the array",
            )
        )
    array = _held(array, name)
    if current() is None:
        return Tensor(shape, name, None, value=array)
    return apply(Constant(array, shape, name))[0]


def _held(array: np.ndarray, dtype: str) -> np.ndarray:
    """The array as NumPy holds it until it is lowered; integers must survive that."""
    with np.errstate(invalid="ignore"):
        held = array.astype(_HELD.get(dtype, dtype))
    if dtype in INTEGERS and not np.array_equal(held, array):
        raise ArrayError(
            message(
                f"constant: the array has elements that {dtype} cannot hold.",
                [("array", f"{list(array.shape)} {array.dtype}")],
                "give another dtype=, or an array that fits",
            )
        )
    return held


def _named(array: np.ndarray, dims: str) -> Shape:
    named = dim_words(dims)
    if len(named) != array.ndim:
        raise ArrayError(
            message(
                f"constant: {len(named)} names for {array.ndim} dims.",
                [("array", list(array.shape)), ("names", repr(dims))],
                "give one name for each dim, outermost first",
            )
        )
    sizes = zip(named, array.shape, strict=True)
    return Shape(Dim(n, have if s is None else s, twin_of(m)) for (n, m, s), have in sizes)


def _default_dtype(array: np.ndarray) -> str:
    name = array.dtype.name
    return "compute" if name == "float64" else ("int32" if name == "int64" else name)


def zeros(shape: str | Shape, dtype: str = "compute") -> Tensor:
    """Zeros.

    Dims:
        returns  [shape]

    Example:
        >>> import meshlang as ml
        >>> ml.zeros("d:2", "int32").numpy()
        array([0, 0], dtype=int32)
    """
    return full(shape, 0, dtype)


def ones(shape: str | Shape, dtype: str = "compute") -> Tensor:
    """Ones.

    Dims:
        returns  [shape]

    Example:
        >>> import meshlang as ml
        >>> ml.ones("d:2").numpy()
        array([1., 1.], dtype=float32)
    """
    return full(shape, 1, dtype)


def full(shape: str | Shape, value: float, dtype: str = "compute") -> Tensor:
    """One number everywhere.

    Dims:
        returns  [shape]

    Raises:
        ArrayError: the dtype cannot hold the number.

    Example:
        >>> import meshlang as ml
        >>> ml.full("d:2", 0.5).numpy()
        array([0.5, 0.5], dtype=float32)
    """
    from meshlang.ops.rearrange import expand_to

    return expand_to(constant(value, "", dtype), Shape.parse(shape))


def range(dim: str | Dim, dtype: str = "int32") -> Tensor:
    """0, 1, 2, ... along a dim.

    Dims:
        dim      ``"length:128"``, or a `Dim`
        returns  [dim]

    Raises:
        DimError: not one dim, or one without a size.
        DtypeError: bools do not count.

    Example:
        >>> import meshlang as ml
        >>> ml.range("n:3").numpy()
        array([0, 1, 2], dtype=int32)
    """
    shape = Shape.parse(dim if isinstance(dim, str) else (dim,))
    if len(shape) != 1:
        raise DimError(message("range: it runs along one dim.", [("dims", shape)], "'length:128'"))
    made = Range(shape[0], dtype_name(dtype))
    if made.dtype not in (*FLOATS, *INTEGERS):
        raise DtypeError(message(f"range: {made.dtype} does not count.", fix="dtype='int32'"))
    return apply(made)[0]


def zeros_like(x: Any, dtype: str | None = None) -> Tensor:
    """Zeros with the dims of a tensor, and its dtype if no other is given.

    Dims:
        x        [dims...]
        returns  the same

    Example:
        >>> import meshlang as ml
        >>> ml.zeros_like(ml.constant([1, 2], "d")).numpy()
        array([0, 0], dtype=int32)
    """
    return full_like(x, 0, dtype)


def ones_like(x: Any, dtype: str | None = None) -> Tensor:
    """Ones with the dims of a tensor, and its dtype if no other is given.

    Dims:
        x        [dims...]
        returns  the same

    Example:
        >>> import meshlang as ml
        >>> ml.ones_like(ml.constant([1, 2], "d"), "compute").numpy()
        array([1., 1.], dtype=float32)
    """
    return full_like(x, 1, dtype)


def full_like(x: Any, value: float, dtype: str | None = None) -> Tensor:
    """One number with the dims of a tensor, and its dtype if no other is given.

    Dims:
        x        [dims...]
        returns  the same

    Raises:
        ArrayError: the dtype cannot hold the number.

    Example:
        >>> import meshlang as ml
        >>> ml.full_like(ml.constant([1, 2], "d"), 7).numpy()
        array([7, 7], dtype=int32)
    """
    x = as_tensor(x)
    return full(x.shape, value, dtype or x.dtype)


def eye(shape: str | Shape, dtype: str = "compute") -> Tensor:
    """Ones where the indices along two dims are equal, and zeros elsewhere.

    Dims:
        shape    two dims, ``"row:4 column:4"``
        returns  [row column]

    Raises:
        DimError: not two dims, or one without a size.

    Example:
        >>> import meshlang as ml
        >>> ml.eye("row:2 column:3").numpy()
        array([[1., 0., 0.],
               [0., 1., 0.]], dtype=float32)
    """
    from meshlang.ops.elementwise import cast, equal
    from meshlang.ops.rearrange import expand_to

    dims = Shape.parse(shape)
    if len(dims) != 2:
        raise DimError(message("eye: it has two dims.", [("dims", dims)], "'row:4 column:4'"))
    row, column = dims
    return cast(equal(expand_to(range(row), dims), range(column)), dtype)
