"""The loop of a run: steps, evaluations and checkpoints, until it is done or asked to stop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import meshlang as ml
from launch.checkpoints import Checkpoints, Saved
from launch.data.ahead import Ahead
from launch.errors import NotFiniteError
from launch.run import Run
from launch.stops import Stopped, Stops
from meshlang import faults
from meshlang.errors import CheckpointError, message


class Watch(Protocol):
    """What is told of all that happens; see `launch.watch.watcher.Watcher`."""

    def profiled(self, step: int) -> Any:
        """A context around the computation of a step."""
        ...

    def step(
        self, done: int, results: Mapping[str, Any], *, data_seconds: float, step_seconds: float
    ) -> None:
        """A step was done."""
        ...

    def heldout(self, done: int, bits: float) -> None:
        """The held-out texts were read."""
        ...

    def saved(self, saved: Saved) -> None:
        """A checkpoint is complete."""
        ...

    def save_failed(self, done: int, failures: int, error: CheckpointError) -> None:
        """A checkpoint could not be written."""
        ...


class Loop:
    """Takes a run from where it stands to its end.

    Args:
        run: how many steps, and how often the rest.
        train: does a step.
        read: the batch of a step, counted from 0.
        evaluate: gives the metric of the held-out texts; it calls what it is given now and then,
            and lets through what that raises.
        checkpoints: of the run.
        stops: says when to stop.
        watch: is told of everything.
        extra: noted in each checkpoint.
        alive: told what begins now; see `launch.watchdog`.
    """

    def __init__(
        self,
        run: Run,
        train: ml.Executable,
        *,
        read: Callable[[int], Mapping[str, Any]],
        evaluate: Callable[[Callable[[], None]], float],
        checkpoints: Checkpoints,
        stops: Stops,
        watch: Watch,
        extra: Mapping[str, Any],
        alive: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._run, self._train = run, train
        self._read, self._evaluate = read, evaluate
        self._checkpoints, self._stops, self._watch = checkpoints, stops, watch
        self._extra, self._alive = dict(extra), alive
        self._done = self._saved = 0
        self._failed_saves = self._not_finite = 0

    def run(self, begin: int) -> None:
        """Do the steps that are left.

        Args:
            begin: steps that were done before; their checkpoint is there, if it is not 0.

        Raises:
            Stopped: it was asked to stop, and all that was done is in a checkpoint.
            NotFiniteError: too many steps in a row were skipped.
            CheckpointError: too many checkpoints in a row, or the last one, could not be written.
        """
        self._done = self._saved = begin
        try:
            faults.point("run.compile", begin + 1)
            self._train.build()
            self._stops.check()
            with Ahead(self._read, begin, self._run.steps) as batches:
                while self._done < self._run.steps:
                    self._step(batches)
            self._last_checkpoint()
        except Stopped:
            raise self._stopped() from None

    def _step(self, batches: Ahead) -> None:
        """One step, and what is due after it."""
        run, asked = self._run, time.monotonic()
        self._alive(f"step {self._done + 1}")
        batch = batches.next(self._stops.check_alone)
        came, step = time.monotonic(), self._done + 1
        with self._watch.profiled(step):
            faults.point("run.step", step)
            results = {**self._train(**batch), **self._train.summaries}
            loss = float(results["loss"])  # waits for the devices
        ended = time.monotonic()
        self._done = step
        self._alive(f"what comes after step {step}")
        self._watch.step(step, results, data_seconds=came - asked, step_seconds=ended - came)
        self._count_not_finite(loss, float(results["gradient_norm"]))
        metrics = {}
        if step % run.eval_every == 0 or step == run.steps:
            faults.point("run.evaluate", step)
            metrics["bits_per_byte"] = self._evaluate(self._stops.check)
            self._watch.heldout(step, metrics["bits_per_byte"])
        self._report(self._checkpoints.poll)
        if step % run.save_every == 0 or step == run.steps:
            self._save(metrics)
        self._stops.check()

    def _save(self, metrics: Mapping[str, float]) -> None:
        """Begin a checkpoint, when the one before is complete."""
        self._report(self._checkpoints.finish)
        extra = self._extra | ({"metrics": dict(metrics)} if metrics else {})
        self._report(lambda: self._checkpoints.begin(self._train, self._done, extra))
        self._saved = self._done

    def _last_checkpoint(self) -> None:
        """Wait until all that was done is in a checkpoint; no failure is passed over."""
        failed = self._failed_saves
        self._report(self._checkpoints.finish)
        at_start = self._done == 0 and self._checkpoints.latest() is None
        if self._saved != self._done or self._failed_saves > failed or at_start:
            self._checkpoints.begin(self._train, self._done, self._extra)
            if saved := self._checkpoints.finish():
                self._watch.saved(saved)

    def _stopped(self) -> Stopped:
        """Save what was done. That it failed is told, and no reason not to be started again."""
        try:
            self._last_checkpoint()
        except CheckpointError as error:
            return Stopped(f"after step {self._done}, which is lost: {error}")
        return Stopped(f"after step {self._done}; the same command goes on from there")

    def _report(self, act: Callable[[], Saved | None]) -> None:
        """Tell what became of a checkpoint; too many failures in a row end the run."""
        try:
            saved = act()
        except CheckpointError as error:
            self._failed_saves += 1
            self._watch.save_failed(self._done, self._failed_saves, error)
            if self._failed_saves >= self._run.max_failed_saves:
                raise
        else:
            if saved is not None:
                self._failed_saves = 0
                self._watch.saved(saved)

    def _count_not_finite(self, loss: float, norm: float) -> None:
        """A step whose loss or gradients are not finite has changed nothing; many are an end."""
        finite = math.isfinite(loss) and math.isfinite(norm)
        self._not_finite = 0 if finite else self._not_finite + 1
        if self._not_finite < self._run.max_not_finite:
            return
        self._report(self._checkpoints.finish)
        last = self._checkpoints.latest()
        raise NotFiniteError(
            message(
                f"{self._not_finite} steps in a row had a loss or a gradient that is not finite.",
                [
                    ("step", self._done),
                    ("loss", loss),
                    ("gradient norm", norm),
                    ("last good checkpoint", f"step {last.step}" if last else "none"),
                ],
                "lower the learning rate, or look at the data of these steps; "
                "Run.max_not_finite is how many are borne",
            )
        )
