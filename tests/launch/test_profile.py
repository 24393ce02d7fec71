"""A step under the profiler: the trace that browsers open, the table that people read."""

import json
from pathlib import Path

import numpy as np
import pytest

import meshlang as ml
from launch.profile import Event, chrome_trace, covered, profile, report

EVENTS = [
    Event("_MklMatMul", "Einsum", "layers/attention", "one", 10.0, 0.004),
    Event("CollectiveReduceV2", "all_reduce", "layers/attention", "two", 10.003, 0.003),
    Event("TensorListReserve", "", "", "one", 10.005, 0.0005),
]


def test_a_table_of_where_the_time_went() -> None:
    assert report(EVENTS) == (
        "one step: 6.0 ms from the first kernel to the last one's end\n"
        "  some kernel computes              4.5 ms\n"
        "  some collective is under way      3.0 ms\n"
        "  both at once                      1.5 ms, 50% of the collectives' time\n"
        "\n"
        "Times below are sums over all devices; those of collectives are mostly waiting.\n"
        "\n"
        "scope             kernels    ms\n"
        "----------------  -------  ----\n"
        "layers/attention        2  7.00\n"
        "(none)                  1  0.50\n"
        "\n"
        "op          scope             kernels    ms\n"
        "----------  ----------------  -------  ----\n"
        "Einsum      layers/attention        1  4.00\n"
        "all_reduce  layers/attention        1  3.00\n"
        "(none)                              1  0.50\n"
        "\n"
        "kernel              kernels    ms\n"
        "------------------  -------  ----\n"
        "_MklMatMul                1  4.00\n"
        "CollectiveReduceV2        1  3.00\n"
        "TensorListReserve         1  0.50"
    )
    assert report([]) == "no kernels were seen"


def test_covered_time_counts_once() -> None:
    def at(begin: float, seconds: float) -> Event:
        return Event("MatMul", "", "", "one", begin, seconds)

    assert covered([at(0.0, 4.0), at(1.0, 1.0), at(3.0, 2.0), at(7.0, 1.0)]) == 6.0
    assert covered([]) == 0.0


def test_a_trace_has_a_row_for_each_thread() -> None:
    trace = chrome_trace(EVENTS)["traceEvents"]
    assert [e["args"]["name"] for e in trace if e["ph"] == "M"] == ["one", "two"]
    matmul, reduce, reserve = (e for e in trace if e["ph"] == "X")
    assert matmul["name"] == "layers/attention/Einsum"
    assert matmul["args"]["kernel"] == "_MklMatMul"
    assert (matmul["ts"], matmul["dur"]) == (0.0, pytest.approx(4000.0))
    assert (reduce["cat"], reduce["ts"]) == ("collective", pytest.approx(3000.0))
    assert reserve["name"] == "TensorListReserve"


def test_a_step_on_devices(tmp_path: Path) -> None:
    """Every op of a loop's body has its scope, on each of the devices."""

    def layer(x: ml.Tensor, _: None) -> tuple[ml.Tensor, None]:
        with ml.scope("layers"), ml.scope("dense 1"):
            w = ml.variable("w", "d:8 e:8", init=ml.normal_init(0.1))
            return ml.relu(ml.einsum(x, w, reduce="d").rename(e="d")), None

    def step(x: ml.Tensor) -> ml.Tensor:
        return ml.scan(layer, x, over="layers:3")[0]

    plan = ml.plan(ml.trace(step, x=ml.spec("batch:4 d:8")), "a:2", "d:a")
    executable = ml.lower(plan)
    executable.initialize(seed=0)
    arrays = {"x": np.ones((4, 8), np.float32)}
    executable(**arrays)
    with profile(tmp_path / "profile"):
        executable(**arrays).numpy()
    trace = json.loads((tmp_path / "profile" / "trace.json").read_text())
    seen = [e["args"] for e in trace["traceEvents"] if e["ph"] == "X"]
    sums = [e for e in seen if e["op"] in ("all_reduce", "reduce_scatter")]
    assert len([e for e in sums if e["scope"] == "layers/dense_1" and "Coll" in e["kernel"]]) == 6
    assert len([e for e in seen if e["op"] == "Einsum" and "MatMul" in e["kernel"]]) == 6
    table = (tmp_path / "profile" / "table.txt").read_text()
    assert "\nlayers/dense_1 " in table
