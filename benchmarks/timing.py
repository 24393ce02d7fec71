"""Times programs against each other: in processes of their own, in turn, by medians.

Other work on a machine disturbs a measurement far more than programs differ. Contestants therefore
take turns of a few steps each, in an order that is reversed every round, and a ratio is the median
over rounds of the ratio of two neighbouring turns.

A contestant is any program that calls `serve`. It may be written as ``NAME=ARGUMENTS OF PYTHON``::

    python -m benchmarks.timing "one_hot=-m benchmarks.reference --formulation=one_hot" \
        "gather=-m benchmarks.reference --formulation=gather"
"""

import argparse
import contextlib
import json
import os
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TypeVar

from meshlang.errors import MeshlangError, message

MIB = 2**20
T = TypeVar("T")


@dataclass(frozen=True)
class Contestant:
    """A program to be timed.

    Attributes:
        name: Its name in the table.
        arguments: What follows the Python interpreter on its command line.
        environment: Environment variables beside those of this process.
    """

    name: str
    arguments: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> "Contestant":
        """Reads ``NAME=ARGUMENTS``, the arguments quoted as in a shell.

        Raises:
            MeshlangError: There is no name, or there are no arguments.

        >>> Contestant.parse("plain=-m benchmarks.reference --compute=bfloat16").arguments
        ('-m', 'benchmarks.reference', '--compute=bfloat16')
        """
        name, _, arguments = text.partition("=")
        if not name or not arguments:
            fix = 'write NAME=ARGUMENTS, as in "plain=-m benchmarks.reference"'
            raise MeshlangError(message("a contestant needs a name.", [("found", text)], fix))
        return cls(name, tuple(shlex.split(arguments)))


@dataclass
class Measurement:
    """What was measured of one contestant.

    Attributes:
        name: The contestant's name.
        steps: Seconds of a step: one mean for each turn.
        first_steps: Seconds from the start of tracing to the end of the first step, one for each
            process; importing is not counted.
        python: CPU seconds that the main thread spent in tracing, one for each process.
        peaks: Bytes of memory that a process held at most.
        facts: What the contestant says of itself, of its last process.
    """

    name: str
    steps: list[float] = field(default_factory=list)
    first_steps: list[float] = field(default_factory=list)
    python: list[float] = field(default_factory=list)
    peaks: list[int] = field(default_factory=list)
    facts: dict[str, float] = field(default_factory=dict)


def serve(
    trace: Callable[[], T],
    fill: Callable[[T], Callable[[], object]],
    facts: Callable[[], Mapping[str, float]] = dict,
) -> None:
    """Makes this process a contestant: prepares, takes a first step, then steps as told.

    Returns when the process that measures closes its pipe. What else is printed to standard output
    goes to standard error, where it disturbs nothing.

    Args:
        trace: Does in Python what is done once for a program, whatever its variables hold.
        fill: Gives what `trace` returned its variables, and returns a function that takes one step
            and returns when the step is done.
        facts: What else is to be told, asked after the first step.
    """
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as answers:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        start, start_thread = time.perf_counter(), time.thread_time()
        traced = trace()
        python = time.thread_time() - start_thread
        step = fill(traced)
        step()
        first_step = time.perf_counter() - start
        _send(answers, python=python, first_step=first_step, **facts())
        for line in sys.stdin:
            start = time.perf_counter()
            for _ in range(int(line)):
                step()
            _send(answers, seconds=time.perf_counter() - start, peak=_peak_bytes())


def _send(answers: IO[str], **values: float) -> None:
    answers.write(json.dumps(values) + "\n")
    answers.flush()


def _peak_bytes() -> int:
    status = Path("/proc/self/status")
    if status.exists():
        # getrusage would not do on Linux: a process inherits its parent's maximum.
        (line,) = [row for row in status.read_text().splitlines() if row.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure(
    contestants: Sequence[Contestant],
    *,
    rounds: int = 9,
    steps: int = 3,
    starts: int = 1,
    timeout: float = 300.0,
) -> list[Measurement]:
    """Times contestants in turn.

    Args:
        contestants: The first is the one that others are compared with.
        rounds: Turns of each contestant for each start.
        steps: Steps of a turn.
        starts: How often every contestant is started afresh.
        timeout: Seconds that a contestant may take for its start or for a turn.

    Returns:
        One measurement for each contestant, in their order.

    Raises:
        MeshlangError: A contestant ended or was too slow, with the end of what it wrote to
            standard error; or it does not call `serve`.
    """
    found = [Measurement(contestant.name) for contestant in contestants]
    for _ in range(starts):
        with contextlib.ExitStack() as stack:
            running = []
            for contestant, measured in zip(contestants, found, strict=True):
                process = stack.enter_context(_started(contestant, timeout))
                answer = process.answer()
                measured.first_steps.append(answer.pop("first_step"))
                measured.python.append(answer.pop("python"))
                measured.facts = answer
                running.append(process)
            for turn in range(rounds):
                pairs = list(zip(running, found, strict=True))
                for process, measured in pairs if turn % 2 == 0 else reversed(pairs):
                    answer = process.answer(steps)
                    measured.steps.append(answer["seconds"] / steps)
                    measured.peaks.append(int(answer["peak"]))
    return found


@dataclass
class _Running:
    """A started contestant."""

    name: str
    process: subprocess.Popen[str]
    log: IO[str]
    timeout: float

    def answer(self, steps: int | None = None) -> dict[str, float]:
        """Asks for ``steps``, if any are given, and waits for the answer."""
        assert self.process.stdin is not None and self.process.stdout is not None
        # A pipe has no time-out of its own; ending the process ends the wait.
        timer = threading.Timer(self.timeout, self.process.kill)
        timer.start()
        with contextlib.suppress(BrokenPipeError):  # the empty answer below says it better
            if steps is not None:
                self.process.stdin.write(f"{steps}\n")
                self.process.stdin.flush()
        line = self.process.stdout.readline()
        timed_out = not timer.is_alive()
        timer.cancel()
        if line:
            return self._read(line)
        status = _end(self.process)  # before reading its log, which it may still be writing
        self.log.seek(0)
        last = self.log.read().strip().rpartition("\n")[2]
        what = f"took more than {self.timeout:g} s" if timed_out else "ended"
        rows = [("exit status", status), ("last words", last)]
        raise MeshlangError(message(f"the contestant {self.name!r} {what}.", rows))

    def _read(self, line: str) -> dict[str, float]:
        try:
            return json.loads(line)
        except json.JSONDecodeError:
            headline = f"the contestant {self.name!r} gives no measurement."
            fix = "let it call benchmarks.timing.serve, which keeps standard output for answers"
            raise MeshlangError(message(headline, [("it wrote", line.strip())], fix)) from None


@contextlib.contextmanager
def _started(contestant: Contestant, timeout: float) -> Iterator[_Running]:
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [sys.executable, *contestant.arguments],
            env=os.environ | contestant.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            yield _Running(contestant.name, process, log, timeout)
        finally:
            _end(process)


def _end(process: subprocess.Popen[str]) -> int:
    """Closes the contestant's input, at which it ends by itself or else is ended."""
    try:
        process.communicate(timeout=10.0)
    except subprocess.TimeoutExpired:
        process.kill()
    return process.wait()


def markdown(found: Sequence[Measurement]) -> str:
    """Formats measurements as a table; ratios are to the first.

    >>> plain = Measurement("plain", [0.4, 0.8, 0.4], [6.0], [1.0], [500 * MIB])
    >>> mesh = Measurement("mesh", [0.6, 1.0, 0.4], [7.0], [2.0], [750 * MIB])
    >>> print(markdown([plain, mesh]))
    | | step, ms | ratio | first step, s | Python, s | peak, MiB |
    |---|---|---|---|---|---|
    | plain | 400 | 1.00 | 6.0 | 1.00 | 500 |
    | mesh | 600 | 1.25 | 7.0 | 2.00 | 750 |
    """
    lines = [
        "| | step, ms | ratio | first step, s | Python, s | peak, MiB |",
        "|---|---|---|---|---|---|",
    ]
    for measured in found:
        lines.append(
            f"| {measured.name} | {1e3 * statistics.median(measured.steps):.0f} "
            f"| {ratio(measured, found[0]):.2f} | {statistics.median(measured.first_steps):.1f} "
            f"| {statistics.median(measured.python):.2f} | {max(measured.peaks) / MIB:.0f} |"
        )
    return "\n".join(lines)


def ratio(measured: Measurement, to: Measurement) -> float:
    """Returns the median, over rounds, of one step's time over the other's in the same round.

    >>> ratio(Measurement("b", [2.0, 9.0, 3.0]), Measurement("a", [1.0, 3.0, 1.5]))
    2.0
    """
    return statistics.median(a / b for a, b in zip(measured.steps, to.steps, strict=True))


def main() -> None:
    """Prints a table of contestants, each written as NAME=ARGUMENTS OF PYTHON."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("contestants", nargs="+", type=Contestant.parse)
    parser.add_argument("--rounds", type=int, default=9, help="turns of each, for each start")
    parser.add_argument("--steps", type=int, default=3, help="steps of a turn")
    parser.add_argument("--starts", type=int, default=1, help="how often all start afresh")
    flags = parser.parse_args()
    found = measure(flags.contestants, rounds=flags.rounds, steps=flags.steps, starts=flags.starts)
    print(markdown(found))


if __name__ == "__main__":
    main()
