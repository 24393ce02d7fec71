"""Elementwise ops: tables of functions with their derivatives, `where`, `cast`, sums of many.

Two operands broadcast only when one side's dims contain the other's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from meshlang.dims import Shape, check_twins
from meshlang.dtypes import check_kind, check_same
from meshlang.errors import DimError, ProgramError, message
from meshlang.program import FLOATS, Op, Spec, apply, as_tensor, both, dtype_name
from meshlang.tensor import Tensor

Derivative = Callable[[Tensor, Tensor], Any]

_SQRT_2_OVER_PI = 0.7978845608028654
_INV_SQRT_2PI = 0.3989422804014327


def _gelu_slope(x: Tensor, y: Tensor) -> Tensor:
    return 0.5 * (1.0 + erf(x * 0.7071067811865476)) + x * exp(x * x * -0.5) * _INV_SQRT_2PI


def _gelu_tanh_slope(x: Tensor, y: Tensor) -> Tensor:
    t = tanh(_SQRT_2_OVER_PI * (x + 0.044715 * x * x * x))
    inner = _SQRT_2_OVER_PI * (1.0 + 3 * 0.044715 * x * x)
    return 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner


def _silu_slope(x: Tensor, y: Tensor) -> Tensor:
    s = sigmoid(x)
    return s + y * (1.0 - s)


#: name: (what it computes, its derivative from x and y; None where there is none)
UNARY: dict[str, tuple[str, Derivative | None]] = {
    "negative": ("minus x", lambda x, y: -1.0),
    "exp": ("e to the x", lambda x, y: y),
    "expm1": ("e to the x, minus 1", lambda x, y: y + 1.0),
    "log": ("the natural logarithm", lambda x, y: 1.0 / x),
    "log1p": ("the natural logarithm of 1 + x", lambda x, y: 1.0 / (1.0 + x)),
    "sqrt": ("the square root", lambda x, y: 0.5 / y),
    "rsqrt": ("one over the square root", lambda x, y: -0.5 * y * y * y),
    "square": ("x times x", lambda x, y: 2.0 * x),
    "reciprocal": ("one over x", lambda x, y: -(y * y)),
    "abs": ("the absolute value", lambda x, y: sign(x)),
    "sign": ("-1, 0 or 1", None),
    "sin": ("the sine of x in radians", lambda x, y: cos(x)),
    "cos": ("the cosine of x in radians", lambda x, y: -sin(x)),
    "tanh": ("the hyperbolic tangent", lambda x, y: 1.0 - y * y),
    "sigmoid": ("1 / (1 + e to the -x)", lambda x, y: y * (1.0 - y)),
    "relu": ("x where positive, else 0", lambda x, y: cast(y > 0.0, y.dtype)),
    "gelu": ("x times the normal distribution function of x", _gelu_slope),
    "gelu_tanh": ("the tanh approximation of gelu (Hendrycks and Gimpel, 2016)", _gelu_tanh_slope),
    "silu": ("x times sigmoid(x)", _silu_slope),
    "softplus": ("log(1 + e to the x), without overflow", lambda x, y: sigmoid(x)),
    "erf": (
        "the error function",
        lambda x, y: 1.1283791670955126 * exp(-(x * x)),
    ),
    "floor": ("the largest integer not above x", None),
    "ceil": ("the smallest integer not below x", None),
    "round": ("the nearest integer, halves to even", None),
    "is_finite": ("whether x is neither infinite nor NaN", None),
    "logical_not": ("true where x is false", None),
}

#: name: (what it computes, kind of result, how a pending sum passes)
BINARY: dict[str, tuple[str, str, str]] = {
    "add": ("x + y", "same", "together"),
    "subtract": ("x - y", "same", "together"),
    "multiply": ("x * y", "same", "alone"),
    "divide": ("x / y", "same", "first"),
    "maximum": ("the larger of x and y", "same", "no"),
    "minimum": ("the smaller of x and y", "same", "no"),
    "pow": ("x to the y", "same", "no"),
    "floordiv": ("x / y rounded down", "same", "no"),
    "mod": ("what floordiv leaves, with the sign of y", "same", "no"),
    "equal": ("x == y", "bool", "no"),
    "not_equal": ("x != y", "bool", "no"),
    "less": ("x < y", "bool", "no"),
    "less_equal": ("x <= y", "bool", "no"),
    "greater": ("x > y", "bool", "no"),
    "greater_equal": ("x >= y", "bool", "no"),
    "logical_and": ("x and y", "bool", "no"),
    "logical_or": ("x or y", "bool", "no"),
}

#: what an op takes, where that is not floats for one operand and numbers for two
TAKES = {
    "negative": "signed numbers",
    "abs": "signed numbers",
    "sign": "signed numbers",
    "square": "numbers",
    "relu": "numbers",
    "logical_not": "bools",
    "logical_and": "bools",
    "logical_or": "bools",
    "divide": "floats",
    "pow": "floats",
    "equal": "",
    "not_equal": "",
}


@dataclass(frozen=True)
class Unary(Op):
    """One function of the table `UNARY`."""

    fn: str

    @property
    def label(self) -> str:
        return self.fn

    def passes(self, i: int) -> str:
        return "alone" if self.fn == "negative" else "no"

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        (x,) = xs
        check_kind(self.fn, x, TAKES.get(self.fn, "floats"))
        return (Spec(x.shape, "bool" if self.fn in ("is_finite", "logical_not") else x.dtype),)

    def vjp(self, xs, ys, gs):
        slope = UNARY[self.fn][1]
        if slope is None:
            return (None,)
        if self.fn == "negative":
            return (-gs[0],)
        return (gs[0] * slope(xs[0], ys[0]),)


@dataclass(frozen=True)
class Binary(Op):
    """One function of the table `BINARY`."""

    fn: str

    @property
    def label(self) -> str:
        return self.fn

    def passes(self, i: int) -> str:
        how = BINARY[self.fn][2]
        return ("alone" if i == 0 else "no") if how == "first" else how

    def infer(self, *xs: Tensor) -> tuple[Spec, ...]:
        x, y = xs
        check_same(self.fn, ("left", "right"), xs)
        if kind := TAKES.get(self.fn, "numbers"):
            check_kind(self.fn, x, kind)
        shape = broadcast_shape(self.fn, x.shape, y.shape)
        return (Spec(shape, "bool" if BINARY[self.fn][1] == "bool" else x.dtype),)

    def vjp(self, xs, ys, gs):
        x, y = xs
        g = gs[0]
        slopes = {
            "add": lambda: (g, g),
            "subtract": lambda: (g, -g),
            "multiply": lambda: (g * y, g * x),
            "divide": lambda: (g / y, -(g * ys[0] / y)),
            "maximum": lambda: _tie_slopes(g, x, y, x > y),
            "minimum": lambda: _tie_slopes(g, x, y, x < y),
            "pow": lambda: _pow_slopes(g, x, y, ys[0]),
            "mod": lambda: (g, -(g * floordiv(x, y))),
        }.get(self.fn)
        if slopes is None:
            return (None, None)
        if self.fn == "multiply":
            return (_product_onto(g, y, x), _product_onto(g, x, y))
        return tuple(
            s if s is None else onto(s, x_.shape) for s, x_ in zip(slopes(), xs, strict=True)
        )


def _product_onto(g: Tensor, other: Tensor, like: Tensor) -> Tensor:
    """The sum of g times other over the dims that `like` lacks: one contraction, no big product."""
    if set(g.shape) == set(like.shape):
        return onto(g * other, like.shape)
    from meshlang.ops.contract import einsum_onto

    return einsum_onto(g, other, like.shape)


def _tie_slopes(g: Tensor, x: Tensor, y: Tensor, wins: Tensor) -> tuple[Tensor, Tensor]:
    """Each side gets g where it wins; on ties both get half."""
    half = cast(equal(x, y), g.dtype) * 0.5
    first = cast(wins, g.dtype) + half
    return g * first, g * (1.0 - first)


def _pow_slopes(g: Tensor, x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Zero where x or y make the value a constant, so that neither 0 ** 0 nor a log leaks NaN."""
    one = as_tensor(1, x.dtype)
    power = where(equal(y, 0.0), one, y - 1.0)
    return g * (y * pow(x, power)), g * (z * log(where(x > 0.0, x, one)))


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

    kind = TAKES.get(name, "floats")
    return _documented(function, name, UNARY[name][0], f"x        [dims...], {kind}", "the same")


def _binary(name: str) -> Callable[[Any, Any], Tensor]:
    def function(x: Any, y: Any) -> Tensor:
        x, y = both(x, y)
        return apply(Binary(name), x, y)[0]

    kind = TAKES.get(name, "numbers") or "one dtype"
    dims = f"x, y     one side's dims contain the other's; {kind}"
    return _documented(function, name, BINARY[name][0], dims, "the larger dims")


def _documented(function: Any, name: str, what: str, dims: str, made: str) -> Any:
    function.__name__ = function.__qualname__ = name
    if name in ("is_finite", *(n for n, row in BINARY.items() if row[1] == "bool")):
        made += ", bools"
    function.__doc__ = f"Elementwise: {what}.\n\nDims:\n    {dims}\n    returns  {made}\n"
    return function


negative, exp, expm1, log, log1p = map(_unary, ("negative", "exp", "expm1", "log", "log1p"))
sqrt, rsqrt, square, reciprocal = map(_unary, ("sqrt", "rsqrt", "square", "reciprocal"))
abs, sign, sin, cos, tanh = map(_unary, ("abs", "sign", "sin", "cos", "tanh"))
sigmoid, relu, gelu, gelu_tanh = map(_unary, ("sigmoid", "relu", "gelu", "gelu_tanh"))
silu, softplus, erf = map(_unary, ("silu", "softplus", "erf"))
floor, ceil, round = map(_unary, ("floor", "ceil", "round"))
is_finite, logical_not = map(_unary, ("is_finite", "logical_not"))

add, subtract, multiply, divide = map(_binary, ("add", "subtract", "multiply", "divide"))
maximum, minimum, pow = map(_binary, ("maximum", "minimum", "pow"))
floordiv, mod = map(_binary, ("floordiv", "mod"))
equal, not_equal, less = map(_binary, ("equal", "not_equal", "less"))
less_equal, greater, greater_equal = map(_binary, ("less_equal", "greater", "greater_equal"))
logical_and, logical_or = map(_binary, ("logical_and", "logical_or"))


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
