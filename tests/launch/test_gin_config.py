"""A gin configuration as a whole: what is built, what is refused, and that nothing stays behind.

The toys stand for a run and its model. Their names begin with Toy, since what is registered with
gin stays registered for all tests of a process.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import gin
import pytest

from launch.errors import ConfigError
from launch.gin_config import configured
from meshlang.errors import DimError


class ToyLike(Protocol):
    @property
    def width(self) -> int: ...


@gin.configurable(module="toys")
@dataclass(frozen=True)
class ToyModel:
    width: int
    depth: int = 2

    def __post_init__(self) -> None:
        if self.width % 2:
            raise ValueError(f"width is even, not {self.width}.")
        if self.width > 100:
            raise DimError("no dim is so wide.\n  fix: make it smaller")
        if self.depth < 0:
            raise TypeError("depth cannot be negative")


@gin.configurable(module="toys")
@dataclass(frozen=True)
class ToyRun:
    model: ToyLike
    mesh: str
    layout: str = ""
    steps: int | None = None
    models: Sequence[ToyLike] = ()


@gin.configurable(module="toys.one")
def toy_same() -> int:
    return 1


@gin.configurable("toy_same", module="toys.two")
def toy_same_too() -> int:
    return 2


@gin.configurable(module="toys")
def toy_open(**values: int) -> dict[str, int]:
    return values


@gin.configurable(module="toys", denylist=["hidden"])
def toy_needing(given: int = gin.REQUIRED, hidden: int = 0) -> int:
    return given + hidden


@dataclass(frozen=True, slots=True)
class ToyPlain:
    """Knows nothing of gin, as the classes of meshlang and models do."""

    width: int
    rate: "NotImported" = 0.1  # type: ignore[name-defined]  # noqa: F821


gin.external_configurable(ToyPlain, module="toys")
gin.constant("toys.TOY_LIMIT", 8)

TINY = """\
# Required to be set: MESH.
MESH = %gin.REQUIRED
WIDTH = 4

ToyRun.model = @ToyModel()
ToyRun.mesh = %MESH
ToyModel.width = %WIDTH
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert gin.config_str() == ""  # nothing stays, whatever a test did


def built(text: str, *bindings: str) -> ToyRun:
    Path("a.gin").write_text(text)
    with configured(["a.gin"], bindings) as config:
        run = config.build(ToyRun)
        config.check_used()
    return run


def text_for(text: str, *bindings: str) -> str:
    with pytest.raises(ConfigError) as raised:
        built(text, *bindings)
    return str(raised.value)


def test_a_run_is_built() -> None:
    assert built(TINY, "MESH=data:2 model:4", "ToyModel.depth=3") == ToyRun(
        ToyModel(4, 3), "data:2 model:4"
    )


def test_scopes_and_the_last_binding_win() -> None:
    text = (
        "ToyRun.model = @small/ToyModel()\n"
        "ToyRun.models = [@ToyModel(), @large/ToyModel(), @large/deep/ToyModel()]\n"
        "ToyRun.mesh = ''\n"
        "ToyModel.width = 2\n"
        "small/ToyModel.width = 4\n"
        "large/ToyModel.width = 6\n"
        "large/ToyModel.width = 8\n"
        "large/deep/toys.ToyModel.depth = 9\n"
    )
    assert built(text) == ToyRun(ToyModel(4), "", models=[ToyModel(2), ToyModel(8), ToyModel(8, 9)])


def test_classes_registered_from_outside() -> None:
    text = "ToyRun.model = @big/ToyPlain()\nToyRun.mesh = ''\nbig/ToyPlain.width = 4\n"
    model = built(text, "ToyPlain.rate=0.5").model
    assert model == ToyPlain(4, 0.5)
    assert type(model) is ToyPlain
    with configured([], ["ToyPlain.width=2"]) as config:
        assert config.build(ToyPlain) == ToyPlain(2)


def test_constants_have_values() -> None:
    assert built(TINY, "MESH=''", "WIDTH=%TOY_LIMIT").model.width == 8


def test_a_function_can_be_built_too() -> None:
    with configured([], ["toy_open.a=1", "toy_open.b=2"]) as config:
        assert config.build(toy_open) == {"a": 1, "b": 2}


def test_operative_text_gives_the_same_run_again() -> None:
    Path("a.gin").write_text(TINY)
    with configured(["a.gin"], ["MESH=data:2"]) as config:
        run = config.build(ToyRun)
        text = config.operative_text()
    line = "# " + "=" * 98
    assert text == (
        "# Macros:\n"
        f"{line}\n"
        "MESH = 'data:2'\n"
        "WIDTH = 4\n"
        "\n"
        "# Parameters for ToyModel:\n"
        f"{line}\n"
        "ToyModel.depth = 2\n"
        "ToyModel.width = %WIDTH\n"
        "\n"
        "# Parameters for ToyRun:\n"
        f"{line}\n"
        "ToyRun.layout = ''\n"
        "ToyRun.mesh = %MESH\n"
        "ToyRun.model = @ToyModel()\n"
        "ToyRun.models = ()\n"
        "ToyRun.steps = None\n"
    )
    assert built(text) == run


def test_nothing_stays_from_one_configuration_to_the_next() -> None:
    gin.bind_parameter("ToyModel.depth", 7)
    assert built(TINY, "MESH=''").model == ToyModel(4, 2)
    with pytest.raises(KeyError), configured([], ["toy_open.a=1"]):
        assert toy_open() == {"a": 1}
        raise KeyError
    assert gin.operative_config_str() == ""
    assert toy_open() == {}


def test_missing_macro() -> None:
    assert text_for(TINY) == (
        "missing gin value: 'MESH'.\n"
        "  required at  a.gin:2: MESH = %gin.REQUIRED\n"
        "  fix: --mesh=VALUE"
    )


def test_missing_values_without_a_flag_of_their_own() -> None:
    text = TINY.replace("WIDTH = 4", "WIDTH = %gin.REQUIRED")
    text += "big/ToyModel.depth = %gin.REQUIRED\n"
    assert text_for(text, "MESH=''") == (
        "2 problems in the gin configuration.\n"
        "1. missing gin value: 'WIDTH'.\n"
        "     required at  a.gin:3: WIDTH = %gin.REQUIRED\n"
        "     fix: --gin.WIDTH=VALUE\n"
        "2. missing gin value: 'big/ToyModel.depth'.\n"
        "     required at  a.gin:8: big/ToyModel.depth = %gin.REQUIRED\n"
        "     fix: --gin.big/ToyModel.depth=VALUE"
    )


def test_missing_parameters_are_found_in_all_that_would_be_built() -> None:
    text = "ToyRun.model = %MODEL\nMODEL = @big/ToyModel()\nToyRun.models = [@toy_needing()]\n"
    assert text_for(text) == (
        "3 problems in the gin configuration.\n"
        "1. missing gin value: 'ToyRun.mesh'.\n"
        "     needed by  ToyRun\n"
        "     fix: --gin.ToyRun.mesh=VALUE\n"
        "2. missing gin value: 'ToyModel.width'.\n"
        "     needed by  ToyRun > %MODEL > big/ToyModel\n"
        "     built at   a.gin:2: MODEL = @big/ToyModel()\n"
        "     fix: --gin.ToyModel.width=VALUE\n"
        "3. missing gin value: 'toy_needing.given'.\n"
        "     needed by  ToyRun > toy_needing\n"
        "     built at   a.gin:3: ToyRun.models = [@toy_needing()]\n"
        "     fix: --gin.toy_needing.given=VALUE"
    )


def test_missing_value_of_a_later_call() -> None:
    with pytest.raises(ConfigError) as raised, configured([]):
        toy_needing()
    assert str(raised.value) == (
        "missing gin value: 'toy_needing.given'.\n  fix: --gin.toy_needing.given=VALUE"
    )


def test_other_runtime_errors_of_the_block_pass_through() -> None:
    with pytest.raises(RuntimeError, match="theirs"), configured([]):
        raise RuntimeError("theirs")


def test_misspelt_configurable() -> None:
    assert text_for("ToyModle.width = 3\nToyModle.depth = 3\n") == (
        "no configurable named 'ToyModle'.\n"
        "  at  a.gin:1: ToyModle.width = 3\n"
        "  fix: did you mean 'ToyModel'?"
    )


def test_misspelt_reference() -> None:
    assert text_for("ToyRun.models = [@x/ToyModle()]\n") == (
        "no configurable named 'ToyModle'.\n"
        "  at  a.gin:1: ToyRun.models = [@x/ToyModle()]\n"
        "  fix: did you mean 'ToyModel'?"
    )


def test_configurable_that_nothing_resembles() -> None:
    assert text_for("Zzyzx.width = 3\n") == (
        "no configurable named 'Zzyzx'.\n"
        "  at  a.gin:1: Zzyzx.width = 3\n"
        "  fix: register it in a module of yours: --module=my_package.my_model"
    )


def test_ambiguous_configurable() -> None:
    assert text_for("ToyRun.steps = @toy_same()\n") == (
        "several configurables are named 'toy_same'.\n"
        "  at       a.gin:1: ToyRun.steps = @toy_same()\n"
        "  one      toys.one.toy_same\n"
        "  another  toys.two.toy_same\n"
        "  fix: write more of its name"
    )


def test_misspelt_parameter() -> None:
    assert text_for("big/ToyModel.widht = 3\n") == (
        "'ToyModel' has no parameter 'widht'.\n"
        "  at  a.gin:1: big/ToyModel.widht = 3\n"
        "  fix: did you mean 'width'?"
    )


def test_parameter_that_nothing_resembles() -> None:
    assert text_for("ToyModel.xyz = 3\n") == (
        "'ToyModel' has no parameter 'xyz'.\n"
        "  at  a.gin:1: ToyModel.xyz = 3\n"
        "  fix: its parameters: width, depth"
    )


def test_parameter_that_gin_may_not_bind() -> None:
    assert text_for("toy_needing.hidden = 3\n") == (
        "'toy_needing' has no parameter 'hidden'.\n"
        "  at  a.gin:1: toy_needing.hidden = 3\n"
        "  fix: its parameters: given"
    )


def test_misspelt_macro() -> None:
    text = TINY.replace("= %WIDTH", "= %WIDHT")
    assert text_for(text, "MESH=''") == (
        "no macro named 'WIDHT'.\n"
        "  at  a.gin:7: ToyModel.width = %WIDHT\n"
        "  fix: did you mean 'WIDTH'?"
    )


def test_macro_that_nothing_resembles() -> None:
    assert text_for("ToyModel.width = %ZZ\n") == (
        "no macro named 'ZZ'.\n  at  a.gin:1: ToyModel.width = %ZZ\n  fix: set it: ZZ = VALUE"
    )


def test_macros_are_not_missed_where_a_file_is() -> None:
    text = text_for("include 'sizes.gin'\nToyModel.width = %WIDTH\nToyModle.depth = 1\n")
    assert [line for line in text.splitlines() if line[0].isdigit()] == [
        "2 problems in the gin configuration.",
        "1. gin file 'sizes.gin' not found.",
        "2. no configurable named 'ToyModle'.",
    ]


def test_macros_in_a_circle() -> None:
    assert text_for("ToyRun.model = %A\nToyRun.mesh = ''\nA = %B\nB = %A\n") == (
        "a gin value is made of itself.\n  path  %A > %B > %A\n  at    a.gin:4: B = %A"
    )


def test_wrong_type() -> None:
    text = TINY.replace("WIDTH = 4", "WIDTH = '4'")
    assert text_for(text, "MESH=8", "ToyRun.steps=1.5") == (
        "3 problems in the gin configuration.\n"
        "1. wrong type for 'ToyRun.mesh'.\n"
        "     at        a.gin:6: ToyRun.mesh = %MESH\n"
        "     where     command line: MESH = 8\n"
        "     expected  str\n"
        "2. wrong type for 'ToyModel.width'.\n"
        "     at        a.gin:7: ToyModel.width = %WIDTH\n"
        "     where     a.gin:3: WIDTH = '4'\n"
        "     expected  int\n"
        "3. wrong type for 'ToyRun.steps'.\n"
        "     at        command line: ToyRun.steps = 1.5\n"
        "     expected  int | None"
    )


@pytest.mark.parametrize("value", ["ToyModel", "@ToyModel"])
def test_reference_without_its_marks(value: str) -> None:
    shown = repr(value) if value[0] != "@" else value
    assert text_for(TINY, "MESH=''", f"ToyRun.model={value}") == (
        "wrong type for 'ToyRun.model'.\n"
        f"  at        command line: ToyRun.model = {shown}\n"
        "  expected  ToyLike\n"
        "  fix: for what it builds: @ToyModel()"
    )


def test_value_that_a_constructor_refuses() -> None:
    assert text_for(TINY, "MESH=''", "WIDTH=3", "big/ToyModel.depth=1") == (
        "cannot build 'ToyModel'.\n"
        "  error  width is even, not 3.\n"
        "  given  a.gin:7: ToyModel.width = %WIDTH\n"
        "  given  command line: big/ToyModel.depth = 1"
    )


def test_errors_of_constructors_keep_their_class_and_fix() -> None:
    assert text_for(TINY, "MESH=''", "WIDTH=102") == (
        "cannot build 'ToyModel'.\n"
        "  error  DimError: no dim is so wide.\n"
        "           fix: make it smaller\n"
        "  given  a.gin:7: ToyModel.width = %WIDTH"
    )
    assert text_for(TINY, "MESH=''", "ToyModel.depth=-1") == (
        "cannot build 'ToyModel'.\n"
        "  error  TypeError: depth cannot be negative\n"
        "  given  a.gin:7: ToyModel.width = %WIDTH\n"
        "  given  command line: ToyModel.depth = -1"
    )


def test_one_binding_that_nothing_used() -> None:
    assert text_for(TINY, "MESH=''", "other/ToyModel.depth=3") == (
        "1 gin binding was used by nothing.\n"
        "  command line: other/ToyModel.depth = 3\n"
        "  fix: remove it, or correct its name or scope"
    )


def test_bindings_that_nothing_used() -> None:
    text = TINY + "ToyRun.models = [@big/ToyModel()]\nbig/ToyModel.width = 6\n"
    text += "big/ToyModel.depth = 1\nToyModel.depth = 2\ntoy_open.a = 1\n"
    assert text_for(text, "MESH=''", "WIDHT=3", "big/extra/ToyModel.width=8") == (
        "3 gin bindings were used by nothing.\n"
        "  a.gin:12: toy_open.a = 1\n"
        "  command line: WIDHT = 3  (did you mean 'WIDTH'?)\n"
        "  command line: big/extra/ToyModel.width = 8\n"
        "  fix: remove them, or correct their names or scopes"
    )


def test_a_binding_is_used_once_a_later_call_uses_it() -> None:
    with configured([], ["toy_open.a=1"]) as config:
        assert [str(binding) for binding in config.unused_bindings()] == [
            "command line: toy_open.a = 1"
        ]
        assert toy_open() == {"a": 1}
        assert config.unused_bindings() == ()
        config.check_used()


def test_a_binding_that_its_caller_overrides_is_not_used() -> None:
    with configured([], ["toy_needing.given=1"]) as config:
        assert toy_needing(given=2) == 2
        assert len(config.unused_bindings()) == 1


def test_gin_in_a_run_directory_is_not_read_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path.cwd())
    Path("toy_canary.py").write_text("open('ran', 'w').close()\n")
    Path("operative_config.gin").write_text("import toy_canary\nToyModel.depth = 9\n")
    assert built(TINY, "MESH=''").model == ToyModel(4, 2)
    assert text_for("include 'operative_config.gin'\n") == (
        "gin files may not import.\n"
        "  at    operative_config.gin:1\n"
        "  line  import toy_canary\n"
        "  fix: import your module by a flag: --module=my_package.my_model"
    )
    assert not Path("ran").exists()
    assert "toy_canary" not in sys.modules


def test_every_problem_is_told_at_once() -> None:
    text = "import os\ninclude 'b.gin'\nToyRun.mehs = ''\nToyModel.depth = 'deep'\n"
    Path("b.gin").write_text("ToyModel.width = \n")
    assert text_for(text, "ToyModel.width=%gin.REQUIRED", "A=$") == (
        "6 problems in the gin configuration.\n"
        "1. gin files may not import.\n"
        "     at    a.gin:1\n"
        "     line  import os\n"
        "     fix: import your module by a flag: --module=my_package.my_model\n"
        "2. this is not gin.\n"
        "     at    b.gin:1\n"
        "     line  ToyModel.width =\n"
        "     why   Unable to parse value.\n"
        "     fix: strings have quotes, references begin with '@', macros with '%'\n"
        "3. this is not a gin value.\n"
        "     given  'A=$'\n"
        "     why    Unable to parse value.\n"
        "     fix: strings have quotes, references begin with '@', macros with '%'\n"
        "4. 'ToyRun' has no parameter 'mehs'.\n"
        "     at  a.gin:3: ToyRun.mehs = ''\n"
        "     fix: did you mean 'mesh'?\n"
        "5. missing gin value: 'ToyModel.width'.\n"
        "     required at  command line: ToyModel.width = %gin.REQUIRED\n"
        "     fix: --gin.ToyModel.width=VALUE\n"
        "6. wrong type for 'ToyModel.depth'.\n"
        "     at        a.gin:4: ToyModel.depth = 'deep'\n"
        "     expected  int"
    )
