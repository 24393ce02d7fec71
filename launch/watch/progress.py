"""How far a run has come: a bar on a terminal, a line now and then elsewhere."""

import statistics
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import TextIO

from tqdm import tqdm

from launch.closing import Closing

_RECENT = 50  # steps whose pace is shown
_LINE_SECONDS = 10.0  # between two lines where there is no terminal


class Progress(Closing):
    """Shows step, loss, tokens per second and time left.

    Tokens per second are those of a median step of late, so an evaluation between two steps does
    not bend them; time left goes by the mean of all steps of this process, evaluations and all. The
    first step of a process counts for neither, since it builds the program.

    >>> ticks = iter([0.0, 20.0, 25.0, 30.0])
    >>> with Progress(3, tokens_per_step=2048, stream=sys.stdout, clock=lambda: next(ticks)) as bar:
    ...     for step in (1, 2, 3):
    ...         bar.update(step, loss=6.0 / step)
    step 1/3  loss 6.000
    step 3/3  loss 2.000  410 tokens/s  0:00 left
    """

    def __init__(
        self,
        steps: int,
        *,
        tokens_per_step: int,
        done: int = 0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Show an empty bar, if the stream is a terminal.

        Args:
            steps: number of steps of the whole run.
            tokens_per_step: predicted tokens of a step.
            done: steps that an earlier process did.
            stream: where to show it; standard error, if not given.
            clock: seconds from any origin.
        """
        self._stream = sys.stderr if stream is None else stream
        self._steps, self._tokens, self._clock = steps, tokens_per_step, clock
        self._bar = None
        if self._stream.isatty():
            self._bar = tqdm(
                total=steps,
                initial=done,
                file=self._stream,
                dynamic_ncols=True,
                miniters=1,
                bar_format="{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}",
            )
        self._first: tuple[int, float] | None = None  # step and time of the first update
        self._last = (done, clock())
        self._recent: deque[float] = deque(maxlen=_RECENT)  # seconds per step
        self._shown = -float("inf")  # when the last line was written

    def update(self, step: int, *, loss: float) -> None:
        """Tell that a step has been done.

        Args:
            step: number of finished steps of the whole run.
            loss: its loss.
        """
        now = self._clock()
        before, then = self._last
        self._last = (step, now)
        if self._first is None:
            self._first = self._last
        elif step > before:
            self._recent.append((now - then) / (step - before))
        if self._bar is not None:
            self._bar.set_postfix_str(self._state(loss).replace("  ", ", "), refresh=False)
            self._bar.update(step - self._bar.n)
        elif step == self._steps or now - self._shown >= _LINE_SECONDS:
            self._shown = now
            width = len(str(self._steps))
            self.say(f"step {step:{width}}/{self._steps}  {self._state(loss)}")

    def say(self, text: str) -> None:
        """Write a line of its own, above the bar where there is one."""
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
        else:
            print(text, file=self._stream, flush=True)

    def _state(self, loss: float) -> str:
        parts = [f"loss {loss:.3f}"]
        if self._recent and self._first is not None:
            step, now = self._last
            pace = statistics.median(self._recent)
            mean = (now - self._first[1]) / (step - self._first[0])
            parts.append(f"{self._tokens / max(pace, 1e-9):,.0f} tokens/s")
            parts.append(f"{duration((self._steps - step) * mean)} left")
        return "  ".join(parts)

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()


def duration(seconds: float) -> str:
    """Seconds as people read them, rounded to one.

    >>> duration(75.4), duration(3600)
    ('1:15', '1:00:00')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
