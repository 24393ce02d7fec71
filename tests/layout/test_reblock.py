"""Who sends what to whom: the fewest rounds, and never more bytes than gathering."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

import meshlang as ml
from meshlang.layout.cost import between
from meshlang.layout.rounds import Piece, least, rounds_of
from meshlang.ops.span import Run, around, blocks, cut, joined

PIECES = st.lists(
    st.builds(
        lambda ends, size: Piece(*ends, 0, Run(0, 0, size)),
        st.tuples(st.integers(0, 5), st.integers(0, 5)),
        st.integers(1, 3),
    ),
    max_size=24,
)


@given(PIECES)
@settings(max_examples=60)
def test_rounds_are_as_few_as_can_be(pieces: list[Piece]):
    rounds = rounds_of(pieces)
    senders = Counter(piece.sender for piece in pieces)
    receivers = Counter(piece.receiver for piece in pieces)
    assert len(rounds) == max([0, *senders.values(), *receivers.values()])
    assert least(pieces)[1] == len(rounds)
    assert least(pieces)[0] <= sum(max(p.size for p in sent) for sent in rounds)
    assert sorted(map(str, pieces)) == sorted(str(p) for sent in rounds for p in sent)
    for sent in rounds:
        assert max(Counter(p.sender for p in sent).values()) == 1
        assert max(Counter(p.receiver for p in sent).values()) == 1


RUNS = st.lists(
    st.builds(Run, st.integers(-1, 1), st.integers(0, 3), st.integers(0, 4)), max_size=5
)


def written_out(runs: tuple[Run, ...] | list[Run]) -> list[tuple[int, int]]:
    """Index by index: the operand and the index in it."""
    found = []
    for run in runs:
        for i in range(run.size):
            found.append((run.operand, 0 if run.operand < 0 else run.start + run.step * i))
    return found


@given(RUNS, st.integers(0, 10), st.integers(0, 10))
@settings(max_examples=60)
def test_runs_are_joined_and_cut(runs: list[Run], begin: int, size: int):
    whole = written_out(runs)
    assert written_out(joined(runs)) == whole
    assert written_out(cut(runs, begin, begin + size)) == whole[begin : begin + size]


@given(st.integers(-20, 20), st.integers(1, 20), st.integers(1, 6), st.booleans())
@settings(max_examples=60)
def test_around_a_dim(start: int, size: int, of: int, wrap: bool):
    places = range(start, start + size)
    wanted = [(0, i % of) if wrap or 0 <= i < of else (-1, 0) for i in places]
    assert written_out(around(start, size, of, wrap)) == wanted


def test_blocks_are_equal_parts():
    assert blocks([Run(0, 7, 8, -1)], 2) == ((Run(0, 7, 4, -1),), (Run(0, 3, 4, -1),))


@given(st.integers(0, 31), st.integers(0, 40), st.sampled_from(["a:2", "a:4", "a:2 b:4"]))
@settings(max_examples=40)
def test_never_more_than_gathering(start: int, before: int, mesh: str):
    """A slice and a pad: of each at most the rows of all other blocks are sent."""
    axes = "+".join(ml.Mesh.parse(mesh).names)
    ways = ml.Mesh.parse(mesh).size
    size = (32 - start) // ways * ways
    fns = [lambda x: ml.pad(x, "n", before=before, after=-before % ways)]
    fns += [lambda x: ml.slice(x, "n", start=start, size=size)] if size else []
    for fn in fns:
        plan = ml.plan(ml.trace(fn, x=ml.spec("n:32")), mesh, f"n:{axes}")
        assert plan.cost.all.wire_elements <= 32 // ways * (ways - 1)


def test_a_dim_over_two_axes_has_neighbours_too():
    """The last block of one row of processors and the first one of the next."""
    plan = ml.plan(
        ml.trace(lambda x: ml.shift(x, "n", 1), x=ml.spec("n:32 d:4")), "a:2 b:4", "n:a+b"
    )
    (permute,) = (step for step in plan.steps if getattr(step, "sources", ()))
    assert permute.axes == ("a", "b")
    assert permute.sources == (-1, 0, 1, 2, 3, 4, 5, 6)
    assert permute.payload == (4, 16)


def test_what_crosses_between_machines():
    """Of three neighbours that send a row of 16 bytes, one has another machine behind it."""
    plan = ml.plan(ml.trace(lambda x: ml.shift(x, "n", 1), x=ml.spec("n:32 d:4")), "r:4", "n:r")
    found = between(plan, 2)["permute", ("r",)]
    assert (found.inside_bytes, found.between_bytes) == (12.0, 4.0)


def test_planning_many_processors_is_quick():
    plan = ml.plan(
        ml.trace(lambda x: ml.shift(x, "n", 1), x=ml.spec("n:65536 d:4")), "a:16 b:32", "n:a+b"
    )
    assert plan.cost.all.wire_elements == 4.0
    far = ml.trace(
        lambda x: ml.windows(x, "n", into="w:2", dilation=8191, wrap=True, padding=(0, 8191)),
        x=ml.spec("n:8192"),
    )
    assert ml.plan(far, "a:16 b:32", "n:a+b").cost.all.wire_elements == 511 * 16
