"""A training step on a GPU, where there is one: the numbers of a CPU, in float32 and bfloat16."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf

ROOT = Path(__file__).resolve().parents[2]
STEPS = """
import json
import meshlang as ml
from benchmarks.mesh import filled, step_program
from benchmarks.sizes import Sizes, initial_weights

ml.start(devices=1, kind={kind!r})
found = {{}}
for compute in ("float32", "bfloat16"):
    sizes = Sizes(batch=4, length=32, vocab=64, layers=2, d_model=32, heads=2, d_head=16,
                  d_ff=64, d_expert=64, group_size=32, compute=compute)
    step = ml.lower(ml.plan(step_program(sizes)))
    take = filled(step, sizes, initial_weights(sizes, seed=0))
    found[compute] = [take() for _ in range(4)]
print(json.dumps(found))
"""


def losses(kind: str) -> dict[str, list[float]]:
    """The losses of four steps, from a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", STEPS.format(kind=kind)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.skipif(not tf.config.list_physical_devices("GPU"), reason="there is no GPU here")
def test_a_gpu_gives_the_numbers_of_a_cpu() -> None:
    found, wanted = losses("gpu"), losses("cpu")
    assert found["float32"] == pytest.approx(wanted["float32"], rel=1e-4)
    assert found["bfloat16"] == pytest.approx(wanted["bfloat16"], rel=2e-2)
