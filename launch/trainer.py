"""The loop around the programs of a run: data in, log, evaluations, checkpoints, the end."""

from __future__ import annotations

import json
import math
import shlex
import sys
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import meshlang as ml
from launch import ngram
from launch.checkpoints import Checkpoints
from launch.data.batches import BatchSource, eval_windows
from launch.data.errors import DataError
from launch.data.topics import Corpus
from launch.flags import Devices
from launch.run import Run
from launch.sampling import continuations
from launch.watch.progress import duration
from launch.watch.watcher import Watcher
from meshlang.errors import message

#: how the baselines are called in the table and the picture, and their order
BASELINES = {"trigram": 3, "5-gram": 5}


class Trainer:
    """Trains a run from where its directory says it stands.

    Attributes:
        run_: what is trained.
        directory: `Run.model_dir`.
    """

    def __init__(self, run: Run, devices: Devices, config_text: str = "") -> None:
        self.run_ = run
        self.directory = Path(run.model_dir).expanduser()
        self._devices = devices
        self._config_text = config_text
        self._started = time.monotonic()
        self._trained = 0.0
        self._evaluator: ml.Executable | None = None

    def run(self) -> int:
        """Train, or say that it is done. Returns the exit code."""
        finished = self._finished()
        if finished is not None:
            print(_finished_text(finished, self.directory))
            return 0
        corpus = self.run_.data.load()
        self._open_directory(corpus)
        self._start_devices()
        manifest = self._checkpoints.latest()
        begin = manifest.step if manifest else 0
        self._say_what(begin)
        train = ml.lower(self.run_.plan(self._program, *self._others))
        train.initialize(self.run_.seed)
        if manifest:
            self._checkpoints.restore_latest(train)
        with self._watcher(corpus, begin) as watch:
            self._loop(train, corpus, begin, watch)
        self._trained = watch.seconds_in_steps
        results = self._results(train, corpus)
        self._write_json("results.json", results)
        print(_results_text(results, self.directory))
        return 0

    # -- before ---------------------------------------------------------------------------------

    @cached_property
    def _program(self) -> ml.Program:
        return self.run_.train_program()

    @cached_property
    def _eval_program(self) -> ml.Program:
        return self.run_.eval_program()

    @property
    def _others(self) -> list[ml.Program]:
        return [self._eval_program]

    @cached_property
    def _checkpoints(self) -> Checkpoints:
        return Checkpoints(self.directory / "checkpoints", keep=self.run_.keep)

    def _finished(self) -> dict[str, Any] | None:
        """The results of a run that has done all its steps."""
        path = self.directory / "results.json"
        if not path.exists():
            return None
        results = json.loads(path.read_text())
        return results if results["step"] >= self.run_.steps else None

    def _open_directory(self, corpus: Corpus) -> None:
        """Refuse a directory of another text; write what the run is."""
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / "run.json"
        if path.exists():
            found = json.loads(path.read_text())["corpus"]
            if found != corpus.digest:
                raise DataError(
                    message(
                        "this run was trained on another text, as another Python version has it.",
                        [
                            ("model_dir", self.directory),
                            ("its text", found[:16]),
                            ("this text", corpus.digest[:16]),
                        ],
                        "run the Python that began it, or choose another --model_dir",
                    )
                )
        self._write_json("run.json", {"corpus": corpus.digest, "meshlang": ml.__version__})
        (self.directory / "config.gin").write_text(self._config_text)
        (self.directory / "command.txt").write_text(shlex.join(sys.argv) + "\n")
        (self.directory / "plan.txt").write_text(
            self.run_.plan(self._program, *self._others).text()
        )

    def _start_devices(self) -> None:
        """CPUs unless told otherwise; as many as the mesh needs."""
        size = ml.Mesh.parse(self.run_.mesh).size
        kind = self._devices.kind
        if kind == "auto":
            from meshlang.lowering.runtime import has_gpus

            kind = "gpu" if has_gpus(size) else "cpu"
        ml.start(devices=self._devices.count or size, kind=kind)

    def _say_what(self, begin: int) -> None:
        run = self.run_
        cost = run.plan(self._program, *self._others).cost
        size = sum(v.shape.size for v in self._program.variables.values() if v.trainable)
        print(
            f"training {size:,} parameters for {run.steps} steps of {run.batch} x {run.length} "
            f"tokens on the mesh {run.mesh or 'of one'}\n"
            f"layout {run.layout or '(none)'}\n"
            f"each processor sends {cost.all.wire_bytes / 1e6:.2f} MB a step "
            f"({cost.all.collectives} collectives)"
        )
        if begin:
            print(f"going on from the checkpoint of step {begin} in {self.directory}")

    # -- the loop -------------------------------------------------------------------------------

    def _watcher(self, corpus: Corpus, begin: int) -> Watcher:
        run = self.run_
        return Watcher(
            self.directory,
            steps=run.steps,
            begin=begin,
            tokens_per_step=run.batch * run.length,
            log_every=run.log_every,
            baselines=self._baselines(corpus),
        )

    def _loop(self, train: ml.Executable, corpus: Corpus, begin: int, watch: Watcher) -> None:
        run = self.run_
        source = BatchSource(corpus.train, batch=run.batch, length=run.length, seed=run.seed)
        for step in range(begin, run.steps):
            asked = time.monotonic()
            batch = _wanted(train, source.at(step))
            came = time.monotonic()
            results = train(**batch)
            float(results["loss"])  # waits for the devices
            ended = time.monotonic()
            done = step + 1
            watch.step(done, results, data_seconds=came - asked, step_seconds=ended - came)
            if done % run.eval_every == 0 or done == run.steps:
                watch.heldout(done, self._evaluate(train, corpus))
            if done % run.save_every == 0 or done == run.steps:
                self._checkpoints.save(train, done, {"corpus": corpus.digest})

    def _evaluate(self, train: ml.Executable, corpus: Corpus) -> float:
        """Bits per byte of the held-out texts, each byte once."""
        run = self.run_
        if self._evaluator is None:
            planned = run.plan(self._eval_program, self._program)
            self._evaluator = ml.lower(planned, store=train.store)
        loss = count = 0.0
        for window in eval_windows(corpus.heldout, batch=run.batch, length=run.length):
            sums = self._evaluator(**_wanted(self._evaluator, window))
            loss += float(sums["loss"])
            count += float(sums["count"])
        return loss / count / math.log(2)

    # -- after ----------------------------------------------------------------------------------

    def _baselines(self, corpus: Corpus) -> dict[str, float]:
        return {
            name: ngram.bits_per_byte(
                ngram.fit(corpus.train.values(), order), corpus.heldout.values()
            )
            for name, order in BASELINES.items()
        }

    def _results(self, train: ml.Executable, corpus: Corpus) -> dict[str, Any]:
        bits = self._evaluate(train, corpus)
        texts = continuations(self.run_, train, corpus, self._program)
        (self.directory / "samples.txt").write_text("\n\n".join(p + t for p, t in texts) + "\n")
        return {
            "step": train.step,
            "bits_per_byte": bits,
            "baselines": self._baselines(corpus),
            "seconds_in_steps": round(self._trained, 1),
            "seconds_in_all": round(time.monotonic() - self._started, 1),
            "samples": texts,
        }

    def _write_json(self, name: str, value: Any) -> None:
        beside = self.directory / f"{name}.new"
        beside.write_text(json.dumps(value, indent=1) + "\n")
        beside.replace(self.directory / name)


def _wanted(executable: ml.Executable, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays that a model takes; data may offer more."""
    return {name: rows for name, rows in arrays.items() if name in executable.plan.inputs}


def _results_text(results: dict[str, Any], directory: Path) -> str:
    bits = results["bits_per_byte"]
    rows = [
        ("this model", bits, ""),
        *((n, b, f"{b - bits:+.2f}") for n, b in results["baselines"].items()),
    ]
    lines = ["", "bits per byte of the held-out topics", ""]
    lines += [f"  {name:<12} {value:6.3f}  {more}".rstrip() for name, value, more in rows]
    for prompt, text in results["samples"]:
        lines += [
            "",
            "-" * 79,
            f"{prompt}\033[1m{text}\033[0m" if sys.stdout.isatty() else prompt + "|" + text,
        ]
    spent = duration(results["seconds_in_steps"])
    lines += ["", "-" * 79, f"{results['step']} steps, {spent} in steps; {directory} holds"]
    lines += ["  curves.png  metrics.jsonl  samples.txt  plan.txt  config.gin  checkpoints/"]
    return "\n".join(lines)


def _finished_text(results: dict[str, Any], directory: Path) -> str:
    return (
        f"This run is finished.\n{_results_text(results, directory)}\n\n"
        f"To start anew, remove {directory} or give another --model_dir; "
        "to go on, give more --steps."
    )
