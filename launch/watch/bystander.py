"""What stands in a `Watcher`'s place in the processes that write and show nothing."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

import meshlang as ml
from launch.checkpoints import Saved
from launch.closing import Closing
from launch.run import Run
from meshlang.errors import CheckpointError


class Bystander(Closing):
    """Has the methods of a `Watcher`, and reads what the chief's one reads, but writes nothing.

    Of a value whose blocks lie in several processes all must read it at the same time.

    Args:
        run: what is trained.
        train: what trains it.

    Attributes:
        seconds_in_steps: of all steps that this process did.
    """

    def __init__(self, run: Run, train: ml.Executable) -> None:
        self._run, self._train = run, train
        self._histograms = run.histogram_every and importlib.util.find_spec("tensorboard")
        self.seconds_in_steps = 0.0

    def profiled(self, step: int) -> AbstractContextManager[None]:
        """See `Watcher.profiled`."""
        return nullcontext()

    def step(
        self, done: int, results: Mapping[str, Any], *, data_seconds: float, step_seconds: float
    ) -> None:
        """See `Watcher.step`."""
        self.seconds_in_steps += data_seconds + step_seconds
        if done % self._run.log_every == 0 or done in (1, self._run.steps):
            for value in results.values():
                np.asarray(value)
        if self._histograms and done % self._run.histogram_every == 0:
            for variable in self._train.plan.program.variables.values():
                if variable.trainable:
                    self._train[variable.name]

    def heldout(self, done: int, bits: float) -> None:
        """See `Watcher.heldout`."""

    def saved(self, saved: Saved) -> None:
        """See `Watcher.saved`."""

    def save_failed(self, done: int, failures: int, error: CheckpointError) -> None:
        """See `Watcher.save_failed`."""

    def say(self, text: str) -> None:
        """See `Watcher.say`."""

    def close(self) -> None:
        """See `Watcher.close`."""
