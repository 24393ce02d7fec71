"""The flags of ``launch.train`` and ``launch.plan``, and what their commands return.

Flags say which gin files to read and override a few values; everything else is gin's. Six flags
are short for gin macros (`MACROS`): ``--mesh='data:2 model:4'`` is ``--gin.MESH='data:2 model:4'``,
except that its value is a string whatever it looks like. Bindings apply after all files, in the
order of the command line; of a flag given twice the last counts.
"""

import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from absl import flags as absl_flags

from launch import versions
from launch.errors import ConfigError, all_of
from launch.paths import problem_of
from meshlang.errors import MeshlangError, PeerError, did_you_mean, message
from meshlang.tf_config import Timeouts

# The flags that bind a gin macro, which gin files then use as %MESH, %LAYOUT, ...
MACROS = {
    "mesh": "MESH",
    "layout": "LAYOUT",
    "params": "PARAMS",
    "slots": "SLOTS",
    "steps": "STEPS",
    "model_dir": "MODEL_DIR",
}

#: the step that ``--profile`` means: the first builds, the second is the first with warm caches
PROFILED = 3

DONE, USERS_ERROR, INTERNAL_ERROR, RETRY = 0, 1, 70, 75

# The flags of times, each NAME_timeout, and what they are about.
_TIMEOUTS = {
    "register": "until all processes must have started",
    "heartbeat": "without a sign of life, until a process counts as gone",
    "shutdown": "for all processes to end, once one has",
    "agree": "for all processes to say what they run, and to trace it",
    "hang": "without the end of a step, until the process gives up",
}

_GIN_HELP = {"gin.NAME=VALUE": "the same as --gin_param=NAME=VALUE"}
_DRY_RUN = "say what each process would do, and do nothing"
_GIN_FLAG = re.compile(r"--?gin\.(?P<binding>.*)\Z", re.DOTALL)


@dataclass(frozen=True)
class Devices:
    """What to compute on.

    Attributes:
        kind: of the devices.
        count: in each process; None for as many as the mesh needs.
        timeouts: how long processes wait for each other.
    """

    kind: Literal["cpu", "gpu", "auto"] = "cpu"
    count: int | None = None
    timeouts: Timeouts = field(default_factory=Timeouts)


@dataclass(frozen=True)
class Options:
    """What a command line says.

    Attributes:
        gin_files: Gin files in order; later ones win.
        gin_bindings: ``"NAME=VALUE"``, applied after the files, flags of `MACROS` included. Of
            several layouts it binds the first.
        modules: Dotted names of the user's modules, to be imported before gin files are read.
        mesh: The mesh, None if gin says it; and so for `params`, `slots`, `steps`, `model_dir`.
        layouts: The layouts; empty if gin says it, more than one only for planning.
        steps: Training steps.
        model_dir: Where a run keeps its files.
        params: The second layout table, for parameters.
        slots: The layout table of gradients and optimizer slots.
        devices: What to compute on.
        hosts: Machines that the mesh spans, for the bytes of a plan.
        restore_step: The step whose checkpoint training goes on from, and no other.
        profile: Which of the steps that this process does is profiled, from 1.
        processes: How many to start on this machine; 1 starts none besides this one.
        max_restarts: How often to start again when a process is lost.
        dry_run: Say what each process would do, and do nothing.
    """

    gin_files: tuple[str, ...] = ()
    gin_bindings: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    mesh: str | None = None
    layouts: tuple[str, ...] = ()
    params: str | None = None
    slots: str | None = None
    steps: int | None = None
    model_dir: str | None = None
    devices: Devices = Devices()
    hosts: int = 1
    restore_step: int | None = None
    profile: int | None = None
    processes: int = 1
    max_restarts: int = 0
    dry_run: bool = False


def parse(argv: Sequence[str], *, for_plan: bool = False) -> Options:
    """Read a command line.

    >>> options = parse(["--gin_file=runs/tiny.gin", "--mesh=data:2", "--gin.Adam.rate=0.1"])
    >>> options.gin_files, options.gin_bindings
    (('runs/tiny.gin',), ('Adam.rate=0.1', "MESH='data:2'"))

    Args:
        argv: The arguments, without the program's name.
        for_plan: Whether ``--layout`` may be repeated, and ``--hosts`` is a flag.

    Raises:
        ConfigError: An argument is not understood; all such arguments are listed.
    """
    problems: list[str] = []
    values = _definitions(for_plan)
    try:
        unknown = values([_program(for_plan), *_with_gin_params(argv, problems)], known_only=True)
    except absl_flags.Error as error:
        raise ConfigError(message(f"{error}.", fix="see --help")) from error
    known = [*_repeatable(for_plan), *_single(for_plan)]
    problems.extend(_unknown(argument, known) for argument in unknown[1:])
    given = values.flag_values_dict()
    options = Options(
        gin_files=tuple(map(_at_home, given["gin_file"])),
        gin_bindings=_bindings(given, problems),
        modules=tuple(given["module"]),
        mesh=given["mesh"],
        layouts=_layouts(given["layout"], for_plan, problems),
        params=given["params"],
        slots=given["slots"],
        steps=_count("steps", given["steps"], problems),
        model_dir=_model_dir(given["model_dir"], problems),
        devices=replace(_devices(given["devices"], problems), timeouts=_timeouts(given, problems)),
        hosts=_count("hosts", given.get("hosts"), problems) or 1,
        restore_step=_count("restore_step", given.get("restore_step"), problems),
        profile=_count("profile", given.get("profile"), problems),
        processes=_count("processes", given.get("processes"), problems) or 1,
        max_restarts=_count("max_restarts", given.get("max_restarts"), problems, least=0) or 0,
        dry_run=bool(given.get("dry_run")),
    )
    if problems:
        raise all_of(problems, "the flags")
    return options


def main(
    body: Callable[[Options], int | None],
    argv: Sequence[str] | None = None,
    *,
    for_plan: bool = False,
) -> int:
    """Run a command: check versions, read flags, call `body`, and say how it went.

    A mistake of the user's is told on stderr without a traceback; any other exception with one.

    Args:
        body: The command. What it returns is the exit code, None for 0.
        argv: The arguments without the program's name; ``sys.argv[1:]`` if not given.
        for_plan: As for `parse`; a plan also needs no TensorFlow.

    Returns:
        The exit code: 0 done, 1 the user's mistake, 70 a fault of meshlang's, 75 another process
        was lost.
    """
    argv = sys.argv[1:] if argv is None else argv
    if {"--help", "-help", "-h"} & set(argv):
        print(help_text(for_plan=for_plan))
        return DONE
    outcome = _Outcome()
    with outcome:
        versions.check(versions.here(), needs_tensorflow=not for_plan)
        outcome.code = body(parse(argv, for_plan=for_plan)) or DONE
    return outcome.code


def help_text(*, for_plan: bool = False) -> str:
    """What ``--help`` prints."""
    about = _repeatable(for_plan) | _single(for_plan) | _GIN_HELP
    about |= {} if for_plan else {"dry_run": _DRY_RUN}
    width = max(len(name) for name in about)
    lines = [f"  --{name:<{width}}  {about[name]}" for name in sorted(about)]
    return "\n".join(
        [
            f"usage: {_program(for_plan)} --gin_file=FILE [--gin.NAME=VALUE ...] [flags]",
            "",
            *lines,
            "",
            "A VALUE that is no gin value but a bare word, such as data:2, is a string.",
            f"Exit codes: {DONE} done, {USERS_ERROR} a mistake in flags, gin or data, "
            f"{INTERNAL_ERROR} a fault of meshlang's,",
            f"{RETRY} stopped or another process lost: the same command goes on.",
        ]
    )


class _Outcome:
    """Turns the exception that ends a command into its exit code.

    It stands at the edge of the process, the one place that may see every exception. Exits and
    interrupts pass through.
    """

    def __init__(self) -> None:
        self.code = DONE

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        if isinstance(error, MeshlangError | versions.VersionError):
            print(f"{kind.__name__ if kind else ''}: {error}", file=sys.stderr)
            self.code = RETRY if isinstance(error, PeerError) else USERS_ERROR
            return True
        if isinstance(error, Exception):
            traceback.print_exception(kind, error, trace)
            print(
                "Unless this is your own code, it is a fault of meshlang's: please report it.",
                file=sys.stderr,
            )
            self.code = INTERNAL_ERROR
            return True
        return False


def _program(for_plan: bool) -> str:
    return "meshlang-plan" if for_plan else "meshlang-train"


def _repeatable(for_plan: bool) -> dict[str, str]:
    """The flags that may be given several times, with their help."""
    again = "; again, to compare" if for_plan else ""
    return {
        "gin_file": "a gin file; repeatable, later ones win",
        "gin_param": "a gin binding, NAME=VALUE; repeatable, applied after the files",
        "module": "a module of yours to import, my_package.my_model; repeatable",
        "layout": f"the layout, such as 'batch:data d_ff:model'{again}",
    }


def _single(for_plan: bool) -> dict[str, str]:
    """The flags of which the last counts, with their help."""
    single = {
        "mesh": "the mesh, such as 'data:2 model:4'",
        "params": "the layout table of parameters",
        "slots": "the layout table of gradients and optimizer slots",
        "steps": "how many steps to train",
        "model_dir": "where the run keeps its files",
        "devices": "cpu, cpu:8, gpu or auto; cpu if not given",
    }
    if for_plan:
        single["hosts"] = "machines that the mesh spans, to split bytes into inside and between"
    else:
        single["restore_step"] = "go on from the checkpoint of this step; the newest if not given"
        single["profile"] = (
            f"profile the step of this number; alone, step {PROFILED} from the start"
        )
        single["processes"] = "processes to start on this machine, which share the mesh"
        single["max_restarts"] = "starts after the first when a process is lost; 0 if not given"
        single |= {f"{name}_timeout": f"seconds {about}" for name, about in _TIMEOUTS.items()}
    return single


def _definitions(for_plan: bool) -> absl_flags.FlagValues:
    """The flags, in a set of their own: nothing is shared with absl's global flags."""
    values = absl_flags.FlagValues()
    values.set_gnu_getopt()
    for name, text in _repeatable(for_plan).items():
        absl_flags.DEFINE_multi_string(name, [], text, flag_values=values)
    for name, text in _single(for_plan).items():
        absl_flags.DEFINE_string(name, None, text, flag_values=values)
    if not for_plan:
        absl_flags.DEFINE_bool("dry_run", False, _DRY_RUN, flag_values=values)
    return values


def _with_gin_params(argv: Sequence[str], problems: list[str]) -> list[str]:
    """Write ``--gin.NAME=VALUE`` as ``--gin_param=NAME=VALUE``, so that both keep their order."""
    rewritten = []
    for argument in argv:
        match = _GIN_FLAG.match(argument)
        if argument == "--profile":
            rewritten.append(f"--profile={PROFILED}")
        elif match is None:
            rewritten.append(argument)
        elif "=" in argument:
            rewritten.append(f"--gin_param={match['binding']}")
        else:
            fix = f"--gin.{match['binding'] or 'NAME'}=VALUE"
            problems.append(message(f"{argument!r} lacks a value.", fix=fix))
    return rewritten


def _bindings(given: Mapping[str, Any], problems: list[str]) -> tuple[str, ...]:
    """All bindings of the command line, and among the problems those that say one thing twice."""
    written = tuple(given["gin_param"])
    layout = given["layout"][0] if given["layout"] else None
    model_dir = None if given["model_dir"] is None else _at_home(given["model_dir"])
    by_flag = []
    for flag, value in (dict(given) | {"layout": layout, "model_dir": model_dir}).items():
        if flag not in MACROS or value is None:
            continue
        macro = MACROS[flag]
        for binding in written:
            if binding.partition("=")[0].strip() == macro:
                rows = [("flag", f"--{flag}"), ("binding", binding)]
                problems.append(message(f"{macro} is given twice.", rows, "keep one of them"))
        by_flag.append(f"{macro}={value if flag == 'steps' else repr(value)}")
    return (*written, *by_flag)


def _unknown(argument: str, known: Sequence[str]) -> str:
    """The problem with an argument that is no flag."""
    if not argument.startswith("-") or not argument.strip("-"):
        fix = "quote values with spaces: --mesh='data:2 model:4'"
        return message(f"{argument!r} belongs to no flag.", fix=fix)
    name = argument.lstrip("-").partition("=")[0]
    fix = did_you_mean(f"--{name}", [f"--{flag}" for flag in known], otherwise="see --help")
    if name in _single(for_plan=True) and name not in known:
        fix = f"only {_program(for_plan=True)} has it"
    return message(f"no flag named '--{name}'.", fix=fix)


def _layouts(given: Sequence[str], for_plan: bool, problems: list[str]) -> tuple[str, ...]:
    if len(given) > 1 and not for_plan:
        rows = [("--layout", layout) for layout in given]
        fix = "keep one; meshlang-plan compares layouts"
        problems.append(message("training has one layout.", rows, fix))
    return tuple(given)


def _count(flag: str, text: str | None, problems: list[str], least: int = 1) -> int | None:
    """The value of a flag that counts something."""
    if text is None:
        return None
    if re.fullmatch("0|[1-9][0-9]*", text) and int(text) >= least:
        return int(text)
    headline = f"--{flag} is a whole number from {least} on."
    problems.append(message(headline, [("given", repr(text))]))
    return None


def _seconds(flag: str, given: Mapping[str, Any], problems: list[str]) -> float | None:
    """The value of a flag that is a time."""
    text = given.get(flag)
    if text is None:
        return None
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text) and float(text) > 0:
        return float(text)
    problems.append(message(f"--{flag} is a number of seconds.", [("given", repr(text))]))
    return None


def _timeouts(given: Mapping[str, Any], problems: list[str]) -> Timeouts:
    """How long processes wait for each other."""
    found = {}
    for name in _TIMEOUTS:
        seconds = _seconds(f"{name}_timeout", given, problems)
        if seconds is not None:
            found[name] = seconds
    return replace(Timeouts(), **found)


def _devices(text: str | None, problems: list[str]) -> Devices:
    if text is None:
        return Devices()
    if match := re.fullmatch("cpu(:([1-9][0-9]*))?", text):
        return Devices("cpu", int(match[2]) if match[2] else None)
    if text in ("gpu", "auto"):
        return Devices(text)
    fix = "--devices=cpu, cpu:8 (eight virtual ones), gpu or auto"
    problems.append(message("--devices is not understood.", [("given", repr(text))], fix))
    return Devices()


def _model_dir(text: str | None, problems: list[str]) -> str | None:
    if text is None:
        return None
    if wrong := problem_of(text):
        problems.append(
            message("--model_dir names no directory.", [("given", repr(text[:80])), ("but", wrong)])
        )
        return None
    return _at_home(text)


def _at_home(path: str) -> str:
    """A path with its ``~/`` written out, which a shell leaves alone after an equals sign."""
    return str(Path.home() / path[2:]) if path.startswith("~/") else path
