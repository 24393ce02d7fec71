"""One page of HTML from the directory of a run: ``python -m launch.report runs/pydoc_moe``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from launch.errors import ConfigError
from launch.flags import DONE, USERS_ERROR
from launch.watch.page import page
from launch.watch.record import read_run


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: the arguments without the program's name; those of the process if not given.

    Returns:
        The exit code: 0, or 1 where the directory is none of a run.
    """
    parser = argparse.ArgumentParser(prog="meshlang-report", description=__doc__)
    parser.add_argument("run_dir", type=Path, help="the --model_dir of a run")
    parser.add_argument("--out", type=Path, help="the page; RUN_DIR/report.html if not given")
    flags = parser.parse_args(argv)
    try:
        print(write_report(flags.run_dir, flags.out))
    except (ConfigError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return USERS_ERROR
    return DONE


def write_report(directory: Path, out: Path | None = None) -> Path:
    """Write the page about a run.

    Args:
        directory: of the run, finished or not.
        out: where to; `report.html` in the directory, if not given.

    Returns:
        Where the page is. It opens without a network.
    """
    out = out or directory / "report.html"
    text = page(read_run(directory))
    beside = out.with_name(out.name + ".new")
    beside.write_text(text, encoding="utf-8")
    beside.replace(out)
    return out


if __name__ == "__main__":
    sys.exit(main())
