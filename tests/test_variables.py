"""Variables: made, read, assigned, kept under the tables `params` and `slots`, counted, refused."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import meshlang as ml
from meshlang.dims import Shape
from tests.harness import (
    ALONE,
    Laid,
    bools,
    case,
    check,
    collectives,
    compare,
    drawn,
    layouts,
    run,
)


def lowered(fn: Callable[..., Any], laid: Laid = ALONE, **specs: Any) -> ml.Executable:
    program = ml.trace(fn, **specs)
    planned = ml.plan(program, laid.mesh, laid.layout, params=laid.params, slots=laid.slots)
    executable = ml.lower(planned, backend=laid.backend)
    executable.initialize(seed=0)
    return executable


# -- under all layouts and tables ----------------------------------------------------------------


def trained(x: ml.Tensor, good: ml.Tensor) -> Any:
    """Two layers and an optimizer with slots, written as plain elementwise code."""
    w = ml.variable("w", "d:16 f:24", init=ml.normal_init(0.3))
    v = ml.variable("v", "f:24 e:16", init=ml.normal_init(0.3))
    y = ml.einsum(ml.tanh(ml.einsum(x, w, reduce="d")), v, reduce="f")
    loss = ml.mean(y * y)
    variables = ml.trainable_variables()
    for held, g in zip(variables, ml.gradients(loss, variables), strict=True):
        name = held.name.split("/")[-1]
        momentum = ml.variable(f"{name}_momentum", g.shape, init=0.0)
        rows = ml.variable(f"{name}_rows", ml.sum(g, "f").shape, init=1.0)
        new_rows = 0.5 * rows + ml.mean(g * g, "f")
        new = 0.9 * momentum + g / ml.sqrt(new_rows)
        ml.assign(momentum, new, when=ml.all(good))
        ml.assign(rows, new_rows)
        ml.assign(held, held - 0.1 * new, when=ml.all(good))
    count = ml.variable("count", "", init=3, dtype="int32", trainable=False)
    ml.assign(count, count + ml.step())
    return {
        "loss": loss,
        "step": ml.step(),
        "now": ml.variable("w", "d:16 f:24", init=0.0),
        "count": count,
    }


def assigned(x: ml.Tensor) -> Any:
    """Values in every form: ordinary dims, other orders, whole dims, those of the update."""
    a = ml.variable("a", "d:16 f:24", init=1.0)
    values = {"plain": x, "turned": ml.arrange(x, "f d"), "whole": ml.whole(x, "d")}
    read = {}
    for name, value in values.items():
        ml.assign(a, value * 2.0)
        a = ml.variable("a", "d:16 f:24", init=1.0)
        read[name] = a + 1.0
    (held,) = ml.trainable_variables()[-1:]
    ml.assign(held, held * held)
    return {**read, "kept": ml.variable("a", "d:16 f:24", init=1.0)}


def stacked(x: ml.Tensor) -> Any:
    """Layers in a stack, updated as a stack."""

    def layer(h: ml.Tensor, _: None) -> Any:
        w = ml.variable("w", "d:16 e:16", init=ml.normal_init(0.3))
        return ml.tanh(ml.einsum(h, w, reduce="d").rename(e="d")), None

    h, _ = ml.scan(layer, x, over="layers:3")
    (w,) = ml.trainable_variables()[-1:]
    (g,) = ml.gradients(ml.sum(h * h), [w])
    ml.assign(w, w - 0.1 * g)
    again, _ = ml.scan(layer, x, over="layers:3")
    return h, again


def walked(x: ml.Tensor) -> Any:
    """An optimizer that walks stacks of updates layer by layer: what it stacks is kept as they."""

    def layer(h: ml.Tensor, _: None) -> Any:
        return ml.tanh(h * ml.variable("w", "d:16", init=ml.normal_init(1.0))), None

    h, _ = ml.scan(layer, x, over="layers:3")
    (w,) = ml.trainable_variables()[-1:]
    gradients = ml.gradients(ml.sum(h * h), [w])

    def update(total: ml.Tensor, row: Any) -> Any:
        value, g = row
        total = total + ml.sum(g * g)
        return total, value - g / ml.sqrt(total)

    total, values = ml.scan(update, 0.0, (w, *gradients), over="layers")
    slot = ml.variable("slot", values.shape, init=0.0)
    ml.assign(slot, slot + values)
    ml.assign(w, values)
    return total, h


PROGRAMS = (
    case("trained", trained, gradients=False, x="batch:8 d:16", good=bools("batch:8")),
    case("assigned", assigned, gradients=False, x="d:16 f:24"),
    case("stacked", stacked, gradients=False, x="batch:8 d:16"),
    case("walked", walked, gradients=False, x="batch:8 d:16"),
)
TABLES = (
    Laid("r:2 c:4", "batch:r", params="d:c f:r"),
    Laid("r:2 c:4", "batch:r f:c", params="d:r f:r"),
    Laid("r:2 c:4", "batch:r", slots="f:c d:r"),
    Laid("r:2 c:4", "batch:r e:c", params="d:r", slots="f:c"),
    Laid("all:8", "batch:all", params="d:all"),
    Laid("all:8", "batch:all", slots="f:all"),
    Laid("a:2 b:2 c:2", "batch:a f:b", params="d:a+c", slots="f:c"),
    Laid("a:2 b:2 c:2", "batch:a+b", params="f:a", slots="d:b+c"),
)


@pytest.mark.parametrize("laid", drawn("variables", (*layouts("batch d f")[1:], *TABLES), draws=5))
def test_layouts(laid: Laid):
    check(PROGRAMS, laid, steps=3)


def test_what_is_assigned_is_what_numpy_says():
    made = case("assigned", assigned, gradients=False, x="d:16 f:24")
    found, x = run(made, Laid("r:2 c:4", "d:r", params="f:c")), made.arrays["x"]
    for name in ("plain", "turned", "whole"):
        compare(name, found[f"assigned/value/{name}"], x * 2.0 + 1.0, 1e-12)
    compare("kept", found["assigned/value/kept"], (x * 2.0) ** 2, 1e-12)
    compare("held", found["assigned/a"], (x * 2.0) ** 2, 1e-12)


# -- making and reading --------------------------------------------------------------------------


def test_a_name_in_its_scope_is_one_variable():
    seen = []

    def fn(x: ml.Tensor) -> Any:
        for name in ("encoder", "decoder"):
            with ml.scope(name):
                seen.append(ml.variable("w", "d:2", init=1.0))
                assert ml.variable("w", "d:2", init=1.0) is seen[-1]
        return seen[0] * x + seen[1]

    program = ml.trace(fn, x=ml.spec("d:2"))
    assert list(program.variables) == ["encoder/w", "decoder/w"]
    assert [str(v) for v in program.variables.values()] == [
        "Variable encoder/w [d':2] float32",
        "Variable decoder/w [d':2] float32",
    ]
    assert seen[0] is not seen[1]


def test_trainable_variables_are_listed_in_order():
    listed: list[str] = []

    def fn() -> None:
        ml.variable("b", "d:2", init=1.0)
        ml.variable("count", "", init=0, dtype="int32", trainable=False)
        w = ml.variable("a", "d:2", init=1.0)
        (g,) = ml.gradients(ml.sum(w), [w])
        ml.variable("slot", g.shape, init=1.0)
        listed.extend(v.name for v in ml.trainable_variables())

    ml.trace(fn)
    assert listed == ["b", "a"]


def test_dtypes_follow_the_policy():
    made = {}

    def fn() -> Any:
        made["w"] = ml.variable("w", "d:2", init=1.0)
        made["router"] = ml.variable("router", "d:2", init=1.0, use="high")
        made["table"] = ml.variable("table", "d:2", init=1.0, trainable=False)
        made["count"] = ml.variable("count", "", init=1, dtype="int32")
        made["slot"] = ml.variable(
            "slot", ml.gradients(ml.sum(made["w"]), [made["w"]])[0].shape, init=1.0
        )

    program = ml.trace(fn, precision=ml.Precision("float32", "bfloat16", "float64"))
    assert {n: x.dtype for n, x in made.items()} == {
        "w": "bfloat16",
        "router": "float64",
        "table": "float32",
        "count": "int32",
        "slot": "float32",
    }
    assert {v.dtype for v in program.variables.values()} == {"float32", "int32"}


def test_reads_see_the_latest_assign():
    def fn() -> Any:
        first = ml.variable("w", "d:2", init=1.0)
        ml.assign(first, first + 1.0)
        second = ml.variable("w", "d:2", init=1.0)
        ml.assign(first, second * 10.0)
        (held,) = ml.trainable_variables()
        return first, second, ml.variable("w", "d:2", init=1.0), held + 0.0

    step = lowered(fn)
    assert [float(r.numpy()[0]) for r in step()] == [1.0, 2.0, 20.0, 20.0]
    np.testing.assert_array_equal(step["w"], [20.0, 20.0])
    assert [float(r.numpy()[0]) for r in step()] == [20.0, 21.0, 210.0, 210.0]


@pytest.mark.parametrize("laid", [Laid(), Laid("r:2", "d:r", "spmd")])
def test_assign_under_a_condition(laid: Laid):
    def fn(ok: ml.Tensor) -> Any:
        w = ml.variable("w", "d:2", init=1.0)
        ml.assign(w, w + 1.0, when=ok)
        return ml.variable("w", "d:2", init=1.0)

    step = lowered(fn, laid, ok=ml.spec("", "bool"))
    found = [float(step(ok=np.array(ok)).numpy()[0]) for ok in (True, False, True)]
    assert found == [2.0, 2.0, 3.0]


def test_a_value_that_is_not_taken_leaks_nothing():
    def fn(x: ml.Tensor) -> None:
        w = ml.variable("w", "d:2", init=1.0)
        ml.assign(w, w / x, when=ml.all(ml.is_finite(w / x)))

    step = lowered(fn, x=ml.spec("d:2"))
    step(x=[0.0, 1.0])
    np.testing.assert_array_equal(step["w"], [1.0, 1.0])


def test_steps_count_updates():
    def updating() -> Any:
        count = ml.variable("count", "", init=0.0, trainable=False)
        ml.assign(count, ml.step("float32"))
        return ml.step()

    step = lowered(updating)
    assert [int(step()) for _ in range(3)] == [0, 1, 2]
    assert (float(step["count"]), step.step) == (2.0, 3)
    reading = lowered(lambda: ml.step())
    assert [int(reading()) for _ in range(2)] == [0, 0]


def test_a_variable_in_an_op_is_its_value():
    def fn(x: ml.Tensor) -> Any:
        ml.variable("w", "d:2", init=3.0)
        (w,) = ml.trainable_variables()
        return {
            "arithmetic": [w + 1, 1 + w, w - 1, 1 - w, w * 2, 2 * w, w / 2, 6 / w, w**2, 2**w, -w],
            "whole": [w // 2, 7 // w, w % 2, 7 % w],
            "compared": [w > 2, w >= 3, w < 3, w <= 2],
            "functions": [ml.sqrt(w * w), ml.sum(w), ml.einsum(w, w, reduce="d")],
        }

    found = lowered(fn, x=ml.spec("d:2"))(x=[1.0, 2.0])
    numbers = {name: [np.ravel(r.numpy())[0].item() for r in rs] for name, rs in found.items()}
    assert numbers == {
        "arithmetic": [4, 4, 2, -2, 6, 6, 1.5, 2, 9, 8, -3],
        "whole": [1, 2, 1, 1],
        "compared": [True, True, False, False],
        "functions": [3, 6, 18],
    }


# -- where they lie ------------------------------------------------------------------------------


def placed(shape: str, laid: Laid) -> tuple[list[str], list[str]]:
    """The axes of a variable's dims as it is kept, and of its update's."""
    dims: dict[str, Shape] = {}

    def fn() -> None:
        w = ml.variable("w", shape, init=0.0)
        dims["slot"] = ml.gradients(ml.sum(w), [w])[0].shape

    others = ml.trace(lambda x: x, x=ml.spec("batch:8"))
    plan = ml.plan(
        ml.trace(fn), laid.mesh, laid.layout, params=laid.params, slots=laid.slots, beside=[others]
    )
    kept = plan.program.variables["w"].shape
    axes = plan.tables.axes
    return ["+".join(axes(d)) for d in kept], ["+".join(axes(d)) for d in dims["slot"]]


@pytest.mark.parametrize(
    ("laid", "kept", "slot"),
    [
        (Laid("r:2 c:2", "f:c"), ["", "c"], ["", "c"]),
        (Laid("r:2 c:2", "f:c", params="d:r"), ["r", "c"], ["r", "c"]),
        (Laid("r:2 c:2", "f:c", slots="d:r"), ["", "c"], ["r", "c"]),
        (Laid("r:2 c:2", "f:c", params="f:r"), ["", "c+r"], ["", "c+r"]),
        (Laid("r:2 c:2", "f:c", params="d:r", slots="f:r"), ["r", "c"], ["r", "c"]),
        # an axis that another dim has already is skipped
        (Laid("r:2 c:2", "f:c", params="d:c+r"), ["r", "c"], ["r", "c"]),
        (Laid("r:2 c:2", "d:r", params="f:r", slots="f:r+c"), ["r", ""], ["r", "c"]),
        (Laid("r:2 c:1", "f:c", params="d:c+r"), ["r", ""], ["r", ""]),
    ],
)
def test_the_tables(laid: Laid, kept: list[str], slot: list[str]):
    assert placed("d:8 f:16", laid) == (kept, slot)


def test_a_variable_whole_in_use():
    """Declared with a twin it is used under that twin, and the tables may still keep it divided."""
    shapes = []

    def fn(x: ml.Tensor) -> Any:
        w = ml.variable("w", "experts*:8 d:16", init=1.0)
        shapes.append(str(w.shape))
        return ml.einsum(ml.whole(x, "experts"), w, reduce="experts")

    assert collectives(fn, "r:2", "experts:r", params="d:r", x="experts:8") == [
        "all_gather over r",
        "all_gather over r",
    ]
    assert shapes == ["[experts*:8 d:16]"]


def test_what_the_tables_cannot_divide_is_said():
    def fn(x: ml.Tensor) -> Any:
        return ml.einsum(x, ml.variable("w", "d:16 f:24", init=0.0), reduce="d")

    program = ml.trace(fn, x=ml.spec("batch:8 d:16"))
    lines = str(ml.plan(program, "r:2 c:2", "batch:r f:c", params="d:c+r")).splitlines()
    said = lines.index("Not divided as params and slots ask, for the axis is used by another dim:")
    assert lines[said + 1] == "  w: d along c"


def test_equal_uses_move_once():
    def fn(x: ml.Tensor) -> Any:
        w = ml.variable("w", "d:16 f:24", init=0.0)
        again = ml.variable("w", "d:16 f:24", init=0.0)
        return ml.einsum(x, w, reduce="d") + ml.einsum(x, again * 2.0, reduce="d")

    assert collectives(fn, "r:2", "batch:r", params="d:r", x="batch:8 d:16") == [
        "all_gather over r"
    ]


def test_an_update_moves_nothing():
    """With everything kept divided, the optimizer has no collective of its own."""

    def fn(x: ml.Tensor) -> None:
        w = ml.variable("w", "d:16 f:24", init=0.0)
        (g,) = ml.gradients(ml.sum(ml.square(ml.einsum(x, w, reduce="d"))), [w])
        m = ml.variable("m", g.shape, init=0.0)
        ml.assign(m, 0.9 * m + g)
        (held, *_) = ml.trainable_variables()
        ml.assign(held, held - 0.1 * (0.9 * m + g))

    moved = collectives(fn, "r:4", "batch:r", params="d:r", x="batch:8 d:16")
    assert sorted(moved) == ["all_gather over r", "reduce_scatter over r"]
