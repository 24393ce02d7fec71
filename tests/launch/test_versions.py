"""Versions are refused with one text, before anything that might break on them is imported."""

import subprocess
import sys
from pathlib import Path

import pytest

from launch.versions import TENSORFLOW, VersionError, Versions, check, here

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("python", ["3.11.0", "3.12.9", "3.13.1", "3.13.0rc2"])
@pytest.mark.parametrize("tensorflow", ["2.21.0", "2.21.1", "2.21.0rc1"])
def test_supported_versions_pass(python: str, tensorflow: str) -> None:
    check(Versions(python, tensorflow))


def text_for(python: str, tensorflow: str | None) -> str:
    with pytest.raises(VersionError) as raised:
        check(Versions(python, tensorflow))
    return str(raised.value)


@pytest.mark.parametrize("python", ["3.10.1", "3.14.0", "3.9.20"])
def test_unsupported_python(python: str) -> None:
    assert text_for(python, "2.21.0") == (
        "unsupported Python version.\n"
        f"  Python      {python}  meshlang needs 3.11, 3.12 or 3.13\n"
        "  TensorFlow  2.21.0  meshlang needs 2.21\n"
        "  fix: make an environment with Python 3.11, 3.12 or 3.13 and install meshlang there"
    )


@pytest.mark.parametrize("tensorflow", ["2.20.0", "2.22.0", "1.15.5", "2.2.1"])
def test_unsupported_tensorflow(tensorflow: str) -> None:
    assert text_for("3.11.7", tensorflow) == (
        "unsupported TensorFlow version.\n"
        "  Python      3.11.7  meshlang needs 3.11, 3.12 or 3.13\n"
        f"  TensorFlow  {tensorflow:<6}  meshlang needs 2.21\n"
        "  fix: pip install 'tensorflow==2.21.*'"
    )


def test_both_unsupported() -> None:
    assert text_for("3.10.1", "2.20.0") == (
        "unsupported Python and TensorFlow versions.\n"
        "  Python      3.10.1  meshlang needs 3.11, 3.12 or 3.13\n"
        "  TensorFlow  2.20.0  meshlang needs 2.21\n"
        "  fix: make an environment with Python 3.11, 3.12 or 3.13 and install meshlang there"
    )


def test_tensorflow_not_installed() -> None:
    assert text_for("3.12.1", None) == (
        "unsupported TensorFlow version.\n"
        "  Python      3.12.1         meshlang needs 3.11, 3.12 or 3.13\n"
        "  TensorFlow  not installed  meshlang needs 2.21\n"
        "  fix: pip install 'tensorflow==2.21.*'"
    )


def test_planning_needs_no_tensorflow() -> None:
    check(Versions("3.12.1", None), needs_tensorflow=False)


def test_here_reads_metadata_and_imports_nothing() -> None:
    code = (
        "import sys\n"
        "from launch.versions import here\n"
        "versions = here()\n"
        "assert not {'tensorflow', 'meshlang', 'absl'} & set(sys.modules)\n"
        "print(versions.tensorflow)\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{TENSORFLOW}.")
    assert here().python == ".".join(map(str, sys.version_info[:3]))
