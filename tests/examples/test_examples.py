"""The examples do what their pages say."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_digits_has_equal_losses_under_four_layouts_and_ends_in_the_table() -> None:
    done = subprocess.run(
        [sys.executable, "examples/digits.py"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    losses = [line.split()[-1] for line in lines[:4]]
    assert len(set(losses)) == 1
    assert float(losses[0]) < 0.4
    assert [line.split("  ")[0] for line in lines[-4:]] == [
        "one processor's",
        "data parallel",
        "model parallel",
        "both",
    ]


def test_examples_are_short() -> None:
    lines = {name: len((ROOT / "examples" / name).read_text().splitlines()) for name in LIMITS}
    assert all(lines[name] <= limit for name, limit in LIMITS.items()), lines


LIMITS = {"digits.py": 60, "own_model.py": 99}
