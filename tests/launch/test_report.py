"""The page about a run: complete in itself, right in what it says, and a browser draws it."""

import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from launch.report import main
from launch.watch.metrics import MetricsLog

VOID = {"meta", "br"}
PLAN = {
    "mesh": "data:2 model:4",
    "processors": 8,
    "tokens": 256,
    "model_flops": 2e9,
    "peak_flops": 1e10,
    "flops": 3e8,
    "sent_bytes": {"data": 1000.0, "model": 2500.0},
    "traffic": [
        {"kind": "all_reduce", "axes": ["data"], "collectives": 3, "bytes": 1000, "wire_bytes": 1e3}
    ],
    "variable_bytes": 4_000_000,
    "activation_bytes": 2_000_000,
}


class Elements(HTMLParser):
    """Elements and texts of a page; refuses one whose tags do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.found)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A finished run with everything in it, and texts that would be markup."""
    run = tmp_path / "a <i> run"
    rng = np.random.default_rng(0)
    with MetricsLog(run / "metrics.jsonl") as log:
        log.write(0, "plan", **PLAN)
        for step in range(1, 101):
            load = rng.dirichlet(np.full(8, 20.0)).tolist()
            loss = math.nan if step == 50 else 2.0 + 3.0 / step
            log.write(
                step,
                "train",
                loss=loss,
                load=load,
                gradient_norm=1.0 / step,
                tokens_per_second=1234.5 * step,
                data_seconds=0.01,
                step_seconds=0.03,
                memory_bytes=5_000_000,
                utilisation=0.25,
            )
            if step % 20 == 0:
                log.write(step, "heldout", bits_per_byte=3.0 + 10 / step)
        log.write(100, "checkpoint", seconds=1.5, stall_seconds=0.25, bytes=7)
    results = {
        "step": 100,
        "baselines": {"trigram": 3.5},
        "seconds_in_steps": 75.0,
        "seconds_in_all": 90.0,
        "samples": [["<script>alert(1)</script>", "& more"]],
    }
    (run / "results.json").write_text(json.dumps(results))
    (run / "run.json").write_text(json.dumps({"meshlang": "0.1.0"}))
    (run / "config.gin").write_text('Run.layout = "<layout>"\n')
    (run / "checkpoints" / "step_00000100").mkdir(parents=True)
    return run


def made(directory: Path) -> str:
    assert main([str(directory)]) == 0
    return (directory / "report.html").read_text()


def test_a_page_says_what_the_run_says(directory: Path) -> None:
    elements = Elements(made(directory))
    text = " ".join(" ".join(elements.texts).split())
    for said in (
        "finished · 100 steps · mesh data:2 model:4 · meshlang 0.1.0",
        "3.100 bits per byte, held out -0.40 against trigram",
        "2.030 training loss at step 100",
        "123,450 tokens a second 25.0% of the time waiting for data",
        "25.0% model FLOPs utilisation of 10.0 GFLOP/s a processor",
        "5.00 MB memory a processor 6.00 MB planned",
        "1:15 in steps 1:30 in all",
        "12.5% is even",
        "all_reduce data 3 1.00 kB 1.00 kB",
        "over the axis model 2.50 kB",
        "100 the checkpoint was never completed. 0 1.50 s 0.25 s",
    ):
        assert said in text
    assert elements.count("svg") == 2 + 6  # curves, experts, and the other numbers
    assert elements.count("rect") == 60 * 8


def test_texts_are_texts(directory: Path) -> None:
    page = made(directory)
    elements = Elements(page)
    assert elements.count("script") == elements.count("b") - 6 == 0
    assert "<script>alert(1)</script>" in elements.texts
    assert 'Run.layout = "<layout>"' in elements.texts
    assert "a <i> run" in elements.texts


def test_nothing_comes_from_elsewhere(directory: Path) -> None:
    page = made(directory)
    assert not re.search(r"https?:|url\(|@import", page)
    for tag, attributes in Elements(page).found:
        assert tag not in ("link", "script", "img", "iframe")
        assert not {"src", "href", "onload", "onclick"} & set(attributes)


def test_a_run_that_has_just_begun(tmp_path: Path) -> None:
    with MetricsLog(tmp_path / "run" / "metrics.jsonl") as log:
        log.write(0, "plan", **PLAN)
    elements = Elements(made(tmp_path / "run"))
    assert "not finished · 0 steps · mesh data:2 model:4" in " ".join(elements.texts)
    assert elements.count("svg") == 0


def test_another_directory_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().err == (
        "ConfigError: this is not the directory of a run.\n"
        f"  directory  {tmp_path}\n"
        "  not there  metrics.jsonl\n"
        "  fix: name the --model_dir of a run\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not shutil.which("chromium"), reason="draws with Chromium")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_draws_it_without_a_network(directory: Path, tmp_path: Path, scheme: str) -> None:
    """Ink on the page's colour, in both schemes; what Chromium reads back has every chart."""
    import matplotlib.pyplot as plt

    page = tmp_path / "page.html"
    assert main([str(directory), f"--out={page}"]) == 0
    shot = tmp_path / "shot.png"
    command = [
        *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
        *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
        *("--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND", "--hide-scrollbars"),
        *(f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1000,1400"),
        f"--blink-settings=preferredColorScheme={1 if scheme == 'light' else 0}",
        *(f"--screenshot={shot}", page.as_uri()),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    pixels = (255 * plt.imread(shot)[:, :, :3]).round().astype(int)
    ground = (251, 250, 248) if scheme == "light" else (20, 23, 28)
    blue = (58, 118, 184) if scheme == "light" else (110, 168, 230)
    assert tuple(pixels[2, 2]) == ground
    near = (abs(pixels - np.array(blue)).sum(-1) < 12).sum()
    assert near > 300, "the curve of the training loss is not there"
