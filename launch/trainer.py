"""A run from the state of its directory to its results; `launch.loop` is what lies between."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

import meshlang as ml
from launch import ngram, redaction
from launch.agreement import agree, batch_of, check_shared, chief_first, facts, start_devices
from launch.checkpoints import Checkpoints, Retention
from launch.data.batches import VOCABULARY, BatchSource, eval_windows
from launch.data.errors import DataError
from launch.data.topics import Corpus
from launch.errors import ConfigError
from launch.flags import RETRY, Devices
from launch.lock import RunLock
from launch.loop import Loop
from launch.run import Run
from launch.sampling import continuations
from launch.stops import Stopped, Stops
from launch.watch.account import account
from launch.watch.bystander import Bystander
from launch.watch.progress import duration
from launch.watch.watcher import Watcher
from launch.watchdog import Watchdog
from meshlang import faults, tf_config
from meshlang.errors import message
from meshlang.manifest import Manifest

#: how the baselines are called in the table and the picture, and their order
BASELINES = {"trigram": 3, "5-gram": 5}


class Trainer:
    """Trains a run from where its directory says it stands.

    Attributes:
        run_: what is trained.
        directory: `Run.model_dir`.
    """

    def __init__(
        self,
        run: Run,
        devices: Devices,
        config_text: str = "",
        profile_step: int | None = None,
        restore_step: int | None = None,
    ) -> None:
        """Nothing happens yet.

        Args:
            run: what is trained.
            devices: what to compute on.
            config_text: the operative configuration, noted in the directory.
            profile_step: which of the steps of this process to profile, from 1.
            restore_step: go on from the checkpoint of this step, and no other; the newest good one
                if not given.
        """
        self.run_ = run
        self.directory = Path(run.model_dir).expanduser()
        self._devices = devices
        self._config_text = config_text
        self._profile_step, self._restore_step = profile_step, restore_step
        self._started = time.monotonic()
        self._trained = 0.0
        self._evaluator: ml.Executable | None = None
        self._held = ExitStack()  # what is held as long as the run goes on
        self._stops = Stops()

    def run(self) -> int:
        """Train, or say that it is done. Returns the exit code."""
        finished = self._finished()
        if finished is not None and self._restore_step is None:
            self._say(_finished_text(finished, self.directory))
            return 0
        with self._held:
            try:
                return self._run()
            except Stopped as stopped:
                self._say(f"stopped {stopped}")
                return RETRY

    def _run(self) -> int:
        self._held.enter_context(self._stops)
        dog = self._held.enter_context(Watchdog(self._devices.timeouts))
        self._peers = start_devices(ml.Mesh.parse(self.run_.mesh), self._devices)
        self._stops.join(self._peers)
        self.run_.check_vocabulary(VOCABULARY)
        corpus = self._agree_and_load()
        self._stops.check()
        self._held.enter_context(self._checkpoints)
        train = ml.lower(self.run_.plan(self._program, *self._others))
        manifest = self._restored(train)
        if manifest is None:
            train.initialize(self.run_.seed)
            if self.run_.initial is not None:
                self.run_.initial.load(train)
        self._say_what(train.step)
        with self._watcher(train, corpus, train.step) as watch:
            dog.watch(train.store.machine)
            loop = self._loop(train, corpus, watch, dog)
            loop.run(train.step)
        self._trained = watch.seconds_in_steps
        results = self._results(train, corpus)
        if self._chief:
            self._write_json("results.json", results)
        self._say(_results_text(results, self.directory))
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
        run = self.run_
        best = "bits_per_byte" if run.keep_best else ""
        stay = Retention(last=run.keep, every=run.keep_every or None, best=best)
        return Checkpoints(self.directory / "checkpoints", stay, self._peers)

    def _restored(self, train: ml.Executable) -> Manifest | None:
        """Read the checkpoint to go on from; None if there is none."""
        if self._restore_step is None:
            return self._checkpoints.restore_latest(train)
        return self._checkpoints.restore_step(train, self._restore_step)

    def _finished(self) -> dict[str, Any] | None:
        """The results of a run that has done all its steps."""
        path = self.directory / "results.json"
        if not path.exists():
            return None
        results = json.loads(path.read_text())
        return results if results["step"] >= self.run_.steps else None

    def _open_directory(self, corpus: Corpus) -> None:
        """Refuse a directory of another text; write what the run is."""
        self._take_directory()
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
        if not self._chief:
            return
        self._write_json("run.json", {"corpus": corpus.digest, "meshlang": ml.__version__})
        config = redaction.configuration(self._config_text)
        (self.directory / "config.gin").write_text(config)
        (self.directory / "command.txt").write_text(redaction.command_line(sys.argv) + "\n")
        (self.directory / "plan.txt").write_text(
            self.run_.plan(self._program, *self._others).text()
        )

    def _take_directory(self) -> None:
        """Make it, hold its lock, and find out now whether checkpoints can be written there."""
        probe = self.directory / "checkpoints" / f".writable-{uuid4().hex}"
        try:
            probe.parent.mkdir(parents=True, exist_ok=True)
            if self._chief:
                self._held.enter_context(RunLock(self.directory))
            probe.write_text("")
            probe.unlink()
        except OSError as error:
            rows = [("directory", self.directory), ("reason", error)]
            fix = "choose another --model_dir, one that can be written to"
            raise ConfigError(message("the run has no use of its directory.", rows, fix)) from error
        faults.point("run.after_lock")

    def _agree_and_load(self) -> Corpus:
        """The text, once all processes have the same before them, and the chief has prepared it."""
        peers, seconds = self._peers, self._devices.timeouts.agree
        plan = self.run_.plan(self._program, *self._others)
        agree(peers, facts(self._config_text, self._program, plan), seconds)
        check_shared(peers, self.directory, seconds)
        corpus = chief_first(peers, "data", self.run_.data.load, seconds)
        chief_first(peers, "directory", lambda: self._open_directory(corpus), seconds)
        return corpus

    @property
    def _chief(self) -> bool:
        """Whether this process is the one that writes and prints."""
        spec = tf_config.from_environment()
        return spec is None or spec.index == 0

    def _say(self, text: str) -> None:
        if self._chief:
            print(text)

    def _say_what(self, begin: int) -> None:
        run = self.run_
        cost = run.plan(self._program, *self._others).cost
        size = sum(v.shape.size for v in self._program.variables.values() if v.trainable)
        self._say(
            f"training {size:,} parameters for {run.steps} steps of {run.batch} x {run.length} "
            f"tokens on the mesh {run.mesh or 'of one'}\n"
            f"layout {run.layout or '(none)'}\n"
            f"each processor sends {cost.all.wire_bytes / 1e6:.2f} MB a step "
            f"({cost.all.collectives} collectives)"
        )
        if begin:
            self._say(f"going on from the checkpoint of step {begin} in {self.directory}")

    # -- the loop -------------------------------------------------------------------------------

    def _watcher(self, train: ml.Executable, corpus: Corpus, begin: int) -> Watcher | Bystander:
        run = self.run_
        if not self._chief:
            return Bystander(run, train)
        return Watcher(
            run,
            train,
            account(
                train.plan,
                self._eval_program,
                tokens=run.batch * run.length,
                peak_flops=run.peak_flops,
            ),
            begin=begin,
            baselines=self._baselines(corpus),
            config_text=redaction.configuration(self._config_text),
            profile_step=self._profile_step,
        )

    def _loop(
        self, train: ml.Executable, corpus: Corpus, watch: Watcher | Bystander, dog: Watchdog
    ) -> Loop:
        run = self.run_
        source = BatchSource(corpus.train, batch=run.batch, length=run.length, seed=run.seed)
        return Loop(
            run,
            train,
            read=lambda step: batch_of(source, train, step),
            evaluate=lambda check: self._evaluate(train, corpus, check),
            checkpoints=self._checkpoints,
            stops=self._stops,
            watch=watch,
            extra={"corpus": corpus.digest},
            alive=dog.alive,
        )

    def _evaluate(self, train: ml.Executable, corpus: Corpus, check: Callable[[], None]) -> float:
        """Bits per byte of the held-out texts, each byte once; with averaged weights if kept.

        Args:
            train: whose variables are used.
            corpus: the texts.
            check: called before each batch.
        """
        run = self.run_
        if self._evaluator is None:
            planned = run.plan(self._eval_program, self._program)
            self._evaluator = ml.lower(planned, store=train.store)
        loss = count = 0.0
        with self._averaged(train):
            for window in eval_windows(corpus.heldout, batch=run.batch, length=run.length):
                check()
                sums = self._evaluator(**_wanted(self._evaluator, window))
                loss += float(sums["loss"])
                count += float(sums["count"])
        return loss / count / math.log(2)

    def _averaged(self, train: ml.Executable):
        """Within, variables hold their averages, if the optimizer keeps any."""
        return ml.optim.averaged(train) if ml.optim.has_averages(train) else nullcontext()

    # -- after ----------------------------------------------------------------------------------

    def _baselines(self, corpus: Corpus) -> dict[str, float]:
        return {
            name: ngram.bits_per_byte(
                ngram.fit(corpus.train.values(), order), corpus.heldout.values()
            )
            for name, order in BASELINES.items()
        }

    def _results(self, train: ml.Executable, corpus: Corpus) -> dict[str, Any]:
        bits = self._evaluate(train, corpus, self._stops.check)
        with self._averaged(train):
            texts = continuations(self.run_, train, corpus, self._program)
        if self._chief:
            written = "\n\n".join(p + t for p, t in texts) + "\n"
            (self.directory / "samples.txt").write_text(written)
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
