"""What TensorBoard shows of a run, where it is installed."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


class TensorBoard:
    """Writes event files; without the tensorboard package nothing, and says so once, when made.

    TensorFlow writes them with the package's own code, and so cannot without it.

    Args:
        directory: for the event files.
    """

    def __init__(self, directory: Path) -> None:
        self._writer: Any = None
        if importlib.util.find_spec("tensorboard") is None:
            warnings.warn(
                "tensorboard is not installed, so no event files are written.\n"
                "  everything is in  metrics.jsonl\n"
                "  fix: pip install 'meshlang[plot]'",
                stacklevel=2,
            )
            return
        import tensorflow as tf

        self._writer = tf.summary.create_file_writer(str(directory))

    def texts(self, step: int, texts: Mapping[str, str]) -> None:
        """Texts, shown as they are: the plan, the configuration."""
        if self._writer is None:
            return
        import tensorflow as tf

        with self._writer.as_default():
            for name, text in texts.items():
                tf.summary.text(name, "    " + text.replace("\n", "\n    "), step=step)

    def scalars(self, step: int, kind: str, values: Mapping[str, Any]) -> None:
        """The numbers among some values; of a list, such as the experts' load, each."""
        if self._writer is None:
            return
        import tensorflow as tf

        with self._writer.as_default():
            for name, value in values.items():
                for where, number in np.ndenumerate(np.asarray(value, np.float64)):
                    place = "".join(f"/{i}" for i in where)
                    tf.summary.scalar(f"{kind}/{name}{place}", number, step=step)

    def histograms(self, step: int, arrays: Mapping[str, np.ndarray]) -> None:
        """How the elements of arrays are distributed."""
        if self._writer is None:
            return
        import tensorflow as tf

        with self._writer.as_default():
            for name, array in arrays.items():
                tf.summary.histogram(name, np.asarray(array, np.float32), step=step)

    @property
    def writes(self) -> bool:
        """Whether anything is written."""
        return self._writer is not None

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()
