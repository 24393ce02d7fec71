"""One step under TensorFlow's profiler: a Chrome trace, and a table by op and scope.

Events are those of kernels: each has the name of its op in the traced program, whose scopes are
those of the model.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshlang.layout.report import table

# The scope of the model, then the op of the language behind a point: `meshlang.lowering.executor`
# names TensorFlow's ops so. In front stand the calls of the program by the devices.
_NAMED = re.compile(r"(?:StatefulPartitionedCall\w*/)?(?P<scope>(?:[^/]+/)*?)\.(?P<op>[^/]+)/")
_ROWS = 40
#: of kernels that serve no op: loops' counters, lists, the inputs' way to the devices
NOWHERE = "(none)"


@dataclass(frozen=True)
class Event:
    """A kernel that ran.

    Attributes:
        kernel: its type, such as MatMul.
        op: of the language, such as Einsum or all_reduce; "" if it serves none, such as a loop.
        scope: of that op in the model.
        thread: that it ran on.
        begin, seconds: since any origin.
    """

    kernel: str
    op: str
    scope: str
    thread: str
    begin: float
    seconds: float

    @property
    def collective(self) -> bool:
        """Whether it sends something: its time is mostly waiting."""
        return self.kernel.startswith("Collective")


@contextmanager
def profile(folder: Path) -> Iterator[None]:
    """Profile what runs inside; leaves `trace.json` and `table.txt` in the folder.

    Args:
        folder: made if needed.
    """
    import tensorflow as tf

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as raw:
        tf.profiler.experimental.start(raw)
        try:
            yield
        finally:
            tf.profiler.experimental.stop()
        events = read_events(Path(raw))
    (folder / "trace.json").write_text(json.dumps(chrome_trace(events)) + "\n")
    (folder / "table.txt").write_text(report(events) + "\n")


def read_events(folder: Path) -> list[Event]:
    """The kernels in what TensorFlow's profiler wrote, in order of time."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    found = []
    for path in sorted(folder.rglob("*.xplane.pb")):
        space = xplane_pb2.XSpace()
        space.ParseFromString(path.read_bytes())
        for plane in space.planes:
            found.extend(_events(plane))
    return sorted(found, key=lambda event: event.begin)


def _events(plane: Any) -> Iterator[Event]:
    """Of one machine or device."""
    for line in plane.lines:
        for event in line.events:
            said = plane.event_metadata[event.metadata_id]
            node, colon, kernel = said.name.rpartition(":")
            if colon and kernel and kernel == said.display_name:
                scope, op = scope_and_op(node)
                yield Event(
                    kernel=kernel,
                    op=op,
                    scope=scope,
                    thread=f"{plane.name} {line.name}",
                    begin=line.timestamp_ns * 1e-9 + event.offset_ps * 1e-12,
                    seconds=event.duration_ps * 1e-12,
                )


def scope_and_op(node: str) -> tuple[str, str]:
    """What the name of a TensorFlow op says.

    >>> scope_and_op("StatefulPartitionedCall_3/layers/attention/.Einsum/MatMul_1")
    ('layers/attention', 'Einsum')
    >>> scope_and_op("TensorListReserve")
    ('', '')
    """
    found = _NAMED.match(node)
    return (found["scope"].rstrip("/"), found["op"]) if found else ("", "")


def chrome_trace(events: Iterable[Event]) -> dict[str, Any]:
    """The events in the format that chrome://tracing and ui.perfetto.dev open; one row a thread."""
    events = list(events)
    first = min((event.begin for event in events), default=0.0)
    threads = {name: i for i, name in enumerate(sorted({event.thread for event in events}))}
    names = [
        {"ph": "M", "name": "thread_name", "pid": 0, "tid": i, "args": {"name": name}}
        for name, i in threads.items()
    ]
    kernels = [
        {
            "ph": "X",
            "name": f"{event.scope}/{event.op}".strip("/") or event.kernel,
            "cat": "collective" if event.collective else "compute",
            "pid": 0,
            "tid": threads[event.thread],
            "ts": (event.begin - first) * 1e6,
            "dur": event.seconds * 1e6,
            "args": {"kernel": event.kernel, "op": event.op, "scope": event.scope},
        }
        for event in events
    ]
    return {"displayTimeUnit": "ms", "traceEvents": [*names, *kernels]}


def report(events: Iterable[Event]) -> str:
    """Where the time went: in all, by op, by scope, and how collectives lie over the computing."""
    events = list(events)
    if not events:
        return "no kernels were seen"
    begin = min(event.begin for event in events)
    end = max(event.begin + event.seconds for event in events)
    computing = covered(event for event in events if not event.collective)
    sending = covered(event for event in events if event.collective)
    both = computing + sending - covered(events)
    part = f", {both / sending:.0%} of the collectives' time" if sending else ""
    parts = [
        f"one step: {1e3 * (end - begin):.1f} ms from the first kernel to the last one's end",
        f"  {'some kernel computes':<29}{1e3 * computing:8.1f} ms",
        f"  {'some collective is under way':<29}{1e3 * sending:8.1f} ms",
        f"  {'both at once':<29}{1e3 * both:8.1f} ms{part}",
        "",
        "Times below are sums over all devices; those of collectives are mostly waiting.",
        "",
        _by(["scope"], events, lambda event: [event.scope or NOWHERE]),
        "",
        _by(["op", "scope"], events, lambda event: [event.op or NOWHERE, event.scope]),
        "",
        _by(["kernel"], events, lambda event: [event.kernel]),
    ]
    return "\n".join(parts)


def covered(events: Iterable[Event]) -> float:
    """Seconds in which at least one of the events is under way.

    >>> covered(Event("MatMul", "", "", "a", begin, 2.0) for begin in (0.0, 1.0))
    3.0
    """
    total, until = 0.0, float("-inf")
    for event in sorted(events, key=lambda event: event.begin):
        end = event.begin + event.seconds
        total += max(0.0, end - max(until, event.begin))
        until = max(until, end)
    return total


def _by(head: Sequence[str], events: Iterable[Event], key: Callable[[Event], Sequence[str]]) -> str:
    """A table of the dearest groups."""
    sums: dict[tuple[str, ...], list[float]] = {}
    for event in events:
        sums.setdefault(tuple(key(event)), []).append(event.seconds)
    ranked = sorted(sums.items(), key=lambda item: -sum(item[1]))
    rows = [(*names, len(times), f"{1e3 * sum(times):.2f}") for names, times in ranked[:_ROWS]]
    if others := ranked[_ROWS:]:
        rest = [seconds for _, times in others for seconds in times]
        first = [f"({len(others)} more)", *[""] * (len(head) - 1)]
        rows.append((*first, len(rest), f"{1e3 * sum(rest):.2f}"))
    return table([*head, "kernels", "ms"], rows, left=len(head))
