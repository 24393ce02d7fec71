"""The layer against the one-hot oracle, Mesh-TensorFlow's results, its layouts and its plans."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import meshlang as ml
from models.errors import ModelError
from models.moe import MixtureOfExperts, SwitchRouter, Top2Router
from models.protocol import FeedForwardSlot, SlotResult
from tests.harness import Laid, case, check, check_slopes, compare, drawn
from tests.models.one_processor import evaluated
from tests.oracles import moe

Array = np.ndarray
PARTS = Path(__file__).parents[2] / "golden" / "mesh_tensorflow" / "parts.npz"

RNG = np.random.default_rng(5)
#: four rows of 8 tokens, in groups of 16: two rows each
X = RNG.standard_normal((4, 8, 6))
GROUPED = X.reshape(2, 16, 6)
PLAIN = {
    "router": RNG.standard_normal((6, 4)),
    "in": RNG.standard_normal((4, 6, 5)),
    "out": RNG.standard_normal((4, 5, 6)),
}
GATED = PLAIN | {"gate": RNG.standard_normal((4, 6, 5))}
LAYER = MixtureOfExperts(
    experts=4,
    d_expert=5,
    router=Top2Router(second_policy="all"),
    group="batch length -> group token:16",
    capacity_factor_train=0.75,
    min_capacity=2,
)
#: the same for the oracle: three places for 16 tokens and four experts
SETTINGS = moe.Settings(second_policy="all", capacity_factor=0.75, min_capacity=2)

VARIANTS = {
    "top2 all": (LAYER, SETTINGS),
    "top2 none, gelu": (
        replace(LAYER, router=Top2Router(second_policy="none"), activation="gelu"),
        replace(SETTINGS, second_policy="none", activation="gelu"),
    ),
    "top2 threshold, gated, losses": (
        replace(
            LAYER,
            router=Top2Router(second_policy="threshold", second_threshold=0.3),
            gated=True,
            activation="silu",
            balance_loss=0.5,
            z_loss=0.25,
        ),
        replace(
            SETTINGS,
            second_policy="threshold",
            second_threshold=0.3,
            activation="silu",
            loss_coefficient=0.5,
            z_loss_coefficient=0.25,
        ),
    ),
    "top2 random": (
        replace(LAYER, router=Top2Router()),
        replace(SETTINGS, second_policy="random"),
    ),
    "fewest places": (
        replace(LAYER, capacity_factor_train=0.1),
        replace(SETTINGS, capacity_factor=0.1),
    ),
    "switch, jitter": (
        replace(LAYER, router=SwitchRouter(jitter=0.5)),
        replace(SETTINGS, gating="switch"),
    ),
}


def laid_out(result: moe.Result) -> dict[str, Any]:
    """The oracle's result under the paths of ours; metrics are already quotients."""
    routing = result.routing
    return {
        "y": result.y.reshape(X.shape),
        "auxiliary": np.asarray(result.aux_loss),
        "fraction_dropped": np.asarray(routing.fraction_dropped),
        "load": routing.load,
        "router_entropy": np.asarray(routing.router_entropy),
    }


@pytest.mark.parametrize("name", VARIANTS)
def test_the_layer_is_the_oracle(name: str) -> None:
    layer, settings = VARIANTS[name]
    values = GATED if layer.gated else PLAIN
    drawn_numbers = {
        "uniform": lambda: ml.random_uniform("group:2 token:16", dtype="high"),
        "jitter": lambda: ml.random_uniform("group:2 token:16 d_model:6", 0.5, 1.5, "high"),
    }
    result = moe.layer(
        GROUPED,
        PLAIN["router"],
        PLAIN["in"],
        PLAIN["out"],
        settings,
        gate_in=GATED["gate"] if layer.gated else None,
        **{key: evaluated(fn, {}) for key, fn in drawn_numbers.items()},
    )
    found = evaluated(lambda x: layer(x, train=True), values, x=(X, "batch length d_model"))
    for metric in ("fraction_dropped", "load", "router_entropy"):
        total, count = (found.pop(f"metrics/{metric}/{i}") for i in (0, 1))
        found[metric] = total / count
    wanted = laid_out(result)
    assert found.keys() == wanted.keys()
    for path, array in found.items():
        compare(path, array, wanted[path], 1e-12)
    assert 0 < found["fraction_dropped"] < 1


def test_evaluation_has_a_capacity_of_its_own() -> None:
    layer = replace(LAYER, capacity_factor_train=1.0, capacity_factor_eval=4.0)
    assert (layer.capacity(16, train=True), layer.capacity(16, train=False)) == (4, 16)
    for train, places in ((True, 4), (False, 16)):
        found = evaluated(lambda x: layer(x, train=train), PLAIN, x=(X, "batch length d_model"))  # noqa: B023
        settings = replace(SETTINGS, capacity_factor=places / 4)
        wanted = moe.layer(GROUPED, PLAIN["router"], PLAIN["in"], PLAIN["out"], settings)
        compare("y", found["y"], wanted.y.reshape(X.shape), 1e-12)
        assert (found["metrics/fraction_dropped/0"] == 0) == (places == 16)


def test_capacity_is_rounded_down_and_the_minimum_wins() -> None:
    cases = [(64, 8, 1.25), (64, 4, 2.0), (38, 8, 1.25), (2, 4, 1.25), (8, 2, 9.0)]
    for tokens, experts, factor in cases:
        layer = MixtureOfExperts(experts=experts, d_expert=1, capacity_factor_train=factor)
        assert layer.capacity(tokens, train=True) == moe.capacity(tokens, experts, factor)


# -- the original ---------------------------------------------------------------------------------

ORIGINAL = {
    "top2_all": Top2Router(second_policy="all"),
    "top2_threshold": Top2Router(second_policy="threshold"),
    "top2_none": Top2Router(second_policy="none"),
    "switch": SwitchRouter(jitter=0.0),
}


def test_layers_are_those_of_mesh_tensorflow() -> None:
    """To 1e-5, in float32, as the original computed them."""
    with np.load(PARTS) as stored:
        parts = dict(stored)
    groups, tokens, d_model = parts["switch/x"].shape
    experts, _, d_expert = parts["switch/wi"].shape

    def layers(**x: ml.Tensor) -> dict[str, Any]:
        results = {}
        for name, router in ORIGINAL.items():
            layer = MixtureOfExperts(
                experts=experts,
                d_expert=d_expert,
                router=router,
                group=f"batch length -> group token:{tokens}",
            )
            with ml.scope(name):
                result = layer(x[name], train=True)
            results[name] = (result.y, result.auxiliary)
        return results

    spec = ml.spec(f"batch:{groups} length:{tokens} d_model:{d_model}")
    program = ml.trace(layers, precision=None, **dict.fromkeys(ORIGINAL, spec))
    mesh, layout = "data:2 model:2", "batch:data group:data experts:data"
    executable = ml.lower(ml.plan(program, mesh, layout), backend="simulated")
    executable.initialize(0)
    for name in ORIGINAL:
        for ours, theirs in (("router", "gate"), ("in", "wi"), ("out", "wo")):
            executable.set(f"{name}/{ours}", parts[f"{name}/{theirs}"])
    found = executable(**{name: parts[f"{name}/x"] for name in ORIGINAL})
    for name, (y, auxiliary) in found.items():
        compare(f"{name}/y", y.numpy(), parts[f"{name}/y"], 1e-5)
        compare(f"{name}/loss", auxiliary.numpy(), parts[f"{name}/loss"], 1e-6)


# -- by hand --------------------------------------------------------------------------------------


def test_six_tokens_two_experts_two_places() -> None:
    """A token without a place gets zeros; expert 1 multiplies by ten."""
    x = np.array([[[3.0, 0], [2, 0], [1, 0], [0, 1], [0, 2], [3, 0]]])
    layer = MixtureOfExperts(
        experts=2,
        d_expert=2,
        router=SwitchRouter(jitter=0.0),
        group="batch length -> group token:6",
        capacity_factor_eval=0.7,
        min_capacity=1,
    )
    values = {"router": np.eye(2), "in": np.stack([np.eye(2)] * 2)}
    values["out"] = values["in"] * np.array([1.0, 10.0])[:, None, None]
    found = evaluated(lambda x: layer(x, train=False), values, x=(x, "batch length d_model"))
    p = 1 / (1 + np.exp(-np.array([3.0, 2, 0, 1, 2, 0])))
    scale = p * [1, 1, 0, 10, 10, 0]
    np.testing.assert_allclose(found["y"], x * scale[None, :, None], rtol=1e-13)
    assert found["metrics/fraction_dropped/0"] / found["metrics/fraction_dropped/1"] == 2 / 6
    np.testing.assert_array_equal(found["metrics/load/0"], [2, 2])


def test_all_tokens_to_one_expert_leave_the_others_without_nan() -> None:
    values = PLAIN | {"router": np.zeros((6, 4))}
    values["router"][0, 2] = 1e3
    x = np.abs(X)

    def fn(x: ml.Tensor) -> Any:
        result = replace(LAYER, router=SwitchRouter(jitter=0.0))(x, train=True)
        loss = ml.sum(result.y) + result.auxiliary
        slopes = ml.gradients(loss, [x, *ml.trainable_variables()])
        names = ["x", *(v.name for v in ml.trainable_variables())]
        return result, dict(zip(names, slopes, strict=True))

    found = evaluated(fn, values, x=(x, "batch length d_model"))
    assert all(np.isfinite(array).all() for array in found.values())
    np.testing.assert_array_equal(found["0/metrics/load/0"], [0, 0, 6, 0])
    idle = [0, 1, 3]
    for name in ("1/in", "1/out"):
        np.testing.assert_array_equal(found[name][idle], 0)
        assert np.abs(found[name][2]).max() > 0


# -- layouts --------------------------------------------------------------------------------------

DIMS = "batch:8 length:8 d_model:8"
EIGHT = MixtureOfExperts(
    experts=8,
    d_expert=8,
    group="batch length -> group token:8",
    min_capacity=2,
    balance_loss=1.0,
    z_loss=1.0,
)
CASES = (
    case("top2", lambda x: EIGHT(x, train=True), x=DIMS),
    case(
        "switch",
        lambda x: replace(EIGHT, router=SwitchRouter(jitter=0.2), gated=True, activation="silu")(
            x, train=True
        ),
        x=DIMS,
    ),
)

LAYOUTS = (
    Laid("all:8", "batch:all group:all experts:all"),
    Laid("all:8", "batch:all group:all"),
    Laid("all:8", "experts:all"),
    Laid("r:2 c:2", "batch:r group:r experts:r"),
    Laid("r:2 c:2", "batch:r group:r experts:r", params="d_model:c d_expert:r"),
    Laid("r:2 c:2", "batch:r experts:c"),
    Laid("r:2 c:4", "batch:r group:r experts:c"),
    Laid("r:2 c:4", "batch:r group:r experts:r d_expert:c"),
    Laid("r:2 c:4", "batch:r+c group:r+c experts:c"),
    Laid("r:2 c:4", "batch:r+c group:r+c experts:r"),
    Laid("r:2 c:4", "d_model:r experts:c", params="experts:r"),
    Laid("a:2 b:2 c:2", "batch:a group:a experts:b+a d_expert:c"),
    Laid("a:2 b:2 c:2", "batch:a group:a experts:a+b"),
    Laid("a:2 b:2 c:2", "batch:b group:a experts:c", params="d_model:a+b"),
)


@pytest.mark.parametrize("laid", drawn("mixture of experts", LAYOUTS))
def test_layouts(laid: Laid) -> None:
    """The same tokens go to the same experts, jitter and random second experts included."""
    check(CASES, laid)


def test_slopes() -> None:
    """The gradient reaches the router through the gates, the balance loss and the z-loss."""
    check_slopes(CASES)


# -- plans ----------------------------------------------------------------------------------------


def planned(
    layer: MixtureOfExperts, layout: str, mesh: str = "data:4", backward: bool = True
) -> ml.Plan:
    def fn(x: ml.Tensor, to: ml.Tensor) -> Any:
        result = layer(x, train=True)
        if not backward:
            return result
        one = ml.constant(1.0, "", result.auxiliary.dtype)
        outputs = [result.y, result.auxiliary]
        slopes = ml.gradients(outputs, [x, *ml.trainable_variables()], [to, one])
        return result.y, slopes

    spec = ml.spec("batch:16 length:64 d_model:32")
    return ml.plan(ml.trace(fn, x=spec, to=spec), mesh, layout)


@pytest.mark.parametrize(("experts", "factor", "payload"), [(8, 1.25, 10240), (4, 2.0, 16384)])
def test_tokens_travel_by_two_all_to_alls_each_way(
    experts: int, factor: float, payload: int
) -> None:
    """Each carries experts x groups / n x capacity x d_model elements."""
    layer = MixtureOfExperts(
        experts=experts,
        d_expert=16,
        router=Top2Router(second_policy="all"),
        group="batch length -> group token:64",
        capacity_factor_train=factor,
    )
    layout = "batch:data group:data experts:data"
    for backward, times in ((False, 2), (True, 4)):
        cost = planned(layer, layout, backward=backward).cost
        traffic = cost.traffic["all_to_all", ("data",)]
        assert (traffic.collectives, traffic.elements) == (times, times * payload)
        assert traffic.wire_elements == times * payload * 3 / 4
        assert {kind for kind, _ in cost.traffic} == {"all_to_all", "all_reduce"}
        assert cost.duplicated_flops == 0


@pytest.mark.parametrize(
    "layout",
    ["batch:model+data group:model+data experts:data", "batch:data group:data experts:model+data"],
)
def test_tokens_travel_once_where_the_shared_axis_is_the_last(layout: str) -> None:
    layer = replace(LAYER, group="batch length -> group token:64")
    cost = planned(layer, layout, "data:2 model:2").cost
    assert cost.traffic["all_to_all", ("data",)].collectives == 4
    assert {kind for kind, _ in cost.traffic} == {"all_to_all", "all_reduce"}


def test_experts_on_an_axis_that_groups_leave_free_cost_two_sums_of_the_activations() -> None:
    """Each processor has all tokens of its groups: it takes those of its experts."""
    layer = replace(LAYER, experts=8, group="batch length -> group token:64")
    cost = planned(layer, "batch:data group:data experts:model", "data:2 model:4").cost
    assert {kind for kind, _ in cost.traffic} == {"all_reduce"}
    activations, gates = 16 * 64 * 32 // 2, 16 * 64 * 2 // 2
    assert cost.over("model").elements == 2 * activations + gates


def test_no_tensor_has_tokens_and_places() -> None:
    """Rows are gathered and scattered, never multiplied with one-hot tensors."""
    plan = planned(replace(LAYER, group="batch length -> group token:64"), "")
    shapes = [value.shape for step in plan.steps for value in step.outputs]
    assert any("capacity" in shape for shape in shapes)
    assert not any("token" in shape and "capacity" in shape for shape in shapes)


# -- precision, errors ----------------------------------------------------------------------------


def test_routing_is_in_high_precision_and_rows_in_compute() -> None:
    narrow = ml.Precision("float32", "bfloat16", "float32")
    spec = ml.spec("batch:4 length:8 d_model:6")
    program = ml.trace(lambda x: LAYER(x, train=True), precision=narrow, x=spec)
    floats = [
        y for node in program.nodes for y in node.outputs if y.dtype in ("float32", "bfloat16")
    ]
    assert {y.dtype for y in floats if "capacity" in y.shape} == {"bfloat16"}
    assert {y.dtype for y in floats if "experts*" in y.shape and len(y.shape) > 1} == {"float32"}
    executable = ml.lower(ml.plan(program), backend="simulated")
    executable.initialize(0)
    for name, value in PLAIN.items():
        executable.set(name, value.astype(np.float32))
    quarters = np.round(4 * X) / 4
    found = executable(x=quarters.astype(np.float32))
    fn = lambda x: LAYER(x, train=True)  # noqa: E731
    wide = evaluated(fn, PLAIN, x=(quarters, "batch length d_model"))
    np.testing.assert_allclose(found.auxiliary.numpy(), wide["auxiliary"], rtol=1e-6)
    compare("y", found.y.numpy().astype(np.float64), wide["y"], 2e-2)


def test_the_layer_fits_a_feed_forward_slot() -> None:
    slot: FeedForwardSlot = LAYER
    results: list[SlotResult] = []

    def fn(x: ml.Tensor) -> ml.Tensor:
        results.append(slot(x, train=False))
        return results[0].y

    program = ml.trace(fn, x=ml.spec("length:8 d_model:6 batch:4"))
    assert program.results.shape == ml.Shape.parse("length:8 d_model:6 batch:4")
    assert set(results[0].metrics) == {"fraction_dropped", "load", "router_entropy"}


ERRORS = {
    "activation": (
        {"activation": "rleu"},
        "MixtureOfExperts.activation is 'rleu', which does not exist.\n"
        "  known  relu gelu silu\n"
        "  fix: did you mean 'relu'?",
    ),
    "experts": (
        {"experts": 1},
        "a mixture has two experts or more.\n"
        "  experts  1\n"
        "  fix: use models.layers.FeedForward for one",
    ),
    "group": (
        {"group": "batch length -> token:16 group"},
        "MixtureOfExperts.group must make the dims group and token.\n"
        "  group  'batch length -> token:16 group'\n"
        "  fix: group='batch length -> group token:128'",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name: str) -> None:
    settings, text = ERRORS[name]
    with pytest.raises(ModelError) as error:
        replace(LAYER, **settings)
    assert str(error.value) == text
