"""`recompute` and `custom_gradient`: values, slopes, layouts, what is saved, what runs, errors."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2

import meshlang as ml
from tests.harness import (
    Laid,
    case,
    check,
    check_slopes,
    check_values,
    compare,
    drawn,
    layouts,
    run,
    trace_error,
)

WEIGHTS = ml.normal_init(0.3)
PLAIN = lambda fn: fn  # noqa: E731  (stands for ml.recompute)
Wrap = Callable[[Callable[..., Any]], Callable[..., Any]]


def layer(h: ml.Tensor) -> ml.Tensor:
    a = ml.variable("in", "d:16 f:24", init=WEIGHTS)
    b = ml.variable("out", "f:24 d:16", init=WEIGHTS)
    hidden = ml.tanh(ml.einsum(ml.sin(h), a, reduce="d"))
    return h + ml.einsum(hidden, b, reduce="f")


# -- the same as without it ----------------------------------------------------------------------


def composed(wrap: Wrap) -> Callable[..., Any]:
    """Two calls in a row, a dict, a value from around, one that is only used by the first."""

    def fn(x: ml.Tensor, y: ml.Tensor) -> Any:
        def inner(x: ml.Tensor) -> Any:
            s = ml.exp(ml.sin(x)) * ml.cos(ml.range("d:16", "compute"))
            return {"a": ml.softmax(s * y, "d"), "b": ml.sum(s, "batch")}

        found = wrap(inner)(x)
        return wrap(lambda a, b: ml.tanh(a * b) * y)(found["a"], found["b"])

    return fn


def composed_in_numpy(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    s = np.exp(np.sin(x)) * np.cos(np.arange(16.0))
    e = np.exp(s * y)
    return np.tanh(e / e.sum(-1, keepdims=True) * s.sum(0)) * y


def deep(wrap: Wrap) -> Callable[..., Any]:
    """In a scan, with variables, and in it again."""

    def fn(x: ml.Tensor) -> Any:
        return ml.scan(lambda h, _: (wrap(layer)(h), None), x, over="layers:3")[0]

    return fn


def around(wrap: Wrap) -> Callable[..., Any]:
    """A scan inside of it, with its own inside of that."""

    def fn(x: ml.Tensor) -> Any:
        return wrap(deep(wrap))(x)

    return fn


def dropped(wrap: Wrap) -> Callable[..., Any]:
    """Random numbers: the same ones again, in the open and in a scan."""

    def fn(x: ml.Tensor) -> Any:
        def noisy(h: ml.Tensor) -> ml.Tensor:
            return ml.dropout(ml.sin(h), 0.3) * ml.random_normal("d:16")

        h = wrap(noisy)(x)
        return ml.scan(lambda h, _: (wrap(noisy)(h) + h, None), h, over="n:3")[0]

    return fn


def second(wrap: Wrap) -> Callable[..., Any]:
    def fn(x: ml.Tensor) -> Any:
        y = wrap(lambda x: ml.exp(ml.sin(x)) * ml.sum(x, "d"))(deep(wrap)(x))
        (slope,) = ml.gradients(ml.sum(y * y), [x])
        return slope * slope

    return fn


def branched(wrap: Wrap) -> Callable[..., Any]:
    """Branches, and loops of unknown length, inside of it."""

    def fn(x: ml.Tensor) -> Any:
        def inner(x: ml.Tensor) -> ml.Tensor:
            y = ml.cond(ml.sum(x) > 0.0, lambda: ml.sin(x), lambda: ml.cos(x))
            return ml.while_loop(
                lambda z: ml.sum(z * z) > 1.0, lambda z: ml.sin(z) * 0.5, y, max_trips=20
            )

        return wrap(inner)(x)

    return fn


def stateful(wrap: Wrap) -> Callable[..., Any]:
    """Variables read and assigned inside: once, and as they were."""

    def fn(x: ml.Tensor) -> Any:
        def inner(x: ml.Tensor) -> ml.Tensor:
            scale = ml.variable("scale", "", init=0.5)
            w = ml.variable("w", "d:16", init=WEIGHTS)
            y = ml.exp(ml.sin(x * w) * scale)
            count = ml.variable("count", "", init=1.0, trainable=False)
            ml.assign(count, count + 1.0)
            ml.assign(w, ml.trainable_variables()[-1] * 2.0)
            return ml.sin(y * ml.variable("count", "", init=1.0, trainable=False))

        y = wrap(inner)(x)
        return ml.gradients(ml.sum(y), [x])[0], y

    return fn


BUILT = {
    "composed": composed,
    "deep": deep,
    "around": around,
    "dropped": dropped,
    "second": second,
    "branched": branched,
    "stateful": stateful,
}
SHAPES = {name: {"x": "batch:8 d:16"} for name in BUILT} | {
    "composed": {"x": "batch:8 d:16", "y": "batch:8 d:16"}
}
CASES = tuple(
    case(
        name,
        fn(ml.recompute),
        composed_in_numpy if name == "composed" else None,
        gradients=name != "stateful",
        **SHAPES[name],
    )
    for name, fn in BUILT.items()
)


def smooth(x: ml.Tensor, w: ml.Tensor) -> Any:
    """A gradient of one's own, equal to the true one; a tuple, a result nobody uses."""

    def value(x: ml.Tensor, w: ml.Tensor) -> Any:
        return ml.sin(x) * w, ml.sum(x)

    def slope(xs: Any, ys: Any, gs: Any) -> Any:
        x, w = xs
        return gs[0] * ml.cos(x) * w + gs[1], ml.sum(gs[0] * ml.sin(x), "batch")

    return ml.custom_gradient(value, slope)(x, w)


def in_a_loop(x: ml.Tensor) -> Any:
    own = ml.custom_gradient(lambda h: h * h, lambda xs, y, g: (2.0 * xs[0] * g,))
    return ml.scan(lambda h, _: (own(ml.sin(h)), None), x, over="n:3")[0]


def bent_twice(x: ml.Tensor, w: ml.Tensor) -> Any:
    """The gradient of the squares of a gradient of one's own."""
    y, total = smooth(x, w)
    slopes = ml.gradients(ml.sum(y * y) + total * total, [x, w])
    return [s * s for s in slopes]


CUSTOM = (
    case(
        "smooth",
        smooth,
        lambda x, w: (np.sin(x) * w, x.sum()),
        x="batch:8 d:16",
        w="d:16",
    ),
    case("in a loop", in_a_loop, x="batch:8 d:16"),
    case("bent twice", bent_twice, x="batch:8 d:16", w="d:16"),
)


def test_values():
    check_values((CASES[0], CUSTOM[0]))


def test_slopes():
    smooth_ones = [c for c in CASES if c.name not in ("branched", "stateful")]
    check_slopes((*smooth_ones, *CUSTOM))


@pytest.mark.parametrize("name", BUILT)
def test_nothing_changes(name: str):
    """Values and gradients are those without it, random numbers as well."""
    plain, again = (
        run(
            case(name, BUILT[name](wrap), gradients=name != "stateful", **SHAPES[name]),
            Laid("r:2", "d:r"),
        )
        for wrap in (PLAIN, ml.recompute)
    )
    assert list(plain) == list(again)
    for path, array in plain.items():
        compare(path, again[path], array, 1e-13)


KEPT = (Laid("r:2 c:2", "batch:r f:c", params="d:r"), Laid("all:8", "batch:all", slots="d:all"))


@pytest.mark.parametrize("laid", drawn("recompute", (*layouts("batch d f"), *KEPT), draws=3))
def test_layouts(laid: Laid):
    check((*CASES, *CUSTOM), laid)


# -- what it is for ------------------------------------------------------------------------------


def trained(wrap: Wrap, layers: int = 8) -> ml.Plan:
    def fn(x: ml.Tensor) -> Any:
        h = ml.scan(lambda h, _: (wrap(layer)(h), None), x, over=f"layers:{layers}")[0]
        return ml.gradients(ml.sum(h), ml.trainable_variables())

    return ml.plan(ml.trace(fn, x=ml.spec("batch:64 d:16")))


def stacks(plan: ml.Plan) -> list[str]:
    return [line.split(": ")[1] for line in plan.text().splitlines() if " = stack " in line]


def test_a_scan_of_recomputed_layers_stacks_their_inputs_alone():
    """Gradients of the two stacked variables besides."""
    gradients = ["[layers':8 d':16 f':24] float32", "[layers':8 f':24 d':16] float32"]
    assert sorted(stacks(trained(ml.recompute))) == sorted(
        [*gradients, "[layers:8 batch:64 d:16] float32"]
    )
    assert len(stacks(trained(PLAIN))) > 3


def test_peak_memory_is_that_of_the_inputs_and_one_layer():
    hidden, rows = 8 * 64 * 24 * 4, 8 * 64 * 16 * 4
    saved = trained(PLAIN).cost.peak_bytes - trained(ml.recompute).cost.peak_bytes
    assert saved >= hidden + rows // 2


def test_flops_are_those_of_one_more_forward_pass():
    plain, again = trained(PLAIN).cost.flops, trained(ml.recompute).cost.flops
    forward = 8 * 2 * 2 * 64 * 16 * 24
    # Of the last product nobody reads the result: it is not computed again.
    assert (plain, again) == (3 * forward, 3 * forward + forward // 2)


def executed(fn: Callable[..., Any], backend: str, folder: Path) -> Counter[str]:
    """How often TensorFlow's executor ran each kind of op in one call."""
    step = ml.lower(ml.plan(ml.trace(fn, x=ml.spec("d:16"))), backend=backend)
    step.initialize(0)
    x = np.ones(16, np.float32)
    step(x=x)["y"].numpy()
    level = tf.profiler.experimental.ProfilerOptions(host_tracer_level=3)
    with tf.profiler.experimental.Profile(str(folder), level):
        step(x=x)["y"].numpy()
    (record,) = folder.rglob("*.xplane.pb")
    found: Counter[str] = Counter()
    for plane in xplane_pb2.XSpace.FromString(record.read_bytes()).planes:
        for event in (event for line in plane.lines for event in line.events):
            found[plane.event_metadata[event.metadata_id].name.split(":")[-1]] += 1
    return found


@pytest.mark.parametrize("backend", ["spmd", "simulated"])
def test_tensorflow_does_compute_it_again(backend: str, tmp_path: Path):
    """Equal ops would be merged, and their results held from one pass to the other."""

    def of(wrap: Wrap) -> Callable[..., Any]:
        def fn(x: ml.Tensor) -> Any:
            y = wrap(lambda x: ml.sinh(ml.erf(x) * ml.random_uniform("d:16")))(x)
            loss = ml.sum(y * y)
            return {"y": y, "g": ml.gradients(loss, [x])[0]}

        return fn

    plain = executed(of(PLAIN), backend, tmp_path / "plain")
    again = executed(of(ml.recompute), backend, tmp_path / "again")
    assert (plain["Erf"], again["Erf"]) == (1, 2)
    drawing = "StatelessRandomUniformV2"
    assert (plain[drawing], again[drawing]) == (1, 2)


# -- what loops save without being asked --------------------------------------------------------


def saved(trip: Callable[..., Any], **inputs: str) -> list[str]:
    """The stacks of a scan over n:4 and of its gradient."""

    def fn(x: ml.Tensor, **others: ml.Tensor) -> Any:
        last = ml.scan(lambda h, _: (trip(h, **others), None), x, over="n:4")[0]
        return ml.gradients(ml.sum(last), [x])

    return stacks(ml.plan(ml.trace(fn, **{name: ml.spec(dims) for name, dims in inputs.items()})))


def test_of_a_value_and_its_narrow_cast_one_is_saved():
    def trip(h: ml.Tensor) -> ml.Tensor:
        narrow = ml.sin(ml.cast(h, "bfloat16"))
        return h + ml.cast(narrow, "float32") * ml.sin(h)

    assert saved(trip, x="d:16") == [
        "[n:4 d:16] float32",
        "[n:4 d:16] bfloat16",  # not its wide cast
        "[n:4 d:16] float32",  # h, whose narrow cast is made again
    ]


def test_a_narrow_cast_alone_is_saved_alone():
    def trip(h: ml.Tensor) -> ml.Tensor:
        return h + ml.cast(ml.square(ml.cast(h, "bfloat16")), "float32")

    assert saved(trip, x="d:16") == ["[n:4 d:16] bfloat16"]


def test_a_mask_of_ranges_is_made_again():
    """The causal mask of a scanned layer."""

    def trip(h: ml.Tensor) -> ml.Tensor:
        late = ml.range("q:8").expand(k=8) >= ml.range("k:8")
        return ml.sum(ml.where(late, ml.sin(h).expand(q=8), 0.0), "k").rename(q="k")

    assert saved(trip, x="k:8") == ["[n:4 k:8] float32"]


def test_what_is_the_same_in_all_trips_is_computed_once_before_the_loop_back():
    def trip(h: ml.Tensor, w: ml.Tensor) -> ml.Tensor:
        return h * ml.sum(ml.einsum(w, w.rename(d="e"), reduce="m"), "e")

    assert saved(trip, x="d:16", w="d:16 m:8") == []


def test_a_count_of_trips_is_not_saved():
    def fn(x: ml.Tensor) -> Any:
        rows = ml.range("n:4", "float32")
        last = ml.scan(lambda h, i: (h * ml.sin(i), None), x, rows, over="n")[0]
        return ml.gradients(ml.sum(last), [x])

    assert stacks(ml.plan(ml.trace(fn, x=ml.spec("d:16")))) == ["[n:4] float32"]


# -- errors --------------------------------------------------------------------------------------


def test_a_gradient_of_other_dims_is_refused():
    def fn(x: ml.Tensor) -> Any:
        y = ml.custom_gradient(lambda x: x * x, lambda xs, y, g: (ml.sum(g),))(x)
        return ml.gradients(ml.sum(y), [x])

    assert (
        trace_error(ml.DimError, fn, x="d:8")
        == """\
custom_gradient: gradients have the nesting, dims and dtypes of the operands.
  operands   0 [d:8] float64
  gradients  0 [] float64
  fix: return one for each operand, in its place, or None for zeros"""
    )


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: ml.recompute(ml.sin)(1.0), "ml.recompute"),
        (lambda: ml.custom_gradient(ml.sin, lambda xs, y, g: g)(1.0), "ml.custom_gradient"),
    ],
)
def test_they_belong_to_a_program(call: Callable[[], Any], name: str):
    with pytest.raises(ml.ProgramError) as caught:
        call()
    assert (
        str(caught.value)
        == f"""\
{name} belongs to a program, and none is being traced.
  fix: call it inside of the function given to ml.trace or ml.run"""
    )
