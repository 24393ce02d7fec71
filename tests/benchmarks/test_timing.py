"""Contestants in processes of their own: turns, answers, and those that end or hang."""

import sys
from pathlib import Path

import pytest

from benchmarks.timing import MIB, Contestant, main, measure, ratio
from meshlang.errors import MeshlangError

ROOT = Path(__file__).resolve().parents[2]
SLEEPER = """
import os, sys, time
sys.path.insert(0, {root!r})
from benchmarks.timing import serve

def fill(traced):
    print("noise on standard output", flush=True)
    return lambda: {step}

serve(lambda: None, fill)
"""


def contestant(name: str, step: str, **environment: str) -> Contestant:
    return Contestant(name, ("-c", SLEEPER.format(root=str(ROOT), step=step)), environment)


def test_steps_are_timed():
    slow, fast = measure(
        [contestant("slow", "time.sleep(0.06)"), contestant("fast", "time.sleep(0.02)")],
        rounds=3,
        steps=2,
        starts=2,
    )
    for measured, least in [(slow, 0.06), (fast, 0.02)]:
        assert len(measured.steps) == len(measured.peaks) == 6
        assert len(measured.first_steps) == len(measured.python) == 2
        assert min(measured.steps + measured.first_steps) >= least
        assert min(measured.python) >= 0.0
        assert 1 * MIB < max(measured.peaks) < 1000 * MIB
    assert ratio(fast, slow) < 1.0


def test_contestants_take_turns_whose_order_is_reversed(tmp_path: Path):
    log = tmp_path / "log"
    write = f"open({str(log)!r}, 'a').write(os.environ['LETTER'])"
    measure([contestant("a", write, LETTER="a"), contestant("b", write, LETTER="b")], rounds=3)
    first_steps, turns = "ab", "aaabbb" + "bbbaaa" + "aaabbb"
    assert log.read_text() == first_steps + turns


def test_a_contestant_that_ends_is_named_with_its_last_words():
    with pytest.raises(MeshlangError) as error:
        measure([contestant("broken", "sys.exit('out of luck')")])
    assert str(error.value) == (
        "the contestant 'broken' ended.\n  exit status  1\n  last words   out of luck"
    )


def test_a_contestant_that_hangs_is_ended():
    with pytest.raises(MeshlangError) as error:
        measure([contestant("stuck", "time.sleep(60)")], timeout=2.0)
    assert str(error.value) == (
        "the contestant 'stuck' took more than 2 s.\n"
        "  exit status  -9\n"
        "  last words   noise on standard output"
    )


def test_a_program_that_does_not_serve_is_refused():
    with pytest.raises(MeshlangError) as error:
        measure([Contestant("chatty", ("-c", "print('hello')"))])
    assert str(error.value) == (
        "the contestant 'chatty' gives no measurement.\n"
        "  it wrote  hello\n"
        "  fix: let it call benchmarks.timing.serve, which keeps standard output for answers"
    )


def test_a_contestant_needs_a_name():
    with pytest.raises(MeshlangError) as error:
        Contestant.parse("-m benchmarks.reference")
    assert str(error.value) == (
        "a contestant needs a name.\n"
        "  found  -m benchmarks.reference\n"
        '  fix: write NAME=ARGUMENTS, as in "plain=-m benchmarks.reference"'
    )


def test_the_program_prints_a_table(tmp_path: Path, monkeypatch, capsys):
    script = tmp_path / "contestant.py"
    script.write_text(SLEEPER.format(root=str(ROOT), step="time.sleep(0.01)"))
    monkeypatch.setattr(sys, "argv", ["timing", f"only={script}", "--rounds=1", "--steps=1"])
    main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| | step, ms | ratio | first step, s | Python, s | peak, MiB |"
    assert lines[2].startswith("| only | ") and " | 1.00 | " in lines[2]
