"""One page of HTML about a run, complete in itself: no script, no font, nothing from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy as np

from launch.watch.charts import Line, heat_map, line_chart, small_chart
from launch.watch.curves import finite
from launch.watch.metrics import Record, series
from launch.watch.progress import duration
from launch.watch.record import RunRecord
from launch.watch.style import STYLE
from meshlang.layout.report import amount

_IN_MAIN_CHART = ("loss",)
_LONGEST = 200_000  # characters of one text
_UNITS = {"memory_bytes": "B", "data_seconds": "s", "step_seconds": "s"}


def page(run: RunRecord) -> str:
    """The whole document."""
    sections = [
        _head(run),
        _tiles(run),
        _curves(run),
        _experts(run),
        _others(run),
        _cost(run),
        _checkpoints(run),
        _samples(run),
        _texts(run),
    ]
    body = "\n".join(filter(None, sections))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'\">\n"
        f"<title>{escape(run.name)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


# -- what stands on top ---------------------------------------------------------------------------


def _head(run: RunRecord) -> str:
    state = "finished" if run.results else "not finished"
    plan = run.plan
    on = plan.get("mesh") or "one processor"
    return (
        f"<header><h1>{escape(run.name)}</h1>\n"
        f'<p class="soft">{state} · {run.last_step:,} steps · mesh {escape(str(on))} · '
        f"meshlang {escape(run.version)}</p></header>"
    )


def _tiles(run: RunRecord) -> str:
    tiles: list[tuple[str, str, str]] = []
    _, bits = finite(*series(run.metrics, "heldout", "bits_per_byte"))
    if len(bits):
        tiles.append((f"{bits[-1]:.3f}", "bits per byte, held out", _against(run, bits[-1])))
    last = run.last("train")
    if last:
        tiles.append((_number(last["loss"], 3), "training loss", f"at step {last['step']:,}"))
        tiles.append((f"{last['tokens_per_second']:,.0f}", "tokens a second", _waiting(last)))
    if "utilisation" in last:
        peak = amount(run.plan.get("peak_flops", 0), "FLOP/s")
        tiles.append(
            (f"{last['utilisation']:.1%}", "model FLOPs utilisation", f"of {peak} a processor")
        )
    if "memory_bytes" in last and "variable_bytes" in run.plan:
        planned = run.plan["variable_bytes"] + run.plan["activation_bytes"]
        tiles.append(
            (
                amount(last["memory_bytes"], "B"),
                "memory a processor",
                f"{amount(planned, 'B')} planned",
            )
        )
    if run.results:
        spent = run.results["seconds_in_steps"], run.results["seconds_in_all"]
        tiles.append((duration(spent[0]), "in steps", f"{duration(spent[1])} in all"))
    inside = "\n".join(
        f'<div class="tile"><b>{escape(value)}</b>{escape(what)}<span>{escape(more)}</span></div>'
        for value, what, more in tiles
    )
    return f'<section class="tiles">\n{inside}\n</section>' if tiles else ""


def _against(run: RunRecord, bits: float) -> str:
    if not run.baselines:
        return ""
    name, best = min(run.baselines.items(), key=lambda item: item[1])
    return f"{bits - best:+.2f} against {name}"


def _waiting(record: Record) -> str:
    if "data_seconds" not in record:
        return ""
    whole = record["data_seconds"] + record["step_seconds"]
    return f"{record['data_seconds'] / whole:.1%} of the time waiting for data"


# -- curves ---------------------------------------------------------------------------------------


def _curves(run: RunRecord) -> str:
    steps, loss = finite(*series(run.metrics, "train", "loss"))
    heldout = finite(*series(run.metrics, "heldout", "bits_per_byte"))
    lines = [
        Line("train", steps, loss / math.log(2), noisy=len(steps) > 20),
        Line("held out", *heldout),
    ]
    if not any(len(line.values) for line in lines):
        return ""
    chart = line_chart("bits per byte by step", lines, run.baselines, unit="bits per byte")
    return f'<h2>Curves</h2>\n<div class="card chart">{chart}</div>'


def _experts(run: RunRecord) -> str:
    records = [r for r in run.metrics if r["kind"] == "train" and isinstance(r.get("load"), list)]
    records = [r for r in records if np.all(np.isfinite(r["load"]))]
    if not records:
        return ""
    steps = np.array([r["step"] for r in records])
    rows = np.array([r["load"] for r in records], float)
    busiest, idlest = rows[-1].max(), rows[-1].min()
    count = rows.shape[1]
    return (
        "<h2>Load of the experts</h2>\n"
        f"<p>The part of all filled places that each expert has, by step; {1 / count:.1%} is even. "
        f'<span class="soft">Warm: up to four times that or more; cold: a quarter or less. At the '
        f"end the busiest has {busiest:.1%}, the idlest {idlest:.1%}.</span></p>\n"
        f'<div class="card chart">{heat_map("load of each expert by step", steps, rows)}</div>'
    )


def _others(run: RunRecord) -> str:
    """A small chart for each other number in the log."""
    names = dict.fromkeys(
        name
        for record in run.metrics
        if record["kind"] == "train"
        for name, value in record.items()
        if isinstance(value, int | float) and name not in (*_IN_MAIN_CHART, "step")
    )
    cards = []
    for name in names:
        steps, values = finite(*series(run.metrics, "train", name))
        if len(steps) < 2:
            continue
        end, low, high = (_shown(name, float(v)) for v in (values[-1], values.min(), values.max()))
        cards.append(
            f'<div class="card"><h3>{escape(name.replace("_", " "))}</h3>'
            f"{small_chart(f'{name} by step', steps, values)}"
            f"<p>{end} at the end, {low} to {high}</p></div>"
        )
    inside = "\n".join(cards)
    return (
        f'<h2>Everything else in the log</h2>\n<div class="small">\n{inside}\n</div>'
        if cards
        else ""
    )


# -- tables ---------------------------------------------------------------------------------------


def _cost(run: RunRecord) -> str:
    plan = run.plan
    if not plan:
        return ""
    rows = [
        (
            t["kind"],
            " ".join(t["axes"]),
            f"{t['collectives']:,}",
            amount(t["bytes"], "B"),
            amount(t["wire_bytes"], "B"),
        )
        for t in plan["traffic"]
    ]
    rows += [
        ("over the axis", axis, "", "", amount(sent, "B"))
        for axis, sent in plan["sent_bytes"].items()
    ]
    head = ("collective", "axes", "a step", "payload", "sent")
    kept = [
        ("variables, between steps", amount(plan["variable_bytes"], "B")),
        ("most at one time besides", amount(plan["activation_bytes"], "B")),
        ("FLOPs of a step", amount(plan["flops"])),
        ("model FLOPs of a step, all processors", amount(plan["model_flops"])),
    ]
    return (
        "<h2>What a step costs each processor, by the plan</h2>\n"
        + _table(head, rows, numbers=3, totals=len(plan["sent_bytes"]))
        + "\n<p></p>\n"
        + _table(("", ""), kept, numbers=1)
    )


def _checkpoints(run: RunRecord) -> str:
    if not run.checkpoints:
        return ""
    saved = {r["step"]: r for r in run.metrics if r["kind"] == "checkpoint"}
    rows = [
        (f"{c.step:,}", c.mesh, c.layout, c.state, amount(c.bytes, "B"), *_times(saved.get(c.step)))
        for c in run.checkpoints
    ]
    head = ("step", "mesh", "layout", "", "size", "written in", "steps waited")
    return "<h2>Checkpoints</h2>\n" + _table(head, rows, numbers=3)


def _times(saved: Record | None) -> tuple[str, str]:
    """How long a checkpoint took to write, and how long the steps waited for it."""
    if not saved:
        return "", ""
    return f"{saved['seconds']:.2f} s", f"{saved['stall_seconds']:.2f} s"


def _samples(run: RunRecord) -> str:
    found = run.results.get("samples", [])
    if not found:
        return ""
    texts = [
        f'<pre class="wrap"><span class="soft">{escape(prompt)}</span>{escape(text)}</pre>'
        for prompt, text in found
    ]
    return "<h2>Continuations of held-out texts</h2>\n" + "\n".join(texts)


def _texts(run: RunRecord) -> str:
    parts = []
    for title, text in run.texts.items():
        shown = text if len(text) <= _LONGEST else text[:_LONGEST] + "\n(and so on)"
        parts.append(
            f"<details><summary>{escape(title)}</summary><pre>{escape(shown)}</pre></details>"
        )
    return "<h2>Configuration, plan, profile</h2>\n" + "\n".join(parts) if parts else ""


def _table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: int = 0, totals: int = 0
) -> str:
    """A table whose last columns are numbers, and whose last rows are sums."""
    rows = list(rows)
    first = len(head) - numbers

    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(
            f'<{tag} class="number">{escape(c)}</{tag}>'
            if i >= first
            else f"<{tag}>{escape(c)}</{tag}>"
            for i, c in enumerate(row)
        )

    lines = [f"<tr>{cells('th', head)}</tr>"] if any(head) else []
    for i, row in enumerate(rows):
        style = ' class="total"' if i >= len(rows) - totals else ""
        lines.append(f"<tr{style}>{cells('td', row)}</tr>")
    inside = "\n".join(lines)
    return f'<div class="wide"><table>\n{inside}\n</table></div>'


def _shown(name: str, value: float) -> str:
    """A number of the log, short."""
    unit = _UNITS.get(name, "")
    if unit == "B":
        return amount(value, unit)
    return (f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}") + f" {unit}".rstrip()


def _number(value: Any, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else str(value)
