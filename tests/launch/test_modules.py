"""``--module`` imports, and the check that `models` is ours."""

import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

import launch
from launch.errors import ConfigError
from launch.modules import check_models_are_ours, import_modules

INSTALLED = Path(launch.__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def own_imports(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test imports is forgotten after it."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


def text_for(names: list[str], directory: Path) -> str:
    with pytest.raises(ConfigError) as raised:
        import_modules(names, directory)
    return str(raised.value)


def test_modules_of_the_working_directory_are_imported(tmp_path: Path) -> None:
    package = tmp_path / "toy_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "toy_model.py").write_text("loaded = 'yes'\n")
    (tmp_path / "toy_other.py").write_text("")
    import_modules(["toy_package.toy_model", "toy_other"], tmp_path)
    assert sys.modules["toy_package.toy_model"].loaded == "yes"
    assert "toy_other" in sys.modules


def test_the_working_directory_hides_no_installed_package(tmp_path: Path) -> None:
    (tmp_path / "absl").mkdir()
    (tmp_path / "absl" / "__init__.py").write_text("raise RuntimeError('the wrong absl')\n")
    import_modules(["absl.flags"], tmp_path)
    assert sys.path[-1] == str(tmp_path)


def test_module_not_found(tmp_path: Path) -> None:
    assert text_for(["toy_missing.model"], tmp_path) == (
        "module 'toy_missing.model' not found.\n"
        "  missing            toy_missing\n"
        f"  working directory  {tmp_path}\n"
        "  fix: start where the module can be imported, or install the package it is in"
    )


def test_module_found_but_not_what_it_imports(tmp_path: Path) -> None:
    (tmp_path / "toy_importing.py").write_text("import toy_not_there\n")
    assert text_for(["toy_importing"], tmp_path) == (
        "a module imports what is not installed.\n"
        "  module   toy_importing\n"
        "  missing  toy_not_there\n"
        "  fix: install 'toy_not_there'"
    )


def test_name_not_in_an_imported_module(tmp_path: Path) -> None:
    (tmp_path / "toy_from.py").write_text("from absl import not_there\n")
    text = text_for(["toy_from"], tmp_path)
    assert text.startswith(
        "a module cannot be imported.\n"
        "  module  toy_from\n"
        "  error   cannot import name 'not_there' from 'absl'"
    )


def test_module_that_does_not_parse(tmp_path: Path) -> None:
    (tmp_path / "toy_broken.py").write_text("x = 1\nif x\n    x = 2\n")
    assert text_for(["toy_broken"], tmp_path) == (
        "a module does not parse: expected ':'.\n"
        "  module  toy_broken\n"
        f"  at      {tmp_path / 'toy_broken.py'}:2"
    )


@pytest.mark.parametrize("name", ["my_package/my_model.py", "./my_package/my_model"])
def test_path_instead_of_a_name(name: str, tmp_path: Path) -> None:
    assert text_for([name], tmp_path) == (
        f"no module can be named {name!r}.\n  fix: --module=my_package.my_model"
    )


def test_no_name_at_all(tmp_path: Path) -> None:
    assert text_for(["3d-model"], tmp_path) == (
        "no module can be named '3d-model'.\n"
        "  fix: write it as in an import: --module=my_package.my_model"
    )


def test_all_modules_that_fail_are_told(tmp_path: Path) -> None:
    assert text_for(["a b", "c d"], tmp_path) == (
        "2 problems in the modules.\n"
        "1. no module can be named 'a b'.\n"
        "     fix: write it as in an import: --module=my_package.my_model\n"
        "2. no module can be named 'c d'.\n"
        "     fix: write it as in an import: --module=my_package.my_model"
    )


def test_an_exception_of_the_users_code_passes_through(tmp_path: Path) -> None:
    (tmp_path / "toy_raising.py").write_text("raise KeyError('theirs')\n")
    with pytest.raises(KeyError, match="theirs"):
        import_modules(["toy_raising"], tmp_path)


def test_models_beside_launch_are_ours() -> None:
    ours = INSTALLED / "models" / "__init__.py"
    check_models_are_ours(ModuleSpec("models", None, origin=str(ours)))


def test_models_of_a_working_directory_are_not_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = tmp_path / "models"
    theirs.mkdir()
    (theirs / "__init__.py").write_text("")
    monkeypatch.delitem(sys.modules, "models", raising=False)
    sys.path.insert(0, str(tmp_path))  # as `python -m` does with the working directory
    with pytest.raises(ConfigError) as raised:
        check_models_are_ours()
    assert str(raised.value) == (
        "the package 'models' is not meshlang's.\n"
        f"  found  {theirs / '__init__.py'}\n"
        f"  ours   {INSTALLED / 'models' / '__init__.py'}\n"
        "  fix: start from another directory, rename that one, or use the commands "
        "meshlang-train and meshlang-plan"
    )


def test_no_models_at_all() -> None:
    with pytest.raises(ConfigError) as raised:
        check_models_are_ours(ModuleSpec("models", None))
    assert str(raised.value) == (
        "the package 'models' is not meshlang's.\n"
        "  found  nothing\n"
        f"  ours   {INSTALLED / 'models' / '__init__.py'}\n"
        "  fix: install meshlang anew: a part of it is missing"
    )
