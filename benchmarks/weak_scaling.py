"""``make bench-scaling``: 1 to 64 processors with the same work for each, on virtual CPUs.

Each processor has two rows of a batch, whatever their number; all share this machine's cores. So
the best that can be is that all processors together do as much in a second as one does alone: what
is lost is what handing work to many devices and sending between them costs.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median

import meshlang as ml
from benchmarks.mesh import filled, step_program
from benchmarks.sizes import Sizes, initial_weights
from benchmarks.timing import MIB, Contestant, Measurement, measure, ratio, serve

COUNTS = (1, 2, 4, 8, 16, 32, 64)
#: of one processor
SIZES = Sizes(
    batch=2,
    length=64,
    vocab=512,
    layers=4,
    d_model=128,
    heads=4,
    d_head=32,
    d_ff=512,
    experts=8,
    d_expert=512,
    group_size=64,
)


def serve_step(processors: int) -> None:
    """Serves steps on a mesh of so many processors."""
    sizes = replace(SIZES, batch=SIZES.batch * processors)
    weights = initial_weights(sizes, seed=0)

    def trace() -> ml.Executable:
        ml.start(devices=processors)
        plan = ml.plan(step_program(sizes), f"data:{processors}", "batch:data group:data")
        step = ml.lower(plan)
        step.build()
        return step

    def fill(step: ml.Executable) -> Callable[[], float]:
        return filled(step, sizes, weights)

    def facts() -> dict[str, float]:
        from meshlang.lowering.runtime import nodes_in_functions

        return {"nodes": nodes_in_functions()}

    serve(trace, fill, facts)


def markdown(counts: Sequence[int], found: Sequence[Measurement]) -> str:
    """A table, one line for each number of processors; the first is what others are compared with.

    >>> one = Measurement("1", [0.1], [1.0], [0.5], [100 * MIB], {"nodes": 900})
    >>> two = Measurement("2", [0.25], [1.5], [0.6], [120 * MIB], {"nodes": 950})
    >>> print(markdown([1, 2], [one, two]))
    | processors | step, ms | work a second | first step, s | Python, s | nodes | MiB a processor |
    |---|---|---|---|---|---|---|
    | 1 | 100 | 1.00 | 1.0 | 0.50 | 900 | 100 |
    | 2 | 250 | 0.80 | 1.5 | 0.60 | 950 | 60 |
    """
    lines = [
        "| processors | step, ms | work a second | first step, s | Python, s | nodes "
        "| MiB a processor |",
        "|---|---|---|---|---|---|---|",
    ]
    for count, measured in zip(counts, found, strict=True):
        work = count / counts[0] / ratio(measured, found[0])
        lines.append(
            f"| {count} | {1e3 * median(measured.steps):.0f} | {work:.2f} "
            f"| {median(measured.first_steps):.1f} | {median(measured.python):.2f} "
            f"| {measured.facts['nodes']:.0f} | {max(measured.peaks) / MIB / count:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Times the same work a processor on more and more of them, and prints a table."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--processors", type=int, nargs="+", default=list(COUNTS))
    parser.add_argument("--rounds", type=int, default=3, help="turns of each")
    parser.add_argument("--steps", type=int, default=2, help="steps of a turn")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.serve:
        serve_step(flags.serve)
        return
    runs = [
        Contestant(str(count), ("-m", "benchmarks.weak_scaling", f"--serve={count}"))
        for count in flags.processors
    ]
    found = measure(runs, rounds=flags.rounds, steps=flags.steps)
    print(markdown(flags.processors, found))


if __name__ == "__main__":
    main()
