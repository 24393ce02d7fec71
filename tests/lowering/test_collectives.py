"""Both backends against NumPy, over all ordered sets of axes."""

from itertools import permutations

import numpy as np
import pytest
import tensorflow as tf

from meshlang.layout.mesh import Mesh

MESHES = ["", "all:8", "data:2 model:4", "a:2 b:2 c:2", "one:1 three:3 two:2"]
FLOATS = ["float16", "bfloat16", "float32", "float64"]
MOVED = [*FLOATS, "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]


def ordered_axes(mesh: Mesh) -> list[tuple[str, ...]]:
    names = mesh.names
    return [axes for count in range(len(names) + 1) for axes in permutations(names, count)]


def draw(mesh: Mesh, shape: tuple[int, ...], dtype: str = "float64") -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    kind = tf.as_dtype(dtype).as_numpy_dtype
    if dtype == "bool":
        return [rng.random(shape) < 0.6 for _ in range(mesh.size)]
    if tf.as_dtype(dtype).is_floating:
        return [rng.normal(size=shape).astype(kind) for _ in range(mesh.size)]
    ends = np.iinfo(kind)
    return [
        rng.integers(ends.min, ends.max, shape, dtype=kind, endpoint=True) for _ in range(mesh.size)
    ]


def members(mesh: Mesh, blocks: list[np.ndarray], p: int, axes: tuple[str, ...]) -> np.ndarray:
    return np.stack([blocks[q] for q in mesh.group(p, axes)])


def rank(mesh: Mesh, p: int, axes: tuple[str, ...]) -> int:
    return mesh.group(p, axes).index(p)


def check(found: list[np.ndarray], wanted: list[np.ndarray], tolerance: float = 0.0) -> None:
    for got, want in zip(found, wanted, strict=True):
        assert got.shape == want.shape
        assert got.dtype == want.dtype
        if got.dtype == tf.bfloat16.as_numpy_dtype:  # NumPy does not know its NaNs
            got, want = got.astype(np.float32), want.astype(np.float32)
        if tolerance:
            np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)
        else:
            np.testing.assert_array_equal(got, want)


@pytest.fixture(params=MESHES)
def mesh(request: pytest.FixtureRequest) -> Mesh:
    return Mesh.parse(request.param)


def test_all_reduce(run, mesh):
    x, cases = draw(mesh, (3, 2)), ordered_axes(mesh)
    kinds = {"sum": np.sum, "max": np.max, "min": np.min}
    found = run(
        mesh,
        lambda b, v: [b.all_reduce(v[0], axes, kind) for axes in cases for kind in kinds],
        x,
    )
    pairs = [(axes, fn) for axes in cases for fn in kinds.values()]
    for (axes, fn), got in zip(pairs, found, strict=True):
        want = [fn(members(mesh, x, p, axes), axis=0) for p in range(mesh.size)]
        check(got, want, 1e-13 if fn is np.sum else 0.0)


def test_all_reduce_of_a_scalar(run, mesh):
    x = draw(mesh, ())
    (found,) = run(mesh, lambda b, v: [b.all_reduce(v[0], mesh.names, "sum")], x)
    check(found, [np.sum(x)] * mesh.size, 1e-13)


def test_all_gather(run, mesh):
    x = draw(mesh, (3, 1, 2))
    cases = [(axes, dim) for axes in ordered_axes(mesh) for dim in range(3)]
    found = run(mesh, lambda b, v: [b.all_gather(v[0], *case) for case in cases], x)
    for (axes, dim), got in zip(cases, found, strict=True):
        check(got, [np.concatenate(members(mesh, x, p, axes), dim) for p in range(mesh.size)])


def test_reduce_scatter(run, mesh):
    x = draw(mesh, (mesh.size, 3, 2 * mesh.size))
    cases = [(axes, dim) for axes in ordered_axes(mesh) for dim in (0, 2)]
    found = run(mesh, lambda b, v: [b.reduce_scatter(v[0], *case) for case in cases], x)
    for (axes, dim), got in zip(cases, found, strict=True):
        want = []
        for p in range(mesh.size):
            total = members(mesh, x, p, axes).sum(0)
            want.append(np.split(total, mesh.ways(axes), dim)[rank(mesh, p, axes)])
        check(got, want, 1e-13)


def test_all_to_all(run, mesh):
    x = draw(mesh, (mesh.size, 2, 2 * mesh.size))
    cases = [(axes, *d) for axes in ordered_axes(mesh) for d in [(0, 1), (2, 0), (0, 2), (2, 2)]]
    found = run(mesh, lambda b, v: [b.all_to_all(v[0], *case) for case in cases], x)
    for (axes, split, concat), got in zip(cases, found, strict=True):
        want = []
        for p in range(mesh.size):
            pieces = [np.split(m, mesh.ways(axes), split) for m in members(mesh, x, p, axes)]
            mine = rank(mesh, p, axes)
            want.append(np.concatenate([piece[mine] for piece in pieces], concat))
        check(got, want)


def permutations_to_try(size: int) -> list[tuple[int, ...]]:
    rng = np.random.default_rng(size)
    shifts = [tuple((i + by) % size for i in range(size)) for by in (0, 1, -1)]
    drawn = [tuple(rng.permutation(size).tolist())]
    swap = [(1, 0, *range(2, size))] if size > 1 else []
    some = [tuple(max(i - by, -1) for i in range(size)) for by in (1, 2, size)]
    return sorted({*shifts, *drawn, *swap, *some})


def test_permute(run, mesh):
    x = draw(mesh, (2, 3))
    cases = [
        (axes, sources)
        for axes in ordered_axes(mesh)
        for sources in permutations_to_try(mesh.ways(axes))
    ]
    found = run(mesh, lambda b, v: [b.permute(v[0], *case) for case in cases], x)
    for (axes, sources), got in zip(cases, found, strict=True):
        wanted = [sources[rank(mesh, p, axes)] for p in range(mesh.size)]
        sent = [members(mesh, x, p, axes)[source] for p, source in enumerate(wanted)]
        want = [x if s >= 0 else np.zeros_like(x) for x, s in zip(sent, wanted, strict=True)]
        check(got, want)


@pytest.mark.parametrize("dtype", MOVED)
def test_every_dtype_moves_bit_by_bit(run, dtype):
    mesh, axes = Mesh.parse("data:2 model:4"), ("model",)
    x = draw(mesh, (4, 3), dtype)
    gathered, traded, shifted = run(
        mesh,
        lambda b, v: [
            b.all_gather(v[0], axes, 0),
            b.all_to_all(v[0], axes, 0, 0),
            b.permute(v[0], axes, (3, 0, 1, 2)),
        ],
        x,
    )
    for p in range(mesh.size):
        group, mine = members(mesh, x, p, axes), rank(mesh, p, axes)
        check([gathered[p]], [np.concatenate(group)])
        check([traded[p]], [group[:, mine]])
        check([shifted[p]], [group[mine - 1]])


@pytest.mark.parametrize("dtype", [*FLOATS, "int32", "int64"])
def test_sums_of_every_dtype(run, dtype):
    mesh, axes = Mesh.parse("data:2 model:4"), ("model",)
    x = draw(mesh, (4, 3), dtype)
    reduced, scattered = run(
        mesh,
        lambda b, v: [b.all_reduce(v[0], axes, "sum"), b.reduce_scatter(v[0], axes, 0)],
        x,
    )
    tolerance = {"float16": 1e-3, "bfloat16": 1e-2, "float32": 1e-5, "float64": 1e-13}.get(dtype, 0)
    for p in range(mesh.size):
        group = members(mesh, x, p, axes)
        wide = np.float32 if dtype in ("float16", "bfloat16") else group.dtype
        total = group.astype(wide).sum(0).astype(group.dtype)
        check([reduced[p]], [total], tolerance)
        check([scattered[p]], [total[rank(mesh, p, axes)][None]], tolerance)


def test_short_floats_are_summed_in_float32(run):
    mesh = Mesh.parse("all:8")  # in bfloat16, 256 + 1 is 256
    x = [np.array([256.0 if p == 0 else 1.0]).astype(tf.bfloat16.as_numpy_dtype) for p in range(8)]
    x = [np.repeat(block, 8) for block in x]
    reduced, scattered = run(
        mesh,
        lambda b, v: [b.all_reduce(v[0], ("all",), "sum"), b.reduce_scatter(v[0], ("all",), 0)],
        x,
    )
    assert {float(value) for block in reduced for value in block} == {264.0}
    assert {float(value) for block in scattered for value in block} == {264.0}


@pytest.mark.parametrize("dtype", [*FLOATS, "int32", "int64", "bool"])
@pytest.mark.parametrize("kind", ["max", "min"])
def test_maxima_and_minima_of_every_dtype(run, dtype, kind):
    mesh, axes = Mesh.parse("data:2 model:4"), ("model",)
    x = draw(mesh, (4, 3), dtype)
    (found,) = run(mesh, lambda b, v: [b.all_reduce(v[0], axes, kind)], x)
    reduce = np.max if kind == "max" else np.min
    check(found, [reduce(members(mesh, x, p, axes), axis=0) for p in range(mesh.size)])


@pytest.mark.parametrize("dtype", FLOATS)
def test_maxima_and_minima_carry_nans_infinities_and_zeros(run, dtype):
    mesh, nan, inf = Mesh.parse("all:2"), np.nan, np.inf
    kind = tf.as_dtype(dtype).as_numpy_dtype
    tiny = float(np.finfo(kind).tiny) if dtype != "bfloat16" else 2e-38
    x = [
        np.array([nan, -nan, inf, -inf, -1.0, 0.0, tiny, -tiny]).astype(kind),
        np.array([1.0, -1.0, 1.0, -1.0, -2.0, -1.0, 0.0, 0.0]).astype(kind),
    ]
    largest, smallest = run(
        mesh,
        lambda b, v: [b.all_reduce(v[0], ("all",), "max"), b.all_reduce(v[0], ("all",), "min")],
        x,
    )
    check(largest, [np.array([nan, nan, inf, -1.0, -1.0, 0.0, tiny, 0.0]).astype(kind)] * 2)
    check(smallest, [np.array([nan, nan, 1.0, -inf, -2.0, -1.0, 0.0, -tiny]).astype(kind)] * 2)


def test_truth_values_have_no_sum(run):
    mesh = Mesh.parse("all:2")
    with pytest.raises(TypeError, match="sum"):
        run(mesh, lambda b, v: [b.all_reduce(v[0], ("all",), "sum")], [np.array([True])] * 2)
