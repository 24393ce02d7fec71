"""Cases of the harness: a function of named tensors, its inputs, and what it computes in NumPy."""

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any

import numpy as np

import meshlang as ml
from meshlang.program import FLOATS

DOUBLE = ml.Precision("float64", "float64", "float64")


@dataclass(frozen=True, eq=False)
class Input:
    """Dims, a dtype, and the array that a case is given."""

    shape: str
    dtype: str
    make: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def floats(
    shape: str, low: float | None = None, high: float = 1.0, dtype: str = "compute"
) -> Input:
    """Normal numbers; with `low`, uniform ones in [low, high)."""
    if low is None:
        return Input(shape, dtype, lambda rng, sizes: rng.normal(size=sizes))
    return Input(shape, dtype, lambda rng, sizes: rng.uniform(low, high, size=sizes))


def ints(shape: str, below: int, low: int = 0, dtype: str = "int32") -> Input:
    """Integers in [low, below)."""
    return Input(shape, dtype, lambda rng, sizes: rng.integers(low, below, sizes).astype(dtype))


def bools(shape: str) -> Input:
    """True half of the time."""
    return Input(shape, "bool", lambda rng, sizes: rng.integers(0, 2, sizes) == 1)


def ties(shape: str, values: int = 3) -> Input:
    """Floats of which many are equal: small whole numbers."""
    return Input(
        shape, "compute", lambda rng, sizes: rng.integers(0, values, sizes).astype("float64")
    )


def given(shape: str, array: Any, dtype: str = "compute") -> Input:
    """This array."""
    held = np.asarray(array, "float64" if dtype == "compute" else None)
    return Input(shape, dtype, lambda rng, sizes: held.reshape(sizes))


@dataclass(frozen=True, eq=False)
class Case:
    """A function of named tensors, with inputs. Made by `case`."""

    name: str
    fn: Callable[..., Any]
    inputs: Mapping[str, Input]
    oracle: Callable[..., Any] | None = None
    gradients: bool = True
    exact: bool = False
    arrays: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for name, wanted in self.inputs.items():
            sizes = ml.Shape.parse(wanted.shape).sizes
            self.arrays[name] = wanted.make(random(self.name, name), sizes)

    def run(self, weights: "Weights", /, **tensors: ml.Tensor) -> dict[str, Any]:
        """In a trace: the results, and the gradients of their weighted sum."""
        before = len(ml.trainable_variables())
        results = self.fn(*tensors.values())
        found = {"value": results}
        ys = [y for _, y in named(results) if y.dtype in FLOATS]
        xs: dict[str, Any] = {n: x for n, x in tensors.items() if x.dtype in FLOATS}
        xs.update((v.name, v) for v in ml.trainable_variables()[before:])
        if self.gradients and ys and xs:
            slopes = ml.gradients(ys, list(xs.values()), [weights(i, y) for i, y in enumerate(ys)])
            found["gradient"] = dict(zip(xs, slopes, strict=True))
        return found


def twice(fn: Callable[..., ml.Tensor]) -> Callable[..., list[ml.Tensor]]:
    """The gradients of the sum of cubes of a function's result, by its float operands.

    A case of it takes their gradients in turn, which are of second order and zero nowhere.
    """

    def first(*xs: ml.Tensor, **named: ml.Tensor) -> list[ml.Tensor]:
        y = fn(*xs, **named)
        operands = [*xs, *named.values()]
        return ml.gradients(ml.sum(y * y * y), [x for x in operands if x.dtype in FLOATS])

    return first


class Weights:
    """Cotangents of results; those of equal dims share one constant of the program."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, ml.Shape, str], ml.Tensor] = {}

    def __call__(self, i: int, y: ml.Tensor) -> ml.Tensor:
        """In a trace: the cotangent of the i-th float result of a case."""
        key = (i, y.shape, y.dtype)
        if key not in self._made:
            self._made[key] = ml.constant(self.array(i, y.shape.sizes), y.shape, y.dtype)
        return self._made[key]

    @staticmethod
    def array(i: int, sizes: Sequence[int]) -> np.ndarray:
        """The same as an array."""
        return random(f"weights {i}").normal(size=sizes)


def case(
    name: str,
    fn: Callable[..., Any],
    oracle: Callable[..., Any] | None = None,
    *,
    gradients: bool = True,
    exact: bool = False,
    **inputs: str | Input,
) -> Case:
    """A case.

    Args:
        name: unique among those that are run together; the scope of its variables.
        fn: takes a tensor for each input, in their order; returns tensors, nested as it likes.
        oracle: the same in NumPy, on arrays.
        gradients: of each float result's weighted sum, with respect to float inputs and variables.
        exact: results are equal to the last bit, as those of random ops and of whole numbers are.
        **inputs: dims with sizes, for normal floats; or `floats`, `ints`, `bools`, `ties`, `given`.
            Sizes that divide by 8 suit all of `layouts`.
    """
    made = {n: _input(wanted) for n, wanted in inputs.items()}
    return Case(name, fn, made, oracle, gradients, exact)


def _input(wanted: str | Input) -> Input:
    return floats(wanted) if isinstance(wanted, str) else wanted


def random(*words: str) -> np.random.Generator:
    """Numbers that depend on these words alone."""
    return np.random.default_rng(zlib.crc32("/".join(words).encode()))


def named(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested results with their paths."""
    if isinstance(value, dict):
        parts: Iterable[tuple[Any, Any]] = value.items()
    elif type(value) in (list, tuple):
        parts = enumerate(value)
    elif hasattr(value, "_asdict"):
        parts = value._asdict().items()
    elif getattr(value, "__parts__", False):
        parts = ((f.name, getattr(value, f.name)) for f in fields(value))
    else:
        if value is not None:
            yield path, value
        return
    for key, part in parts:
        yield from named(part, f"{path}/{key}" if path else str(key))


def trace(fn: Callable[..., Any], inputs: Mapping[str, str | Input]) -> ml.Program:
    """A function of these inputs as a program, in float64."""
    made = {n: _input(wanted) for n, wanted in inputs.items()}
    specs = {n: ml.spec(wanted.shape, wanted.dtype) for n, wanted in made.items()}
    return ml.trace(lambda **xs: fn(*xs.values()), precision=DOUBLE, **specs)


@lru_cache(maxsize=32)
def trace_cases(cases: tuple[Case, ...]) -> tuple[ml.Program, dict[str, np.ndarray]]:
    """All cases as one program, with its inputs."""
    assert len({c.name for c in cases}) == len(cases), "two cases have one name"

    def together(**tensors: ml.Tensor) -> dict[str, Any]:
        results, weights = {}, Weights()
        for each in cases:
            with ml.scope(each.name):
                results[each.name] = each.run(
                    weights, **{n: tensors[f"{each.name}/{n}"] for n in each.inputs}
                )
        return results

    specs = {
        f"{each.name}/{n}": ml.spec(wanted.shape, wanted.dtype)
        for each in cases
        for n, wanted in each.inputs.items()
    }
    arrays = {f"{each.name}/{n}": a for each in cases for n, a in each.arrays.items()}
    return ml.trace(together, precision=DOUBLE, **specs), arrays
