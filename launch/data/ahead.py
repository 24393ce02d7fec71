"""Batches read in a thread of their own, a few steps ahead of the step that takes them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from meshlang import faults

_AHEAD = 2
_SECONDS = 0.05  # between two looks at whether something else has come up


class Ahead:
    """Reads ``read(step)`` for the steps of a range, in order.

    >>> with Ahead(lambda step: step * step, 2, 5) as squares:
    ...     [squares.next(), squares.next(), squares.next()]
    [4, 9, 16]

    Args:
        read: what is a pure function of the step.
        first: the first step.
        last: the step before which it ends.
    """

    def __init__(self, read: Callable[[int], Any], first: int, last: int) -> None:
        self._read, self._steps = read, range(first, last)
        self._queue: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(_AHEAD)
        self._ended = threading.Event()
        # A daemon: a read that hangs does not keep the process from its end.
        self._thread = threading.Thread(target=self._work, name="data", daemon=True)

    def next(self, meanwhile: Callable[[], None] = lambda: None) -> Any:
        """What was read for the next step.

        Args:
            meanwhile: called now and then while there is nothing yet; what it raises ends the wait.

        Raises:
            IndexError: there are no more steps.
        """
        while True:
            try:
                found, error = self._queue.get(timeout=_SECONDS)
            except queue.Empty:
                meanwhile()
                continue
            if error is not None:
                raise error
            return found

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()

    def _work(self) -> None:
        with _HandedOn(self._put):
            for step in self._steps:
                faults.point("run.data", step + 1)
                self._put(self._read(step), None)
            raise IndexError("no more steps")

    def _put(self, found: Any, error: BaseException | None) -> None:
        while not self._ended.is_set():
            try:
                return self._queue.put((found, error), timeout=_SECONDS)
            except queue.Full:
                continue


class _HandedOn:
    """Puts what is raised where the one who waits for data finds it."""

    def __init__(self, put: Callable[[Any, BaseException | None], None]) -> None:
        self._put = put

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        self._put(None, error)
        return True
