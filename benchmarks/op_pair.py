"""An op of the language beside plain TensorFlow, and the random arrays both are given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Floats:
    """Normal numbers of a deviation, in float32; with `low` uniform ones in [low, low + 1)."""

    shape: str
    scale: float = 1.0
    low: float | None = None
    dtype = "float32"

    def draw(self, rng: np.random.Generator, sizes: tuple[int, ...]) -> np.ndarray:
        """An array of these sizes."""
        if self.low is not None:
            return (rng.random(sizes, "float32") + np.float32(self.low)).astype("float32")
        return rng.standard_normal(sizes, "float32") * np.float32(self.scale)


@dataclass(frozen=True)
class Ints:
    """Whole numbers in [0, below), in int32."""

    shape: str
    below: int
    dtype = "int32"

    def draw(self, rng: np.random.Generator, sizes: tuple[int, ...]) -> np.ndarray:
        """An array of these sizes."""
        return rng.integers(0, self.below, sizes, "int32")


@dataclass(frozen=True)
class Orders:
    """The whole numbers below the size of the one dim, in a random order."""

    shape: str
    dtype = "int32"

    def draw(self, rng: np.random.Generator, sizes: tuple[int, ...]) -> np.ndarray:
        """An array of these sizes."""
        return rng.permutation(sizes[0]).astype("int32")


Input = Floats | Ints | Orders


@dataclass(frozen=True)
class Pair:
    """An op in our language and in TensorFlow's.

    Attributes:
        family: The ops that it is one of.
        name: Unique among all pairs.
        ours: Of one tensor for each input; returns a tensor or several.
        plain: The same of TensorFlow's tensors; results have the order of dims of ours.
        inputs: By name, in the order of the arguments.
        gradient: Whether it has one, which is then compared and timed too.
        drawn: Whether results are random, so that only their moments are compared.
    """

    family: str
    name: str
    ours: Callable[..., Any]
    plain: Callable[..., Any]
    inputs: Mapping[str, Input]
    gradient: bool = True
    drawn: bool = False
