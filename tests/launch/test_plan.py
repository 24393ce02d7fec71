"""What `launch.plan` prints, and that it touches no device."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from launch.plan import main

ROOT = Path(__file__).resolve().parents[2]
MOE = "--gin_file=runs/pydoc_moe.gin"
Golden = Callable[[str, str], None]
Captured = pytest.CaptureFixture[str]


def printed(capsys: Captured, *flags: str) -> str:
    assert main([MOE, *flags]) == 0
    return capsys.readouterr().out


def test_the_plan_of_the_flagship(golden: Golden, capsys: Captured) -> None:
    golden("launch/plan_moe.txt", printed(capsys))


def test_bytes_between_machines(golden: Golden, capsys: Captured) -> None:
    golden("launch/plan_moe_hosts.txt", printed(capsys, "--hosts=4"))


def test_layouts_compared(golden: Golden, capsys: Captured) -> None:
    layouts = (
        "--layout=batch:data+model group:data+model",
        "--layout=batch:data group:data heads:model vocab:model experts:model",
        "--layout=batch:data group:data experts:data heads:model vocab:model",
    )
    golden("launch/plan_moe_compared.txt", printed(capsys, *layouts))


def test_a_mistake_is_told(capsys: Captured) -> None:
    assert main([MOE, "--layout=batch:datta"]) == 1
    assert capsys.readouterr().err == (
        "LayoutError: layout puts 'batch' on axis 'datta', which the mesh lacks.\n"
        "  layout  batch:datta\n"
        "  mesh    data:2 model:4\n"
        "  fix: did you mean 'data'?\n"
    )


def test_planning_wakes_no_tensorflow() -> None:
    code = (
        "import sys\n"
        "from launch.plan import main\n"
        f"assert main([{MOE!r}, '--mesh=data:16 model:4', '--gin.Run.batch=64']) == 0\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
