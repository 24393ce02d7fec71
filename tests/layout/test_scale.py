"""Plans for 512 processors take seconds, on a laptop, without TensorFlow."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

import meshlang as ml
from tests.layout import programs
from tests.oracles.communication import Transformer, transformer_step

ROOT = Path(__file__).resolve().parents[2]
#: seconds for tracing, planning, adding up and printing
MOST = 10.0
MESH, LAYOUT = "data:16 model:32", "batch:data heads:model d_ff:model vocab:model"


def model(layers: int, d_model: int) -> Transformer:
    return Transformer(
        batch=512,
        length=2048,
        d_model=d_model,
        heads=32,
        d_head=d_model // 32,
        d_ff=4 * d_model,
        vocab=32768,
        layers=layers,
    )


@pytest.mark.parametrize(
    ("layers", "d_model", "unroll"), [(24, 4096, False), (24, 4096, True), (48, 3072, True)]
)
def test_five_billion_parameters_on_512_processors(layers: int, d_model: int, unroll: bool):
    began = time.process_time()
    program = programs.transformer(model(layers, d_model), unroll=unroll)
    plan = ml.plan(program, MESH, LAYOUT)
    cost, text = plan.cost, f"{plan}{plan.text()}"
    taken = time.process_time() - began
    assert 5.0e9 < sum(v.shape.size for v in program.variables.values()) < 5.8e9
    wanted = transformer_step(model(layers, d_model), 16, 32)
    assert cost.over("data").elements == wanted.data_payload
    assert cost.over("model").elements == wanted.model_payload + wanted.small_payload
    assert "all_reduce over model" in text
    assert taken < MOST


def test_the_published_model_of_5_billion_parameters():
    """Six layers, d_ff of 262144, 256 heads: 26 sums of 109.05 M elements over the axis model."""
    published = Transformer(256, 256, 1024, 8 * 32, 256, 8192 * 32, 32768, 6)
    plan = ml.plan(programs.transformer(published, unroll=False), MESH, LAYOUT)
    over_model = plan.cost.over("model")
    assert over_model.sums == 26 + 3
    assert round((over_model.elements - 3 * 256 // 16 * 256) / 1e6, 2) == 109.05
    assert round(plan.cost.over("data").elements / 1e6, 1) == 153.1


def test_planning_imports_no_tensorflow():
    code = f"""
import sys
from tests.layout import programs, test_scale
import meshlang as ml
plan = ml.plan(programs.transformer(test_scale.model(2, 1024), unroll=True), {MESH!r}, {LAYOUT!r})
print(plan, plan.text(), plan.show("attention/q"), ml.compare(plan.program, {MESH!r}, {{"": ""}}))
sys.exit(1 if "tensorflow" in sys.modules else 0)
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
