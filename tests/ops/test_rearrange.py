"""Rename, split, merge, regroup, expand, arrange: NumPy, layouts, what moves, laws, errors."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st

import meshlang as ml
from tests.harness import (
    Laid,
    case,
    check,
    check_slopes,
    check_values,
    collectives,
    drawn,
    ints,
    layouts,
    run,
    trace_error,
)

Same = Callable[[np.ndarray], np.ndarray]


def same(x: np.ndarray) -> np.ndarray:
    return x


def shaped(*sizes: int) -> Same:
    return lambda x: x.reshape(sizes)


CASES = (
    case("rename", lambda x: ml.rename(x, a="c"), same, x="a:8 b:16"),
    case("rename two", lambda x: x.rename(b="d", a="c"), same, x="a:8 b:16 e:24"),
    case("swap", lambda x: x.rename(a="b", b="a"), same, x="a:8 b:16"),
    case("split", lambda x: x.split(a="c:8 b"), shaped(8, 16, 24), x="a:128 d:24"),
    case(
        "split in three",
        lambda x: ml.split(x, a="c b:8 e:16"),
        shaped(24, 8, 8, 16),
        x="d:24 a:1024",
    ),
    case("split keeps the name", lambda x: x.split(a="a:16 b"), shaped(16, 8, 24), x="a:128 d:24"),
    case("merge", lambda x: x.merge(a="c b"), shaped(128, 24), x="c:8 b:16 d:24"),
    case(
        "merge the other way",
        lambda x: ml.merge(x, a="b c"),
        lambda x: x.transpose(1, 0, 2).reshape(128, 24),
        x="c:8 b:16 d:24",
    ),
    case(
        "merge apart",
        lambda x: x.merge(a="c b"),
        lambda x: x.transpose(0, 1, 3, 2).reshape(24, 128, 40),
        x="d:24 c:8 e:40 b:16",
    ),
    case("merge keeps the name", lambda x: x.merge(a="a b"), shaped(128, 24), x="a:8 b:16 d:24"),
    case(
        "regroup",
        lambda x: ml.regroup(x, "a b -> c d:8"),
        shaped(64, 8, 24),
        x="a:16 b:32 e:24",
    ),
    case(
        "regroup in three",
        lambda x: ml.regroup(x, "b a -> d c:16 b:8"),
        lambda x: x.transpose(1, 0, 2).reshape(8, 16, 8, 24),
        x="a:16 b:64 e:24",
    ),
    case(
        "expand",
        lambda x: x.expand(a=8, b=24),
        lambda x: np.broadcast_to(x, (8, 24, 16)),
        x="c:16",
    ),
    case(
        "arrange",
        lambda x: ml.arrange(x, "c a b"),
        lambda x: x.transpose(2, 0, 1),
        x="a:8 b:16 c:24",
    ),
    case(
        "whole numbers",
        lambda x: x.split(a="c:8 b").rename(c="d").merge(e="d b"),
        same,
        x=ints("a:128", 1000),
    ),
)
#: here names between which a move goes may lie on one axis
MOVES = (
    case("rename", lambda x: x.rename(a="c"), same, x="a:8 e:16"),
    case("split", lambda x: x.split(a="c:8 b"), shaped(8, 16, 24), x="a:128 e:24"),
    case("merge", lambda x: x.merge(a="c b"), shaped(128, 24), x="c:8 b:16 e:24"),
    case("regroup", lambda x: ml.regroup(x, "a d -> c b:8"), shaped(64, 8), x="a:16 d:32"),
    case("regroup back", lambda x: ml.regroup(x, "c b -> a d:8"), shaped(64, 8), x="c:16 b:32"),
)
MEETING = (
    Laid("all:8", "a:all c:all"),
    Laid("all:8", "a:all b:all"),
    Laid("r:2 c:4", "a:r+c c:r b:c"),
    Laid("r:2 c:4", "a:c+r c:r b:c"),
    Laid("r:2 c:4", "a:r+c c:c"),
    Laid("r:2 c:4", "a:c c:c e:r"),
    Laid("r:2 c:4", "a:c d:r b:c e:r"),
    Laid("a:2 b:2 c:2", "a:a+b+c c:a+b b:c"),
    Laid("a:2 b:2 c:2", "a:b c:c b:b e:a d:a"),
)


def test_values():
    check_values(CASES)


def test_slopes():
    check_slopes(CASES[:-1])


@pytest.mark.parametrize("laid", drawn("rearranging", layouts("a b c d e")))
def test_layouts(laid: Laid):
    check(CASES, laid)


@pytest.mark.parametrize("laid", drawn("moves within axes", MEETING))
def test_layouts_in_which_old_and_new_names_meet(laid: Laid):
    check(MOVES, laid)


# -- what moves ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mesh", "layout", "moved"),
    [
        ("r:2 c:4", "a:r c:r", []),  # the same place under another name
        ("r:2 c:4", "a:r", ["all_gather over r"]),
        ("r:2 c:4", "c:r", []),  # a cut
        ("r:2 c:4", "a:r+c c:r", ["all_gather over c"]),
        ("r:2 c:4", "a:r+c", ["all_gather over r+c"]),
        ("r:2 c:2", "a:r c:c", ["permute over r+c"]),
        # cut to pieces first: 1 + 1 of 8 indices are sent, where an all_gather sends 4
        ("r:2 c:4", "a:r c:c", ["permute over r+c", "all_gather over r"]),
    ],
)
def test_a_rename_moves_what_its_names_say(mesh: str, layout: str, moved: list[str]):
    assert collectives(lambda x: x.rename(a="c"), mesh, layout, x="a:8 b:16") == moved


def test_dims_that_change_places_travel_at_once():
    moved = collectives(lambda x: x.rename(a="b", b="a"), "r:2", "a:r", x="a:8 b:16")
    assert moved == ["all_to_all over r"]


MERGES = [
    # A_t = A_o + E + A_i + F with A_i empty, or A_o + E as many as size(o)
    ("a:2 b:2 c:2", "o:a t:a", []),
    ("a:2 b:2 c:2", "o:a+b t:a+b", []),
    ("a:2 b:2 c:2", "o:a t:a+b+c", []),  # F: free cuts
    ("a:2 b:2 c:2", "t:a+b+c", []),
    ("a:4 b:2", "o:a i:b t:a+b", []),  # o is cut to single indices
    ("a:4 b:2", "i:b t:a+b", []),  # E: cut o first
    ("a:2 b:2 c:2", "o:a+b i:c t:a+b+c", []),
    ("a:2 b:2 c:2", "i:c t:a+b+c", []),
    # every other case moves
    ("a:2 b:2 c:2", "o:a i:b t:a+b", ["all_to_all over b"]),
    ("a:2 b:2 c:2", "o:a", ["all_gather over a"]),
    ("a:2 b:2 c:2", "i:a", ["all_gather over a"]),
    ("a:2 b:2 c:2", "i:a t:a", ["all_to_all over a"]),
    ("a:2 b:2 c:2", "o:a+b t:a", ["all_gather over b"]),
    ("a:2 b:2 c:2", "o:a t:b", ["permute over a+b"]),
]


@pytest.mark.parametrize(("mesh", "layout", "moved"), MERGES)
def test_merging_is_local_in_the_cases_that_can_be(mesh: str, layout: str, moved: list[str]):
    assert collectives(lambda x: x.merge(t="o i"), mesh, layout, x="o:4 i:8") == moved


SPLITS = [
    # A_t a prefix of A_o, or A_t = A_o + a prefix of A_i with as many as size(o) in A_o
    ("a:2 b:2 c:2", "t:a o:a", []),
    ("a:2 b:2 c:2", "t:a o:a+b", []),  # then cut on
    ("a:2 b:2 c:2", "o:a i:b", []),
    ("a:2 b:2 c:2", "t:a o:a i:b", []),
    ("a:2 b:2 c:2", "t:a+b o:a+b i:c", []),
    ("a:2 b:2 c:2", "t:a+b+c o:a+b i:c", []),
    ("a:4 b:2", "t:a+b o:a i:b", []),
    # every other case moves
    ("a:2 b:2 c:2", "t:a", ["all_gather over a"]),
    ("a:2 b:2 c:2", "t:a+b o:a", ["all_gather over b"]),
    ("a:2 b:2 c:2", "t:a i:a", ["all_to_all over a"]),
    ("a:2 b:2 c:2", "t:a+b o:a i:b", ["all_to_all over b"]),
    ("a:2 b:2 c:2", "t:a o:b", ["permute over a+b"]),
]


@pytest.mark.parametrize(("mesh", "layout", "moved"), SPLITS)
def test_splitting_is_local_in_the_cases_that_can_be(mesh: str, layout: str, moved: list[str]):
    assert collectives(lambda x: x.split(t="o:4 i:8"), mesh, layout, x="t:32") == moved


def test_microbatches_are_cut_without_moving():
    def cut(x: ml.Tensor) -> ml.Tensor:
        return x.split(batch="batch micro:4")

    assert collectives(cut, "data:4 model:2", "batch:data d:model", x="batch:32 d:16") == []
    moved = collectives(
        lambda x: x.split(batch="micro:4 batch"), "data:4", "batch:data", x="batch:32 d:16"
    )
    assert moved == ["all_to_all over data"]


def test_regrouping_between_dims_of_one_placement_moves_nothing():
    def there_and_back(x: ml.Tensor) -> ml.Tensor:
        return ml.regroup(
            ml.regroup(x, "batch length -> group token:64"), "group token -> batch:16 length"
        )

    assert (
        collectives(there_and_back, "r:2 c:2", "batch:r group:r d:c", x="batch:16 length:128 d:8")
        == []
    )


def test_a_pending_sum_goes_through_split_and_merge():
    """Cutting and joining cost nothing: the sum is paid behind them, where less is left of it."""

    def fn(x: ml.Tensor) -> ml.Tensor:
        return ml.sum(ml.sum(x, "d").split(a="b:4 c"), "c")

    assert collectives(fn, "r:2", "d:r", x="a:32 d:16") == ["all_reduce over r"]
    plan = ml.plan(ml.trace(fn, x=ml.spec("a:32 d:16")), "r:2", "d:r")
    assert plan.cost.over("r").elements == 4


def test_expanding_along_a_divided_dim_is_local():
    assert collectives(lambda x: x.expand(batch=8), "r:2 c:4", "batch:c d:r", x="d:16") == []
    back = collectives(
        lambda x: ml.gradients(ml.sum(x.expand(batch=8) * 2.0), [x])[0],
        "r:2 c:4",
        "batch:c d:r",
        x="d:16",
    )
    assert back == ["all_reduce over c"]


# -- names and order -----------------------------------------------------------------------------


def shape_of(fn: Callable[[ml.Tensor], Any], shape: str) -> str:
    return str(fn(ml.constant(np.zeros(ml.Shape.parse(shape).sizes), shape)).shape)


@pytest.mark.parametrize(
    ("fn", "shape", "made"),
    [
        (lambda x: x.rename(b="c"), "a:2 b:3", "[a:2 c:3]"),
        (lambda x: x.rename(a="b", b="a"), "a:2 b:3", "[b:2 a:3]"),
        (lambda x: x.rename(b="c:3"), "a:2 b:3", "[a:2 c:3]"),
        (lambda x: x.rename(), "a:2 b:3", "[a:2 b:3]"),
        (lambda x: x.split(b="c d:3"), "a:2 b:6 e:5", "[a:2 c:2 d:3 e:5]"),
        (lambda x: x.split(b="c"), "a:2 b:6", "[a:2 c:6]"),
        (lambda x: x.merge(t="c a"), "a:2 b:3 c:4", "[b:3 t:8]"),
        (lambda x: x.merge(t="a c"), "a:2 b:3 c:4", "[t:8 b:3]"),
        (lambda x: x.merge(b="b"), "a:2 b:3", "[a:2 b:3]"),
        (lambda x: ml.regroup(x, "a b -> c:3 d"), "e:5 a:2 b:3", "[e:5 c:3 d:2]"),
        (lambda x: x.expand(c=4, d=5), "a:2 b:3", "[c:4 d:5 a:2 b:3]"),
        (lambda x: x.expand(**{"c*": 4}), "a:2", "[c*:4 a:2]"),
        (lambda x: x.expand(), "a:2", "[a:2]"),
        (lambda x: ml.arrange(x, "b a"), "a:2 b:3", "[b:3 a:2]"),
    ],
)
def test_results_stand_where_they_are_said_to(
    fn: Callable[[ml.Tensor], ml.Tensor], shape: str, made: str
):
    assert shape_of(fn, shape) == made


@pytest.mark.parametrize(
    ("fn", "shape", "made"),
    [
        (lambda x: x.rename(a="c"), "a*:2 b:3", "[c*:2 b:3]"),
        (lambda x: x.rename(a="c*"), "a:2", "[c*:2]"),
        (lambda x: x.rename(a="c"), "a|g:2 g:3", "[c|g:2 g:3]"),
        (lambda x: x.split(a="c:2 d"), "a*:6", "[c*:2 d*:3]"),
        (lambda x: x.split(a="c*:2 d"), "a:6", "[c*:2 d:3]"),
        (lambda x: x.merge(t="a b"), "a*:2 b*:3", "[t*:6]"),
        (lambda x: x.merge(t="a b"), "a*:2 b:3", "[t:6]"),
        (lambda x: ml.arrange(x, "b a"), "a*:2 b:3", "[b:3 a*:2]"),
    ],
)
def test_a_plain_name_finds_a_twin_and_results_keep_the_mark(
    fn: Callable[[ml.Tensor], ml.Tensor], shape: str, made: str
):
    assert shape_of(fn, shape) == made


def test_what_is_made_of_kept_dims_is_kept():
    """An optimizer may rename and reshape its slots: they stay divided as their variable is."""
    shapes = {}

    def fn() -> None:
        w = ml.variable("w", "d:8 f:16", init=0.0)
        (g,) = ml.gradients(ml.sum(w), [w])
        shapes["renamed"] = g.rename(d="e")
        shapes["split"] = g.split(d="x:2 y")
        shapes["merged"] = g.merge(all="d f")
        shapes["slot"] = ml.variable("slot", shapes["merged"].shape, init=0.0)
        assert [v.name for v in ml.trainable_variables()] == ["w"]

    program = ml.trace(fn)
    assert {name: str(x.shape) for name, x in shapes.items()} == {
        "renamed": "[e':8 f':16]",
        "split": "[x':2 y':4 f':16]",
        "merged": "[all':128]",
        "slot": "[all':128]",
    }
    tables = ml.plan(
        program, "r:2", params="x:r", beside=[ml.trace(lambda x: x, x=ml.spec("x:2"))]
    ).tables
    axes = {name: [tables.axes(d) for d in x.shape] for name, x in shapes.items()}
    assert axes["split"] == [("r",), (), ()]
    assert axes["renamed"] == [(), ()]


# -- laws ----------------------------------------------------------------------------------------

#: dims that stand together in some tensor of the laws, and so lie on different axes
TOGETHER = ("t d", "o i d", "e f", "g k d")


@st.composite
def tables(draw: st.DrawFn) -> str:
    """Any legal table for the dims of the laws, on the mesh a:2 b:2 c:2."""
    table: dict[str, list[str]] = {}
    for name in draw(st.permutations(list(dict.fromkeys(" ".join(TOGETHER).split())))):
        beside = {n for group in TOGETHER if name in group.split() for n in group.split()}
        free = [a for a in "abc" if not any(a in table.get(n, []) for n in beside)]
        table[name] = draw(st.lists(st.sampled_from(free), unique=True)) if free else []
    return " ".join(f"{name}:{'+'.join(axes)}" for name, axes in table.items() if axes)


def laws(x: ml.Tensor) -> dict[str, ml.Tensor]:
    """Many ways of x [t:128 d:24] to come back to itself."""
    parts = x.split(t="o:8 i")
    crossed = parts.merge(t="i o")
    return {
        "split and merged": parts.merge(t="o i"),
        "merged and split": ml.arrange(crossed.split(t="i:16 o"), "o i d").merge(t="o i"),
        "renamed": x.rename(t="e", d="f").rename(e="f", f="e").rename(f="t", e="d"),
        "regrouped": ml.regroup(ml.regroup(parts, "o i -> g k:16"), "g k -> t"),
        "arranged": ml.arrange(ml.arrange(x, "d t"), "t d"),
    }


@for_all(tables())
@settings(max_examples=10)
def test_there_and_back_is_identity(layout: str):
    made = case("law", laws, gradients=False, x="t:128 d:24")
    for name, array in run(made, Laid("a:2 b:2 c:2", layout)).items():
        np.testing.assert_array_equal(array, made.arrays["x"], err_msg=name)


# -- errors --------------------------------------------------------------------------------------

ERRORS = [
    (
        lambda x: x.rename(lenght="memory"),
        """\
no dim named 'lenght'.
  shape  [length:8 d:16]
  fix: did you mean 'length'?""",
    ),
    (
        lambda x: x.rename(length="d"),
        """\
dim 'd' stands twice in one shape.
  dims  [d:8 d:16]
  fix: rename one of them: x.rename(d='other')""",
    ),
    (
        lambda x: x.rename(length="memory:9"),
        """\
rename: length:8 cannot become 'memory:9'.
  operand  [length:8 d:16]
  fix: name one dim of the same size""",
    ),
    (
        lambda x: x.rename(length="a b"),
        """\
rename: length:8 cannot become 'a b'.
  operand  [length:8 d:16]
  fix: name one dim of the same size""",
    ),
    (
        lambda x: x.split(length="o:3 i"),
        """\
split: length:8 cannot become 'o:3 i'.
  operand      [length:8 d:16]
  elements     8
  sizes named  3
  fix: name each dim once; the product of sizes must stay, and one may be left out""",
    ),
    (
        lambda x: x.split(length="o:2 i:2"),
        """\
split: length:8 cannot become 'o:2 i:2'.
  operand      [length:8 d:16]
  elements     8
  sizes named  4
  fix: name each dim once; the product of sizes must stay, and one may be left out""",
    ),
    (
        lambda x: x.split(length="o i"),
        """\
split: length:8 cannot become 'o i'.
  operand      [length:8 d:16]
  elements     8
  sizes named  1
  fix: name each dim once; the product of sizes must stay, and one may be left out""",
    ),
    (
        lambda x: x.merge(t="length length"),
        """\
dim 'length' is named twice: 'length length'.
  shape  [length:8 d:16]
  fix: give names alone""",
    ),
    (
        lambda x: x.merge(t=""),
        """\
merge: nothing cannot become 't'.
  operand      [length:8 d:16]
  elements     1
  sizes named  1
  fix: name each dim once; the product of sizes must stay, and one may be left out""",
    ),
    (
        lambda x: x.merge(d="length"),
        """\
dim 'd' stands twice in one shape.
  dims  [d:8 d:16]
  fix: rename one of them: x.rename(d='other')""",
    ),
    (
        lambda x: x.expand(d=2),
        """\
expand: there is a dim 'd' already.
  operand  [length:8 d:16]
  fix: expand by another name""",
    ),
    (
        lambda x: ml.arrange(x, "d"),
        """\
arrange: the order does not name each dim once.
  operand  [length:8 d:16]
  order    [d:16]
  fix: name all dims of the operand""",
    ),
    (
        lambda x: ml.arrange(x, ml.Shape.parse("length:8 e:16")),
        """\
arrange: the order does not name each dim once.
  operand  [length:8 d:16]
  order    [length:8 e:16]
  fix: name all dims of the operand""",
    ),
]


@pytest.mark.parametrize(("fn", "text"), ERRORS)
def test_errors(fn: Callable[[ml.Tensor], ml.Tensor], text: str):
    assert trace_error(ml.DimError, fn, x="length:8 d:16") == text


def test_a_pattern_has_one_arrow():
    assert trace_error(ml.NotationError, lambda x: ml.regroup(x, "a b"), x="a:2 b:3") == (
        "a pattern has one '->'.\n  a b\n     ^"
    )
