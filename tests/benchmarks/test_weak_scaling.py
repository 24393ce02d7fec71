"""The table of weak scaling, of two meshes of one step each."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_table_of_two_meshes() -> None:
    command = [sys.executable, "-m", "benchmarks.weak_scaling", "--processors", "1", "2"]
    done = subprocess.run(
        [*command, "--rounds=1", "--steps=1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    head, _, *rows = done.stdout.splitlines()
    assert head.startswith("| processors | step, ms | work a second |")
    cells = [[float(cell) for cell in row.strip("| ").split(" | ")] for row in rows]
    assert [row[0] for row in cells] == [1, 2]
    assert cells[0][2] == 1.0
    one, two = (row[5] for row in cells)
    assert one < two < 1.2 * one  # programs hardly grow with the mesh
