"""What each collective of a plan is made of in TensorFlow: ops, and bytes given to them.

Counted in the traced program, on the devices' backend: ``python -m benchmarks.collectives``.
"""

import argparse
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from math import prod

import tensorflow as tf

import meshlang as ml
from meshlang.layout.cost import wire
from meshlang.lowering.backend import Backend, Values
from meshlang.lowering.spmd import SpmdBackend

KINDS = (
    "all_reduce sum",
    "all_reduce max",
    "all_gather",
    "reduce_scatter",
    "all_to_all",
    "permute by one",
)
DTYPES = ("float32", "bfloat16", "int32", "bool")
ROWS = 3 * 1024  # of a block, per member: every size of group below divides it


@dataclass(frozen=True)
class Made:
    """One collective as TensorFlow runs it, on one processor.

    Attributes:
        ops: TensorFlow's collective ops by how many there are of each.
        sent: bytes that they send where they are best, over what the collective needs at least.
    """

    ops: tuple[tuple[str, int], ...]
    sent: float


def made(kind: str, dtype: str, members: int) -> Made:
    """Trace one collective of a group of so many, and see what has come of it.

    >>> made("all_reduce sum", "bfloat16", 4)
    Made(ops=(('CollectiveReduceV2', 1),), sent=2.0)
    """
    block = (ROWS * members,)
    with tf.Graph().as_default() as graph:
        place, keys = tf.zeros([1], tf.int32), tf.zeros([8], tf.int32)
        token = tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[])
        backend = SpmdBackend(ml.Mesh.parse(f"a:{members}"), place, keys, token)
        result = _call(backend, kind, tf.zeros(block, dtype))
    name = kind.split()[0]
    elements = prod(result.shape) if name == "all_gather" else prod(block)
    least = wire(name, elements * tf.as_dtype(dtype).size, members)
    ops = [op for op in graph.get_operations() if op.type.startswith("Collective")]
    counted = sorted(Counter(op.type for op in ops).items())
    return Made(tuple(counted), sum(map(_sent, ops)) / least)


def _call(backend: Backend, kind: str, x: tf.Tensor) -> tf.Tensor:
    members = backend.mesh.size
    calls = {
        "all_reduce sum": partial(backend.all_reduce, kind="sum"),
        "all_reduce max": partial(backend.all_reduce, kind="max"),
        "all_gather": partial(backend.all_gather, dim=0),
        "reduce_scatter": partial(backend.reduce_scatter, dim=0),
        "all_to_all": partial(backend.all_to_all, split_dim=0, concat_dim=0),
        "permute by one": partial(
            backend.permute, sources=[(i - 1) % members for i in range(members)]
        ),
    }
    values: Values = [calls[kind](x, ("a",))]
    return values[0]


def _sent(op: tf.Operation) -> float:
    """What one processor sends for an op, in a bandwidth-optimal algorithm."""
    given = op.inputs[0].dtype.size * prod(op.inputs[0].shape)
    members = int(tf.get_static_value(op.inputs[1]))
    if op.type == "CollectiveReduceV2":
        return wire("all_reduce", given, members)
    if op.type == "CollectiveGatherV2":
        return wire("all_gather", given * members, members)
    return wire("all_to_all", given, members)


def markdown(rows: Iterable[tuple[str, str, int, Made]]) -> str:
    """A table; sizes of groups with the same line share it."""
    sizes: dict[tuple[str, str, Made], list[str]] = {}
    for kind, dtype, members, found in rows:
        sizes.setdefault((kind, dtype, found), []).append(str(members))
    lines = [
        "| collective | dtype | members | TensorFlow's ops | sent / least |",
        "|---|---|---|---|---|",
    ]
    for (kind, dtype, found), members in sizes.items():
        ops = ", ".join(f"{count} {name}" for name, count in found.ops)
        lines.append(f"| {kind} | {dtype} | {', '.join(members)} | {ops} | {found.sent:.3g} |")
    return "\n".join(lines)


def main() -> None:
    """Prints the table for some sizes of groups and dtypes."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--members", type=int, nargs="+", default=[2, 3, 4, 8, 12, 13, 16])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=DTYPES)
    flags = parser.parse_args()
    rows = [
        (kind, dtype, members, made(kind, dtype, members))
        for kind in KINDS
        for dtype in flags.dtypes
        for members in flags.members
    ]
    print(markdown(rows))


if __name__ == "__main__":
    main()
