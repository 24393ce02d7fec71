"""What the directory of a run says about it: read, never run."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launch.errors import ConfigError
from launch.watch.metrics import Record, read_metrics
from meshlang import manifest
from meshlang.errors import CheckpointError, message

#: the texts of a directory that are shown as they are
TEXTS = {
    "command": "command.txt",
    "operative configuration": "config.gin",
    "profile of a step": "profile/table.txt",
    "plan": "plan.txt",
}


@dataclass(frozen=True)
class CheckpointRow:
    """One checkpoint. `state` is "" if it is whole."""

    step: int
    bytes: int
    mesh: str
    layout: str
    state: str


@dataclass(frozen=True)
class RunRecord:
    """A run as its directory has it.

    Attributes:
        name: of the directory.
        version: of meshlang that made it.
        metrics: the records of its log.
        results: of a run that has ended, else empty.
        checkpoints: oldest first.
        texts: by title.
    """

    name: str
    version: str
    metrics: list[Record]
    results: dict[str, Any]
    checkpoints: list[CheckpointRow] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)

    @property
    def baselines(self) -> dict[str, float]:
        """Bits per byte of other models."""
        return self.results.get("baselines", {})

    @property
    def plan(self) -> Record:
        """What the plan says of a step, of the last start; empty if the log does not have it."""
        return self.last("plan")

    @property
    def last_step(self) -> int:
        """Steps that were done."""
        return max((record["step"] for record in self.metrics), default=0)

    def last(self, kind: str) -> Record:
        """The last record of a kind; empty if there is none."""
        return next((r for r in reversed(self.metrics) if r["kind"] == kind), {})


def read_run(directory: Path) -> RunRecord:
    """Read the directory of a run.

    Raises:
        ConfigError: it is not one.
    """
    log = directory / "metrics.jsonl"
    if not log.is_file():
        raise ConfigError(
            message(
                "this is not the directory of a run.",
                [("directory", directory), ("not there", log.name)],
                "name the --model_dir of a run",
            )
        )
    texts = {title: _text(directory / name) for title, name in TEXTS.items()}
    return RunRecord(
        name=directory.resolve().name,
        version=str(_json(directory / "run.json").get("meshlang", "of unknown version")),
        metrics=read_metrics(log),
        results=_json(directory / "results.json"),
        checkpoints=_checkpoints(directory / "checkpoints"),
        texts={title: text for title, text in texts.items() if text},
    )


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else ""


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _checkpoints(directory: Path) -> list[CheckpointRow]:
    found = []
    for path in sorted(directory.glob("step_*")):
        number = path.name.removeprefix("step_")
        if not number.isdigit() or not path.is_dir():
            continue
        size = sum(file.stat().st_size for file in path.iterdir())
        try:
            said = manifest.read(path)
        except CheckpointError as error:
            problem = str(error).partition("\n")[0]
            found.append(CheckpointRow(int(number), size, "", "", problem))
        else:
            found.append(CheckpointRow(int(number), size, said.mesh, said.layout, ""))
    return sorted(found, key=lambda row: row.step)
