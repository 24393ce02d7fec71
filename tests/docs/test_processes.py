"""What docs/processes.md shows runs: its dry run, its few lines of Python, its flags."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from launch.flags import help_text
from launch.train import main

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "processes.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


def test_the_dry_run_of_the_page(capsys):
    (command,) = [block for block in blocks("bash") if "--dry_run" in block]
    name, *flags = shlex.split(command)
    assert name == "meshlang-train"
    assert main(flags) == 0
    said = capsys.readouterr().out
    assert said.startswith("a dry run: nothing is started\nmesh data:4, 4 processors\nprocess 0 ")
    assert "process 1 of 2\n" in said
    assert not (Path.cwd() / "runs").exists()


def test_the_python_of_the_page():
    (program,) = blocks("python")
    env = {name: value for name, value in os.environ.items() if name != "TF_CONFIG"}
    subprocess.run([sys.executable, "-c", program], env=env, timeout=60, check=True)


def test_flags_and_files_of_the_page_are_there():
    known = help_text()
    for flag in re.findall(r"--([a-z_]+)", PAGE):
        assert f"--{flag} " in known, flag
    for path in re.findall(r"\]\(\.\./([^)]*)\)", PAGE):
        assert (ROOT / path).exists(), path
