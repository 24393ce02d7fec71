"""Trains what a gin file says: ``python -m launch.train --gin_file=runs/pydoc_moe.gin``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from launch import flags, gin_config, modules


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: the arguments without the program's name; those of the process if not given.

    Returns:
        The exit code; see `launch.flags.main`.
    """
    return flags.main(_train, argv)


def _train(options: flags.Options) -> int:
    modules.check_models_are_ours()
    from launch.gin_registry import register

    register()
    modules.import_modules(options.modules, Path.cwd())
    from launch.run import Run
    from launch.trainer import Trainer

    with gin_config.configured(options.gin_files, options.gin_bindings) as config:
        run = config.build(Run)
        config.check_used()
        text = config.operative_text()
    return Trainer(run, options.devices, text).run()


if __name__ == "__main__":
    sys.exit(main())
