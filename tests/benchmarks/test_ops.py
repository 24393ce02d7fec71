"""The two sides of each pair compute the same, forward and backward."""

import sys

import pytest

import benchmarks.ops as ops
from benchmarks.op_pair import Pair

SMALL = ops.pairs(64)


@pytest.mark.parametrize("pair", SMALL, ids=lambda pair: pair.name)
def test_both_sides_give_the_same(pair: Pair):
    for backward in (False, True) if pair.gradient else (False,):
        ops.check(pair, ops.prepared(pair, backward=backward))


def test_pairs_have_names_of_their_own():
    names = [pair.name for pair in SMALL]
    assert sorted(set(names)) == sorted(names)


def test_a_pair_that_differs_is_refused():
    add, multiply = (next(p for p in SMALL if p.name == name) for name in ("add", "multiply"))
    wrong = Pair("", "sum or product", add.ours, multiply.plain, add.inputs)
    sides = ops.prepared(wrong, backward=False)
    with pytest.raises(AssertionError, match="sum or product"):
        ops.check(wrong, sides)


def test_the_program_prints_a_table(monkeypatch, capsys):
    monkeypatch.setattr(ops, "TURN", 0.0)
    monkeypatch.setattr(sys, "argv", ["ops", "--only=: relu", "--rounds=1", "--rows=64"])
    ops.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| family | op | ours, ms | TensorFlow, ms | ratio |"
    assert sorted(line.split(" | ")[1] for line in lines[2:]) == ["relu", "relu, with gradient"]
