"""One training run: what is trained on what, for how long, and the programs that do it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Any, Protocol

import meshlang as ml
from launch.data.topics import Corpus
from launch.errors import ConfigError
from launch.paths import problem_of
from meshlang.errors import message
from models.decode.sample import next_logits
from models.protocol import TrainableModel

Program = ml.Program


class TextSource(Protocol):
    """Where texts come from; `launch.data.text.PydocText` is one."""

    def load(self) -> Corpus:
        """Texts to train on and texts held out, by name."""
        ...


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Continuations that are written when a run ends.

    Attributes:
        count: how many.
        prompt: bytes of a held-out text that each begins with.
        size: bytes to write.
        temperature: divides the logits; 0 takes the likeliest byte.
        top_k: only so many of the likeliest bytes are drawn from.
    """

    count: int = 3
    prompt: int = 48
    size: int = 160
    temperature: float = 0.7
    top_k: int = 40


@dataclass(frozen=True, kw_only=True)
class Initial:
    """Weights that a run begins with, made by another; it does not matter once it has checkpoints.

    Attributes:
        path: a checkpoint's directory, or a safetensors file.
        only: a regular expression: variables whose names match it whole are read.
        names: from regular expressions of variables' names to those in the checkpoint.
        cast: read floats of another dtype too.
    """

    path: str
    only: str = ".*"
    names: Mapping[str, str] = field(default_factory=dict)
    cast: bool = False

    def load(self, executable: ml.Executable) -> None:
        """Give the variables their values. The step and the seed stay as they are."""
        from meshlang.lowering import interchange

        how = {"only": self.only, "names": self.names, "cast": self.cast}
        path = Path(self.path).expanduser()
        if path.is_file():
            interchange.load(executable, path, **how)
        else:
            executable.restore(path, **how)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run, as gin builds it.

    Attributes:
        model: see `models.protocol`.
        optimizer: see `meshlang.optim`.
        data: where texts come from.
        model_dir: where the run keeps its files.
        steps: updates in all.
        batch, length: rows and tokens of a row.
        mesh, layout, params, slots: see `meshlang.plan`.
        microbatches: parts of a batch that are computed one after the other.
        compute: dtype of activations, "float32" or "bfloat16"; variables are float32.
        clip_norm: gradients are scaled down to this global norm; 0 leaves them.
        seed: of initial values, dropout, and the order of the data.
        eval_every, save_every, log_every: steps between evaluations, checkpoints, log lines.
        keep: how many of the newest checkpoints stay; besides them those whose step `keep_every`
            divides (0: none), and with `keep_best` the one with the fewest bits per byte.
        max_failed_saves: so many checkpoints in a row may not be written before the run ends.
        max_not_finite: so many steps in a row are skipped, for a loss or gradient that is not
            finite, before the run ends.
        spikes: says which finite losses are skipped too; None skips none.
        histogram_every: steps between histograms of all variables in TensorBoard; 0 writes none.
        peak_flops: FLOP/s that one processor can do at best, for the utilisation in the log; 0
            leaves it out.
        initial: weights of another run to begin with; None begins with random ones.
        sampling: what is written at the end.
    """

    model: TrainableModel
    optimizer: ml.optim.Optimizer
    data: TextSource
    model_dir: str
    steps: int
    batch: int
    length: int
    mesh: str = ""
    layout: str = ""
    params: str = ""
    slots: str = ""
    microbatches: int = 1
    compute: str = "float32"
    clip_norm: float = 1.0
    seed: int = 0
    eval_every: int = 200
    save_every: int = 200
    log_every: int = 10
    keep: int = 2
    keep_every: int = 0
    keep_best: bool = False
    max_failed_saves: int = 3
    max_not_finite: int = 10
    spikes: ml.optim.SpikeRule | None = None
    histogram_every: int = 0
    peak_flops: float = 0.0
    initial: Initial | None = None
    sampling: Sampling = field(default_factory=Sampling)

    def __post_init__(self) -> None:
        ml.Mesh.parse(self.mesh)
        for table in (self.layout, self.params, self.slots):
            ml.Layout.parse(table)
        problems = []
        counts = ("steps", "batch", "length", "microbatches", "eval_every", "save_every")
        for name in (*counts, "max_failed_saves", "max_not_finite"):
            if getattr(self, name) < 1:
                problems.append((name, getattr(self, name)))
        if wrong := problem_of(self.model_dir):
            problems.append(("model_dir", wrong))
        if self.keep < 2:
            problems.append(("keep", f"{self.keep}: the newest may be the damaged one, keep 2"))
        if self.batch % max(1, self.microbatches):
            problems.append(("batch", f"{self.batch} does not divide by {self.microbatches}"))
        if problems:
            raise ConfigError(message("the run has values that cannot be.", problems))

    @property
    def precision(self) -> ml.Precision:
        """Float32 variables and sums, activations as the run says."""
        return ml.Precision(compute=self.compute)

    def train_program(self, precision: ml.Precision | None = None) -> Program:
        """One update; in another precision than the run's, if one is given."""
        precision = precision or self.precision
        return ml.trace(self._train, precision=precision, **self._inputs(self.batch))

    def eval_program(self) -> Program:
        """The sums of losses of one batch, weighted."""
        inputs = self._inputs(self.batch)
        inputs["weights"] = ml.spec(f"batch:{self.batch} length:{self.length}", "high")
        return ml.trace(self._evaluate, precision=self.precision, **inputs)

    def sample_program(self, rows: int) -> Program:
        """The logits at one place of each row."""
        inputs = self._inputs(rows)
        inputs.pop("targets")
        inputs["place"] = ml.spec(f"batch:{rows}", "int32")
        return ml.trace(self._next_logits, precision=self.precision, **inputs)

    def check_vocabulary(self, tokens: int) -> None:
        """Refuse a model with fewer tokens than the data has: what it lacks would count as zeros.

        Raises:
            ConfigError: it has fewer.
        """
        (logits,) = self.sample_program(self.sample_rows()).outputs
        size = logits.shape["vocab"].size
        if size < tokens:
            rows = [("vocab", size), ("tokens of the data", tokens)]
            fix = f"give the model a vocab of {tokens} or more"
            raise ConfigError(message("the model has fewer tokens than the data.", rows, fix))

    def plan(self, program: Program, *beside: Program) -> ml.Plan:
        """Where everything of a program lies in this run."""
        tables = {"params": self.params, "slots": self.slots}
        return ml.plan(program, self.mesh, self.layout, beside=beside, **tables)

    def sample_rows(self) -> int:
        """Rows for the samples: enough, and divisible as the layout divides a batch."""
        mesh, layout = ml.Mesh.parse(self.mesh), ml.Layout.parse(self.layout)
        ways = mesh.ways(layout["batch"])
        return ways * max(1, ceil(self.sampling.count / ways))

    # -- what is traced -----------------------------------------------------------------------

    def _inputs(self, rows: int) -> dict[str, Any]:
        return dict(self.model.inputs(rows, self.length))

    def _train(self, **batch: ml.Tensor) -> dict[str, Any]:
        sums, gradients = self._gradients(batch)
        loss = sums["loss"] / sums["count"]
        applied = ml.optim.apply_guarded(
            self.optimizer,
            loss,
            ml.trainable_variables(),
            gradients,
            max_norm=self.clip_norm or None,
            spikes=self.spikes,
        )
        return {
            "loss": loss,
            "gradient_norm": applied.gradient_norm,
            "skipped_steps": applied.skipped_steps,
            **sums["metrics"],
        }

    def _gradients(self, batch: Mapping[str, ml.Tensor]) -> tuple[dict[str, Any], list[ml.Tensor]]:
        """Sums of losses and gradients of the mean loss, by microbatches when there are several.

        The gradient is that of loss / count + auxiliary, both of the whole batch: the count is
        known before, so that each part is divided by the whole one's.
        """
        count = self.model.count(batch)
        parts = self.microbatches

        def one(part: Mapping[str, ml.Tensor]) -> dict[str, Any]:
            sums = self.model(part, train=True)
            objective = sums.loss / count + sums.auxiliary * (1.0 / parts)
            return {
                "loss": sums.loss,
                "count": sums.count,
                "metrics": {name: list(value) for name, value in sums.metrics.items()},
                "gradients": ml.gradients(objective, ml.trainable_variables()),
            }

        if parts == 1:
            found = one(batch)
        else:
            cut = {n: x.split(batch=f"batch micro:{parts}") for n, x in batch.items()}
            found = ml.accumulate(one, cut, over="micro")
        gradients = found.pop("gradients")
        found["metrics"] = {n: total / size for n, (total, size) in found["metrics"].items()}
        return found, gradients

    def _evaluate(self, **batch: ml.Tensor) -> dict[str, ml.Tensor]:
        sums = self.model(batch, train=False)
        entropy = sums.metrics.get("cross_entropy", (sums.loss, sums.count))
        return {"loss": entropy[0], "count": entropy[1]}

    def _next_logits(self, place: ml.Tensor, **batch: ml.Tensor) -> ml.Tensor:
        return next_logits(self.model, batch, place)
