"""Command lines: what they mean, every error whole, and exit codes."""

from pathlib import Path

import pytest

from launch import flags
from launch.errors import ConfigError
from launch.flags import Devices, Options
from launch.versions import Versions
from meshlang.errors import LayoutError


def text_for(*argv: str, for_plan: bool = False) -> str:
    with pytest.raises(ConfigError) as raised:
        flags.parse(argv, for_plan=for_plan)
    return str(raised.value)


def test_no_flags_leave_everything_to_gin() -> None:
    assert flags.parse([]) == Options()


def test_all_flags_of_train() -> None:
    argv = [
        "--gin_file=models/tiny.gin",
        "--gin_file",
        "runs/tiny.gin",
        "--module=my_package.my_model",
        "--module=other",
        "--mesh=data:2 model:4",
        "--layout=batch:data d_ff:model",
        "--params=d_model:data",
        "--slots=d_ff:data",
        "--steps=12",
        "--model_dir=/tmp/a b",
        "--devices=cpu:8",
    ]
    assert flags.parse(argv) == Options(
        gin_files=("models/tiny.gin", "runs/tiny.gin"),
        gin_bindings=(
            "LAYOUT='batch:data d_ff:model'",
            "MESH='data:2 model:4'",
            "PARAMS='d_model:data'",
            "SLOTS='d_ff:data'",
            "STEPS=12",
            "MODEL_DIR='/tmp/a b'",
        ),
        modules=("my_package.my_model", "other"),
        mesh="data:2 model:4",
        layouts=("batch:data d_ff:model",),
        params="d_model:data",
        slots="d_ff:data",
        steps=12,
        model_dir="/tmp/a b",
        devices=Devices("cpu", 8),
    )


def test_bindings_keep_the_order_of_the_command_line_in_both_spellings() -> None:
    argv = ["--gin_param=A=1", "--gin.B.c=2", "--gin_param", "A = 3", "-gin.x/B.c='d=e'"]
    assert flags.parse(argv).gin_bindings == ("A=1", "B.c=2", "A = 3", "x/B.c='d=e'")


def test_flags_of_macros_are_strings_whatever_they_look_like() -> None:
    argv = ["--mesh=8", "--layout=", "--model_dir=it's"]
    assert flags.parse(argv).gin_bindings == ("LAYOUT=''", "MESH='8'", 'MODEL_DIR="it\'s"')


def test_of_a_flag_given_twice_the_last_counts() -> None:
    assert flags.parse(["--steps=1", "--steps=2"]).steps == 2


def test_home_is_written_out() -> None:
    options = flags.parse(["--model_dir=~/runs/a", "--gin_file=~/a.gin"])
    assert options.model_dir == str(Path.home() / "runs/a")
    assert options.gin_bindings == (f"MODEL_DIR={options.model_dir!r}",)
    assert options.gin_files == (str(Path.home() / "a.gin"),)


@pytest.mark.parametrize(
    ("text", "devices"),
    [
        ("cpu", Devices("cpu", None)),
        ("cpu:16", Devices("cpu", 16)),
        ("gpu", Devices("gpu", None)),
        ("auto", Devices("auto", None)),
    ],
)
def test_devices(text: str, devices: Devices) -> None:
    assert flags.parse([f"--devices={text}"]).devices == devices


def test_plan_compares_layouts_and_splits_bytes_by_hosts() -> None:
    options = flags.parse(
        ["--layout=batch:data", "--layout=", "--layout=d_ff:model", "--hosts=4"], for_plan=True
    )
    assert options.layouts == ("batch:data", "", "d_ff:model")
    assert options.gin_bindings == ("LAYOUT='batch:data'",)
    assert options.hosts == 4


def test_parsing_leaves_nothing_behind() -> None:
    flags.parse(["--mesh=data:2", "--gin.A=1"])
    assert flags.parse([]) == Options()


@pytest.mark.parametrize(
    ("argument", "fix"),
    [
        ("--gin.MESH", "--gin.MESH=VALUE"),
        ("-gin.Adam.rate", "--gin.Adam.rate=VALUE"),
        ("--gin.", "--gin.NAME=VALUE"),
    ],
)
def test_gin_flag_without_equals_sign(argument: str, fix: str) -> None:
    assert text_for(argument) == f"{argument!r} lacks a value.\n  fix: {fix}"


def test_unknown_flag() -> None:
    assert text_for("--mehs=data:2") == ("no flag named '--mehs'.\n  fix: did you mean '--mesh'?")
    assert text_for("--quux") == "no flag named '--quux'.\n  fix: see --help"


def test_hosts_is_a_flag_of_plan_alone() -> None:
    assert text_for("--hosts=4") == ("no flag named '--hosts'.\n  fix: only meshlang-plan has it")


def test_unquoted_mesh() -> None:
    assert text_for("--mesh=data:2", "model:4") == (
        "'model:4' belongs to no flag.\n  fix: quote values with spaces: --mesh='data:2 model:4'"
    )


def test_flag_without_value() -> None:
    assert text_for("--mesh") == "Missing value for flag --mesh.\n  fix: see --help"


def test_two_layouts_in_training() -> None:
    assert text_for("--layout=batch:data", "--layout=d_ff:model") == (
        "training has one layout.\n"
        "  --layout  batch:data\n"
        "  --layout  d_ff:model\n"
        "  fix: keep one; meshlang-plan compares layouts"
    )


def test_flag_and_binding_of_the_same_macro() -> None:
    assert text_for("--mesh=data:2", "--gin.MESH=data:4") == (
        "MESH is given twice.\n  flag     --mesh\n  binding  MESH=data:4\n  fix: keep one of them"
    )


@pytest.mark.parametrize("value", ["0", "-1", "ten", "1.5", ""])
def test_steps_that_do_not_count(value: str) -> None:
    assert text_for(f"--steps={value}") == (
        f"--steps is a whole number from 1 on.\n  given  {value!r}"
    )


def test_hosts_that_do_not_count() -> None:
    assert text_for("--hosts=0", for_plan=True) == (
        "--hosts is a whole number from 1 on.\n  given  '0'"
    )


@pytest.mark.parametrize("value", ["tpu", "cpu:0", "cpu:", "gpu:2", "8", ""])
def test_devices_not_understood(value: str) -> None:
    assert text_for(f"--devices={value}") == (
        "--devices is not understood.\n"
        f"  given  {value!r}\n"
        "  fix: --devices=cpu, cpu:8 (eight virtual ones), gpu or auto"
    )


UNPRINTABLE = "it has a character that cannot be printed"


@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        ("", "it is empty"),
        ("  ", "it is empty"),
        ("a\0b", UNPRINTABLE),
        ("runs/a\nb", UNPRINTABLE),
        (
            "runs/" + 300 * "x",
            f"a name of 300 bytes is in it, and 255 are the most: {20 * 'x'}...",
        ),
    ],
)
def test_model_dir_that_names_nothing(value: str, wrong: str) -> None:
    assert text_for(f"--model_dir={value}") == (
        f"--model_dir names no directory.\n  given  {value[:80]!r}\n  but    {wrong}"
    )


def test_all_problems_are_told_at_once() -> None:
    assert text_for("--gin.A", "--mehs=3", "--steps=0") == (
        "3 problems in the flags.\n"
        "1. '--gin.A' lacks a value.\n"
        "     fix: --gin.A=VALUE\n"
        "2. no flag named '--mehs'.\n"
        "     fix: did you mean '--mesh'?\n"
        "3. --steps is a whole number from 1 on.\n"
        "     given  '0'"
    )


def test_exit_code_of_success(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[Options] = []
    assert flags.main(seen.append, ["--mesh=data:2"]) == 0
    assert [options.mesh for options in seen] == ["data:2"]
    assert capsys.readouterr() == ("", "")


def test_exit_code_may_come_from_the_body() -> None:
    assert flags.main(lambda options: 75, []) == 75


def test_exit_code_of_a_mistake_in_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert flags.main(lambda options: None, ["--gin.A"]) == 1
    assert capsys.readouterr() == (
        "",
        "ConfigError: '--gin.A' lacks a value.\n  fix: --gin.A=VALUE\n",
    )


def test_exit_code_of_a_mistake_in_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    def body(options: Options) -> None:
        raise LayoutError("two dims lie on one axis.")

    assert flags.main(body, []) == 1
    assert capsys.readouterr() == ("", "LayoutError: two dims lie on one axis.\n")


def test_exit_code_of_unsupported_versions(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flags.versions, "here", lambda: Versions("3.11.7", "2.20.0"))
    assert flags.main(lambda options: None, []) == 1
    assert capsys.readouterr().err == (
        "VersionError: unsupported TensorFlow version.\n"
        "  Python      3.11.7  meshlang needs 3.11, 3.12 or 3.13\n"
        "  TensorFlow  2.20.0  meshlang needs 2.21\n"
        "  fix: pip install 'tensorflow==2.21.*'\n"
    )
    assert flags.main(lambda options: None, [], for_plan=True) == 0


def test_exit_code_of_a_fault_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    def body(options: Options) -> None:
        raise AssertionError("never so")

    assert flags.main(body, []) == 70
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Traceback (most recent call last):\n")
    assert err.endswith(
        "AssertionError: never so\n"
        "Unless this is your own code, it is a fault of meshlang's: please report it.\n"
    )


@pytest.mark.parametrize("ending", [KeyboardInterrupt, SystemExit])
def test_interrupts_and_exits_pass_through(ending: type[BaseException]) -> None:
    def body(options: Options) -> None:
        raise ending

    with pytest.raises(ending):
        flags.main(body, [])


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert flags.main(lambda options: 3, ["--help", "--nonsense"], for_plan=True) == 0
    assert capsys.readouterr().out == (
        "usage: meshlang-plan --gin_file=FILE [--gin.NAME=VALUE ...] [flags]\n"
        "\n"
        "  --devices         cpu, cpu:8, gpu or auto; cpu if not given\n"
        "  --gin.NAME=VALUE  the same as --gin_param=NAME=VALUE\n"
        "  --gin_file        a gin file; repeatable, later ones win\n"
        "  --gin_param       a gin binding, NAME=VALUE; repeatable, applied after the files\n"
        "  --hosts           machines that the mesh spans, to split bytes into inside and "
        "between\n"
        "  --layout          the layout, such as 'batch:data d_ff:model'; again, to compare\n"
        "  --mesh            the mesh, such as 'data:2 model:4'\n"
        "  --model_dir       where the run keeps its files\n"
        "  --module          a module of yours to import, my_package.my_model; repeatable\n"
        "  --params          the layout table of parameters\n"
        "  --slots           the layout table of gradients and optimizer slots\n"
        "  --steps           how many steps to train\n"
        "\n"
        "A VALUE that is no gin value but a bare word, such as data:2, is a string.\n"
        "Exit codes: 0 done, 1 a mistake in flags, gin or data, 70 a fault of meshlang's,\n"
        "75 stopped or another process lost: the same command goes on.\n"
    )
