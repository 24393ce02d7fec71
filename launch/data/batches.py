"""Batches of bytes: where a row comes from is a pure function of the seed and its number.

Nothing is read ahead, buffered or remembered, so resuming at any step gives exactly the rows that
an uninterrupted run would have seen, on any number of processes.
"""

import hashlib
from collections.abc import Iterator, Mapping

import numpy as np

from launch.data.errors import DataError
from launch.data.permutation import Permutation

BOS = 256
"""The token in front of every text; 0 to 255 are the bytes."""

VOCABULARY = 257
"""Number of tokens. A model may have more, to divide by its mesh, and never meets them."""

Batch = dict[str, np.ndarray]


class BatchSource:
    """Training batches: windows of all texts, one behind the other, in an order shuffled anew.

    The texts, each behind its `BOS`, form a ring. An epoch cuts the ring at a random place into
    windows of `length` targets and shuffles them. The few targets left over are other ones in each
    epoch, and so are the places where windows begin.

    Attributes:
        batch: rows of a batch.
        length: tokens of a row.
        windows: rows of an epoch.
    """

    def __init__(
        self, texts: Mapping[str, bytes], *, batch: int, length: int, seed: int = 0
    ) -> None:
        """Lay the texts out in the order of their names.

        Raises:
            DataError: there is less text than one row takes, or a row would take nothing.
        """
        if batch < 1 or length < 1:
            raise DataError(f"a batch needs at least one row of one token, not {batch} x {length}.")
        self.batch, self.length, self._seed = batch, length, seed
        self._ring = np.concatenate([_tokens(texts[name]) for name in sorted(texts)] or [[]])
        self.windows = len(self._ring) // length
        if self.windows == 0:
            raise DataError(
                "there is less text than one row takes.\n"
                f"  texts   {len(texts)}, {len(self._ring)} tokens in all\n"
                f"  length  {length} tokens\n"
                "  fix: use longer texts or shorter rows"
            )

    def at(self, step: int) -> Batch:
        """The batch of one step; see `rows`."""
        return self.rows(step, 0, self.batch)

    def rows(self, step: int, first: int, count: int) -> Batch:
        """Some rows of the batch of one step: what one process of several needs to load.

        Args:
            step: global step, from 0.
            first: first row, from 0.
            count: number of rows.

        Returns:
            int32 arrays [count length]: `tokens`; `targets`, the tokens one place further on (a
            text's last target is the next one's `BOS`); `segments`, which number the texts of a row
            from 1, for attention to stay within. Positions relative to the row are positions
            relative to the text, up to a constant, so there is no array of positions.

        Raises:
            DataError: the batch has no such rows.

        >>> source = BatchSource({"a": b"AAA", "b": b"BB"}, batch=1, length=7, seed=1)
        >>> for name, rows in source.at(0).items():
        ...     print(f"{name:8}", rows[0])
        tokens   [256  65  65  65 256  66  66]
        targets  [ 65  65  65 256  66  66 256]
        segments [1 1 1 1 2 2 2]
        """
        if not 0 <= first < first + count <= self.batch:
            raise DataError(
                f"a batch of {self.batch} rows has no {count} rows from row {first} on."
            )
        numbers = step * self.batch + np.arange(first, first + count)
        starts = np.concatenate([self._starts(*group) for group in self._epochs(numbers)])
        places = (starts[:, None] + np.arange(self.length + 1)) % len(self._ring)
        window = self._ring[places]
        tokens = window[:, :-1]
        begins = tokens == BOS
        return {
            "tokens": tokens,
            "targets": window[:, 1:],
            "segments": (np.cumsum(begins, axis=1) + ~begins[:, :1]).astype(np.int32),
        }

    def _epochs(self, numbers: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Group consecutive row numbers by epoch: its number, and the rows' numbers within it."""
        epochs, within = np.divmod(numbers, self.windows)
        for epoch in np.unique(epochs).tolist():
            yield epoch, within[epochs == epoch]

    def _starts(self, epoch: int, within: np.ndarray) -> np.ndarray:
        """Where rows of an epoch begin on the ring."""
        key = f"{self._seed} {epoch}"
        cut = int.from_bytes(hashlib.sha256(f"cut {key}".encode()).digest()[:8], "big")
        return cut % len(self._ring) + self.length * Permutation(self.windows, key)(within)


def eval_windows(texts: Mapping[str, bytes], *, batch: int, length: int) -> Iterator[Batch]:
    """Batches in which every byte of some texts is predicted exactly once.

    A text is cut into windows of `length` targets. The first window begins with `BOS`, the others
    with the byte before their first target, and nothing further back is seen.

    Args:
        texts: what to predict, by name; empty ones give no window.
        batch: rows of a batch.
        length: tokens of a row.

    Yields:
        Arrays [batch length], all of this shape: int32 `tokens`, `targets` and `segments`, float32
        `weights`. Where a window ends early, or the last batch lacks rows, all four are 0;
        elsewhere segments and weights are 1. The bits per byte are the sum of bits times weights
        over all batches, divided by the sum of weights, which is the number of bytes.

    >>> only, = eval_windows({"a": b"ABC"}, batch=2, length=2)
    >>> only["tokens"].tolist(), only["targets"].tolist(), only["weights"].tolist()
    ([[256, 65], [66, 0]], [[65, 66], [67, 0]], [[1.0, 1.0], [1.0, 0.0]])
    """
    rows = [row for name in sorted(texts) for row in _windows(_tokens(texts[name]), length)]
    for first in range(0, len(rows), batch):
        tokens = np.zeros((batch, length), np.int32)
        targets = np.zeros((batch, length), np.int32)
        segments = np.zeros((batch, length), np.int32)
        for row, window in enumerate(rows[first : first + batch]):
            filled = len(window) - 1
            tokens[row, :filled] = window[:-1]
            targets[row, :filled] = window[1:]
            segments[row, :filled] = 1
        weights = segments.astype(np.float32)
        yield {"tokens": tokens, "targets": targets, "segments": segments, "weights": weights}


def _tokens(text: bytes) -> np.ndarray:
    """int32 [bytes + 1]: `BOS`, then the bytes."""
    return np.concatenate([[BOS], np.frombuffer(text, np.uint8)]).astype(np.int32)


def _windows(tokens: np.ndarray, length: int) -> Iterator[np.ndarray]:
    """Windows of up to `length + 1` tokens, each beginning with the last of the one before."""
    for first in range(0, len(tokens) - 1, length):
        yield tokens[first : first + length + 1]
