"""`summary`: what is handed out, from where, on every layout."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import meshlang as ml
from tests.harness import Laid, collectives, drawn, layouts, trace_error

SHAPE = "batch:16 d:16"


def summarized(x: ml.Tensor, *, unroll: bool = False) -> ml.Tensor:
    """In the open, in a scope, in a loop, in the microbatches of a gradient."""

    def layer(h: ml.Tensor, _: None) -> Any:
        h = ml.sin(h)
        ml.summary(ml.mean(h), "mean")
        return h, None

    def part(x: ml.Tensor) -> ml.Tensor:
        return ml.summary(ml.sum(x), "part")

    with ml.scope("layers"):
        y = ml.scan(layer, x, over="n:3", unroll=unroll)[0]
    ml.summary(ml.sum(y, "d"), "rows")
    return ml.accumulate(part, x.split(batch="batch micro:2"), over="micro")


def wanted(x: np.ndarray) -> dict[str, np.ndarray]:
    h = [np.sin(x), np.sin(np.sin(x)), np.sin(np.sin(np.sin(x)))]
    parts = x.reshape(8, 2, 16).sum((0, 2))
    return {"layers/mean": np.array([a.mean() for a in h]), "rows": h[2].sum(1), "part": parts}


def lowered(fn: Callable[..., Any], laid: Laid) -> ml.Executable:
    precision = ml.Precision("float64", "float64", "float64")
    program = ml.trace(fn, precision=precision, x=ml.spec(SHAPE, "float64"))
    return ml.lower(ml.plan(program, laid.mesh, laid.layout), backend=laid.backend)


@pytest.mark.parametrize("unroll", [False, True])
@pytest.mark.parametrize("laid", drawn("summary", layouts("batch d"), draws=2))
def test_what_is_handed_out(laid: Laid, unroll: bool):
    x = np.random.default_rng(0).normal(size=(16, 16))
    executable = lowered(lambda x: summarized(x, unroll=unroll), laid)
    assert executable.summaries == {}
    executable(x=x)
    found = {name: result.numpy() for name, result in executable.summaries.items()}
    assert found.keys() == wanted(x).keys()
    for name, array in wanted(x).items():
        np.testing.assert_allclose(found[name], array, atol=1e-12)


def test_a_call_replaces_those_of_the_call_before():
    executable = lowered(lambda x: ml.summary(ml.sum(x), "sum"), Laid())
    for scale in (1.0, 2.0):
        executable(x=np.full((16, 16), scale))
        assert float(executable.summaries["sum"]) == 256 * scale


def test_nothing_moves_but_what_is_pending():
    assert collectives(lambda x: ml.summary(x, "x"), "r:4", "batch:r", x=SHAPE) == []
    moved = collectives(lambda x: ml.summary(ml.sum(x), "s") + 1.0, "r:4", "batch:r", x=SHAPE)
    assert moved == ["all_reduce over r"]


# -- errors --------------------------------------------------------------------------------------

INSIDE = """\
{}: a summary stands inside.
  summaries  s
  fix: return the value and summarize it after the {}"""


def in_cond(x: ml.Tensor) -> Any:
    return ml.cond(ml.sum(x) > 0.0, lambda: ml.summary(x, "s"), lambda: x)


def in_while(x: ml.Tensor) -> Any:
    return ml.while_loop(lambda h: ml.sum(h) < 1.0, lambda h: ml.summary(h, "s") + 1.0, x)


@pytest.mark.parametrize(("fn", "op"), [(in_cond, "cond"), (in_while, "while_loop")])
def test_where_a_run_may_not_come(fn: Callable[..., Any], op: str):
    assert trace_error(ml.ProgramError, fn, x=SHAPE) == INSIDE.format(op, op)


def test_a_name_that_is_taken():
    def fn(x: ml.Tensor) -> ml.Tensor:
        return ml.summary(ml.summary(x, "s") + 1.0, "s")

    assert trace_error(ml.ProgramError, fn, x=SHAPE) == (
        "summary: the name is taken.\n"
        "  name   s\n"
        "  first  [batch:16 d:16]\n"
        "  then   [batch:16 d:16]\n"
        "  fix: another name, or ml.scope around one of them"
    )


def test_outside_of_a_trace():
    with pytest.raises(ml.ProgramError, match="summary"):
        ml.summary(ml.constant([1.0], "d"), "s")
