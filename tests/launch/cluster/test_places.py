"""The job files of schedulers: what each process would do, without a scheduler."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from launch.cluster.__main__ import main
from launch.cluster.places import hosts, kubernetes, slurm
from launch.errors import ConfigError
from meshlang.tf_config import ClusterSpec

ROOT = Path(__file__).resolve().parents[3]
FILES = ROOT / "launch" / "cluster"
SLURM = {"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_STEP_TASKS_PER_NODE": "1(x2)"}


def dry_run(scheduler: str, env: Mapping[str, str], flags: Sequence[str]) -> str:
    """What `launch.train --dry_run` says when started as the job files do."""
    train = [sys.executable, "-m", "launch.train", "--dry_run", *flags]
    return subprocess.run(
        [sys.executable, "-m", "launch.cluster", scheduler, *train],
        env={**os.environ, **env, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout


def test_slurms_script_starts_a_process_for_each_task():
    script = (FILES / "slurm.sh").read_text()
    assert subprocess.run(["bash", "-n", FILES / "slurm.sh"], check=False).returncode == 0
    assert "python -m launch.cluster slurm python -m launch.train " in script
    flags = ["--gin_file=runs/pydoc_moe.gin", "--mesh=data:4", "--layout=batch:data group:data"]
    said = dry_run("slurm", {**SLURM, "SLURM_PROCID": "1"}, [*flags, "--model_dir=/shared/first"])
    assert said == (
        "a dry run: nothing is started\n"
        "mesh data:4, 4 processors\n"
        "process 1 of 2\n"
        '  listens    n2:7077, as TF_CONFIG {"cluster": {"worker": ["n1:7077", "n2:7077"]}, '
        '"task": {"type": "worker", "index": 1}}\n'
        "  devices    2 of kind cpu\n"
        "  processors 2 to 3 of the mesh\n"
        "  reads      rows 8 to 15 of the 16 of each step\n"
        "  writes     its blocks in /shared/first\n"
    )


def test_the_job_of_kubernetes_gives_each_pod_its_place():
    text = (FILES / "kubernetes.yaml").read_text()
    command = re.search(r"command: \[(.*)\]", text)
    assert command is not None
    words = command[1].split(", ")
    assert words == "python -m launch.cluster kubernetes python -m launch.train".split()
    flags = re.findall(r"^            - (--.*)$", text, re.MULTILINE)
    env = dict(re.findall(r'- name: (MESHLANG_\w+)\n +value: "?(\w+)"?', text))
    pods = re.findall(r"(?:completions|parallelism): (\d+)", text)
    assert pods == [env["MESHLANG_PROCESSES"]] * 2
    assert f"subdomain: {env['MESHLANG_SERVICE']}\n" in text
    said = dry_run("kubernetes", {**env, "JOB_COMPLETION_INDEX": "3"}, flags)
    assert "process 3 of 4\n" in said
    assert "listens    train-3.meshlang:7077, as TF_CONFIG" in said
    assert "processors 6 to 7 of the mesh\n" in said


def test_the_job_of_kubeflow_starts_training_itself():
    text = (FILES / "tfjob.yaml").read_text()
    assert "command: [python, -m, launch.train]" in text


def test_the_pages_say_first_what_is_needed():
    for name in ("slurm.md", "kubernetes.md"):
        lines = (FILES / name).read_text().splitlines()
        assert lines[2] == "**What it needs**"
        assert lines[4].startswith("- *A shared file system*")
        assert any(line.startswith("- *Open ports*") for line in lines)


def test_slurms_short_forms():
    assert [*hosts("a[01-03,10]-x,b")] == ["a01-x", "a02-x", "a03-x", "a10-x", "b"]
    env = {"SLURM_STEP_NODELIST": "n[1-3]", "SLURM_STEP_TASKS_PER_NODE": "2(x2),1"}
    addresses = ("n1:9000", "n1:9001", "n2:9000", "n2:9001", "n3:9000")
    spec = slurm({**env, "SLURM_PROCID": "4", "MESHLANG_PORT": "9000"})
    assert spec == ClusterSpec(addresses, 4)


def test_what_is_not_there_is_said(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(ConfigError) as error:
        slurm({"SLURM_STEP_NODELIST": "n1"})
    assert str(error.value) == (
        "SLURM_STEP_TASKS_PER_NODE is not set.\n"
        "  fix: start it within SLURM; see the pages in launch/cluster"
    )
    with pytest.raises(ConfigError) as error:
        slurm({**SLURM, "SLURM_STEP_NODELIST": "n1", "SLURM_PROCID": "0"})
    assert str(error.value) == (
        "SLURM's variables do not fit together.\n  nodes             1\n  numbers of tasks  2"
    )
    with pytest.raises(ConfigError, match="MESHLANG_JOB is not set"):
        kubernetes({})
    assert main(["slrum", "python"]) == 1
    assert capsys.readouterr().err == (
        "ConfigError: which scheduler, and what to run?\n"
        "  fix: python -m launch.cluster {slurm,kubernetes} COMMAND ...\n"
    )
