"""What each process of a run would do, from the plan alone: nothing is started or opened."""

from __future__ import annotations

import meshlang as ml
from launch.flags import Options
from launch.run import Run
from meshlang.errors import ClusterError, message
from meshlang.tf_config import ClusterSpec


def tell(run: Run, options: Options, spec: ClusterSpec | None) -> int:
    """Print it. Returns the exit code.

    Args:
        run: what would be trained.
        options: the command line.
        spec: of TF_CONFIG; this process's part is printed then, and of all processes else.

    Raises:
        ClusterError: the mesh cannot be shared among the processes.
    """
    plan = run.plan(run.train_program(), run.eval_program())
    print(
        f"a dry run: nothing is started\nmesh {plan.mesh or 'of one'}, {plan.mesh.size} processors"
    )
    if spec:
        print("\n".join(process(run, options, plan, spec)))
        return 0
    here = ClusterSpec(tuple(f"localhost:(free {i})" for i in range(options.processes)), 0)
    for index in range(options.processes):
        print("\n".join(process(run, options, plan, ClusterSpec(here.addresses, index))))
    return 0


def process(run: Run, options: Options, plan: ml.Plan, spec: ClusterSpec) -> list[str]:
    """What one process would do, in lines."""
    from meshlang.lowering.blocks import box

    count = len(spec.addresses)
    share, rest = divmod(plan.mesh.size, count)
    if rest or not share:
        rows = [("mesh", plan.mesh or "(of one)"), ("processes", count)]
        fix = "choose a mesh whose size is a multiple of the number of processes"
        headline = f"{count} processes cannot share {plan.mesh.size} processors."
        raise ClusterError(message(headline, rows, fix))
    first = spec.order.index(spec.index) * share
    mine = range(first, first + share)
    rows = box(next(iter(plan.inputs.values())), plan.mesh, mine)[0]
    lines = [f"process {spec.index} of {count}" + (", the chief" if spec.index == 0 else "")]
    if count > 1:
        lines.append(f"  listens    {spec.addresses[spec.index]}, as TF_CONFIG {spec.text()}")
    else:
        lines.append("  listens    nowhere")
    lines += [
        f"  devices    {options.devices.count or share} of kind {options.devices.kind}",
        f"  processors {_between(mine.start, mine.stop)} of the mesh",
        f"  reads      rows {_between(rows.start, rows.stop)} of the {run.batch} of each step",
    ]
    writes = "data, log, pictures, its blocks of checkpoints" if spec.index == 0 else "its blocks"
    return [*lines, f"  writes     {writes} in {run.model_dir}"]


def _between(start: int, stop: int) -> str:
    """Numbers from a range, for reading.

    >>> _between(4, 8), _between(3, 4)
    ('4 to 7', '3')
    """
    return str(start) if stop == start + 1 else f"{start} to {stop - 1}"
