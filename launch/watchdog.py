"""Ends a process that stands still: says where every thread is, and who waits for whom."""

from __future__ import annotations

import faulthandler
import os
import threading
import time
from typing import TYPE_CHECKING, Self

from launch.flags import RETRY
from meshlang.errors import PeerError
from meshlang.lowering.peers import Alone, Peers
from meshlang.lowering.waiting import from_text as states_of
from meshlang.lowering.waiting import report, to_text
from meshlang.tf_config import Timeouts

if TYPE_CHECKING:
    from meshlang.lowering.backend import Machine

_STDERR = 2
#: seconds that the others have to say where they are
_PATIENCE = 5.0
#: seconds for that, and to tell them that this one ends
_ASKING = 3 * _PATIENCE


class Watchdog:
    """A thread that ends the process when nothing has been done for too long.

    It writes to stderr the stacks of all threads, and of several processes which collective each
    processor is in and which members have not come; then it exits with 75, and the run may be
    started again.

    Args:
        limits: `hang` is how long may pass between two calls of `alive`; before the second one,
            when programs are traced, `agree` if that is more.
    """

    def __init__(self, limits: Timeouts) -> None:
        self._limits = limits
        self._peers: Peers = Alone()
        self._calls = 0
        self._machine: Machine | None = None
        self._doing = "the start"
        self._since = time.monotonic()
        self._end = threading.Event()
        self._stderr = _STDERR
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def watch(self, machine: Machine) -> None:
        """From now on ask this machine in which collectives it is, and its peers."""
        self._machine, self._peers = machine, machine.peers

    def alive(self, doing: str) -> None:
        """Something was done; `doing` is what comes next."""
        self._doing, self._since = doing, time.monotonic()
        self._calls += 1

    def __enter__(self) -> Self:
        # The first step holds back what is written to stderr itself; see `meshlang.lowering.quiet`.
        self._stderr = os.dup(_STDERR)
        self._since = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        os.close(self._stderr)

    def _watch(self) -> None:
        usual = self._limits.hang
        while not self._end.wait(min(1.0, usual / 10)):
            limit = usual if self._calls > 1 else max(usual, self._limits.agree)
            if time.monotonic() - self._since > limit:
                self._give_up()

    def _give_up(self) -> None:
        waited = f"{time.monotonic() - self._since:.0f} s"
        self._say(f"meshlang: {self._doing} has not ended for {waited}; giving up.")
        faulthandler.dump_traceback(self._stderr, all_threads=True)
        if self._machine is not None and self._peers.count > 1:
            # Asking may take for ever, if it is the chief that stands still.
            asking = threading.Thread(target=self._ask_all, args=[self._machine], daemon=True)
            asking.start()
            asking.join(_ASKING)
        os._exit(RETRY)

    def _ask_all(self, machine: Machine) -> None:
        for line in self._who_waits(machine):
            self._say(f"meshlang: {line}")
        self._peers.fail(f"process {self._peers.index} gave up: {self._doing} stood still")

    def _who_waits(self, machine: Machine) -> list[str]:
        """Ask the other processes' watchdogs; they stand still as well, or say nothing."""
        peers, mine = self._peers, machine.states()
        others: list[dict[int, int] | None] = [None] * peers.count
        try:
            peers.post(f"hang/{peers.index}", to_text(mine))
            until = time.monotonic() + _PATIENCE
            for i in range(peers.count):
                text = peers.find(f"hang/{i}", max(0.1, until - time.monotonic()))
                others[i] = None if text is None else states_of(text)
            # What is posted lives in the chief: others may not have read it yet.
            if peers.index == 0 and sum(found is not None for found in others) > 1:
                time.sleep(_PATIENCE)
        except PeerError as error:
            return [f"the other processes cannot be asked: {error}"]
        share = len(machine.processors)
        order = sorted(range(peers.count), key=str)
        holders = [
            range(order.index(i) * share, (order.index(i) + 1) * share) for i in range(peers.count)
        ]
        return report(machine.meetings, mine, others, holders)

    def _say(self, line: str) -> None:
        os.write(self._stderr, (line + "\n").encode())
