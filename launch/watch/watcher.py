"""What sees each step of a run and shows it: the log, the bar or lines, the picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import meshlang as ml
from launch.checkpoints import Saved
from launch.closing import Closing
from launch.profile import profile
from launch.run import Run
from launch.watch.account import Account, memory_per_processor
from launch.watch.metrics import MetricsLog, read_metrics
from launch.watch.plot import CurvePlot
from launch.watch.progress import Progress
from launch.watch.tensorboard import TensorBoard
from meshlang.errors import CheckpointError

#: numbers of one result that a record lists
_MOST_LOGGED = 256


class Watcher(Closing):
    """Told by the loop of a run what happened, it drives everything that people look at.

    Attributes:
        seconds_in_steps: of all steps that this process did.
    """

    def __init__(
        self,
        run: Run,
        train: ml.Executable,
        account: Account,
        *,
        begin: int,
        baselines: Mapping[str, float],
        config_text: str = "",
        profile_step: int | None = None,
    ) -> None:
        """Open the log and show an empty bar.

        Args:
            run: what is trained.
            train: what trains it.
            account: of its steps.
            begin: the step that it goes on from; later records are dropped, as they will come anew.
            baselines: bits per byte of other models, drawn into the picture.
            config_text: the operative configuration.
            profile_step: which of the steps of this process to profile, from 1.
        """
        self._run, self._train, self._account = run, train, account
        self._profile_step = begin + profile_step if profile_step else None
        self._directory = Path(run.model_dir).expanduser()
        self._log = MetricsLog(self._directory / "metrics.jsonl", resume_step=begin or None)
        self._board = TensorBoard(self._directory / "tensorboard")
        self._plot = CurvePlot(
            self._directory / "curves.png", baselines=baselines, title="held-out text"
        )
        self._bar = Progress(run.steps, tokens_per_step=account.tokens, done=begin)
        self.seconds_in_steps = 0.0
        self._steps, self._waited, self._worked = 0, 0.0, 0.0  # since the last record
        self._log.write(begin, "plan", **_planned(train.plan, account))
        self._board.texts(begin, {"plan": str(train.plan), "config": config_text})

    @contextmanager
    def profiled(self, step: int) -> Iterator[None]:
        """Around the computation of each step, counted from 1."""
        if step != self._profile_step:
            yield
            return
        folder = self._directory / "profile"
        with profile(folder):
            yield
        self._profile_step = None
        self.say(f"step {step}: see {folder / 'table.txt'} and trace.json beside it")

    def step(
        self, done: int, results: Mapping[str, Any], *, data_seconds: float, step_seconds: float
    ) -> None:
        """A step was done.

        Args:
            done: steps of the whole run so far.
            results: what the step returned.
            data_seconds: waited for its batch.
            step_seconds: from then until its loss was here.
        """
        self.seconds_in_steps += data_seconds + step_seconds
        self._steps += 1
        self._waited, self._worked = self._waited + data_seconds, self._worked + step_seconds
        self._bar.update(done, loss=float(results["loss"]))
        run = self._run
        if done % run.log_every == 0 or done in (1, run.steps):
            values = {name: _logged(value) for name, value in results.items()}
            self._record(done, "train", values | self._paces())
        if self._board.writes and run.histogram_every and done % run.histogram_every == 0:
            names = [v.name for v in self._train.plan.program.variables.values() if v.trainable]
            self._board.histograms(done, {name: self._train[name] for name in names})

    def heldout(self, done: int, bits: float) -> None:
        """The held-out texts were read: so many bits per byte after so many steps."""
        self._record(done, "heldout", {"bits_per_byte": bits})
        self.say(f"step {done}: {bits:.3f} bits per byte held out")
        self._plot.draw(read_metrics(self._directory / "metrics.jsonl"))

    def saved(self, saved: Saved) -> None:
        """A checkpoint is complete."""
        self._record(
            saved.step,
            "checkpoint",
            {"stall_seconds": saved.stall, "seconds": saved.seconds, "bytes": saved.bytes},
        )

    def save_failed(self, done: int, failures: int, error: CheckpointError) -> None:
        """A checkpoint could not be written, nor could those before it: so many in a row."""
        self._log.write(done, "failed_save", failures=failures, reason=str(error))
        bound = self._run.max_failed_saves
        self.say(f"step {done}: failed save {failures}, the run ends at {bound}: {error}")

    def say(self, text: str) -> None:
        """A line for whoever sits at the terminal."""
        self._bar.say(text)

    def _record(self, done: int, kind: str, values: dict[str, Any]) -> None:
        self._log.write(done, kind, **values)
        self._board.scalars(done, kind, values)

    def _paces(self) -> dict[str, float]:
        """How fast it went since the last record, waiting for data included."""
        seconds = (self._waited + self._worked) / self._steps
        devices = [place.device for place in self._train.store.machine.places]
        found = {
            "tokens_per_second": self._account.tokens / seconds,
            "data_seconds": self._waited / self._steps,
            "step_seconds": self._worked / self._steps,
            "memory_bytes": memory_per_processor(devices),
        }
        utilisation = self._account.utilisation(seconds)
        if utilisation is not None:
            found["utilisation"] = utilisation
        self._steps, self._waited, self._worked = 0, 0.0, 0.0
        return found

    def close(self) -> None:
        """End the log, and leave the bar as it stands."""
        if self._profile_step:
            self.say(f"step {self._profile_step} was to be profiled, and was not reached")
        self._bar.close()
        self._board.close()
        self._log.close()


def _logged(value: Any) -> Any:
    """A result as it stands in the log; of many numbers their mean."""
    array = np.asarray(value)
    return float(array.mean()) if array.size > _MOST_LOGGED else array.tolist()


def _planned(plan: ml.Plan, account: Account) -> dict[str, Any]:
    """What the plan says of a step, for the log."""
    return {
        "mesh": str(plan.mesh),
        "processors": account.processors,
        "tokens": account.tokens,
        "model_flops": account.model_flops,
        "peak_flops": account.peak_flops,
        "flops": plan.cost.flops,
        "sent_bytes": account.sent_bytes,
        "traffic": [
            {
                "kind": kind,
                "axes": list(axes),
                "collectives": sent.collectives,
                "bytes": sent.bytes,
                "wire_bytes": sent.wire_bytes,
            }
            for (kind, axes), sent in sorted(plan.cost.traffic.items())
        ],
        "variable_bytes": account.variable_bytes,
        "activation_bytes": account.activation_bytes,
    }
