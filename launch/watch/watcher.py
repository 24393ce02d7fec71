"""What sees each step of a run and shows it: the log, the bar or lines, the picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from launch.watch.metrics import MetricsLog, read_metrics
from launch.watch.plot import CurvePlot
from launch.watch.progress import Progress


class Watcher:
    """Told by the loop of a run what happened, it drives everything that people look at.

    Attributes:
        seconds_in_steps: of all steps that this process did.
    """

    def __init__(
        self,
        directory: Path,
        *,
        steps: int,
        begin: int,
        tokens_per_step: int,
        log_every: int,
        baselines: Mapping[str, float],
    ) -> None:
        """Open the log and show an empty bar.

        Args:
            directory: where `metrics.jsonl` and `curves.png` are.
            steps: of the whole run.
            begin: the step that it goes on from; later records are dropped, as they will come anew.
            tokens_per_step: predicted tokens.
            log_every: steps between records.
            baselines: bits per byte of other models, drawn into the picture.
        """
        self._directory, self._steps = directory, steps
        self._tokens, self._log_every = tokens_per_step, log_every
        self._log = MetricsLog(directory / "metrics.jsonl", resume_step=begin or None)
        self._plot = CurvePlot(directory / "curves.png", baselines=baselines, title="held-out text")
        self._bar = Progress(steps, tokens_per_step=tokens_per_step, done=begin)
        self.seconds_in_steps = 0.0

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
        self._bar.update(done, loss=float(results["loss"]))
        if done % self._log_every and done not in (1, self._steps):
            return
        values = {name: np.asarray(value).tolist() for name, value in results.items()}
        values["tokens_per_second"] = self._tokens / (data_seconds + step_seconds)
        self._log.write(done, "train", **values)

    def heldout(self, done: int, bits: float) -> None:
        """The held-out texts were read: so many bits per byte after so many steps."""
        self._log.write(done, "heldout", bits_per_byte=bits)
        self.say(f"step {done}: {bits:.3f} bits per byte held out")
        self._plot.draw(read_metrics(self._directory / "metrics.jsonl"))

    def say(self, text: str) -> None:
        """A line for whoever sits at the terminal."""
        self._bar.say(text)

    def close(self) -> None:
        """End the log, and leave the bar as it stands."""
        self._bar.close()
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
