"""The tables of elementwise functions: what each computes, takes and gives."""

from __future__ import annotations

from typing import NamedTuple


class Function(NamedTuple):
    """A row of the tables.

    Attributes:
        what: it computes, in words.
        takes: a kind of `meshlang.dtypes`, or "" for any dtype.
        gives: "bool", or "same" for the dtype of the operands.
        passes: how a pending sum goes through, as `meshlang.program.Op.passes` says; "first" is
            "alone" in the first operand and "no" in the second.
    """

    what: str
    takes: str
    gives: str = "same"
    passes: str = "no"


UNARY = {
    "negative": Function("minus x", "signed numbers", passes="alone"),
    "exp": Function("e to the x", "floats"),
    "expm1": Function("e to the x, minus 1", "floats"),
    "log": Function("the natural logarithm", "floats"),
    "log1p": Function("the natural logarithm of 1 + x", "floats"),
    "sqrt": Function("the square root", "floats"),
    "rsqrt": Function("one over the square root", "floats"),
    "square": Function("x times x", "numbers"),
    "reciprocal": Function("one over x", "floats"),
    "abs": Function("the absolute value", "signed numbers"),
    "sign": Function("-1, 0 or 1", "signed numbers"),
    "sin": Function("the sine of x in radians", "floats"),
    "cos": Function("the cosine of x in radians", "floats"),
    "tan": Function("the tangent of x in radians", "floats"),
    "asin": Function("the angle in radians whose sine is x", "floats"),
    "acos": Function("the angle in radians whose cosine is x", "floats"),
    "atan": Function("the angle in radians whose tangent is x", "floats"),
    "sinh": Function("the hyperbolic sine", "floats"),
    "cosh": Function("the hyperbolic cosine", "floats"),
    "tanh": Function("the hyperbolic tangent", "floats"),
    "asinh": Function("what has x as its hyperbolic sine", "floats"),
    "acosh": Function("what has x as its hyperbolic cosine, from 0 up", "floats"),
    "atanh": Function("what has x as its hyperbolic tangent", "floats"),
    "sigmoid": Function("1 / (1 + e to the -x)", "floats"),
    "log_sigmoid": Function("the logarithm of sigmoid(x), without overflow", "floats"),
    "relu": Function("x where positive, else 0", "numbers"),
    "relu6": Function("x between 0 and 6", "numbers"),
    "elu": Function("x where positive, else e to the x, minus 1", "floats"),
    "selu": Function("elu with the two constants of Klambauer et al., 2017", "floats"),
    "gelu": Function("x times the normal distribution function of x", "floats"),
    "gelu_tanh": Function("the tanh approximation of gelu (Hendrycks and Gimpel, 2016)", "floats"),
    "silu": Function("x times sigmoid(x)", "floats"),
    "softplus": Function("log(1 + e to the x), without overflow", "floats"),
    "softsign": Function("x / (1 + |x|)", "floats"),
    "erf": Function("the error function", "floats"),
    "erfc": Function("1 minus the error function, exact where that is small", "floats"),
    "lgamma": Function("the logarithm of the absolute value of the gamma function", "floats"),
    "digamma": Function("the derivative of lgamma", "floats"),
    "floor": Function("the largest integer not above x", "floats"),
    "ceil": Function("the smallest integer not below x", "floats"),
    "round": Function("the nearest integer, halves to even", "floats"),
    "is_finite": Function("whether x is neither infinite nor NaN", "floats", "bool"),
    "is_inf": Function("whether x is infinite", "floats", "bool"),
    "is_nan": Function("whether x is NaN", "floats", "bool"),
    "logical_not": Function("true where x is false", "bools", "bool"),
    "bitwise_not": Function("all bits turned over", "integers"),
}

BINARY = {
    "add": Function("x + y", "numbers", passes="together"),
    "subtract": Function("x - y", "numbers", passes="together"),
    "multiply": Function("x * y", "numbers", passes="alone"),
    "divide": Function("x / y", "floats", passes="first"),
    "divide_no_nan": Function("x / y, and 0 where y is 0", "floats", passes="first"),
    "maximum": Function("the larger of x and y", "numbers"),
    "minimum": Function("the smaller of x and y", "numbers"),
    "pow": Function("x to the y", "signed numbers"),
    "squared_difference": Function("(x - y) squared", "signed numbers"),
    "xlogy": Function("x times log(y), and 0 where x is 0", "floats"),
    "atan2": Function(
        "the angle in radians of the point y along the first axis and x along the second", "floats"
    ),
    "floordiv": Function("x / y rounded down", "numbers"),
    "mod": Function("what floordiv leaves, with the sign of y", "numbers"),
    "equal": Function("x == y", "", "bool"),
    "not_equal": Function("x != y", "", "bool"),
    "less": Function("x < y", "numbers", "bool"),
    "less_equal": Function("x <= y", "numbers", "bool"),
    "greater": Function("x > y", "numbers", "bool"),
    "greater_equal": Function("x >= y", "numbers", "bool"),
    "logical_and": Function("x and y", "bools", "bool"),
    "logical_or": Function("x or y", "bools", "bool"),
    "logical_xor": Function("x or y, not both", "bools", "bool"),
    "bitwise_and": Function("the bits that x and y have", "integers"),
    "bitwise_or": Function("the bits that x or y has", "integers"),
    "bitwise_xor": Function("the bits that one of x and y has", "integers"),
    "left_shift": Function(
        "the bits of x, y places up, y at least 0 and below their number", "integers"
    ),
    "right_shift": Function("the bits of x, y places down, which keeps its sign", "integers"),
}
