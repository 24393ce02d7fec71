"""The small notations, and errors that point at the place."""

import pytest

from meshlang.errors import NotationError
from meshlang.notation import arrow, dim_words, entries, words

SAME = ["a:1 b:2", "a:1,b:2", "a:1;b:2", "a:1, b:2", " a:1 ;\tb:2\n", ",a:1,,b:2,"]


@pytest.mark.parametrize("text", SAME)
def test_separators(text: str):
    assert entries(text, "mesh") == [("a", "1"), ("b", "2")]
    assert dim_words(text) == [("a", "", 1), ("b", "", 2)]


@pytest.mark.parametrize("text", ["", "  ", " ,; "])
def test_nothing(text: str):
    assert (entries(text, "mesh"), dim_words(text), words(text)) == ([], [], [])


def test_words_know_their_places():
    assert words("a ab  a,b") == [("a", 0), ("ab", 2), ("a", 6), ("b", 8)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("batch", ("batch", "", None)),
        ("batch:16", ("batch", "", 16)),
        ("experts*", ("experts", "*", None)),
        ("experts*:8", ("experts", "*", 8)),
        ("experts|group", ("experts", "|group", None)),
        ("experts|group:8", ("experts", "|group", 8)),
        ("d_model'", ("d_model", "'", None)),
        ("n.blocks:2", ("n.blocks", "", 2)),
        ("_x1", ("_x1", "", None)),
    ],
)
def test_dims(text: str, found: tuple[str, str, int | None]):
    assert dim_words(text) == [found]


DIM = "a dim reads name, name:size, or a twin: name*, name|other, name'."
WRONG_DIMS = {
    "batch length:": f"""{DIM}
  batch length:
        ^""",
    "batch, 3": f"""{DIM}
  batch, 3
         ^""",
    "batch:-3": f"""{DIM}
  batch:-3
  ^""",
    "batch: 3": f"""{DIM}
  batch: 3
  ^""",
    "batch:3.5": f"""{DIM}
  batch:3.5
  ^""",
    "a b* c** d": f"""{DIM}
  a b* c** d
       ^""",
    "experts|": f"""{DIM}
  experts|
  ^""",
    "batch length:0": """a dim has a positive size.
  batch length:0
        ^""",
}


@pytest.mark.parametrize("text", WRONG_DIMS)
def test_wrong_dims(text: str):
    with pytest.raises(NotationError) as error:
        dim_words(text)
    assert str(error.value) == WRONG_DIMS[text]


ENTRY = "an entry of a layout reads name:value."
WRONG_ENTRIES = {
    "batch": f"""{ENTRY}
  batch
  ^""",
    "batch:data d_ff:": f"""{ENTRY}
  batch:data d_ff:
             ^""",
    "batch:data d_ff = model": f"""{ENTRY}
  batch:data d_ff = model
             ^""",
    "batch:data d_ff->model": f"""{ENTRY}
  batch:data d_ff->model
             ^""",
    "8:data": f"""{ENTRY}
  8:data
  ^""",
}


@pytest.mark.parametrize("text", WRONG_ENTRIES)
def test_wrong_entries(text: str):
    with pytest.raises(NotationError) as error:
        entries(text, "layout")
    assert str(error.value) == WRONG_ENTRIES[text]


def test_an_arrow():
    assert arrow("a b -> c:4 d") == ("a b ", " c:4 d")
    assert arrow("->") == ("", "")


WRONG_ARROWS = {
    "a b": """a pattern has one '->'.
  a b
     ^""",
    "a -> b -> c": """a pattern has one '->'.
  a -> b -> c
         ^""",
}


@pytest.mark.parametrize("text", WRONG_ARROWS)
def test_wrong_arrows(text: str):
    with pytest.raises(NotationError) as error:
        arrow(text)
    assert str(error.value) == WRONG_ARROWS[text]
