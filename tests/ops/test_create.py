"""Constants, ranges, random numbers: NumPy, Philox, layouts, statistics, errors."""

from collections.abc import Callable
from math import erfc
from typing import Any

import numpy as np
import pytest
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st

import meshlang as ml
from meshlang.program import DTYPES
from tests.harness import (
    DOUBLE,
    Laid,
    any_layout,
    case,
    check,
    check_slopes,
    check_values,
    drawn,
    layouts,
    run,
    trace_error,
)

LAYOUTS = layouts("batch d f")
ARRAY = np.arange(8 * 16 * 24).reshape(8, 16, 24)


# -- constants and ranges ------------------------------------------------------------------------


def array_of(dtype: str) -> np.ndarray:
    return ARRAY % 2 == 1 if dtype == "bool" else ARRAY % 100


NEW = (
    *(
        case(
            f"constant {dtype}",
            lambda d=dtype: ml.constant(array_of(d), "batch d f", d),
            lambda d=dtype: array_of(d).astype(d),
        )
        for dtype in DTYPES
        if dtype != "bfloat16"
    ),
    case("zeros", lambda: ml.zeros("f:24 d:16"), lambda: np.zeros((24, 16))),
    case("ones", lambda: ml.ones("d:16", "int32"), lambda: np.ones(16, "int32")),
    case("twin", lambda: ml.range("f*:24"), lambda: np.arange(24, dtype="int32")),
    case("full", lambda: ml.full("batch:8 f:24", -1.5), lambda: np.full((8, 24), -1.5)),
    case("true", lambda: ml.full("batch:8", True, "bool"), lambda: np.full(8, True)),
    case("scalar", lambda: ml.constant(2.5, ""), lambda: np.array(2.5)),
    case(
        "like",
        lambda x: [ml.zeros_like(x), ml.ones_like(x, "int32"), ml.full_like(x, 2.5)],
        lambda x: [np.zeros_like(x), np.ones_like(x, "int32"), np.full_like(x, 2.5)],
        gradients=False,
        x="batch:8 d:16",
    ),
    case("eye", lambda: ml.eye("batch:8 d:16"), lambda: np.eye(8, 16)),
    case(
        "eye of ints", lambda: ml.eye("f:24 d:16", "int32"), lambda: np.eye(24, 16, dtype="int32")
    ),
    case("range", lambda: ml.range("f:24"), lambda: np.arange(24, dtype="int32")),
    case("range of floats", lambda: ml.range("d:16", "high"), lambda: np.arange(16.0)),
    case(
        "range of a dim", lambda: ml.range(ml.Dim("batch", 8)), lambda: np.arange(8, dtype="int32")
    ),
)


def test_values_are_those_of_numpy():
    check_values(NEW)


@pytest.mark.parametrize("laid", drawn("constants", LAYOUTS))
def test_layouts_change_nothing_in_constants(laid: Laid):
    check(NEW, laid)


def test_the_dtype_of_a_constant():
    def dtype(value: Any, dims: str = "") -> str:
        return ml.constant(value, dims).dtype

    found = [dtype(1.0), dtype(1), dtype(True), dtype([1], "d"), dtype(np.float32(1))]
    assert found == ["float32", "int32", "bool", "int32", "float32"]
    assert ml.trace(lambda: ml.constant(1.0, ""), precision=DOUBLE).outputs[0].dtype == "float64"


def test_sizes_of_a_constant_may_be_written():
    assert ml.constant(np.zeros((2, 3)), "a:2 b*").shape == ml.Shape.parse("a:2 b*:3")


# -- random numbers ------------------------------------------------------------------------------

SHAPES = ("batch:8 d:16 f:24", "f:24 batch:8", "d:16 g:3", "batch:8 d*:16", "g:5 batch:8 h:7")


def random_cases() -> list[Any]:
    made: dict[str, Callable[[str], ml.Tensor]] = {
        "uniform": ml.random_uniform,
        "scaled": lambda shape: ml.random_uniform(shape, low=-2.0, high=5.0),
        "normal": ml.random_normal,
        "bernoulli": lambda shape: ml.random_bernoulli(shape, 0.3),
        "short": lambda shape: ml.random_uniform(shape, dtype="bfloat16"),
        "trips": over_trips,
    }
    return [
        case(f"{name} {shape}", lambda f=fn, s=shape: f(s), exact=True)
        for name, fn in made.items()
        for shape in (SHAPES if name == "uniform" else SHAPES[:2])
    ]


def over_trips(shape: str) -> ml.Tensor:
    """A draw in each of three trips."""
    return ml.scan(lambda c, x: (c, ml.random_uniform(shape)), 0.0, over="trip:3")[1]


def initial_values() -> list[ml.Tensor]:
    inits = {
        "normal": ml.normal_init(0.3),
        "truncated": ml.truncated_normal_init(2.0),
        "uniform": ml.uniform_init(0.5),
        "constant": ml.constant_init(3.0),
    }
    return [ml.variable(name, SHAPES[0], init=init) for name, init in inits.items()]


RANDOM = (*random_cases(), case("initial values", initial_values, gradients=False, exact=True))


@pytest.mark.parametrize("laid", drawn("random bits", LAYOUTS, draws=5))
def test_random_bits_are_equal_on_every_mesh_and_layout(laid: Laid):
    check(RANDOM, laid)


@pytest.mark.slow
@for_all(any_layout("batch d f"))
@settings(max_examples=20)
def test_random_bits_are_equal_under_any_layout(laid: Laid):
    check(RANDOM, laid)


def philox(key: int, counter: int) -> list[int]:
    """Four words of 32 bits: Philox4x32 of ten rounds, Salmon et al., 2011."""
    low = 2**32 - 1
    words = [counter >> 32 * i & low for i in range(4)]
    keys = [key & low, key >> 32]
    for _ in range(10):
        first, second = 0xD2511F53 * words[0], 0xCD9E8D57 * words[2]
        words = [
            second >> 32 ^ words[1] ^ keys[0],
            second & low,
            first >> 32 ^ words[3] ^ keys[1],
            first & low,
        ]
        keys = [keys[0] + 0x9E3779B9 & low, keys[1] + 0xBB67AE85 & low]
    return words


def test_philox_has_its_published_answers():
    """From the known-answer tests of Random123, the authors' library."""
    assert philox(0, 0) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert philox(2**64 - 1, 2**128 - 1) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]


def test_uniform_numbers_are_philox_of_the_element_index():
    """The first op of a program has the key 1 under the seed 0; the low 23 bits make a number."""
    found = ml.run(lambda: ml.random_uniform("a:3 b:5"))
    bits = [word & 0x7FFFFF for i in range(4) for word in philox(1, i)][:15]
    np.testing.assert_array_equal(found.ravel(), np.array(bits) * 2.0**-23)


def test_a_number_depends_on_its_index_alone():
    long, short = (ml.run(lambda n=n: ml.random_normal(f"d:{n}")) for n in (100, 37))
    np.testing.assert_array_equal(long[:37], short)


def distinct(*arrays: np.ndarray) -> bool:
    """Whether no two hold any number at the same place."""
    return all((a != b).all() for i, a in enumerate(arrays) for b in arrays[:i])


def test_ops_seeds_and_trips_differ():
    def draws() -> list[ml.Tensor]:
        trips = over_trips("d:64")
        return [ml.random_uniform("d:64"), ml.random_uniform("d:64"), trips]

    one, other, trips = ml.run(draws, seed=0)
    assert distinct(one, other, *trips)
    seeds = [ml.run(draws, seed=seed)[0] for seed in (0, 1, 2**40, -1)]
    assert distinct(*seeds)
    np.testing.assert_array_equal(seeds[0], one)


def test_steps_differ_and_repeat_from_a_seed():
    def draw() -> ml.Tensor:
        count = ml.variable("count", "", init=0.0, trainable=False)
        ml.assign(count, count + 1.0)
        return ml.random_uniform("d:64")

    executable = ml.lower(ml.plan(ml.trace(draw)))
    executable.initialize(seed=3)
    first = [executable().numpy() for _ in range(3)]
    executable.initialize(seed=3)
    again = [executable().numpy() for _ in range(3)]
    assert distinct(*first)
    np.testing.assert_array_equal(again, first)


def test_many_nested_loops_over_many_steps_never_repeat():
    def nested(depth: int) -> ml.Tensor:
        if not depth:
            return ml.random_uniform("d:4")
        return ml.scan(lambda c, x: (c, nested(depth - 1)), 0.0, over=f"trip{depth}:4")[1]

    def draws() -> ml.Tensor:
        count = ml.variable("count", "", init=0.0, trainable=False)
        ml.assign(count, count + 1.0)
        return nested(3)

    executable = ml.lower(ml.plan(ml.trace(draws)), backend="simulated")
    executable.initialize()
    rows = np.concatenate([executable().numpy().reshape(-1, 4) for _ in range(4)])
    assert len(np.unique(rows, axis=0)) == len(rows) == 4 * 4**3


def test_a_scan_written_out_draws_the_same():
    def draws(unroll: bool) -> ml.Tensor:
        def trip(total: ml.Tensor, x: Any) -> tuple[ml.Tensor, ml.Tensor]:
            return total, ml.random_normal("d:8")

        return ml.scan(trip, ml.zeros(""), over="trip:3", unroll=unroll)[1]

    loop, written_out = (ml.run(lambda u=u: draws(u)) for u in (False, True))
    np.testing.assert_array_equal(loop, written_out)


# -- distributions -------------------------------------------------------------------------------

MANY = 200_000


def deviation_from(found: np.ndarray, below: Callable[[np.ndarray], np.ndarray]) -> float:
    """The Kolmogorov-Smirnov statistic times the root of the number of draws: 1.95 is 1 in 1000."""
    sorted_ = np.sort(found.astype("float64").ravel())
    steps = np.arange(len(sorted_) + 1) / len(sorted_)
    share = below(sorted_)
    most = max(np.abs(share - steps[:-1]).max(), np.abs(share - steps[1:]).max())
    return float(most * np.sqrt(len(sorted_)))


def normal_below(x: np.ndarray) -> np.ndarray:
    return np.array([0.5 * erfc(-v / np.sqrt(2.0)) for v in x])


def test_distributions():
    def draws() -> dict[str, ml.Tensor]:
        shape = f"n:{MANY}"
        return {
            "uniform": ml.random_uniform(shape),
            "scaled": ml.random_uniform(shape, low=-2.0, high=6.0),
            "normal": ml.random_normal(shape),
            "bernoulli": ml.random_bernoulli(shape, 0.3),
            "truncated": ml.variable("w", shape, init=ml.truncated_normal_init(1.0)),
        }

    found = ml.run(draws)
    assert deviation_from(found["uniform"], lambda x: x) < 1.95
    assert deviation_from(found["scaled"], lambda x: (x + 2.0) / 8.0) < 1.95
    assert deviation_from(found["normal"], normal_below) < 1.95
    tail = normal_below(np.array([-2.0]))[0]
    share = deviation_from(found["truncated"], lambda x: (normal_below(x) - tail) / (1 - 2 * tail))
    assert share < 1.95
    assert abs(found["bernoulli"].mean() - 0.3) < 4.0 * np.sqrt(0.21 / MANY)
    pairs = np.corrcoef([found["uniform"][:-1], found["uniform"][1:], found["scaled"][1:]])
    assert np.abs(pairs - np.eye(3)).max() < 4.0 / np.sqrt(MANY)
    assert found["uniform"].min() >= 0.0
    assert found["uniform"].max() < 1.0
    assert np.abs(found["truncated"]).max() <= 2.0


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_short_uniform_numbers_stay_below_one(dtype: str):
    found = ml.run(lambda: ml.random_uniform("n:10000", dtype=dtype)).astype("float64")
    assert 0.0 <= found.min() < 0.01
    assert 0.99 < found.max() < 1.0


def test_probabilities_may_be_tensors():
    found = ml.run(
        lambda p: ml.random_bernoulli("n:10000 k:3", p),
        p=ml.constant([0.0, 0.5, 1.0], "k"),
    )
    never, sometimes, always = found.mean(0)
    assert (never, always) == (0.0, 1.0)
    assert 0.45 < sometimes < 0.55


# -- dropout -------------------------------------------------------------------------------------

DROPOUT = (
    case("dropout", lambda x: ml.dropout(x, 0.4), x=SHAPES[0]),
    case("shared", lambda x: ml.dropout(x, 0.4, share="d batch"), x=SHAPES[0]),
    case("none", lambda x: ml.dropout(x, 0.0), x=SHAPES[0]),
)


def test_the_gradient_of_dropout_has_its_mask():
    check_slopes(DROPOUT)


@pytest.mark.parametrize("laid", drawn("dropout", LAYOUTS, draws=3))
def test_layouts_change_nothing_in_dropout(laid: Laid):
    check(DROPOUT, laid)


def test_what_dropout_keeps_is_scaled():
    found = run(DROPOUT, Laid())
    x = DROPOUT[0].arrays["x"]
    kept = found["dropout/value"] != 0.0
    np.testing.assert_allclose(found["dropout/value"][kept], x[kept] / 0.6, rtol=1e-12)
    assert abs(kept.mean() - 0.6) < 4.0 * np.sqrt(0.24 / kept.size)
    shared = found["shared/value"] != 0.0
    assert (shared == shared[:1, :1]).all()
    assert 0 < shared[0, 0].sum() < 24
    np.testing.assert_array_equal(found["none/value"], DROPOUT[2].arrays["x"])


# -- laws ----------------------------------------------------------------------------------------


@for_all(st.lists(st.integers(1, 6), min_size=1, max_size=3), st.integers(0, 2**31))
@settings(max_examples=15)
def test_merging_dims_keeps_the_bits(sizes: list[int], seed: int):
    """The counter runs over the elements in declared order, however they are named."""
    shape = " ".join(f"d{i}:{size}" for i, size in enumerate(sizes))
    parts = ml.run(lambda: ml.random_uniform(shape), seed=seed)
    flat = ml.run(lambda: ml.random_uniform(f"n:{np.prod(sizes)}"), seed=seed)
    np.testing.assert_array_equal(parts.ravel(), flat)


# -- errors --------------------------------------------------------------------------------------


def refused(error: type[ml.MeshlangError], call: Callable[[], Any]) -> str:
    with pytest.raises(error) as caught:
        call()
    return str(caught.value)


def test_a_constant_has_the_sizes_of_its_array():
    assert (
        refused(ml.ArrayError, lambda: ml.constant(np.zeros((2, 3)), "a:2 b:4"))
        == """\
constant: the array does not have the sizes of the shape.
  array  [2, 3]
  shape  [a:2 b:4]
  fix: leave the sizes out, or give those of the array"""
    )
    assert (
        refused(ml.ArrayError, lambda: ml.constant(np.zeros((2, 3)), "a"))
        == """\
constant: 1 names for 2 dims.
  array  [2, 3]
  names  'a'
  fix: give one name for each dim, outermost first"""
    )


@pytest.mark.parametrize(
    ("value", "dtype", "held"),
    [(2**40, None, "int32"), (-1, "uint8", "uint8"), (0.5, "int32", "int32")],
)
def test_integers_of_a_constant_are_kept(value: float, dtype: str | None, held: str):
    given = np.asarray(value).dtype
    assert (
        refused(ml.ArrayError, lambda: ml.constant([value], "d", dtype))
        == f"""\
constant: the array has elements that {held} cannot hold.
  array  [1] {given}
  fix: give another dtype=, or an array that fits"""
    )
    with pytest.raises(ml.ArrayError):
        ml.constant([np.nan], "d", "int32")


@pytest.mark.parametrize("shape", ["a:2", "a:2 b:2 c:2"])
def test_an_eye_has_two_dims(shape: str):
    text = refused(ml.DimError, lambda: ml.eye(shape))
    assert text == f"eye: it has two dims.\n  dims  [{shape}]\n  fix: 'row:4 column:4'"


def test_unknown_dtypes():
    assert (
        refused(ml.DtypeError, lambda: ml.zeros("d:2", "flaot32"))
        == """\
no dtype 'flaot32'.
  fix: did you mean 'float32'?"""
    )


def test_a_range_runs_along_one_dim_with_a_size():
    assert (
        refused(ml.DimError, lambda: ml.range("a:2 b:3"))
        == """\
range: it runs along one dim.
  dims  [a:2 b:3]
  fix: 'length:128'"""
    )
    assert (
        refused(ml.DimError, lambda: ml.range("length"))
        == """\
dim 'length' needs a size here.
  shape  length
  fix: length:SIZE"""
    )
    assert (
        refused(ml.DtypeError, lambda: ml.range("a:2", "bool"))
        == """\
range: bool does not count.
  fix: dtype='int32'"""
    )


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("uniform", lambda: ml.random_uniform("d:2")),
        ("normal", lambda: ml.random_normal("d:2")),
        ("uniform", lambda: ml.random_bernoulli("d:2", 0.5)),
        ("uniform", lambda: ml.dropout(ml.constant([1.0], "d"), 0.5)),
    ],
)
def test_random_numbers_need_a_program(name: str, call: Callable[[], Any]):
    assert (
        refused(ml.ProgramError, call)
        == f"""\
ml.random_{name} belongs to a program, and none is being traced.
  fix: call it inside of the function given to ml.trace or ml.run"""
    )


def test_random_numbers_are_floats():
    text = trace_error(ml.DtypeError, lambda: ml.random_uniform("d:2", 0, 9, "int32"))
    assert (
        text
        == """\
random_uniform makes floats, not int32.
  fix: draw floats and ml.cast what is made of them, or ml.random_integers"""
    )


@pytest.mark.parametrize("rate", [1.0, -0.1, float("nan")])
def test_the_rate_of_dropout(rate: float):
    text = trace_error(ml.ArrayError, lambda x: ml.dropout(x, rate), x="d:2")
    assert text == f"dropout: rate {rate} is not in [0, 1)."


def test_dropout_of_integers_and_of_unknown_dims():
    assert (
        trace_error(ml.DtypeError, lambda: ml.dropout(ml.ones("d:2", "int32"), 0.5))
        == """\
dropout takes floats.
  operand  [d:2] int32
  fix: ml.cast(x, 'compute')"""
    )
    assert (
        trace_error(ml.DimError, lambda x: ml.dropout(x, 0.5, share="lenght"), x="length:2")
        == """\
no dim named 'lenght'.
  shape  [length:2]
  fix: did you mean 'length'?"""
    )
