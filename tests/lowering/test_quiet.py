"""File descriptor 2 is held back, and played back when something breaks."""

import subprocess
import sys
from pathlib import Path

import pytest

import meshlang

# By its path, since the package around it imports TensorFlow, which takes seconds.
QUIET = Path(meshlang.__file__).parent / "lowering" / "quiet.py"
LOAD = f"import runpy; quiet_stderr = runpy.run_path({str(QUIET)!r})['quiet_stderr']"
SILENT = "from meshlang.lowering import runtime; runtime.start(2); print('started')"
BROKEN = """
import os
with quiet_stderr():
    os.write(2, b"from C++\\n")
    raise RuntimeError("broken")
"""
DAEMON = """
import os
os.close(2)
with quiet_stderr():
    print("ran")
"""


def python(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )


def test_tensorflow_starts_without_a_word():
    result = python(SILENT)
    assert (result.stdout, result.stderr) == ("started\n", "")


def test_an_exception_brings_the_lines_back():
    result = python(LOAD + BROKEN)
    assert result.stderr.startswith("from C++\nTraceback")
    assert result.stderr.endswith("RuntimeError: broken\n")


@pytest.mark.skipif(sys.platform == "win32", reason="descriptors are POSIX")
def test_no_descriptor_2_is_no_error():
    assert python(LOAD + DAEMON).stdout == "ran\n"
