"""docs/from_mesh_tensorflow.md names what exists. Its programs are run by tests/test_readme.py."""

import re
from functools import reduce
from importlib import import_module
from pathlib import Path

import pytest

import meshlang as ml
import meshlang.ops

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "from_mesh_tensorflow.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
WORDS, CHECKLIST = (PAGE.split(f"\n## {title}\n")[1] for title in ("Words", "The checklist"))


def rows(text: str) -> list[list[str]]:
    """The cells of all tables, without their heads."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    rules = [i for i, row in enumerate(cells) if set(row[0]) == {"-"}]
    return [row for i, row in enumerate(cells) if i not in rules and i + 1 not in rules]


ROWS = rows(CHECKLIST)


def names_in(text: str, root: str) -> list[str]:
    return re.findall(rf"\b{root}((?:\.[A-Za-z_]\w*)+)", text)


@pytest.mark.parametrize("name", sorted(set(names_in(PAGE, "ml"))))
def test_every_name_of_the_language_exists(name: str):
    parts = name.removeprefix(".").split(".")
    assert parts[0] in ml.__all__ or parts[0] == "optim"
    reduce(getattr, parts, ml)


@pytest.mark.parametrize("name", sorted(set(names_in(PAGE, "models"))))
def test_every_name_of_the_models_exists(name: str):
    *modules, last = f"models{name}".split(".")
    found = import_module(".".join(modules))
    assert hasattr(found, last) or import_module(f"{found.__name__}.{last}")


def test_every_file_exists():
    named = set(re.findall(r"`((?:\w+/)+\w+\.py)`", PAGE))
    assert len(named) > 30
    assert sorted(name for name in named if not (ROOT / name).is_file()) == []


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_line_of_the_checklist_has_tests_or_says_that_it_is_not_here(row: list[str]):
    """And what it names of ours occurs in the tests that it names."""
    there, here, tests = row
    files = re.findall(r"`(tests/\S+\.py)`", tests)
    assert there
    if here.startswith("not here"):
        assert tests == "" and re.match(r"not here( yet|, on purpose)?: \S", here)
        return
    assert files
    if "tests/ops/test_elementwise.py" in files:
        files.append("tests/ops/functions.py")  # its table
    text = "\n".join((ROOT / name).read_text(encoding="utf-8") for name in files)
    ours = [name.split(".")[-1] for root in ("ml", "models") for name in names_in(here, root)]
    assert [name for name in ours if not re.search(rf"(?<![a-z]){name}(?![a-z])", text)] == []


def test_the_checklist_names_every_section_and_most_ops():
    assert len(ROWS) > 80
    shown = {name.removeprefix(".") for name in names_in(PAGE, "ml")}
    assert len(shown & set(meshlang.ops.__all__)) > 100


def test_words_are_those_of_the_readme():
    short = README.split("\n## Coming from Mesh-TensorFlow\n")[1].split("\n## ")[0]
    assert rows(short)
    assert [row for row in rows(short) if row not in rows(WORDS.split("\n## ")[0])] == []
