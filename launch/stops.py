"""The end that a scheduler asks for with SIGTERM: save, and exit so as to be started again."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from launch.flags import RETRY

if TYPE_CHECKING:
    from meshlang.lowering.peers import Peers

#: seconds between two questions among processes whether one was asked to stop
_BETWEEN = 1.0
#: seconds that processes wait for each other's answer
_PATIENCE = 600.0

_log = logging.getLogger(__name__)


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """The run was asked to stop, and has come to a place where it can."""


class Stops:
    """Listens for SIGTERM while it is entered; the second one ends the process at once.

    The signal is heard by a thread of its own, also while the main thread waits in TensorFlow; the
    run stops where it next calls `poll` or `check`. Of several processes all stop at the same call:
    they ask each other about once a second, and all make the same calls in the same order.

    """

    def __init__(self) -> None:
        self._peers: Peers | None = None
        self._asked = threading.Event()
        self._agreed = False
        self._polls, self._next, self._since = 0, 1, time.monotonic()
        self._undo: list[Callable[[], object]] = []

    def join(self, peers: Peers) -> None:
        """From now on, stop together with these processes; TensorFlow's cluster is up."""
        self._peers, self._since = peers, time.monotonic()
        if self._undo:
            signal.signal(signal.SIGTERM, _nothing)  # TensorFlow has put its own in the place

    @property
    def asked(self) -> bool:
        """Whether this process was asked to stop."""
        return self._asked.is_set()

    def poll(self) -> bool:
        """Whether the run stops here; the same on all processes."""
        if self._peers is None or self._peers.count == 1:
            return self.asked
        self._polls += 1
        if self._polls == self._next and not self._agreed:
            self._ask(self._peers)
        return self._agreed

    def check(self) -> None:
        """Raise `Stopped` if the run stops here."""
        if self.poll():
            raise Stopped

    def check_alone(self) -> None:
        """As `check`, where processes wait for something at different times.

        Of several processes none stops there: the others would wait for it.
        """
        if self._peers is None or self._peers.count == 1:
            self.check()

    def __enter__(self) -> Self:
        """Listen."""
        if threading.current_thread() is not threading.main_thread():
            return self  # only the main thread may; a test that trains in a thread asks for none
        heard, told = os.pipe()
        os.set_blocking(told, False)
        said = os.dup(2)  # where TensorFlow is kept quiet, descriptor 2 leads elsewhere for a while
        # Python's own handlers run only when the main thread comes back from TensorFlow. The bytes
        # of the wakeup descriptor are written at once, and read by a thread.
        before = signal.signal(signal.SIGTERM, _nothing)
        descriptor = signal.set_wakeup_fd(told, warn_on_full_buffer=False)
        listener = threading.Thread(
            target=self._listen, args=[heard, said], name="stops", daemon=True
        )
        listener.start()
        self._undo = [
            lambda: signal.set_wakeup_fd(descriptor),
            lambda: signal.signal(signal.SIGTERM, before),
            lambda: os.close(told),  # the listener then reads the end, and ends
            listener.join,
            lambda: os.close(heard),
            lambda: os.close(said),
        ]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for undo in self._undo:
            undo()
        self._undo = []

    def _listen(self, heard: int, said: int) -> None:
        while numbers := os.read(heard, 64):
            for number in numbers:
                if number != signal.SIGTERM:
                    continue
                if self.asked:
                    os.write(said, b"SIGTERM again: exiting at once\n")
                    os._exit(RETRY)
                self._asked.set()
                os.write(said, b"SIGTERM: saving, then exiting; another one exits at once\n")

    def _ask(self, peers: Peers) -> None:
        """Hear from all whether one was asked; agree on the call at which to ask again."""
        now = time.monotonic()
        pace = (now - self._since) / max(1, self._polls)
        mine = json.dumps([self.asked, pace])
        heard = [json.loads(h) for h in peers.gather("stop", mine, _PATIENCE)]
        self._agreed = any(asked for asked, _ in heard)
        self._next = self._polls + max(1, min(100, round(_BETWEEN / max(heard[0][1], 1e-3))))


def _nothing(number: int, frame: object) -> None:
    """A handler, so that the signal is not the process's end; the listener hears of it."""
