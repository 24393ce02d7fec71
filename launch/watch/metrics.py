"""The log of a run: one JSON object a line, written as it happens, cut back where a run resumes."""

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from launch.closing import Closing

Record = dict[str, Any]

_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class MetricsLog(Closing):
    """Appends records to a file; each is on its way to the disk when `write` returns.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "metrics.jsonl"
    >>> with MetricsLog(path) as log:
    ...     log.write(1, "train", loss=5.5)
    ...     log.write(2, "train", loss=np.float32(np.inf))
    >>> print(path.read_text(), end="")
    {"step": 1, "kind": "train", "loss": 5.5}
    {"step": 2, "kind": "train", "loss": "Infinity"}
    >>> with MetricsLog(path, resume_step=1) as log:
    ...     log.write(2, "train", loss=4.5)
    >>> [record["loss"] for record in read_metrics(path)]
    [5.5, 4.5]
    """

    def __init__(self, path: str | Path, *, resume_step: int | None = None) -> None:
        """Open a log, making its directory if needed.

        Args:
            path: the file.
            resume_step: the step from which a run goes on: records of later steps are dropped,
                since they will be made again. Without it the log begins anew.
        """
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if resume_step is not None and self.path.exists():
            kept = [record for record in read_metrics(self.path) if record["step"] <= resume_step]
        else:
            kept = []
        # Beside the file and then in its place: a crash leaves the one or the other, whole.
        beside = self.path.with_name(self.path.name + ".new")
        self._file = beside.open("w", encoding="utf-8")
        self._file.writelines(_line(record) for record in kept)
        self._file.flush()
        os.fsync(self._file.fileno())
        beside.replace(self.path)

    def write(self, step: int, kind: str, **values: object) -> None:
        """Append one record.

        Args:
            step: number of finished steps.
            kind: what the record is about, such as "train" or "heldout".
            **values: what JSON can hold, and NumPy numbers. Numbers that are not finite become
                the strings "NaN", "Infinity" and "-Infinity", which `read_metrics` turns back.
        """
        self._file.write(_line({"step": step, "kind": kind, **values}))
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_metrics(path: str | Path) -> list[Record]:
    """All records of a log, in the order of the file.

    A last line without its end is left out: it is being written, or was when its writer died.

    Raises:
        ValueError: a line is not a JSON object with a step and a kind.
    """
    lines = Path(path).read_text(encoding="utf-8").split("\n")
    return [_record(line, f"{path}:{number}") for number, line in enumerate(lines[:-1], start=1)]


def series(records: Iterable[Record], kind: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """One curve of a log.

    Returns:
        int64 [points] steps and float64 [points] values, of the records of this kind that have
        this name.

    >>> series([{"step": 4, "kind": "train", "loss": 2}, {"step": 4, "kind": "x"}], "train", "loss")
    (array([4]), array([2.]))
    """
    points = [
        (record["step"], record[name])
        for record in records
        if record["kind"] == kind and name in record
    ]
    steps, values = zip(*points, strict=True) if points else ((), ())
    return np.array(steps, np.int64), np.array(values, np.float64)


def _line(record: Record) -> str:
    return json.dumps(_plain(record), allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    """A value that JSON can hold."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _record(line: str, where: str) -> Record:
    try:
        record = json.loads(line)
    except json.JSONDecodeError:
        record = None
    if not (isinstance(record, dict) and {"step", "kind"} <= record.keys()):
        raise ValueError(
            f"{where} is not a record of a run's log.\n"
            '  expected  {"step": ..., "kind": ..., ...}\n'
            "  fix: delete the line"
        )
    return _with_numbers(record)


def _with_numbers(value: Any) -> Any:
    """Undo `_plain` where it made strings of numbers."""
    if isinstance(value, dict):
        return {key: _with_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_numbers(item) for item in value]
    return _NOT_FINITE.get(value, value) if isinstance(value, str) else value
