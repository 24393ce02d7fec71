"""Trains what a gin file says: ``python -m launch.train --gin_file=runs/pydoc_moe.gin``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from launch import flags, gin_config, modules
from launch.errors import ConfigError
from launch.processes import leave, supervise, told_to_peers
from meshlang import tf_config
from meshlang.errors import message


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: the arguments without the program's name; those of the process if not given.

    Returns:
        The exit code; see `launch.flags.main`.
    """
    argv = sys.argv[1:] if argv is None else argv
    return leave(flags.main(lambda options: _start(options, argv), argv))


def _start(options: flags.Options, argv: Sequence[str]) -> int:
    """Train here, or in processes of which this one takes care."""
    spec = tf_config.from_environment()
    if spec and options.processes > 1:
        rows = [("TF_CONFIG", f"{len(spec.addresses)} processes")]
        fix = "leave out --processes: each machine starts its own"
        raise ConfigError(message("TF_CONFIG and --processes say both who runs.", rows, fix))
    if spec and len(spec.addresses) > 1:
        tf_config.check_port(spec)
    if not options.dry_run and (options.processes > 1 or options.max_restarts):
        # Of a flag given twice the last counts: the children are started as they are told here.
        again = [sys.executable, "-m", "launch.train", *argv, "--processes=1", "--max_restarts=0"]
        return supervise(again, options.processes, options.max_restarts, options.devices.timeouts)
    return _train(options, spec)


def _train(options: flags.Options, spec: tf_config.ClusterSpec | None) -> int:
    modules.check_models_are_ours()
    from launch.gin_registry import register

    register()
    modules.import_modules(options.modules, Path.cwd())
    from launch.run import Run

    with gin_config.configured(options.gin_files, options.gin_bindings) as config:
        run = config.build(Run)
        config.check_used()
        text = config.operative_text()
    if options.dry_run:
        from launch.dry_run import tell

        return tell(run, options, spec)
    from launch.trainer import Trainer  # wakes TensorFlow, which mistakes in gin need not

    with told_to_peers():
        return Trainer(run, options.devices, text, options.profile, options.restore_step).run()


if __name__ == "__main__":
    sys.exit(main())
