"""Windows and halos: NumPy, finite differences, layouts, what moves, errors."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import meshlang as ml
from tests.harness import (
    Laid,
    bools,
    case,
    check,
    check_slopes,
    check_values,
    collectives,
    drawn,
    ints,
    layouts,
    trace_error,
    twice,
)


def windows(
    axis: int,
    size: int,
    count: int,
    stride: int = 1,
    dilation: int = 1,
    before: int = 0,
    wrap: bool = False,
    fill: float = 0,
) -> Callable[[np.ndarray], np.ndarray]:
    """Index by index."""

    def oracle(x: np.ndarray) -> np.ndarray:
        rows, n = np.moveaxis(x, axis, 0), x.shape[axis]
        made = np.full((count, size, *rows.shape[1:]), fill, x.dtype)
        for i in range(count):
            for k in range(size):
                at = i * stride + k * dilation - before
                if wrap or 0 <= at < n:
                    made[i, k] = rows[at % n]
        return np.moveaxis(made, (0, 1), (axis, axis + 1))

    return oracle


CASES = (
    case(
        "valid",
        lambda x: ml.windows(x, "n", into="w:9"),
        windows(0, 9, 16),
        x="n:24 d:16",
    ),
    case(
        "same",
        lambda x: ml.windows(x, "n", into="w:4", padding="same"),
        windows(1, 4, 24, before=1),
        x="d:16 n:24",
    ),
    case(
        "strides and dilation",
        lambda x: ml.windows(x, "n", into="w:3", stride=2, dilation=5, padding=(7, 2), fill=1.5),
        windows(0, 3, 8, 2, 5, 7, fill=1.5),
        x="n:16 d:16",
    ),
    case(
        "with gaps",
        lambda x: ml.windows(x, "n", into="w:2", stride=3),
        windows(0, 2, 8, 3),
        x="n:24",
    ),
    case(
        "longer than a block",
        lambda x: ml.windows(x, "n", into="w:21", padding=(10, 10), wrap=True),
        windows(0, 21, 16, before=10, wrap=True),
        x="n:16 d:8",
    ),
    case(
        "halo",
        lambda x: ml.halo_exchange(x, "n", before=2, after=1),
        windows(1, 4, 16, before=2),
        x="d:8 n:16 e:8",
    ),
    case(
        "halo round",
        lambda x: ml.halo_exchange(x, "n", after=3, into="w", wrap=True),
        windows(0, 4, 16, wrap=True),
        x="n:16 d:8",
    ),
    case(
        "second order",
        twice(lambda x: ml.windows(x, "n", into="w:5", stride=2, padding="same")),
        x="n:16 d:8",
    ),
    case(
        "numbers",
        lambda x: ml.windows(x, "n", into="w:3", padding="same", fill=-1),
        windows(0, 3, 24, before=1, fill=-1),
        x=ints("n:24", 100),
    ),
    case(
        "bools",
        lambda x: ml.halo_exchange(x, "n", before=1, into="w"),
        windows(0, 2, 24, before=1),
        x=bools("n:24"),
    ),
)


def test_values():
    check_values([each for each in CASES if each.oracle])


def test_slopes():
    check_slopes(CASES[:-2])


@pytest.mark.parametrize("laid", drawn("windows", layouts("n d")))
def test_layouts(laid: Laid):
    check(CASES, laid)


@pytest.mark.parametrize(
    "laid", drawn("windows that are divided", [Laid("r:2 c:2", "w:r n:c"), Laid("r:4", "w:r")])
)
def test_the_new_dim_may_be_divided(laid: Laid):
    made = case("w", lambda x: ml.windows(x, "n", into="w:4", padding="same"), x="n:16 d:8")
    check(made, laid)


@pytest.mark.parametrize("backend", ["simulated", "spmd"])
def test_three_processors_have_neighbours_too(backend: str):
    """They are no pairs; all blocks travel, and the result is the same."""
    made = (
        case("halo", lambda x: ml.halo_exchange(x, "n", before=2, after=1), x="n:12 d:4"),
        case("round", twice(lambda x: ml.shift(x, "n", 1, wrap=True)), x="n:12 d:4"),
    )
    check(made, Laid("r:3", "n:r", backend))


# -- what moves ----------------------------------------------------------------------------------


def moved(fn: Callable[..., Any], layout: str = "n:r") -> dict[str, tuple[int, int]]:
    """Runs and rows sent; 4 blocks of 8 rows."""
    plan = ml.plan(ml.trace(fn, x=ml.spec("n:32 d:4")), "r:4", layout)
    return {
        kind: (t.collectives, int(t.wire_elements) // 4)
        for (kind, _), t in plan.cost.traffic.items()
    }


def test_a_halo_is_sent_once():
    def fn(x: ml.Tensor) -> list[ml.Tensor]:
        return [ml.halo_exchange(x, "n", before=2, after=1, into=w) for w in ("one", "other")]

    assert moved(fn) == {"permute": (2, 3)}
    assert collectives(fn, "r:4", "d:r", x="n:32 d:4") == []


def test_windows_that_line_up_send_nothing():
    assert moved(lambda x: ml.windows(x, "n", into="w:4", stride=4)) == {}
    assert moved(lambda x: ml.windows(x, "n", into="w:2", stride=2, dilation=1)) == {}


def test_long_windows_gather_what_is_less():
    """All but its own rows are 24; three rounds of 8 would be as many."""
    wide = lambda x: ml.windows(x, "n", into="w:57", padding=(28, 28))  # noqa: E731
    assert moved(wide) == {"all_gather": (1, 24)}


def test_a_gradient_sends_the_same_rows_back():
    def fn(x: ml.Tensor) -> ml.Tensor:
        made = ml.halo_exchange(x, "n", before=2, after=1)
        return ml.gradients(ml.sum(made * made), [x])[0]

    assert moved(fn)["permute"] == (4, 6)


# -- errors --------------------------------------------------------------------------------------

ERRORS = [
    (
        lambda x: ml.windows(x, "n", into="w:3", stride=0),
        """\
windows: window, stride and dilation are 1 or more.
  dim       n:8
  window    3
  stride    0
  dilation  1""",
    ),
    (
        lambda x: ml.windows(x, "n", into="w:3", padding="full"),
        """\
windows: no padding 'full'.
  dim  n:8
  fix: 'same', 'valid', or (before, after) with numbers from 0 on""",
    ),
    (
        lambda x: ml.windows(x, "n", into="w:5", dilation=2),
        """\
windows: a window reaches over 9 indices, and n:8 padded has 8.
  dim       n:8
  window    5
  stride    1
  dilation  2
  padding   valid
  fix: padding='same', or a shorter window""",
    ),
    (
        lambda x: ml.windows(x, "n", into="d:3"),
        """\
dim 'd' stands twice in one shape.
  dims  [n:6 d:3 d:16]
  fix: rename one of them: x.rename(d='other')""",
    ),
    (
        lambda x: ml.halo_exchange(x, "n", before=-1),
        """\
halo_exchange: before and after are not below 0.
  operand  [n:8 d:16]
  before   -1
  after    0""",
    ),
]


@pytest.mark.parametrize(("fn", "text"), ERRORS)
def test_errors(fn: Callable[[ml.Tensor], ml.Tensor], text: str):
    assert trace_error(ml.DimError, fn, x="n:8 d:16") == text
