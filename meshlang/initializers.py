"""Initial values of variables: they depend on the seed and the variable's name alone.

An initializer is called with a shape, in the trace of the program that initializes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from meshlang.dims import Shape
from meshlang.ops.create import Random, full
from meshlang.program import apply
from meshlang.tensor import Tensor


@dataclass(frozen=True, slots=True)
class Initializer:
    """A distribution with a scale and a mean.

    kind: "constant", "normal", "truncated" (a normal within two deviations), or "uniform" (within
    one deviation to both sides).
    """

    kind: str
    scale: float = 1.0
    mean: float = 0.0

    def __call__(self, shape: Shape, dtype: str, name: str) -> Tensor:
        """The initial value of the variable of this name; drawn in float32."""
        from meshlang.ops.elementwise import cast

        if self.kind == "constant":
            return full(shape, self.mean, dtype)
        unit = apply(Random(self.kind, shape, "float32", name_key(name)))[0]
        if self.kind == "uniform":
            unit = unit * 2.0 - 1.0
        return cast(unit * self.scale + self.mean, dtype)


def name_key(name: str) -> int:
    """The random key of a name: 62 bits of its sha256, above all keys of traced random ops."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 2 | 1 << 61


def constant_init(value: float) -> Initializer:
    """One number everywhere."""
    return Initializer("constant", mean=value)


def normal_init(scale: float = 1.0) -> Initializer:
    """Normal numbers of mean 0 and this deviation."""
    return Initializer("normal", scale)


def truncated_normal_init(scale: float = 1.0) -> Initializer:
    """Normal numbers within two deviations; `scale` is that of the normal that is cut off."""
    return Initializer("truncated", scale)


def uniform_init(scale: float = 1.0) -> Initializer:
    """Uniform numbers in [-scale, scale)."""
    return Initializer("uniform", scale)


zeros_init = constant_init(0.0)
ones_init = constant_init(1.0)

AnyInitializer = Callable[[Shape, str, str], Tensor]
