"""The elementwise functions in NumPy, and operands that they take."""

import math
from collections.abc import Callable

import numpy as np

from meshlang.ops.functions import BINARY, UNARY
from tests.harness import Input, bools, floats, ints, ties

_SQRT_HALF = math.sqrt(0.5)
_erf = np.vectorize(math.erf)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def digamma(x: np.ndarray) -> np.ndarray:
    """By its recurrence to x + 20, and the asymptotic series there."""
    steps = sum(1.0 / (x + k) for k in range(20))
    x = x + 20.0
    series = 1 / 12 - 1 / (120 * x**2) + 1 / (252 * x**4) - 1 / (240 * x**6)
    return np.log(x) - 1 / (2 * x) - series / x**2 - steps


def polygamma(x: np.ndarray) -> np.ndarray:
    """Of order 1, in the same way."""
    steps = sum(1.0 / (x + k) ** 2 for k in range(20))
    x = x + 20.0
    series = 1 / 6 - 1 / (30 * x**2) + 1 / (42 * x**4) - 1 / (30 * x**6)
    return 1 / x + 1 / (2 * x**2) + series / x**3 + steps


def _elu(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, np.expm1(x))


UNARY_ORACLES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "negative": np.negative,
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: x**-0.5,
    "square": np.square,
    "reciprocal": np.reciprocal,
    "abs": np.abs,
    "sign": np.sign,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "tanh": np.tanh,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
    "sigmoid": _sigmoid,
    "log_sigmoid": lambda x: -np.logaddexp(-x, 0.0),
    "relu": lambda x: np.maximum(x, 0.0),
    "relu6": lambda x: np.clip(x, 0.0, 6.0),
    "elu": _elu,
    "selu": lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(x)),
    "gelu": lambda x: 0.5 * x * (1.0 + _erf(x * _SQRT_HALF)),
    "gelu_tanh": lambda x: (
        0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))
    ),
    "silu": lambda x: x * _sigmoid(x),
    "softplus": lambda x: np.logaddexp(x, 0.0),
    "softsign": lambda x: x / (1.0 + np.abs(x)),
    "erf": _erf,
    "erfc": np.vectorize(math.erfc),
    "lgamma": np.vectorize(math.lgamma),
    "digamma": digamma,
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.round,
    "is_finite": np.isfinite,
    "is_inf": np.isinf,
    "is_nan": np.isnan,
    "logical_not": np.logical_not,
    "bitwise_not": np.invert,
}
BINARY_ORACLES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
    "divide_no_nan": np.divide,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "pow": np.power,
    "squared_difference": lambda x, y: (x - y) ** 2,
    "xlogy": lambda x, y: x * np.log(y),
    "atan2": np.arctan2,
    "floordiv": np.floor_divide,
    "mod": np.mod,
    "equal": np.equal,
    "not_equal": np.not_equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
    "logical_xor": np.logical_xor,
    "bitwise_and": np.bitwise_and,
    "bitwise_or": np.bitwise_or,
    "bitwise_xor": np.bitwise_xor,
    "left_shift": np.left_shift,
    "right_shift": np.right_shift,
}
_POSITIVE = (
    *("log", "log1p", "sqrt", "rsqrt", "reciprocal", "divide", "divide_no_nan", "pow", "mod"),
    *("floordiv", "xlogy", "lgamma", "digamma"),
)
#: where functions are defined and smooth
_RANGES = dict.fromkeys(_POSITIVE, (0.5, 3.0)) | {
    "tan": (-1.2, 1.2),
    "asin": (-0.9, 0.9),
    "acos": (-0.9, 0.9),
    "atanh": (-0.9, 0.9),
    "acosh": (1.5, 3.0),
    "relu6": (-2.0, 9.0),
}


def operand(fn: str, shape: str) -> Input:
    """Something that the function takes, away from its poles; comparisons meet equal numbers."""
    row = UNARY.get(fn) or BINARY.get(fn)
    if row is None:
        return floats(shape)
    if row.takes == "bools":
        return bools(shape)
    if row.takes == "integers":
        return ints(shape, 30)
    if fn in _RANGES:
        return floats(shape, *_RANGES[fn])
    return ties(shape) if fn in BINARY and row.gives == "bool" else floats(shape)
