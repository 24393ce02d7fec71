"""Layouts change speed, not results: cases, run under many layouts, compared with one processor.

    CASES = (
        case("add", ml.add, np.add, x="batch:8 d:16", y="d:16"),
        case("log", ml.log, np.log, x=floats("batch:8 d:16", low=0.5, high=2.0)),
    )

    def test_values():  # one processor against NumPy
        check_values(CASES)

    def test_slopes():  # gradients against finite differences
        check_slopes(CASES)

    @pytest.mark.parametrize("laid", drawn("add and log", layouts("batch d")))
    def test_layouts(laid):  # values and gradients, divided in every way
        check(CASES, laid)

All cases of one call are traced as one program, so that many ops cost little more than one. Dims of
one name lie alike in all of them. Everything is computed in float64 from fixed random inputs.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

import meshlang as ml
from meshlang.layout.cost import walk
from meshlang.layout.values import Collective
from tests.harness_cases import (
    DOUBLE,
    Case,
    Input,
    Weights,
    bools,
    case,
    floats,
    given,
    ints,
    named,
    random,
    ties,
    trace,
    trace_cases,
    twice,
)
from tests.harness_layouts import ALONE, BACKENDS, MESHES, Laid, any_layout, drawn, layouts

__all__ = [
    "ALONE",
    "BACKENDS",
    "DOUBLE",
    "MESHES",
    "Case",
    "Input",
    "Laid",
    "any_layout",
    "bools",
    "case",
    "check",
    "check_slopes",
    "check_values",
    "collectives",
    "compare",
    "drawn",
    "floats",
    "given",
    "ints",
    "layout_error",
    "layouts",
    "named",
    "random",
    "run",
    "sent",
    "ties",
    "trace_cases",
    "trace_error",
    "twice",
]

#: how far a result may be from that of one processor, times max(1, its largest value)
CLOSE = 1e-12
#: the same after optimizer steps, in which differences grow
CLOSE_AFTER_STEPS = 1e-9


# -- checks --------------------------------------------------------------------------------------

Cases = Case | Sequence[Case]


def check(cases: Cases, laid: Laid, steps: int = 1) -> None:
    """Values, gradients and variables under a layout are those of one processor.

    With more `steps` the program is called so many times, and may move a little further apart.
    """
    wanted, found = run(cases, ALONE, steps), run(cases, laid, steps)
    exact = {c.name for c in _tuple(cases) if c.exact}
    assert list(found) == list(wanted)
    for path, array in found.items():
        compare(
            path,
            array,
            wanted[path],
            0.0 if path.split("/")[0] in exact else CLOSE if steps == 1 else CLOSE_AFTER_STEPS,
        )


def check_values(cases: Cases) -> None:
    """The values on one processor are those of the oracles in NumPy. Every case has one."""
    found = run(cases, ALONE)
    for each in _tuple(cases):
        assert each.oracle is not None, f"{each.name} has no oracle"
        wanted = dict(named(each.oracle(*each.arrays.values()), f"{each.name}/value"))
        mine = {path: a for path, a in found.items() if path.startswith(f"{each.name}/value")}
        assert list(mine) == list(wanted)
        for path, array in mine.items():
            compare(path, array, np.asarray(wanted[path]), 0.0 if each.exact else CLOSE)


def check_slopes(cases: Cases, step: float = 1e-5, tolerance: float = 1e-6) -> None:
    """Gradients on one processor are what central differences say, in a random direction."""
    cases = _tuple(cases)
    executable, arrays = _lowered(cases, ALONE)
    _restart(executable)
    start = {**arrays, **{v: executable[v] for v in executable.plan.variables}}
    movable = [n for n, a in start.items() if a.dtype == np.float64]
    ways = {n: random("direction", n).normal(size=start[n].shape) for n in movable}
    here = _call(executable, arrays)
    ahead, back = (
        _call_at(executable, arrays, {n: start[n] + sign * step * ways[n] for n in movable})
        for sign in (1.0, -1.0)
    )
    for each in cases:
        slope = (_weighted(each, ahead) - _weighted(each, back)) / (2.0 * step)
        terms = [
            array * ways[_moved(path, ways)]
            for path, array in here.items()
            if path.startswith(f"{each.name}/gradient/")
        ]
        assert terms, f"{each.name} has no gradient"
        stated = sum(t.sum() for t in terms)
        scale = max(1.0, sum(np.abs(t).sum() for t in terms))
        assert abs(slope - stated) <= tolerance * scale, f"{each.name}: {slope} is not {stated}"


def trace_error(error: type[ml.MeshlangError], fn: Callable[..., Any], **inputs: Any) -> str:
    """The text with which a function of these inputs is refused while it is traced."""
    with pytest.raises(error) as caught:
        trace(fn, inputs)
    return str(caught.value)


def layout_error(
    fn: Callable[..., Any], mesh: str, layout: str, *, params: str = "", **inputs: str | Input
) -> str:
    """The text with which a layout is refused for a function of these inputs."""
    program = trace(fn, inputs)
    with pytest.raises(ml.LayoutError) as caught:
        ml.plan(program, mesh, layout, params=params)
    return str(caught.value)


def compare(path: str, found: np.ndarray, wanted: np.ndarray, close: float) -> None:
    """Equal within `close` times max(1, the largest value); what is not a float is equal.

    Floats shorter than float64 may differ by some of their last bits.
    """
    assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype), (
        f"{path}: {found.shape} {found.dtype} is not {wanted.shape} {wanted.dtype}"
    )
    dtype = found.dtype.name
    if "float" not in dtype or close == 0.0:
        np.testing.assert_array_equal(found, wanted, err_msg=path)
        return
    if dtype != "float64":
        close = 16.0 * (2.0**-7 if dtype == "bfloat16" else float(np.finfo(found.dtype).eps))
        found, wanted = found.astype("float64"), wanted.astype("float64")
    sizes = np.abs(wanted[np.isfinite(wanted)])
    bound = close * max(1.0, sizes.max(initial=0.0))
    np.testing.assert_allclose(found, wanted, rtol=0.0, atol=bound, err_msg=path)


# -- running -------------------------------------------------------------------------------------


def run(cases: Cases, laid: Laid, steps: int = 1) -> dict[str, np.ndarray]:
    """All results, gradients and variables by their path, e.g. ``"add/gradient/x"``."""
    cases = _tuple(cases)
    return _run_alone(cases, steps) if laid == ALONE else _run(cases, laid, steps)


def _tuple(cases: Cases) -> tuple[Case, ...]:
    return (cases,) if isinstance(cases, Case) else tuple(cases)


@lru_cache(maxsize=32)
def _run_alone(cases: tuple[Case, ...], steps: int) -> dict[str, np.ndarray]:
    return _run(cases, ALONE, steps)


def _run(cases: tuple[Case, ...], laid: Laid, steps: int) -> dict[str, np.ndarray]:
    executable, arrays = _lowered(cases, laid)
    _restart(executable)
    found: dict[str, np.ndarray] = {}
    for i in range(steps):
        results = _call(executable, arrays)
        found.update(
            {f"{path} of step {i}" if steps > 1 else path: a for path, a in results.items()}
        )
    return found | {name: executable[name] for name in executable.plan.variables}


def _lowered(cases: tuple[Case, ...], laid: Laid) -> tuple[ml.Executable, dict[str, np.ndarray]]:
    if laid == ALONE:
        return _lowered_alone(cases)
    program, arrays = trace_cases(cases)
    planned = ml.plan(program, laid.mesh, laid.layout, params=laid.params, slots=laid.slots)
    return ml.lower(planned, backend=laid.backend), arrays


@lru_cache(maxsize=32)
def _lowered_alone(cases: tuple[Case, ...]) -> tuple[ml.Executable, dict[str, np.ndarray]]:
    program, arrays = trace_cases(cases)
    return ml.lower(ml.plan(program), backend="simulated"), arrays


def _restart(executable: ml.Executable) -> None:
    executable.initialize(seed=0)


def _call(executable: ml.Executable, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {path: result.numpy() for path, result in named(executable(**arrays))}


def _call_at(
    executable: ml.Executable, arrays: Mapping[str, np.ndarray], moved: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """A call with inputs and variables moved."""
    _restart(executable)
    for name in executable.plan.variables:
        if name in moved:
            executable.set(name, moved[name])
    return _call(executable, {n: moved.get(n, a) for n, a in arrays.items()})


def _moved(path: str, names: Iterable[str]) -> str:
    """The input or variable whose gradient stands under a path."""
    owner, name = path.split("/gradient/")
    return f"{owner}/{name}" if f"{owner}/{name}" in names else name


def _weighted(each: Case, found: Mapping[str, np.ndarray]) -> float:
    values = [a for path, a in found.items() if path.startswith(f"{each.name}/value")]
    ys = [y for y in values if y.dtype.kind == "f"]
    return sum(float(np.sum(y * Weights.array(i, y.shape))) for i, y in enumerate(ys))


def sent(fn: Callable[..., Any], mesh: str, layout: str, **inputs: str | Input) -> dict[str, float]:
    """Elements that each processor sends, by kind of collective and axes.

    >>> sent(lambda x: ml.sum(x, "batch"), "r:2", "batch:r", x="batch:8 d:16")
    {'all_reduce r': 16.0}
    """
    traffic = ml.plan(trace(fn, inputs), mesh, layout).cost.traffic
    return {f"{kind} {'+'.join(axes)}": t.wire_elements for (kind, axes), t in traffic.items()}


def collectives(
    fn: Callable[..., Any],
    mesh: str,
    layout: str = "",
    *,
    params: str = "",
    slots: str = "",
    **inputs: str | Input,
) -> list[str]:
    """The collectives of a plan in order, each with its trips if it stands in a loop.

    >>> collectives(lambda x: ml.sum(x, "batch"), "r:2", "batch:r", x="batch:8 d:16")
    ['all_reduce over r']
    """
    planned = ml.plan(trace(fn, inputs), mesh, layout, params=params, slots=slots)
    return [
        f"{step.kind} over {'+'.join(step.axes)}" + (f", {trips} trips" if trips > 1 else "")
        for step, trips in walk(planned.steps)
        if isinstance(step, Collective)
    ]
