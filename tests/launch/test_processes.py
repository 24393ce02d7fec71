"""Runs of several processes: the same training, and the end of one of them."""

import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from launch.errors import ConfigError
from launch.flags import parse
from launch.processes import code_of, free_ports
from launch.train import main
from launch.watch.metrics import read_metrics
from meshlang.tf_config import ClusterSpec, Timeouts
from tests.cluster import Cluster, check_done, run

TINY = Path(__file__).parent / "tiny.gin"
ROOT = TINY.parents[2]
LONG = ("--steps=100000", "--gin.Run.eval_every=100000", "--gin.Run.save_every=100000")
MESH = "data:2 model:2"
LAYOUT = "batch:data group:data heads:model vocab:model experts:model"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def command(directory: Path, data_dir: Path, *flags: str) -> list[str]:
    return [
        *("-m", "launch.train", f"--gin_file={TINY}", f"--mesh={MESH}", f"--layout={LAYOUT}"),
        *(f"--model_dir={directory}", f"--gin.PydocText.data_dir='{data_dir}'", *flags),
    ]


def losses(directory: Path) -> list[float]:
    records = read_metrics(directory / "metrics.jsonl")
    return [record["loss"] for record in records if record["kind"] == "train"]


def test_four_processes_with_an_empty_data_directory_train_as_one(tmp_path, data_dir):
    check_done(run(tmp_path / "logs1", command(tmp_path / "one", data_dir), 1))
    ended = run(tmp_path / "logs4", command(tmp_path / "four", tmp_path / "data"), 4, 240)
    check_done(ended)
    one, four = losses(tmp_path / "one"), losses(tmp_path / "four")
    assert len(four) == 6
    np.testing.assert_allclose(four, one, rtol=1e-5)
    assert "training 14,800 parameters for 6 steps" in ended[0].text
    assert "bits per byte of the held-out topics" in ended[0].text
    for i in (1, 2, 3):  # only the chief shows anything
        assert "step" not in ended[i].text
    listing = {path.name for path in (tmp_path / "four").iterdir()}
    assert not any(name.startswith(".shared") for name in listing)
    assert {"checkpoints", "metrics.jsonl", "results.json", "samples.txt"} <= listing


@pytest.mark.parametrize(
    ("victim", "number"),
    [
        (1, signal.SIGKILL),
        pytest.param(0, signal.SIGKILL, marks=pytest.mark.slow),
        pytest.param(1, signal.SIGSTOP, marks=pytest.mark.slow),
        pytest.param(0, signal.SIGSTOP, marks=pytest.mark.slow),
    ],
)
def test_who_is_left_ends_soon_and_names_the_dead(victim, number, tmp_path, data_dir):
    arguments = command(tmp_path / "run", data_dir, *LONG, "--heartbeat_timeout=5")
    with Cluster(tmp_path, arguments, 2) as cluster:
        cluster.wait_for("loss", 0, 90)
        began = time.monotonic()
        cluster.signal(victim, number)
        other = 1 - victim
        while cluster.poll(other) is None and time.monotonic() < began + 60:
            time.sleep(0.1)
        assert cluster.poll(other) == 75, cluster.text(other)
        assert time.monotonic() - began < 5 + 30
        said = f"PeerError: process {victim} ended or cannot be reached.\n"
        assert said in cluster.text(other)


@pytest.mark.slow
def test_a_process_that_stands_still_is_found_by_the_watchdog(tmp_path, data_dir):
    flags = ("--hang_timeout=8", "--heartbeat_timeout=100")
    asleep = {1: {"MESHLANG_FAULT": "run.step@4=sleep:600"}}  # so that process 0 is in its step
    arguments = command(tmp_path / "run", data_dir, *LONG, *flags)
    with Cluster(tmp_path, arguments, 2, env=asleep) as cluster:
        cluster.wait_for("loss", 0, 90)
        time.sleep(3)
        cluster.signal(1, signal.SIGSTOP)
        until = time.monotonic() + 60
        while cluster.poll(0) is None and time.monotonic() < until:
            time.sleep(0.1)
        assert cluster.poll(0) == 75
        text = cluster.text(0)
    assert re.search(r"meshlang: step 4 has not ended for \d+ s", text)
    assert 'launch/watchdog.py", line' in text  # the stacks of all threads
    assert "meshlang: process 1 says nothing; it holds processors 2 3" in text
    for processor in (0, 1):
        assert f"meshlang: processor {processor} waits in " in text
    assert " over data, as member 0 of 2; not there: member 1 (processor " in text


@pytest.mark.parametrize("point", ["run.step", pytest.param("run.data", marks=pytest.mark.slow)])
def test_an_error_in_one_process_ends_the_others_with_its_text(point, tmp_path, data_dir):
    fault = {1: {"MESHLANG_FAULT": f"{point}@4=error"}}
    ended = run(tmp_path, command(tmp_path / "run", data_dir, *LONG), 2, 90, env=fault)
    failure = f"OSError: [Errno 28] No space left on device (made at {point})"
    assert ended[1].code == 70
    assert failure in ended[1].text
    assert ended[0].code == 75
    assert f"process 1: {failure}" in ended[0].text.split("PeerError: ")[1]


def test_a_process_that_never_starts_is_named(tmp_path, data_dir):
    arguments = command(tmp_path / "run", data_dir, "--register_timeout=2")
    with Cluster(tmp_path, arguments, 2, started=[0]) as cluster:
        ended = cluster.wait(60)
    assert ended[0].code == 75
    assert "PeerError: not all of 2 processes have started within 2 s.\n" in ended[0].text
    assert "  missing  process 1 at localhost:" in ended[0].text


def test_processes_that_disagree_are_shown_the_first_line(tmp_path, data_dir):
    ended = run(
        tmp_path, command(tmp_path / "run", data_dir), 2, 90, more={1: ["--gin.Run.clip_norm=2.0"]}
    )
    for found in ended.values():
        assert found.code == 1
        assert "ClusterError: the processes differ in their configuration.\n" in found.text
        assert "  process 0  Run.clip_norm = 1.0\n" in found.text
        assert "  process 1  Run.clip_norm = 2.0\n" in found.text
    assert not (tmp_path / "run" / "run.json").exists()


def test_what_is_wrong_before_anything_opens(tmp_path, data_dir):
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        taken = ClusterSpec((f"localhost:{port}", "localhost:1"), 0).text()
        for config, said in (
            ("{worker", "ClusterError: TF_CONFIG is not JSON.\n  at    character 1"),
            (taken, f"ClusterError: port {port} is in use.\n"),
        ):
            began = time.monotonic()
            done = subprocess.run(
                [sys.executable, *command(tmp_path / "run", data_dir)],
                env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CONFIG": config},
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert time.monotonic() - began < 5
            assert done.returncode == 1
            assert said in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_run_starts_again_from_its_last_checkpoint(tmp_path, data_dir):
    flags = ("--steps=400", "--gin.Run.eval_every=400", "--gin.Run.save_every=40")
    more = ("--processes=2", "--max_restarts=1", "--heartbeat_timeout=5")
    log = tmp_path / "log"
    with log.open("wb") as out:
        parent = subprocess.Popen(
            [sys.executable, *command(tmp_path / "run", data_dir, *flags, *more)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        saved = tmp_path / "run" / "checkpoints" / "step_00000040"
        until = time.monotonic() + 90
        while not saved.exists() and time.monotonic() < until and parent.poll() is None:
            time.sleep(0.02)
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        assert len(children) == 2, log.read_text()
        os.kill(int(children[1]), signal.SIGKILL)
        assert parent.wait(timeout=120) == 0, log.read_text()
    finally:
        if parent.poll() is None:
            parent.terminate()
            parent.wait(timeout=60)
    text = log.read_text()
    assert "meshlang: process 1 was ended by SIGKILL\n" in text
    assert "ended with exit code 75, and starts again (0 more restarts)" in text
    assert "going on from the checkpoint of step" in text
    records = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [r["step"] for r in records if r["kind"] == "train"] == [*range(1, 401)]


def test_exit_codes_of_several_processes():
    for codes in itertools.permutations([0, 75, -9]):
        assert code_of(codes) == 75
    assert code_of([0, 0, 0]) == 0
    assert code_of([70, 1, 75]) == 1
    assert code_of([70, 75, 75]) == 70
    assert code_of([2]) == 70


def test_ports_are_not_given_twice():
    assert len(set(free_ports(50))) == 50


def test_flags_of_processes():
    options = parse(["--processes=2", "--max_restarts=0", "--heartbeat_timeout=2.5", "--dry_run"])
    assert (options.processes, options.max_restarts, options.dry_run) == (2, 0, True)
    assert options.devices.timeouts == Timeouts(heartbeat=2.5)
    with pytest.raises(ConfigError) as error:
        parse(["--processes=0", "--max_restarts=-1", "--hang_timeout=soon"])
    assert str(error.value) == (
        "3 problems in the flags.\n"
        "1. --hang_timeout is a number of seconds.\n"
        "     given  'soon'\n"
        "2. --processes is a whole number from 1 on.\n"
        "     given  '0'\n"
        "3. --max_restarts is a whole number from 0 on.\n"
        "     given  '-1'"
    )


def test_two_ways_to_say_who_runs(monkeypatch, capsys):
    spec = ClusterSpec(("a:1", "b:2"), 0)
    monkeypatch.setenv("TF_CONFIG", spec.text())
    assert main(["--gin_file=runs/pydoc.gin", "--processes=2"]) == 1
    assert capsys.readouterr().err == (
        "ConfigError: TF_CONFIG and --processes say both who runs.\n"
        "  TF_CONFIG  2 processes\n"
        "  fix: leave out --processes: each machine starts its own\n"
    )
