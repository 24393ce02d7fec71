"""A checkpoint as a safetensors file: ``python -m launch.export runs/pydoc_moe model.safetensors``.

Reads the checkpoint alone, and nothing of how the run was configured.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from launch.checkpoints import Checkpoints
from launch.errors import ConfigError
from launch.flags import DONE, USERS_ERROR
from meshlang.errors import CheckpointError, message

_AVERAGES = "(.*)/ema"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: the arguments without the program's name; those of the process if not given.

    Returns:
        The exit code: 0, or 1 where there is nothing to export or nowhere to.
    """
    parser = argparse.ArgumentParser(prog="meshlang-export", description=__doc__)
    parser.add_argument("source", type=Path, help="the --model_dir of a run, or one checkpoint")
    parser.add_argument("out", type=Path, help="the file to write")
    parser.add_argument("--step", type=int, help="of a run, which checkpoint; else the newest")
    parser.add_argument("--only", default="", help="a regular expression of the tensors to write")
    parser.add_argument(
        "--rename",
        metavar="REGEX=NAME",
        action="append",
        default=[],
        help=r"what tensors are called in the file: 'encoder/(.*)=enc.\1'; repeatable",
    )
    parser.add_argument(
        "--averaged",
        action="store_true",
        help="the averages of weights that the optimizer keeps, under the names of the weights",
    )
    flags = parser.parse_args(argv)
    try:
        print(export(flags))
    except (CheckpointError, ConfigError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return USERS_ERROR
    return DONE


def export(flags: argparse.Namespace) -> str:
    """Write the file; a line about it."""
    names = {}
    for text in flags.rename:
        pattern, equals, name = text.partition("=")
        if not equals:
            rows = [("given", f"--rename={text}")]
            raise ConfigError(message("--rename lacks a name.", rows, "--rename='REGEX=NAME'"))
        names[pattern] = name
    only = flags.only
    if flags.averaged:
        if only or names:
            headline = "--averaged chooses tensors and names itself."
            raise ConfigError(message(headline, fix="leave out --only and --rename"))
        only, names = _AVERAGES, {_AVERAGES: r"\1"}
    checkpoint = _checkpoint(flags.source, flags.step)
    from meshlang.lowering import interchange

    written = interchange.export(checkpoint, flags.out, only=only, names=names)
    return f"{flags.out}: {len(written)} tensors of {checkpoint}"


def _checkpoint(source: Path, step: int | None) -> Path:
    """One checkpoint, of a run if the source is one."""
    if not (source / "checkpoints").is_dir():
        return source
    complete = {
        int(p.name.rpartition("_")[2]): p for p in Checkpoints(source / "checkpoints").complete()
    }
    if not complete or step not in (None, *complete):
        there = " ".join(map(str, complete)) or "none"
        rows = [("run", source), ("steps there", there)]
        raise ConfigError(message("the run has no such checkpoint.", rows))
    return complete[max(complete) if step is None else step]


if __name__ == "__main__":
    sys.exit(main())
