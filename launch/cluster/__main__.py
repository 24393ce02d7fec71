"""Runs a command with TF_CONFIG: ``python -m launch.cluster slurm python -m launch.train ...``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from launch.cluster.places import SCHEDULERS
from launch.errors import ConfigError
from meshlang.errors import message


def main(argv: Sequence[str]) -> int:
    """Become the command; returns only if there is something wrong.

    Args:
        argv: the scheduler, and the command with its arguments.
    """
    try:
        if len(argv) < 2 or argv[0] not in SCHEDULERS:
            usage = f"python -m launch.cluster {{{','.join(SCHEDULERS)}}} COMMAND ..."
            raise ConfigError(message("which scheduler, and what to run?", fix=usage))
        spec = SCHEDULERS[argv[0]](os.environ)
    except ConfigError as error:
        print(f"ConfigError: {error}", file=sys.stderr)
        return 1
    sys.stdout.flush()
    os.execvpe(argv[1], list(argv[1:]), {**os.environ, "TF_CONFIG": spec.text()})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
