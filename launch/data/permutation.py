"""A shuffle that need not be stored: any element of a keyed permutation of 0 .. n-1, at once."""

import hashlib
from dataclasses import dataclass

import numpy as np

_ROUNDS = 8  # four make a strong cipher of wide halves; ours may be one bit wide


@dataclass(frozen=True)
class Permutation:
    """A pseudo-random permutation of `range(size)`, a function of its size and key alone.

    It is a Feistel network over the smallest even number of bits that holds `size`; values that
    come out too large go through again until they fit (cycle walking; Black and Rogaway, "Ciphers
    with Arbitrary Finite Domains", 2002). So one element costs the same as it does in any other
    place, which makes seeking free.

    Attributes:
        size: number of elements, at least 1 and at most 2**62.
        key: any text; another key gives an unrelated permutation.

    >>> shuffled = Permutation(10, "epoch 0")
    >>> sorted(shuffled(np.arange(10)).tolist())
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """

    size: int
    key: str

    def __post_init__(self) -> None:
        if not 1 <= self.size <= 2**62:
            raise ValueError(f"a permutation needs 1 to 2**62 elements, not {self.size}.")

    def __call__(self, index: np.ndarray) -> np.ndarray:
        """The elements at some places.

        Args:
            index: [any shape], integers in [0, size).

        Returns:
            int64 of the same shape: distinct for distinct places, in [0, size).
        """
        values = np.asarray(index).astype(np.uint64)
        half = np.uint64(max(1, ((self.size - 1).bit_length() + 1) // 2))
        keys = np.frombuffer(hashlib.sha512(self.key.encode()).digest(), dtype="<u8")[:_ROUNDS]
        values = _feistel(values, half, keys)
        while (outside := values >= self.size).any():
            values = np.where(outside, _feistel(values, half, keys), values)
        return values.astype(np.int64)


def _feistel(values: np.ndarray, half: np.uint64, keys: np.ndarray) -> np.ndarray:
    """One pass of the network over `2 * half` bits."""
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = values >> half, values & mask
    for key in keys:
        left, right = right, left ^ (_mix(right ^ key) & mask)
    return (left << half) | right


def _mix(values: np.ndarray) -> np.ndarray:
    """Scatter bits: the finalizer of SplitMix64 (Steele, Lea and Flood, 2014)."""
    with np.errstate(over="ignore"):  # products are meant modulo 2**64
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
