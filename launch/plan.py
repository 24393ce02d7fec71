"""Prints what a run costs, without a device: ``python -m launch.plan --gin_file=...``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from launch import flags, gin_config, modules


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: the arguments without the program's name; those of the process if not given.

    Returns:
        The exit code; see `launch.flags.main`.
    """
    return flags.main(_plan, argv, for_plan=True)


def _plan(options: flags.Options) -> int:
    modules.check_models_are_ours()
    from launch.gin_registry import register

    register()
    modules.import_modules(options.modules, Path.cwd())
    from launch.run import Run

    with gin_config.configured(options.gin_files, options.gin_bindings) as config:
        run = config.build(Run)
    print(report(run, options.layouts, options.hosts))
    return 0


def report(run, layouts: Sequence[str] = (), hosts: int = 1) -> str:
    """The plan of one update; several layouts are compared.

    Args:
        run: a `launch.run.Run`.
        layouts: to compare; the run's own if there are none.
        hosts: machines that the mesh spans; bytes are split into inside and between them.
    """
    import meshlang as ml

    program = run.train_program()
    if len(layouts) > 1:
        named = {layout or "(none)": layout for layout in layouts}
        tables = {"params": run.params, "slots": run.slots}
        return ml.compare(program, run.mesh, named, **tables)
    planned = replace(run, layout=layouts[0]).plan(program) if layouts else run.plan(program)
    text = str(planned)
    if hosts > 1:
        from meshlang.layout.report import hosts_table

        text = f"{text}\n\n{hosts_table(planned, hosts)}"
    return text


if __name__ == "__main__":
    sys.exit(main())
