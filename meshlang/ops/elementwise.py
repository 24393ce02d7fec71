"""Elementwise ops: the functions of the tables, `where`, `cast`, sums of many.

Two operands broadcast only when one side's dims contain the other's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from meshlang.dims import Shape, check_twins
from meshlang.dtypes import check_kind, check_same
from meshlang.errors import DimError, ProgramError, message
from meshlang.ops.functions import BINARY, UNARY, Function
from meshlang.program import FLOATS, NARROW, Op, Spec, apply, as_tensor, both, dtype_name
from meshlang.tensor import Tensor


@dataclass(frozen=True)
class Unary(Op):
    """One function of the table `UNARY`."""

    fn: str

    @property
    def label(self) -> str:
        return self.fn

    def passes(self, i: int) -> str:
        return UNARY[self.fn].passes

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        (x,) = xs
        row = UNARY[self.fn]
        check_kind(self.fn, x, row.takes)
        return (Spec(x.shape, "bool" if row.gives == "bool" else x.dtype),)

    def vjp(self, xs, ys, gs):
        from meshlang.ops.slopes import unary_cotangent

        return (unary_cotangent(self.fn, xs[0], ys[0], gs[0]),)


@dataclass(frozen=True)
class Binary(Op):
    """One function of the table `BINARY`."""

    fn: str

    @property
    def label(self) -> str:
        return self.fn

    def passes(self, i: int) -> str:
        how = BINARY[self.fn].passes
        return ("alone" if i == 0 else "no") if how == "first" else how

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        x, y = xs
        row = BINARY[self.fn]
        check_same(self.fn, ("left", "right"), xs)
        if row.takes:
            check_kind(self.fn, x, row.takes)
        shape = broadcast_shape(self.fn, x.shape, y.shape)
        return (Spec(shape, "bool" if row.gives == "bool" else x.dtype),)

    def vjp(self, xs, ys, gs):
        from meshlang.ops.slopes import binary_cotangents

        x, y = xs
        return binary_cotangents(self.fn, x, y, ys[0], gs[0])


@dataclass(frozen=True)
class LeakyRelu(Op):
    """x where positive, else alpha x."""

    alpha: float

    @property
    def detail(self) -> str:
        return str(self.alpha)

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        check_kind("leaky_relu", xs[0], "floats")
        return (Spec(xs[0].shape, xs[0].dtype),)

    def vjp(self, xs, ys, gs):
        return (apply(LeakySlope(self.alpha), gs[0], xs[0])[0],)


@dataclass(frozen=True)
class LeakySlope(Op):
    """A cotangent times the derivative of `LeakyRelu` at the second operand."""

    alpha: float

    @property
    def detail(self) -> str:
        return str(self.alpha)

    def passes(self, i: int) -> str:
        return "alone" if i == 0 else "no"

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        return (Spec(broadcast_shape("leaky_slope", xs[0].shape, xs[1].shape), xs[0].dtype),)

    def vjp(self, xs, ys, gs):
        return (apply(self, gs[0], xs[1])[0], None)


@dataclass(frozen=True)
class Polygamma(Op):
    """A derivative of digamma."""

    order: int

    @property
    def detail(self) -> str:
        return str(self.order)

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        check_kind("polygamma", xs[0], "floats")
        return (Spec(xs[0].shape, xs[0].dtype),)

    def vjp(self, xs, ys, gs):
        return (gs[0] * polygamma(xs[0], self.order + 1),)


@dataclass(frozen=True)
class Where(Op):
    """Choose by a condition."""

    def passes(self, i: int) -> str:
        return "no" if i == 0 else "together"

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        c, x, y = xs
        check_kind("where's condition", c, "bools")
        check_same("where", ("x", "y"), (x, y))
        return (Spec(_shape_of_where(c.shape, x.shape, y.shape), x.dtype),)

    def vjp(self, xs, ys, gs):
        c, x, y = xs
        zero = as_tensor(0, gs[0].dtype)
        return (
            None,
            onto(where(c, gs[0], zero), x.shape),
            onto(where(c, zero, gs[0]), y.shape),
        )


@dataclass(frozen=True)
class Cast(Op):
    """Another dtype."""

    dtype: str
    source: str

    @property
    def detail(self) -> str:
        return self.dtype

    def passes(self, i: int) -> str:
        """Widening keeps a pending sum exact; narrowing would round each part."""
        widths = {"bfloat16": 1, "float16": 1, "float32": 2, "float64": 3}
        wider = widths.get(self.dtype, 0) >= widths.get(self.source, 9)
        return "alone" if wider else "no"

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        return (Spec(xs[0].shape, self.dtype),)

    def vjp(self, xs, ys, gs):
        if xs[0].dtype not in FLOATS or self.dtype not in FLOATS:
            return (None,)
        return (cast(gs[0], xs[0].dtype),)

    def plan(self, b, xs, outs):
        return [b.cast(xs[0], self.dtype)]


@dataclass(frozen=True)
class StopGradient(Op):
    """The value, with no way back."""

    def passes(self, i: int) -> str:
        return "alone"

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        return (Spec(xs[0].shape, xs[0].dtype),)

    def vjp(self, xs, ys, gs):
        return (None,)


@dataclass(frozen=True)
class AddN(Op):
    """The sum of tensors of one shape."""

    def passes(self, i: int) -> str:
        return "together"

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        rows = [(f"operand {i}", x.shape) for i, x in enumerate(xs)]
        check_same("add_n", [label for label, _ in rows], xs)
        check_kind("add_n", xs[0], "numbers")
        check_twins("add_n", [x.shape for x in xs])
        if any(set(x.shape) != set(xs[0].shape) for x in xs):
            fix = "expand the smaller ones, or add them with +"
            raise DimError(message("add_n: all operands have the same dims.", rows, fix))
        return (Spec(xs[0].shape, xs[0].dtype),)

    def vjp(self, xs, ys, gs):
        return tuple(gs[0] for _ in xs)

    def plan(self, b, xs, outs):
        """Sums that were narrowed are added as they were paid, and the total is narrowed."""
        if outs[0].dtype not in NARROW or not any(map(b.wide, xs)):
            return b.local(self, xs, outs)
        total = b.local(self, [b.cast(x, b.high) for x in xs], [Spec(outs[0].shape, b.high)])[0]
        return [b.narrow(total, outs[0].dtype)]


def broadcast_shape(op: str, left: Shape, right: Shape) -> Shape:
    """The dims of the side that contains the other's."""
    check_twins(op, [left, right])
    if set(right) <= set(left):
        return left
    if set(left) <= set(right):
        return right
    only = [d for d in (*right, *left) if (d in left) != (d in right)]
    missing = next(d for d in right if d not in left)
    raise DimError(
        message(
            f"{op}: one side must have all the dims of the other.",
            [("left", left), ("right", right), ("only in one", " ".join(map(repr, only)))],
            f"to combine every pair, say so: x.expand({missing.name}={missing.size})",
        )
    )


def _shape_of_where(condition: Shape, x: Shape, y: Shape) -> Shape:
    """The dims of the operand that contains both others'."""
    rows = [("condition", condition), ("x", x), ("y", y)]
    check_twins("where", [shape for _, shape in rows])
    largest = max((condition, x, y), key=len)
    if not {*condition, *x, *y} <= set(largest):
        fix = "to choose for every pair, expand one of them: x.expand(DIM=SIZE)"
        raise DimError(message("where: one operand must have all the dims.", rows, fix))
    return largest


def onto(g: Tensor, shape: Shape) -> Tensor:
    """Sum a cotangent over the dims that its primal lacks, and give it the primal's order."""
    from meshlang.ops.rearrange import arrange, expand_to
    from meshlang.ops.reduce import sum_dims

    extra = [d for d in g.shape if d not in shape]
    g = sum_dims(g, extra) if extra else g
    return arrange(expand_to(g, shape), shape)


# -- the public functions ------------------------------------------------------------------------


def _unary(name: str) -> Callable[[Any], Tensor]:
    def function(x: Any) -> Tensor:
        return apply(Unary(name), as_tensor(x))[0]

    row = UNARY[name]
    return _documented(function, name, row, f"x        [dims...], {row.takes}", "the same")


def _binary(name: str) -> Callable[[Any, Any], Tensor]:
    def function(x: Any, y: Any) -> Tensor:
        x, y = both(x, y)
        return apply(Binary(name), x, y)[0]

    row = BINARY[name]
    dims = f"x, y     one side's dims contain the other's; {row.takes or 'one dtype'}"
    return _documented(function, name, row, dims, "the larger dims")


def _documented(function: Any, name: str, row: Function, dims: str, made: str) -> Any:
    function.__name__ = function.__qualname__ = name
    made += ", bools" if row.gives == "bool" else ""
    function.__doc__ = f"Elementwise: {row.what}.\n\nDims:\n    {dims}\n    returns  {made}\n"
    return function


negative, exp, expm1, log, log1p = map(_unary, ("negative", "exp", "expm1", "log", "log1p"))
sqrt, rsqrt, square, reciprocal = map(_unary, ("sqrt", "rsqrt", "square", "reciprocal"))
abs, sign, floor, ceil, round = map(_unary, ("abs", "sign", "floor", "ceil", "round"))
sin, cos, tan, asin, acos, atan = map(_unary, ("sin", "cos", "tan", "asin", "acos", "atan"))
sinh, cosh, tanh = map(_unary, ("sinh", "cosh", "tanh"))
asinh, acosh, atanh = map(_unary, ("asinh", "acosh", "atanh"))
sigmoid, log_sigmoid, relu, relu6 = map(_unary, ("sigmoid", "log_sigmoid", "relu", "relu6"))
elu, selu, gelu, gelu_tanh = map(_unary, ("elu", "selu", "gelu", "gelu_tanh"))
silu, softplus, softsign = map(_unary, ("silu", "softplus", "softsign"))
erf, erfc, lgamma, digamma = map(_unary, ("erf", "erfc", "lgamma", "digamma"))
is_finite, is_inf, is_nan = map(_unary, ("is_finite", "is_inf", "is_nan"))
logical_not, bitwise_not = map(_unary, ("logical_not", "bitwise_not"))

add, subtract, multiply, divide = map(_binary, ("add", "subtract", "multiply", "divide"))
maximum, minimum, pow, atan2 = map(_binary, ("maximum", "minimum", "pow", "atan2"))
divide_no_nan, xlogy = map(_binary, ("divide_no_nan", "xlogy"))
squared_difference, floordiv, mod = map(_binary, ("squared_difference", "floordiv", "mod"))
equal, not_equal, less = map(_binary, ("equal", "not_equal", "less"))
less_equal, greater, greater_equal = map(_binary, ("less_equal", "greater", "greater_equal"))
logical_and, logical_or, logical_xor = map(_binary, ("logical_and", "logical_or", "logical_xor"))
bitwise_and, bitwise_or, bitwise_xor = map(_binary, ("bitwise_and", "bitwise_or", "bitwise_xor"))
left_shift, right_shift = map(_binary, ("left_shift", "right_shift"))


def leaky_relu(x: Any, alpha: float = 0.2) -> Tensor:
    """x where it is positive, else alpha x.

    Dims:
        x        [dims...], floats
        returns  the same

    Raises:
        DtypeError: x is not floats.

    Source: Maas et al., 2013.

    Example:
        >>> import meshlang as ml
        >>> ml.leaky_relu(ml.constant([2.0, -2.0], "d")).numpy()
        array([ 2. , -0.4], dtype=float32)
    """
    return apply(LeakyRelu(float(alpha)), as_tensor(x))[0]


def polygamma(x: Any, order: int) -> Tensor:
    """The derivative of digamma of an order, 1 or more.

    Dims:
        x        [dims...], floats
        returns  the same

    Raises:
        DtypeError: x is not floats.
        ProgramError: the order is less than 1.

    Example:
        >>> import meshlang as ml
        >>> ml.polygamma(ml.constant([1.0], "d"), 1).numpy().round(3)
        array([1.645], dtype=float32)
    """
    if order < 1:
        raise ProgramError(message(f"polygamma: the order is {order}.", fix="1 or more"))
    return apply(Polygamma(order), as_tensor(x))[0]


def where(condition: Any, x: Any, y: Any) -> Tensor:
    """Choose x where the condition is true, else y. What is not chosen leaks nothing, not NaN.

    Its gradient is zero, and zero times an infinite slope is NaN: guard the operand of such a
    function as well, ``ml.where(c, ml.sqrt(ml.where(c, x, 1.0)), 0.0)``.

    Dims:
        condition, x, y   one of them has all the dims of the others; bools, and one dtype
        returns           its dims

    Raises:
        DimError: no operand has all the dims.
        DtypeError: the condition is not bools, or x and y have two dtypes.

    Example:
        >>> import meshlang as ml
        >>> x = ml.constant([4.0, -1.0], "d")
        >>> ml.where(x > 0.0, ml.sqrt(x), 0.0).numpy()
        array([2., 0.], dtype=float32)
    """
    x, y = both(x, y)
    return apply(Where(), as_tensor(condition), x, y)[0]


def cast(x: Any, dtype: str) -> Tensor:
    """Another dtype. Floats become integers toward zero; what is not 0 becomes True.

    Args:
        x: any tensor.
        dtype: "stored", "compute" and "high" are the program's policy; or a concrete one.

    Dims:
        x        [dims...]
        returns  the same

    Raises:
        DtypeError: there is no such dtype.

    Example:
        >>> import meshlang as ml
        >>> ml.cast(ml.constant([1.9, -1.9], "d"), "int32").numpy()
        array([ 1, -1], dtype=int32)
    """
    x = as_tensor(x)
    dtype = dtype_name(dtype)
    return x if x.dtype == dtype else apply(Cast(dtype, x.dtype), x)[0]


def stop_gradient(x: Any) -> Tensor:
    """The same value, as a constant for `meshlang.gradients`.

    Dims:
        x        [dims...]
        returns  the same

    Example:
        >>> import meshlang as ml
        >>> def slope(x):
        ...     return ml.gradients(x * ml.stop_gradient(x), [x])[0]
        >>> ml.run(slope, x=ml.constant(3.0, ""))
        array(3., dtype=float32)
    """
    return apply(StopGradient(), as_tensor(x))[0]


def clip(x: Any, low: Any, high: Any) -> Tensor:
    """Bring x between low and high. Gradients stop where it is outside, and halve on a bound.

    Dims:
        x, low, high   one side's dims contain the other's, for x and low, then with high
        returns        the larger dims

    Example:
        >>> import meshlang as ml
        >>> ml.clip(ml.constant([-2.0, 0.5, 2.0], "d"), -1.0, 1.0).numpy()
        array([-1. ,  0.5,  1. ], dtype=float32)
    """
    return minimum(maximum(x, low), high)


def add_n(xs: Sequence[Any]) -> Tensor:
    """The sum of tensors; a sum of pending sums is paid once.

    Dims:
        xs       each [dims...], in any order
        returns  as the first

    Raises:
        DimError: they have different dims.
        DtypeError: they have different dtypes.
        ProgramError: there are none.

    Example:
        >>> import meshlang as ml
        >>> x = ml.constant([1.0, 2.0], "d")
        >>> ml.add_n([x, x, x]).numpy()
        array([3., 6.], dtype=float32)
    """
    if not xs:
        raise ProgramError(
            message("add_n: there is nothing to add.", fix="give one tensor or more")
        )
    tensors = [as_tensor(x) for x in xs]
    return tensors[0] if len(tensors) == 1 else apply(AddN(), *tensors)[0]
