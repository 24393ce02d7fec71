"""What collectives are made of in TensorFlow."""

import pytest

from benchmarks.collectives import Made, made, markdown

ALL_TO_ALL = "CollectiveAllToAllV2"
GATHER = "CollectiveGatherV2"


@pytest.mark.parametrize(
    ("kind", "dtype", "members", "ops", "sent"),
    [
        ("all_reduce sum", "float32", 8, (("CollectiveReduceV2", 1),), 1.0),
        ("all_reduce max", "float32", 3, (("CollectiveReduceV2", 1),), 1.0),
        ("all_reduce sum", "bfloat16", 8, (("CollectiveReduceV2", 1),), 2.0),
        ("all_gather", "bfloat16", 8, ((GATHER, 1),), 1.0),
        ("all_gather", "bool", 8, ((GATHER, 1),), 2.0),
        ("reduce_scatter", "float32", 8, ((ALL_TO_ALL, 1),), 1.0),
        # Twelve go as 6 x 2, sixteen as 8 x 2: each step sends all but the own piece.
        ("all_to_all", "float32", 12, ((ALL_TO_ALL, 2),), (5 / 6 + 1 / 2) / (11 / 12)),
        ("all_to_all", "float32", 16, ((ALL_TO_ALL, 2),), (7 / 8 + 1 / 2) / (15 / 16)),
        ("all_to_all", "float32", 13, ((GATHER, 1),), 13.0),
        ("permute by one", "float32", 2, ((GATHER, 1),), 1.0),
        ("permute by one", "float32", 8, ((GATHER, 2),), 2.0),
        ("permute by one", "float32", 3, ((GATHER, 1),), 2.0),
    ],
)
def test_a_collective(
    kind: str, dtype: str, members: int, ops: tuple[tuple[str, int], ...], sent: float
) -> None:
    assert made(kind, dtype, members) == Made(ops, pytest.approx(sent))


def test_sizes_that_are_made_alike_share_a_line() -> None:
    one, two = Made((("A", 1),), 1.0), Made((("A", 2), ("B", 1)), 1.5)
    rows = [("k", "int32", 2, one), ("k", "int32", 4, one), ("k", "int32", 12, two)]
    assert markdown(rows) == (
        "| collective | dtype | members | TensorFlow's ops | sent / least |\n"
        "|---|---|---|---|---|\n"
        "| k | int32 | 2, 4 | 1 A | 1 |\n"
        "| k | int32 | 12 | 2 A, 1 B | 1.5 |"
    )
