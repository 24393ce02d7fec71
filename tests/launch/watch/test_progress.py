"""The bar on a terminal, and the lines elsewhere."""

import io
import re

from launch.watch.progress import Progress


class Clock:
    """A clock that the test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run(stream, *, steps, seconds, done=0, say=None):
    """Make the steps, each taking what `seconds` says, and return what was shown."""
    clock = Clock()
    with Progress(steps, tokens_per_step=1000, done=done, stream=stream, clock=clock) as progress:
        for step in range(done + 1, steps + 1):
            clock.now += seconds(step)
            progress.update(step, loss=1 / step)
            if say is not None:
                progress.say(f"said at {step}")
    return stream.getvalue()


def test_lines_come_every_ten_seconds_and_at_the_end():
    shown = run(io.StringIO(), steps=12, seconds=lambda step: 30.0 if step == 1 else 2.5)
    assert shown == (
        "step  1/12  loss 1.000\n"
        "step  5/12  loss 0.200  400 tokens/s  0:18 left\n"
        "step  9/12  loss 0.111  400 tokens/s  0:08 left\n"
        "step 12/12  loss 0.083  400 tokens/s  0:00 left\n"
    )


def test_an_evaluation_bends_the_time_left_and_not_the_tokens_per_second():
    shown = run(io.StringIO(), steps=11, seconds=lambda step: 95.0 if step == 6 else 1.0)
    # After step 6: the median step takes 1 s, the mean (4 * 1 + 95) / 5 = 19.8 s.
    assert shown.splitlines()[1] == "step  6/11  loss 0.167  1,000 tokens/s  1:39 left"


def test_a_resumed_run_counts_its_own_steps():
    shown = run(io.StringIO(), steps=103, done=100, seconds=lambda step: 10.0)
    assert shown == (
        "step 101/103  loss 0.010\n"
        "step 102/103  loss 0.010  100 tokens/s  0:10 left\n"
        "step 103/103  loss 0.010  100 tokens/s  0:00 left\n"
    )


def test_what_is_said_stands_on_a_line_of_its_own():
    shown = run(io.StringIO(), steps=2, seconds=lambda step: 1.0, say=True)
    assert shown == (
        "step 1/2  loss 1.000\n"
        "said at 1\n"
        "step 2/2  loss 0.500  1,000 tokens/s  0:00 left\n"
        "said at 2\n"
    )


def test_a_terminal_gets_one_bar():
    shown = run(Terminal(), steps=4, seconds=lambda step: 1.0)
    assert shown.count("\n") == 1 and shown.endswith("\n")
    first, *_, last = [part for part in re.split(r"[\r\n]+", shown) if part.strip()]
    assert re.fullmatch(r"  0%\|\s+\| 0/4", first)
    assert re.fullmatch(r"100%\|[#█]+\| 4/4, loss 0.250, 1,000 tokens/s, 0:00 left", last)


def test_a_resumed_bar_begins_where_the_run_does():
    shown = run(Terminal(), steps=4, done=2, seconds=lambda step: 1.0)
    assert re.search(r"^\r 50%\|[#█]+\s+\| 2/4", shown)


def test_what_is_said_on_a_terminal_stands_above_the_bar():
    shown = run(Terminal(), steps=2, seconds=lambda step: 1.0, say=True)
    assert re.search(r"\rsaid at 1\n", shown)
    assert re.search(r"\rsaid at 2\n.*100%", shown, re.DOTALL)
