"""Reading gin: where files are found, what is refused before it runs, and bare words."""

import sys
from pathlib import Path
from typing import Any

import pytest

import launch
from launch.errors import ConfigError
from launch.gin_source import (
    COMMAND_LINE,
    Macro,
    Reference,
    Source,
    Statement,
    load_gin,
    read,
    search_path,
)

LAUNCH = Path(launch.__file__).resolve().parent


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name: str, text: str) -> None:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def read_files(*names: str, folders: tuple[str, ...] = ()) -> Source:
    return read(names, [], [Path.cwd(), *map(Path, folders)])


def values(*bindings: str) -> list[Any]:
    source = read([], bindings, [Path.cwd()])
    assert source.problems == ()
    return [statement.value for statement in source.statements]


def problem_of(binding: str) -> str:
    source = read([], [binding], [Path.cwd()])
    assert source.statements == ()
    (problem,) = source.problems
    return problem


def test_statements_of_a_file() -> None:
    write(
        "a.gin",
        "# a comment\n"
        "WIDTH = 4\n"
        "enc/Model.layers = [@Layer(), {'k': %WIDTH}, \\\n"
        "                    (@a/b/Layer, None)]\n"
        "Run:\n"
        "  steps = -3\n"
        "  name = 'a' 'b'\n",
    )
    assert read_files("a.gin") == Source(
        (
            Statement("", "WIDTH", "", 4, "a.gin:2"),
            Statement(
                "enc",
                "Model",
                "layers",
                [
                    Reference("Layer", True),
                    {"k": Macro("WIDTH")},
                    (Reference("a/b/Layer", False), None),
                ],
                "a.gin:3",
            ),
            Statement("", "Run", "steps", -3, "a.gin:6"),
            Statement("", "Run", "name", "ab", "a.gin:7"),
        ),
        (),
    )


def test_statements_print_as_gin_with_their_place() -> None:
    write("a.gin", "enc/Model.layers = [@Layer(), %WIDTH, @x/Layer, 'a']\nWIDTH = 1\n")
    assert [str(statement) for statement in read_files("a.gin").statements] == [
        "a.gin:1: enc/Model.layers = [@Layer(), %WIDTH, @x/Layer, 'a']",
        "a.gin:2: WIDTH = 1",
    ]


def test_files_includes_and_bindings_apply_in_order() -> None:
    write("a.gin", "A = 1\ninclude 'sub/b.gin'\nA = 3\n")
    write("sub/b.gin", "A = 2\n")
    write("c.gin", "A = 4\n")
    source = read(["a.gin", "c.gin"], ["A=5"], [Path.cwd()])
    assert [(statement.value, statement.place) for statement in source.statements] == [
        (1, "a.gin:1"),
        (2, "sub/b.gin:1"),
        (3, "a.gin:3"),
        (4, "c.gin:1"),
        (5, COMMAND_LINE),
    ]


def test_a_file_may_be_included_twice() -> None:
    write("a.gin", "include 'b.gin'\ninclude 'b.gin'\n")
    write("b.gin", "A = 1\n")
    assert len(read_files("a.gin").statements) == 2


def test_the_first_folder_that_has_a_file_counts() -> None:
    write("one/a.gin", "A = 1\n")
    write("two/a.gin", "A = 2\n")
    write("two/b.gin", "A = 3\n")
    found = read_files("a.gin", "b.gin", folders=("one", "two")).statements
    assert [statement.value for statement in found] == [1, 3]


def test_an_absolute_name_is_not_searched(folder: Path) -> None:
    write("one/a.gin", "A = 1\n")
    (statement,) = read_files(str(folder / "one" / "a.gin")).statements
    assert statement.place == "one/a.gin:1"


def test_search_path_is_here_then_the_package_then_the_checkout(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    present = {LAUNCH / "configs", LAUNCH.parent / "gin"}
    monkeypatch.setattr(Path, "is_dir", lambda path: path in present)
    assert search_path() == (folder, LAUNCH / "configs", LAUNCH.parent / "gin")
    present.clear()
    assert search_path() == (folder,)


def test_file_not_found(folder: Path) -> None:
    write("shipped/runs/tiny.gin", "")
    assert read_files("runs/tinny.gin", folders=("shipped",)).problems == (
        "gin file 'runs/tinny.gin' not found.\n"
        "  asked for by  --gin_file\n"
        f"  searched      {folder}\n"
        "                shipped\n"
        "  fix: did you mean 'runs/tiny.gin'?",
    )


def test_include_not_found(folder: Path) -> None:
    write("a.gin", "\ninclude 'nowhere.gin'\n")
    assert read_files("a.gin").problems == (
        f"gin file 'nowhere.gin' not found.\n  asked for by  a.gin:2\n  searched      {folder}",
    )


def test_absolute_file_not_found(folder: Path) -> None:
    name = str(folder / "nowhere.gin")
    assert read_files(name).problems == (
        f"gin file '{name}' not found.\n  asked for by  --gin_file",
    )


def test_includes_in_a_circle() -> None:
    write("run.gin", "include 'a.gin'\n")
    write("a.gin", "include 'b.gin'\n")
    write("b.gin", "include 'a.gin'\n")
    assert read_files("run.gin").problems == (
        "gin files include each other in a circle.\n"
        "  file      a.gin\n"
        "  includes  b.gin\n"
        "  includes  a.gin\n"
        "  fix: remove one of the includes",
    )


@pytest.mark.parametrize(
    "line",
    [
        "import toy_canary",
        "import toy_canary as harmless",
        "from toy_canary import payload",
        "from __gin__ import dynamic_registration",
    ],
)
def test_imports_are_refused_and_not_run(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path.cwd())
    write("toy_canary.py", "open('ran', 'w').close()\npayload = 1\n")
    write("a.gin", f"A = 1\n{line}\n")
    assert read_files("a.gin").problems == (
        "gin files may not import.\n"
        "  at    a.gin:2\n"
        f"  line  {line}\n"
        "  fix: import your module by a flag: --module=my_package.my_model",
    )
    assert not Path("ran").exists()
    assert "toy_canary" not in sys.modules


@pytest.mark.parametrize("mark", ["COMMITTED", "variables.index", "variables.data-00000-of-00001"])
def test_nothing_is_read_from_a_checkpoint(mark: str, folder: Path) -> None:
    write(f"step_7/{mark}", "")
    write("step_7/operative_config.gin", "A = 1\n")
    source = read_files("step_7/operative_config.gin")
    assert source.statements == ()
    assert source.problems == (
        "no gin is read from a checkpoint.\n"
        f"  file          {folder / 'step_7/operative_config.gin'}\n"
        "  asked for by  --gin_file\n"
        "  fix: if you trust this file, copy it elsewhere",
    )


def test_a_text_that_is_not_gin() -> None:
    write("a.gin", "A = 1\nRun.mesh = data  # no quotes\nB = 2\n")
    source = read_files("a.gin")
    assert [statement.name for statement in source.statements] == ["A"]
    assert source.problems == (
        "this is not gin.\n"
        "  at    a.gin:2\n"
        "  line  Run.mesh = data  # no quotes\n"
        "  why   'data' is not a value\n"
        "  fix: strings have quotes, references begin with '@', macros with '%'",
    )


def test_a_statement_without_a_value() -> None:
    write("a.gin", "Run.mesh\n")
    assert read_files("a.gin").problems == (
        "this is not gin.\n"
        "  at    a.gin:1\n"
        "  line  Run.mesh\n"
        "  why   Couldn't parse statement, expected ':' or '='.\n"
        "  fix: strings have quotes, references begin with '@', macros with '%'",
    )


def test_a_bracket_that_is_not_closed() -> None:
    write("a.gin", "A = [1,\n")
    (problem,) = read_files("a.gin").problems
    assert problem.startswith("this is not gin.\n  at    a.gin:")


def test_a_file_that_is_not_text() -> None:
    Path("a.gin").write_bytes(b"A = '\xff'\n")
    assert read_files("a.gin").problems == (
        "cannot read a.gin.\n"
        "  error  'utf-8' codec can't decode byte 0xff in position 5: invalid start byte",
    )


def test_all_files_are_read_whatever_is_wrong_with_one() -> None:
    write("a.gin", "A = x\n")
    write("b.gin", "import os\nB = 2\n")
    source = read_files("a.gin", "b.gin")
    assert [statement.name for statement in source.statements] == ["B"]
    assert [problem.splitlines()[0] for problem in source.problems] == [
        "this is not gin.",
        "gin files may not import.",
    ]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("-8", -8),
        ("True", True),
        ("None", None),
        ("'data:2'", "data:2"),
        ("()", ()),
        ("['a', 2]", ["a", 2]),
        ("@Adam()", Reference("Adam", True)),
        ("%WIDTH", Macro("WIDTH")),
        ("3  # a comment", 3),
    ],
)
def test_values_of_the_command_line_are_gin(text: str, value: Any) -> None:
    assert values(f"Run.x={text}", f" Run.x = {text} ") == [value, value]


@pytest.mark.parametrize(
    "word",
    [
        "data:2",
        "data:2 model:4",
        "rows:2;cols:4",
        "batch:data+model, experts?:data",
        "bfloat16",
        "_private",
        "/tmp/run-1",
        "./run",
        "../run",
        "~/run",
        "gs://bucket/run",
        "truely",
    ],
)
def test_bare_words_are_strings(word: str) -> None:
    assert values(f"MESH={word}", f"a/Run.mesh= {word} ") == [word, word]


@pytest.mark.parametrize(
    "text", ["2x", "data:2'", "a=b", "a@b", "a%b", "(a", "a\\b", ".5.5", "1 2"]
)
def test_other_words_need_quotes(text: str) -> None:
    lines = problem_of(f"MESH={text}").splitlines()
    assert lines[:2] == ["this is not a gin value.", f"  given  {f'MESH={text}'!r}"]
    assert lines[-1] == "  fix: strings have quotes, references begin with '@', macros with '%'"


@pytest.mark.parametrize(
    ("text", "python"), [("true", "True"), ("FALSE", "False"), ("none", "None")]
)
def test_misspelt_constants_are_no_strings(text: str, python: str) -> None:
    assert problem_of(f"Run.flag={text}") == (
        "this is not a gin value.\n"
        f"  given  'Run.flag={text}'\n"
        f"  why    {text!r} is not a value\n"
        f"  fix: write {python}"
    )


@pytest.mark.parametrize(
    "binding", ["MESH", "=3", "MESH=", "a b=3", "Run.=3", "1X=3", "import os", "A=1\nB=2", ""]
)
def test_bindings_read_name_equals_value(binding: str) -> None:
    assert problem_of(binding) == (
        "a gin binding reads NAME=VALUE.\n"
        f"  given  {binding!r}\n"
        "  fix: --gin.NAME=VALUE, where NAME is MACRO or Configurable.parameter"
    )


def test_gin_config_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gin", None)
    with pytest.raises(ConfigError) as raised:
        load_gin()
    assert str(raised.value) == "gin-config is not installed.\n  fix: pip install gin-config"


def test_gin_config_not_installed_in_a_checkout(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("gin/runs/a.gin", "")
    for name in [name for name in sys.modules if name.partition(".")[0] == "gin"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [str(folder)])
    with pytest.raises(ConfigError) as raised:
        load_gin()
    del sys.modules["gin"]
    assert str(raised.value) == (
        "gin-config is not installed.\n"
        f"  found as 'gin'  {folder / 'gin'}\n"
        "  fix: pip install gin-config"
    )
