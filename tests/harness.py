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

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

import meshlang as ml
from meshlang.layout.cost import walk
from meshlang.layout.values import Collective
from meshlang.program import FLOATS

DOUBLE = ml.Precision("float64", "float64", "float64")
MESHES = ("", "r:2 c:2", "all:8", "r:2 c:4", "a:2 b:2 c:2")
BACKENDS = ("simulated", "spmd")
#: what `drawn` draws with; another number is another choice of layouts for `make test`
DRAW = 2018
#: how far a result may be from that of one processor, times max(1, its largest value)
CLOSE = 1e-12
#: the same after optimizer steps, in which differences grow
CLOSE_AFTER_STEPS = 1e-9


# -- cases ---------------------------------------------------------------------------------------


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


# -- layouts -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Laid:
    """A mesh, the tables, and the backend that runs it."""

    mesh: str = ""
    layout: str = ""
    backend: str = "simulated"
    params: str = ""
    slots: str = ""

    def __str__(self) -> str:
        tables = [("params", self.params), ("slots", self.slots)]
        more = "".join(f" {what}={table}" for what, table in tables if table)
        return f"{self.backend} [{self.mesh}] {self.layout}{more}"


ALONE = Laid()


def layouts(dims: str) -> tuple[Laid, ...]:
    """Ways to divide dims: each along each axis, two along two, one along several, on all meshes.

    >>> [str(laid) for laid in layouts("batch")][:3]
    ['simulated [] ', 'simulated [r:2 c:2] batch:r', 'simulated [r:2 c:2] batch:c+r']
    """
    names = dims.split()
    found = [ALONE]
    for mesh in MESHES[1:]:
        axes = [word.split(":")[0] for word in mesh.split()]
        for i in range(len(names)):
            turned = [*names[i:], *names[:i]]
            pairs = zip(turned, axes, strict=False)
            found.append(Laid(mesh, " ".join(f"{n}:{a}" for n, a in pairs)))
            if len(axes) > 1:
                others = [f"{turned[1]}:{axes[0]}"] if len(names) > 1 and len(axes) > 2 else []
                taken = axes[:0:-1] if others else axes[::-1]
                found.append(Laid(mesh, " ".join([f"{turned[0]}:{'+'.join(taken)}", *others])))
    return tuple(dict.fromkeys(found))


@st.composite
def any_layout(draw: st.DrawFn, dims: str, backends: Sequence[str] = BACKENDS) -> Laid:
    """For Hypothesis: each axis of a mesh divides one of the dims, or none; in any order."""
    mesh = draw(st.sampled_from(MESHES))
    axes = [word.split(":")[0] for word in mesh.split()]
    where: dict[str, list[str]] = {}
    for axis in draw(st.permutations(axes)):
        name = draw(st.sampled_from(["", *dims.split()]))
        if name:
            where.setdefault(name, []).append(axis)
    layout = " ".join(f"{name}:{'+'.join(axes)}" for name, axes in where.items())
    return Laid(mesh, layout, draw(st.sampled_from(backends)))


def drawn(name: str, pool: Iterable[Laid], draws: int = 4) -> list[Any]:
    """Parameters for pytest: every layout on both backends, all but a few of them marked slow.

    Which are not is drawn by `DRAW` and the name, so that meshes and backends all occur.
    """
    every = [replace(laid, backend=backend) for laid in pool for backend in BACKENDS]
    rest = list(every)
    Random(f"{DRAW}/{name}").shuffle(rest)
    taken: list[Laid] = []
    while rest and len(taken) < draws:

        def often(laid: Laid) -> tuple[int, int]:
            return (
                sum(t.mesh == laid.mesh for t in taken) + (laid.mesh == ""),
                sum(t.backend == laid.backend for t in taken),
            )

        taken.append(min(rest, key=often))
        rest.remove(taken[-1])
    return [
        pytest.param(laid, id=str(laid), marks=[] if laid in taken else [pytest.mark.slow])
        for laid in every
    ]


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
        _trace(fn, inputs)
    return str(caught.value)


def layout_error(
    fn: Callable[..., Any], mesh: str, layout: str, *, params: str = "", **inputs: str | Input
) -> str:
    """The text with which a layout is refused for a function of these inputs."""
    program = _trace(fn, inputs)
    with pytest.raises(ml.LayoutError) as caught:
        ml.plan(program, mesh, layout, params=params)
    return str(caught.value)


def _trace(fn: Callable[..., Any], inputs: Mapping[str, str | Input]) -> ml.Program:
    made = {n: _input(wanted) for n, wanted in inputs.items()}
    specs = {n: ml.spec(wanted.shape, wanted.dtype) for n, wanted in made.items()}
    return ml.trace(lambda **xs: fn(*xs.values()), precision=DOUBLE, **specs)


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
    program, arrays = _traced(cases)
    planned = ml.plan(program, laid.mesh, laid.layout, params=laid.params, slots=laid.slots)
    return ml.lower(planned, backend=laid.backend), arrays


@lru_cache(maxsize=32)
def _lowered_alone(cases: tuple[Case, ...]) -> tuple[ml.Executable, dict[str, np.ndarray]]:
    program, arrays = _traced(cases)
    return ml.lower(ml.plan(program), backend="simulated"), arrays


@lru_cache(maxsize=32)
def _traced(cases: tuple[Case, ...]) -> tuple[ml.Program, dict[str, np.ndarray]]:
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
    planned = ml.plan(_trace(fn, inputs), mesh, layout, params=params, slots=slots)
    return [
        f"{step.kind} over {'+'.join(step.axes)}" + (f", {trips} trips" if trips > 1 else "")
        for step, trips in walk(planned.steps)
        if isinstance(step, Collective)
    ]
