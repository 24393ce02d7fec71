"""The ``golden`` fixture of conftest.py: it notices a difference, and writes only when asked."""

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

TEST = """
def test_plan(golden):
    golden("plan.txt", "all_reduce {}")
"""


@pytest.fixture
def folder(pytester: pytest.Pytester) -> pytest.Pytester:
    conftest = Path(__file__).with_name("conftest.py").read_text(encoding="utf-8")
    pytester.makeconftest(conftest)
    pytester.makepyfile(test_plan=TEST.format("8 bytes"))
    return pytester


def test_missing_file_is_a_failure_that_says_how_to_write_it(folder: pytest.Pytester):
    result = folder.runpytest_inprocess("-p", "no:cacheprovider")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*no golden file plan.txt; write it with: *--update-golden*"])
    assert not (folder.path / "golden").exists()


def test_update_then_equal_then_a_diff(folder: pytest.Pytester):
    folder.runpytest_inprocess("--update-golden").assert_outcomes(passed=1)
    assert (folder.path / "golden" / "plan.txt").read_text() == "all_reduce 8 bytes\n"
    folder.runpytest_inprocess().assert_outcomes(passed=1)

    folder.makepyfile(test_plan=TEST.format("9 bytes"))
    result = folder.runpytest_inprocess("-p", "no:cacheprovider")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["-all_reduce 8 bytes", "+all_reduce 9 bytes"])
    assert (folder.path / "golden" / "plan.txt").read_text() == "all_reduce 8 bytes\n"
