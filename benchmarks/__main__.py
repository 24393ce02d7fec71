"""``make bench``: the tables of docs/performance.md for this machine."""

import argparse

from benchmarks.timing import Contestant, markdown, measure

CONTESTANTS = {
    "plain TensorFlow, one-hot": "-m benchmarks.reference --formulation=one_hot",
    "plain TensorFlow, gather": "-m benchmarks.reference --formulation=gather",
    "meshlang, one processor": "-m benchmarks.mesh --unroll --mesh=",
    "meshlang, data:2 model:4": "-m benchmarks.mesh --unroll --mesh='data:2 model:4'",
    "the same, layers as a scan": "-m benchmarks.mesh --mesh='data:2 model:4'",
    "meshlang, data:8": "-m benchmarks.mesh --unroll --mesh=data:8",
}
#: the same model on more processors: of interest is the time spent in Python
LARGER = {
    "8 processors": "-m benchmarks.mesh --mesh='data:2 model:4'",
    "64 processors": "-m benchmarks.mesh --mesh='data:16 model:4'",
}


def main() -> None:
    """Times every contestant in float32 and bfloat16, in turn, and then larger meshes."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--compute", choices=("float32", "bfloat16", "both"), default="both")
    flags = parser.parse_args()
    both = ("float32", "bfloat16") if flags.compute == "both" else (flags.compute,)
    runs = [
        Contestant.parse(f"{name}, {compute}={arguments} --compute={compute}")
        for compute in both
        for name, arguments in CONTESTANTS.items()
    ]
    print(markdown(measure(runs, rounds=flags.rounds, steps=flags.steps)))
    larger = [Contestant.parse(f"{name}={arguments}") for name, arguments in LARGER.items()]
    print()
    print(markdown(measure(larger, rounds=1, steps=1)))


if __name__ == "__main__":
    main()
