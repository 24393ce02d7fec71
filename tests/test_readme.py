"""What README.md and docs/ show is what happens.

Shell commands of the README: each one stands in a table below, which says how it is verified.
Python blocks of every page: a page's blocks run in order, as one program; a text block under the
comment ``<!-- output -->`` is what the Python block before it prints. A block under
``<!-- not-run: REASON -->`` is shown only; one under ``<!-- file: PATH -->`` is a file, which the
page's own test in tests/docs writes and runs.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]

# Commands that .ci/run runs on every change.
RUN_BY_CI = {"make test"}

# Commands that a make target stands for: what `make -n TARGET` would run.
BEHIND_MAKE = {
    "train": [
        "python3 -m venv .venv",
        ".venv/bin/python -m pip install --editable '.[plot]'",
        ".venv/bin/python -m launch.train --gin_file=runs/pydoc_moe.gin",
    ],
    "test": [
        "python3 -m venv .venv",
        ".venv/bin/python -m pip install --editable '.[test]'",
        ".venv/bin/python -m pytest -m 'not slow and not packaging'",
    ],
}

# Commands that the slow suite runs, with what is added to make them short and leave no trace.
RUN_IN_SLOW_SUITE = {
    ".venv/bin/python -m launch.train --gin_file=runs/pydoc_moe.gin": (
        "--steps=2 --model_dir={folder}/run"
    ),
    ".venv/bin/python -m launch.plan --gin_file=runs/pydoc_moe.gin --hosts=4": "",
    ".venv/bin/python -m launch.plan --gin_file=runs/pydoc_moe.gin "
    "--layout='batch:data+model group:data+model' "
    "--layout='batch:data group:data heads:model vocab:model experts:model'": "",
    ".venv/bin/python examples/digits.py": "",
}

# Verified through what they stand for.
MADE_OF_OTHERS = {"make train": BEHIND_MAKE["train"]}

# What make adds to the plain commands: quiet tools, parallel tests.
MAKE_ADDS = re.compile(
    r" (?:--quiet|--disable-pip-version-check|-q|--timeout=\d+|--numprocesses=\w+"
    r"|--maxprocesses=\d+|--dist=\w+)(?= |$)"
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    line: int  # of its first line inside the fence, from 1
    text: str
    comment: str  # the HTML comment right above, if there is one


def blocks(page: Path) -> list[Block]:
    found, lines = [], page.read_text(encoding="utf-8").splitlines()
    above, start, language = "", None, ""
    for number, line in enumerate(lines, start=1):
        fence = line.strip().startswith("```")
        if start is None and fence:
            start, language = number + 1, line.strip().removeprefix("```").strip()
        elif start is not None and fence:
            found.append(Block(language, start, "\n".join(lines[start - 1 : number - 1]), above))
            start, above = None, ""
        elif start is None and line.strip():
            comment = re.fullmatch(r"<!--\s*(.*?)\s*-->", line.strip())
            above = comment.group(1) if comment else ""
    assert start is None, f"{page.name}: the block at line {start} has no end"
    return found


def commands(page: Path) -> list[str]:
    shell = [block.text for block in blocks(page) if block.language in ("bash", "sh", "console")]
    lines = "\n".join(shell).replace("\\\n", " ").splitlines()
    return [" ".join(line.split()) for line in lines if line.strip() and line.lstrip()[0] != "#"]


def test_every_command_is_known_and_every_known_command_is_shown():
    behind = {line for lines in BEHIND_MAKE.values() for line in lines}
    known = RUN_BY_CI | behind | set(RUN_IN_SLOW_SUITE) | set(MADE_OF_OTHERS)
    assert set(commands(README)) == known


def test_ci_runs_what_it_is_said_to_run():
    stages = re.findall(r"^stage \d+ (.+)$", (ROOT / ".ci" / "run").read_text(), flags=re.MULTILINE)
    assert {f"make {stage}" for stage in stages} >= RUN_BY_CI


@pytest.mark.parametrize("target", sorted(BEHIND_MAKE))
def test_plain_commands_are_what_make_runs(target: str, tmp_path: Path):
    """With a folder that holds no .venv yet, every step of a target is still to be done."""
    for name in ("Makefile", "setup.py", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    dry = subprocess.run(
        ["make", "--dry-run", target],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"]},  # not what an outer `make test PYTHON=...` has set
        capture_output=True,
        text=True,
    )
    assert dry.returncode == 0, dry.stderr
    planned = [shlex.split(MAKE_ADDS.sub("", line)) for line in tool_lines(dry.stdout)]
    assert planned == [shlex.split(line) for line in BEHIND_MAKE[target]]


def tool_lines(dry_run: str) -> list[str]:
    """The lines that do the work: no checks, messages, stamps."""
    lines = dry_run.replace("\\\n", " ").splitlines()
    return [line for line in lines if re.match(r"\S*python3? -m ", line)]


@pytest.mark.slow
@pytest.mark.parametrize("command", sorted(RUN_IN_SLOW_SUITE))
def test_command_runs(command: str, tmp_path: Path):
    words = shlex.split(f"{command} {RUN_IN_SLOW_SUITE[command].format(folder=tmp_path)}")
    assert words[0] == ".venv/bin/python"
    ran = subprocess.run(
        [sys.executable, *words[1:]],
        cwd=ROOT,
        env=os.environ | {"HOME": str(tmp_path)},  # data that another Python prepared is refused
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"


# Runs the blocks given on stdin, in order, in one namespace; answers with what each one printed.
# Blank lines in front make a traceback name the page's own line. TensorFlow's own prints go to
# stderr, where they do not get into the answer.
RUNNER = """
import contextlib, io, json, os, sys
answer = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
namespace, printed = {"__name__": "__main__"}, []
for line, text in json.load(sys.stdin):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile("\\n" * (line - 1) + text, sys.argv[1], "exec"), namespace)
    printed.append(out.getvalue())
json.dump(printed, answer)
"""


def run_page(page: Path, folder: Path) -> dict[int, str]:
    """Runs the page's Python blocks in a process of its own; what each printed, by its line."""
    python = [block for block in blocks(page) if block.language == "python" and runs(block)]
    ran = subprocess.run(
        [sys.executable, "-c", RUNNER, str(page)],
        input=json.dumps([(block.line, block.text) for block in python]),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    return {block.line: text for block, text in zip(python, json.loads(ran.stdout), strict=True)}


def runs(block: Block) -> bool:
    reason = block.comment.removeprefix("not-run:")
    assert reason.strip() or not block.comment, f"line {block.line}: `not-run:` without a reason"
    return not block.comment.startswith(("not-run:", "file:"))


def shown_outputs(page: Path) -> list[tuple[Block, Block]]:
    """Every Python block that is followed by its output, and that output."""
    pairs, before = [], None
    for block in blocks(page):
        if block.comment == "output":
            assert before is not None, f"{page.name}:{block.line}: output of no Python block"
            pairs.append((before, block))
        before = block if block.language == "python" else None
    return pairs


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_python_blocks_run_and_print_what_the_page_shows(page: Path, tmp_path: Path):
    printed = run_page(page, tmp_path)
    for python, output in shown_outputs(page):
        assert lines_of(output.text) == lines_of(printed[python.line]), f"line {output.line}"


def lines_of(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip("\n").splitlines()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_inside_the_tree_lead_somewhere(page: Path):
    targets = re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []
