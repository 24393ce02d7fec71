"""The folders that docs/design.md lists are the folders that there are."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS = ("", "ops", "layout", "lowering", "optim")


def listed(part: str) -> str:
    """What the page says of meshlang/ itself, or of one folder in it."""
    page = (ROOT / "docs" / "design.md").read_text()
    (listing,) = re.findall(r"```\n(meshlang/ .*?)```", page, flags=re.DOTALL)
    listing = listing.split("\nmodels/")[0]
    before, *folders = re.split(r"\n  (?=\w+/ )", listing)
    found = {folder.split("/")[0]: folder for folder in folders}
    return found[part] if part else before


@pytest.mark.parametrize("part", PARTS)
def test_every_module_is_listed_where_it_is(part: str):
    modules = {p.stem for p in (ROOT / "meshlang" / part).glob("*.py")} - {"__init__"}
    assert modules <= set(re.findall(r"\w+", listed(part)))


def test_folders_are_listed():
    assert {*PARTS[1:]} == {p.parent.name for p in (ROOT / "meshlang").glob("*/__init__.py")}
