"""Models with chosen values, on one processor in float64, to hold plain NumPy models against."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

import meshlang as ml
from tests.harness import DOUBLE, named

Values = Mapping[str, np.ndarray]
Inputs = Mapping[str, tuple[np.ndarray, str]]


def evaluated(fn: Callable[..., Any], values: Values, **inputs: tuple[np.ndarray, str]) -> Any:
    """What a function of named tensors returns.

    Args:
        fn: takes the inputs by name.
        values: of all of its variables, by name.
        **inputs: arrays with the names of their dims.

    Returns:
        NumPy arrays by their path in what `fn` returns; a single result as itself.
    """
    executable = lowered(fn, inputs)
    executable.initialize(0)
    assert set(values) == set(executable.plan.variables)
    for name, value in values.items():
        executable.set(name, value)
    results = executable(**{name: array for name, (array, _) in inputs.items()})
    found = {path: result.numpy() for path, result in named(results)}
    return found[""] if list(found) == [""] else found


def lowered(
    fn: Callable[..., Any], inputs: Inputs, precision: ml.Precision = DOUBLE
) -> ml.Executable:
    """A function of named tensors on one processor."""
    specs = {
        name: ml.spec(ml.constant(array, dims).shape, _dtype(array))
        for name, (array, dims) in inputs.items()
    }
    program = ml.trace(fn, precision=precision, **specs)
    return ml.lower(ml.plan(program), backend="simulated")


def _dtype(array: np.ndarray) -> str:
    return "compute" if array.dtype.kind == "f" else array.dtype.name
