"""What the processes of a run say to each other outside of a step: few words, seldom.

`Alone` is a run of one process. In a run of several each has the same program and the same mesh,
and process 0, the *chief*, does what is done once.
"""

from __future__ import annotations

from typing import Protocol


class Peers(Protocol):
    """The processes of a run. All of them call the same methods in the same order.

    Attributes:
        index: which of them this is.
        count: how many there are.
    """

    index: int
    count: int

    def barrier(self, name: str, seconds: float) -> None:
        """Wait until all processes are here.

        Args:
            name: of what they wait for; named in the error.
            seconds: how long at most.

        Raises:
            PeerError: some did not come in time, or are gone; it names them if that is known.
        """
        ...

    def broadcast(self, name: str, text: str, seconds: float) -> str:
        """The chief's text, on every process; what the others pass is not used.

        Raises:
            PeerError: as `barrier`.
        """
        ...

    def gather(self, name: str, text: str, seconds: float) -> list[str]:
        """The text of every process, by its index, on every process.

        Raises:
            PeerError: as `barrier`.
        """
        ...


class Alone:
    """One process, that waits for nobody.

    >>> Alone().gather("digest", "a1", seconds=1.0)
    ['a1']
    """

    index = 0
    count = 1

    def barrier(self, name: str, seconds: float) -> None:
        """See `Peers.barrier`."""

    def broadcast(self, name: str, text: str, seconds: float) -> str:
        """See `Peers.broadcast`."""
        return text

    def gather(self, name: str, text: str, seconds: float) -> list[str]:
        """See `Peers.gather`."""
        return [text]
