"""Gather, scatter_add, one_hot: NumPy, finite differences, layouts, what moves, laws, errors."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st

import meshlang as ml
from tests.harness import (
    Input,
    Laid,
    bools,
    case,
    check,
    check_slopes,
    check_values,
    collectives,
    compare,
    drawn,
    given,
    ints,
    layout_error,
    layouts,
    run,
)

Sizes = Mapping[str, int]


def letters(*shapes: str) -> list[str]:
    """A letter of einsum for each dim."""
    names = dict.fromkeys(name for shape in shapes for name in shape.split())
    table = {name: chr(ord("a") + i) for i, name in enumerate(names)}
    return ["".join(table[n] for n in shape.split()) for shape in shapes]


def hot(index: np.ndarray, size: int) -> np.ndarray:
    """One-hot rows; zeros for an index outside: what the definition says, without any indexing."""
    return (index[..., None] == np.arange(size)).astype(np.float64)


def gathered(table: str, index: str, out: str, dims: str) -> Callable[..., np.ndarray]:
    """The oracle of a gather: a product with one-hot tensors."""

    def oracle(x: np.ndarray, *indices: np.ndarray) -> np.ndarray:
        names = dims.split()
        sizes = dict(zip(table.split(), x.shape, strict=True))
        hots = [hot(i, sizes[n]) for i, n in zip(indices, names, strict=True)]
        words = letters(table, *(f"{index} {n}" for n in names), out)
        found = np.einsum(f"{','.join(words[:-1])}->{words[-1]}", x.astype(np.float64), *hots)
        return found.astype(x.dtype)

    return oracle


def scattered(values: str, index: str, out: str, new: Sizes) -> Callable[..., np.ndarray]:
    """The oracle of a scatter_add: the same product, the other way."""

    def oracle(x: np.ndarray, *indices: np.ndarray) -> np.ndarray:
        hots = [hot(i, size) for i, size in zip(indices, new.values(), strict=True)]
        words = letters(values, *(f"{index} {n}" for n in new), out)
        found = np.einsum(f"{','.join(words[:-1])}->{words[-1]}", x.astype(np.float64), *hots)
        return found.astype(x.dtype)

    return oracle


def places(shape: str, size: int) -> Input:
    """Indices of which some lie outside, on both sides."""
    return ints(shape, size + 3, low=-3)


def unique(shape: str, size: int) -> Input:
    """Indices of which no two that lie inside are equal."""
    count = ml.Shape.parse(shape).size
    return Input(
        shape,
        "int32",
        lambda rng, sizes: rng.permutation(size + 8)[:count].reshape(sizes).astype("int32") - 4,
    )


GATHERS = (
    case(
        "gather",
        lambda x, i: ml.gather(x, i, dim="vocab"),
        gathered("vocab d", "batch length", "batch length d", "vocab"),
        x="vocab:40 d:16",
        i=places("batch:8 length:24", 40),
    ),
    case(
        "gather an inner dim",
        lambda x, i: ml.gather(x, i, dim="vocab"),
        gathered("d vocab", "length", "length d", "vocab"),
        x="d:16 vocab:40",
        i=places("length:24", 40),
    ),
    case(
        "gather in batches",
        lambda x, i: ml.gather(x, i, dim="vocab"),
        gathered("batch vocab d", "length batch", "length batch d", "vocab"),
        x="batch:8 vocab:40 d:16",
        i=places("length:24 batch:8", 40),
    ),
    case(
        "gather one of each row",
        lambda x, i: ml.gather(x, i, dim="vocab"),
        gathered("batch length vocab", "batch length", "batch length", "vocab"),
        x="batch:8 length:24 vocab:40",
        i=places("batch:8 length:24", 40),
    ),
    case(
        "gather by a scalar",
        lambda x, i: ml.gather(x, i, dim="vocab"),
        gathered("vocab d", "", "d", "vocab"),
        x="vocab:40 d:16",
        i=given("", 7, "int32"),
    ),
    case(
        "gather at two",
        lambda x, e, s: ml.gather_at(x, {"experts": e, "slot": s}),
        gathered("experts batch slot d", "batch length", "batch length d", "experts slot"),
        x="experts:8 batch:24 slot:16 d:32",
        e=places("batch:24 length:40", 8),
        s=places("batch:24 length:40", 16),
    ),
    case(
        "gather and sum",
        lambda x, s: ml.gather_at(x, {"slot": s}, summed="choice"),
        gathered("slot d", "choice length", "length d", "slot"),
        x="slot:16 d:32",
        s=places("choice:8 length:24", 16),
    ),
    case(
        "gather what is unique",
        lambda x, s: ml.gather_at(x, {"slot": s}, summed="choice", unique=True),
        gathered("slot d", "length choice", "length d", "slot"),
        x="slot:256 d:32",
        s=unique("length:24 choice:8", 256),
    ),
)
SCATTERS = (
    case(
        "scatter",
        lambda x, i: ml.scatter_add(x, i, into="vocab:40"),
        scattered("batch length d", "batch length", "vocab d", {"vocab": 40}),
        x="batch:8 length:24 d:16",
        i=places("batch:8 length:24", 40),
    ),
    case(
        "scatter in other order",
        lambda x, i: ml.scatter_add(x, i, into="vocab:40"),
        scattered("d length batch", "batch length", "vocab d", {"vocab": 40}),
        x="d:16 length:24 batch:8",
        i=places("batch:8 length:24", 40),
    ),
    case(
        "scatter in batches",
        lambda x, i: ml.scatter_add(x, i, into="vocab:40", batch="batch"),
        scattered("length batch d", "batch length", "batch vocab d", {"vocab": 40}),
        x="length:24 batch:8 d:16",
        i=places("batch:8 length:24", 40),
    ),
    case(
        "scatter at two",
        lambda x, e, s: ml.scatter_add_at(x, {"experts:8": e, "slot:16": s}, batch="batch"),
        scattered(
            "batch length d", "batch length", "batch experts slot d", {"experts": 8, "slot": 16}
        ),
        x="batch:24 length:40 d:32",
        e=places("batch:24 length:40", 8),
        s=places("batch:24 length:40", 16),
    ),
    case(
        "scatter repeated rows",
        lambda x, s: ml.scatter_add_at(x, {"slot:16": s}, order="d slot"),
        scattered("length d", "choice length", "d slot", {"slot": 16}),
        x="length:24 d:32",
        s=places("choice:8 length:24", 16),
    ),
    case(
        "scatter what is unique",
        lambda x, s: ml.scatter_add_at(x, {"slot:256": s}, unique=True),
        scattered("length d", "length choice", "slot d", {"slot": 256}),
        x="length:24 d:32",
        s=unique("length:24 choice:8", 256),
    ),
    case(
        "scatter numbers",
        lambda x, i: ml.scatter_add(x, i, into="vocab:40"),
        scattered("length", "length", "vocab", {"vocab": 40}),
        x="length:24",
        i=places("length:24", 40),
    ),
)
OTHERS = (
    case(
        "one_hot",
        lambda i: ml.one_hot(i, "vocab:40"),
        lambda i: hot(i, 40),
        i=places("batch:8 length:24", 40),
    ),
    case(
        "one_hot of a dtype",
        lambda i: (ml.one_hot(i, "vocab:40", "int32"), ml.one_hot(i, "vocab:40", "bool")),
        lambda i: (hot(i, 40).astype("int32"), hot(i, 40) == 1.0),
        i=places("length:24", 40),
    ),
    *(
        case(
            f"gather {dtype}",
            lambda x, i: ml.gather(x, i, dim="vocab"),
            gathered("vocab d", "length", "length d", "vocab"),
            x=bools("vocab:40 d:16")
            if dtype == "bool"
            else ints("vocab:40 d:16", 200, dtype=dtype),
            i=places("length:24", 40),
        )
        for dtype in ("bool", "int32", "int64", "uint8", "uint32")
    ),
    *(
        case(
            f"scatter {dtype}",
            lambda x, i: ml.scatter_add(x, i, into="vocab:40"),
            scattered("length d", "length", "vocab d", {"vocab": 40}),
            x=ints("length:24 d:16", 9, dtype=dtype),
            i=places("length:24", 40),
        )
        for dtype in ("int32", "int64", "uint8", "uint32")
    ),
)


def squared(f: Callable[..., ml.Tensor]) -> Callable[..., ml.Tensor]:
    """The gradient of a sum of squares, so that its own gradient is of second order."""

    def fn(x: ml.Tensor, *indices: ml.Tensor) -> ml.Tensor:
        y = f(x, *indices)
        return ml.gradients(ml.sum(y * y * y), [x])[0]

    return fn


SECOND = (
    case(
        "gather twice",
        squared(lambda x, s: ml.gather_at(x, {"slot": s}, summed="choice")),
        x="slot:16 d:32",
        s=places("choice:8 length:24", 16),
    ),
    case(
        "scatter twice",
        squared(lambda x, i: ml.scatter_add(x, i, into="vocab:40", batch="batch")),
        x="batch:8 length:24 d:16",
        i=places("batch:8 length:24", 40),
    ),
)
DIMS = "vocab d batch length"
SLOTS = "experts slot batch d length"


def test_values():
    check_values((*GATHERS, *SCATTERS, *OTHERS))


def test_slopes():
    check_slopes((*GATHERS, *SCATTERS, *SECOND))


@pytest.mark.parametrize("laid", drawn("index", layouts(DIMS), draws=3))
def test_layouts(laid: Laid):
    check((*GATHERS, *SCATTERS, *OTHERS, *SECOND), laid)


@pytest.mark.parametrize("laid", drawn("slots", layouts(SLOTS), draws=3))
def test_layouts_of_slots(laid: Laid):
    check((*GATHERS, *SCATTERS, *OTHERS, *SECOND), laid)


# -- what moves ----------------------------------------------------------------------------------


def embedded(x: ml.Tensor, i: ml.Tensor) -> ml.Tensor:
    return ml.gather(x, i, dim="vocab")


EMBEDDING = {"x": "vocab:40 d:16", "i": ints("batch:8 length:24", 40)}


def test_rows_of_a_divided_table_are_one_sum():
    layout = "vocab:model batch:data"
    assert collectives(embedded, "data:2 model:4", layout, **EMBEDDING) == ["all_reduce over model"]
    assert collectives(embedded, "data:2 model:4", "batch:data d:model", **EMBEDDING) == []
    spec = {"x": ml.spec("vocab:40 d:16"), "i": ml.spec("batch:8 length:24", "int32")}
    sent = ml.plan(ml.trace(embedded, **spec), "data:2 model:4", layout).cost.all
    assert (sent.elements, sent.bytes) == (8 // 2 * 24 * 16, 8 // 2 * 24 * 16 * 4)


def test_the_gradient_of_an_embedding_is_one_sum_over_the_batch():
    def fn(x: ml.Tensor, i: ml.Tensor, g: ml.Tensor) -> ml.Tensor:
        return ml.gradients(embedded(x, i), [x], g)[0]

    shapes = {**EMBEDDING, "g": "batch:8 length:24 d:16"}
    for layout in ("batch:data", "batch:data vocab:model"):
        assert collectives(fn, "data:2 model:4", layout, **shapes) == ["all_reduce over data"]
    plan = ml.plan(
        ml.trace(
            fn,
            x=ml.spec("vocab:40 d:16"),
            i=ml.spec("batch:8 length:24", "int32"),
            g=ml.spec("batch:8 length:24 d:16"),
        ),
        "data:2 model:4",
        "batch:data vocab:model",
    )
    assert plan.cost.over("data").elements == 40 * 16 // 4


def test_rows_in_batches_stay_where_they_are():
    def fn(x: ml.Tensor, e: ml.Tensor, s: ml.Tensor) -> ml.Tensor:
        slots = ml.scatter_add_at(x, {"experts*:8": e, "slot:16": s}, batch="group")
        return ml.gather_at(slots, {"experts": e, "slot": s})

    shapes = {
        "x": "group:8 token:16 d:8",
        "e": ints("group:8 token:16", 8),
        "s": ints("group:8 token:16", 16),
    }
    assert collectives(fn, "all:8", "group:all experts:all", **shapes) == []


def test_one_hot_moves_nothing():
    made = collectives(
        lambda i: ml.one_hot(i, "vocab:40"), "r:2 c:4", "vocab:c n:r", i=ints("n:8", 40)
    )
    assert made == []


def test_what_cannot_be_summed_is_summed_wider():
    assert collectives(embedded, "r:2", "vocab:r", x=bools("vocab:8 d:4"), i=ints("n:3", 8)) == [
        "all_reduce over r"
    ]


def test_a_table_and_its_index_on_one_axis_are_refused():
    assert (
        layout_error(embedded, "r:2", "vocab:r batch:r", **EMBEDDING)
        == """\
dims 'vocab' and 'batch' of one op are both laid out on axis 'r'.
  operand 0  [vocab:40 d:16]
  operand 1  [batch:8 length:24]
  result     [batch:8 length:24 d:16]
  layout     vocab:r batch:r
  mesh       r:2
  fix: hold one of them whole here: ml.whole(x, 'batch')"""
    )


# -- laws ----------------------------------------------------------------------------------------


@for_all(st.data(), st.sampled_from(["", "n:r", "vocab:c n:r", "vocab:r+c", "d:r vocab:c"]))
@settings(max_examples=8)
def test_scatter_is_the_transpose_of_gather(data: st.DataObject, layout: str):
    """<gather(x), y> = <x, scatter(y)> for any index, whatever lies outside."""
    index = data.draw(st.lists(st.integers(-5, 12), min_size=4, max_size=4))

    def fn(x: ml.Tensor, y: ml.Tensor, i: ml.Tensor) -> dict[str, Any]:
        return {
            "gathered": ml.sum(ml.gather(x, i, dim="vocab") * y),
            "scattered": ml.sum(ml.scatter_add(y, i, into="vocab:8") * x),
        }

    made = case(
        "law", fn, gradients=False, x="vocab:8 d:4", y="n:4 d:4", i=given("n:4", index, "int32")
    )
    found = run(made, Laid("r:2 c:2", layout))
    compare("law", found["law/value/gathered"], found["law/value/scattered"], 1e-12)
