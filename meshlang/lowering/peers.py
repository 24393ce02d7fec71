"""What the processes of a run say to each other outside of a step: few words, seldom.

`Alone` is a run of one process. In a run of several each has the same program and the same mesh,
and process 0, the *chief*, does what is done once. `meshlang.lowering.cluster` has those that speak
through TensorFlow's coordination service, which lives in the chief's process.

What to rely on: a `Machine` has its `peers`, `processors` (the numbers of those that live in this
process, in order) and `places` (its devices, each with its processors); `Machine.blocks` gives the
blocks of `processors`, and `Machine.join` takes them. Every method may be called from any thread,
as long as calls of one *name* come in the same order on all processes; calls of different names do
not wait for each other. A name may be used again: the n-th call meets the others' n-th call.
"""

from __future__ import annotations

import threading
from typing import Protocol


class Peers(Protocol):
    """The processes of a run. All of them call `barrier`, `broadcast` and `gather` alike.

    Attributes:
        index: which of them this is; 0 is the chief.
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
            PeerError: some did not come in time, or are gone; it names them if that is known. When
                the chief comes too late, the others may have left with this error already.
        """
        ...

    def broadcast(self, name: str, text: str, seconds: float) -> str:
        """The chief's text, on every process; what the others pass is not used.

        The chief does not wait.

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

    def post(self, name: str, text: str) -> None:
        """Put up a text that any process may `find`; of several under one name the first stays.

        Raises:
            PeerError: the chief is gone.
        """
        ...

    def find(self, name: str, seconds: float) -> str | None:
        """The text that some process put up under a name; None if there is none in that time.

        Raises:
            PeerError: the chief is gone.
        """
        ...

    def fail(self, text: str) -> None:
        """Tell the others that this process ends: what they wait for ends with this text."""
        ...


class Alone:
    """One process, that waits for nobody.

    >>> Alone().gather("digest", "a1", seconds=1.0)
    ['a1']
    """

    index = 0
    count = 1

    def __init__(self) -> None:
        self._posted: dict[str, str] = {}
        self._changed = threading.Condition()

    def barrier(self, name: str, seconds: float) -> None:
        """See `Peers.barrier`."""

    def broadcast(self, name: str, text: str, seconds: float) -> str:
        """See `Peers.broadcast`."""
        return text

    def gather(self, name: str, text: str, seconds: float) -> list[str]:
        """See `Peers.gather`."""
        return [text]

    def post(self, name: str, text: str) -> None:
        """See `Peers.post`; for other threads of this process."""
        with self._changed:
            self._posted.setdefault(name, text)
            self._changed.notify_all()

    def find(self, name: str, seconds: float) -> str | None:
        """See `Peers.find`."""
        with self._changed:
            self._changed.wait_for(lambda: name in self._posted, seconds)
            return self._posted.get(name)

    def fail(self, text: str) -> None:
        """See `Peers.fail`: there is nobody to tell."""
