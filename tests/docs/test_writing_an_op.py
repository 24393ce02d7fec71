"""docs/writing_an_op.md, followed to the letter: its files, lines and command, in a copy."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "writing_an_op.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"<!-- file: (\S+) -->\n```python\n(.*?)```\n", PAGE, flags=re.DOTALL))
NEEDED = ("conftest.py", "meshlang", "models", "pyproject.toml", "tests")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The tree, without the tests of other ops, which would take their time."""
    others = shutil.ignore_patterns("__pycache__", "golden", "docs")
    for name in NEEDED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / name, ignore=others)
        else:
            shutil.copy(ROOT / name, tmp_path / name)
    for path in (tmp_path / "tests" / "ops").glob("test_*.py"):
        if path.name != "test_documentation.py":
            path.unlink()
    return tmp_path


def added_lines() -> list[tuple[str, str]]:
    """The lines of the page's diff, each with its file."""
    (diff,) = re.findall(r"```diff\n(.*?)```", PAGE, flags=re.DOTALL)
    found, path = [], ""
    for line in diff.splitlines():
        if line.startswith("+"):
            found.append((path, line[1:]))
        else:
            path = line.strip()
    return found


def insert(path: Path, line: str) -> None:
    """Before the first line that begins in the same way and is behind it in the alphabet."""
    lines = path.read_text(encoding="utf-8").splitlines()
    begins = re.match(r'from .*\.(?=\w+ import)|import .*_|\s*"', line)
    assert begins is not None and line not in lines
    alike = [i for i, old in enumerate(lines) if old.startswith(begins.group())]
    lines.insert(next(i for i in alike if lines[i] > line), line)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def the_command() -> list[str]:
    (block,) = re.findall(r"```bash\n(.*?)\n```", PAGE, flags=re.DOTALL)
    python, *words = shlex.split(block)
    assert python == ".venv/bin/python"
    return [sys.executable, *words]


def test_an_op_written_by_the_page_passes_its_tests(copy: Path):
    for name, text in FILES.items():
        assert not (ROOT / name).exists(), f"{name} is in the tree: the page needs another example"
        (copy / name).write_text(text, encoding="utf-8")
    for name, line in added_lines():
        insert(copy / name, line)
    ran = subprocess.run(
        [*the_command(), "-rA", "-p", "no:cacheprovider"],
        cwd=copy,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    passed = set(re.findall(r"^PASSED (\S+?)(?:\[.*)?$", ran.stdout, flags=re.MULTILINE))
    written = set(re.findall(r"^def (test_\w+)", FILES["tests/ops/test_entropy.py"], re.MULTILINE))
    assert {f"tests/ops/test_entropy.py::{name}" for name in written} <= passed
    assert "meshlang/ops/entropy.py::meshlang.ops.entropy.entropy" in passed
    assert "tests/ops/test_documentation.py::test_an_op_is_documented" in passed
    assert {
        "tests/test_completeness.py::test_an_op_has_a_gradient_or_a_reason_to_have_none",
        "tests/test_completeness.py::test_an_op_has_a_kernel_or_is_planned_as_other_ops",
        "tests/test_completeness.py::test_an_op_goes_through_the_harness",
        "tests/test_completeness.py::test_an_op_is_held_to_an_oracle",
        "tests/test_completeness.py::test_errors_of_a_function_are_tested",
    } <= passed
    both = re.findall(r"^PASSED .*test_layouts\[(\w+) ", ran.stdout, flags=re.MULTILINE)
    assert set(both) == {"simulated", "spmd"}


def test_the_page_is_short():
    """One screen a file, but for the test, which has a second one."""
    assert len(FILES) == 3
    assert {name: n for name, text in FILES.items() if (n := len(text.splitlines())) > 90} == {}
