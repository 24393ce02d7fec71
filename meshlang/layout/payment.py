"""When a pending sum is paid: where it is made, unless all its consumers cost strictly fewer bytes.

A sweep from the results back decides. An add of k values pending over the same axes counts 1/k for
each; ties pay early; a sum that its consumers only cut is priced as a reduce_scatter.

What an add of k values costs each of them depends on whether the others reach it unpaid, which a
sweep from the results back learns only later. It begins with "all do", and is repeated with what it
found until nothing changes. Values only ever turn from late to early, so it ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf, prod

from meshlang.layout.layout import Tables
from meshlang.layout.values import BYTES
from meshlang.ops.create import Constant
from meshlang.ops.rearrange import Expand
from meshlang.program import NARROW, Node
from meshlang.tensor import Tensor

Axes = tuple[str, ...]


class Payments:
    """Which tensors of a program stay pending after they are made.

    Attributes:
        late: for each tensor that is made pending, whether it stays so.
        made: the axes over which a tensor is pending when it is made, where there are any.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        tables: Tables,
        made_pending: Callable[[Node], list[Axes]],
        results: Sequence[Tensor],
        sums: Sequence[Tensor] = (),
        trips: int = 1,
        unpaid: Sequence[Tensor] = (),
    ) -> None:
        """Decide for all tensors.

        Args:
            nodes: of the program, those that anything needs.
            tables: where dims lie.
            made_pending: the axes over which each result of a node begins to be pending.
            results: what leaves the program, and so is paid.
            sums: results that a loop adds up, which may stay pending.
            trips: of that loop; such a sum is paid once for all of them.
            unpaid: results that nobody pays, for the host adds them up.
        """
        self._tables = tables
        self._begun = [made_pending(node) for node in nodes]
        self._nodes = nodes
        self._consumers: dict[Tensor, list[Node]] = {}
        for node in nodes:
            for x in dict.fromkeys(node.inputs):
                self._consumers.setdefault(x, []).append(node)
        self._sums, self._trips = set(sums), trips
        self._unpaid = set(unpaid)
        self._results = set(results)
        self._cost: dict[Tensor, float] = {}
        self.late: dict[Tensor, bool] = {}
        self.made: dict[Tensor, Axes] = {}
        while self._sweep():
            pass

    def pending(self, x: Tensor) -> Axes:
        """The axes over which a tensor reaches its consumers unpaid."""
        return self.made.get(x, ()) if self.late.get(x, True) else ()

    def _sweep(self) -> bool:
        """Forward, what is made pending; backward, what stays so. Whether anything turned early."""
        self.made.clear()
        for node, begun in zip(self._nodes, self._begun, strict=True):
            through = passing(self._tables, node, [self.pending(x) for x in node.inputs]) or ()
            for y, begins in zip(node.outputs, begun, strict=True):
                if through or begins:
                    self.made[y] = tuple(dict.fromkeys((*through, *begins)))
        early = [y for y in reversed(self.made) if self._turns_early(y)]
        return bool(early)

    def _turns_early(self, y: Tensor) -> bool:
        early = self._all_reduce(y, self.made[y])
        if not self.late.get(y, True):
            self._cost[y] = early
            return False
        late = self._paid_by_consumers(y)
        self.late[y] = late < early
        self._cost[y] = min(early, late)
        return not self.late[y]

    def _paid_by_consumers(self, y: Tensor) -> float:
        consumers = self._consumers.get(y, [])
        leaves = y in self._sums or y in self._unpaid
        if y in self._results or (not consumers and not leaves):
            return inf
        total = self._all_reduce(y, self.made[y]) / self._trips if y in self._sums else 0.0
        return total + sum(self._paid_by(node, y) for node in consumers)

    def _paid_by(self, node: Node, y: Tensor) -> float:
        """The share of a tensor in what is paid behind one of its consumers."""
        pendings = [self.pending(x) for x in node.inputs]
        if passing(self._tables, node, pendings) is None:
            return inf
        out = node.outputs[0]
        onward = self._cost.get(out, 0.0) if self.made.get(out) else 0.0
        if _passes(node, node.inputs.index(y)) == "move":
            scattered = tuple(a for a in self.made[y] if a not in self.made.get(out, ()))
            ways = self._tables.mesh.ways(scattered)
            return onward + self._bytes(y) * (ways - 1) / ways
        return onward * node.inputs.count(y) / sum(map(bool, pendings))

    def _all_reduce(self, y: Tensor, axes: Axes) -> float:
        ways = self._tables.mesh.ways(axes)
        return 2.0 * (ways - 1) / ways * self._bytes(y)

    def _bytes(self, y: Tensor) -> int:
        ways = self._tables.mesh.ways
        # A narrow sum is paid in float32 at least; dtypes are compared with each other alone.
        width = BYTES["float32" if y.dtype in NARROW else y.dtype]
        return width * prod(d.size // ways(self._tables.axes(d)) for d in y.shape)


def passing(tables: Tables, node: Node, pendings: Sequence[Axes]) -> Axes | None:
    """The pending axes that come through a node, given those of its operands.

    Returns:
        The axes that its results bring from operands, or None: operands are paid first.
    """
    brought = [i for i, p in enumerate(pendings) if p and _passes(node, i) != "unread"]
    if not brought:
        return ()
    axes, how = pendings[brought[0]], _passes(node, brought[0])
    if how == "move":
        if _lies_on(tables, node.inputs[0], axes):
            return None
        target = {a for d in node.outputs[0].shape for a in tables.axes(d)}
        return tuple(a for a in axes if a not in target)
    if any(_lies_on(tables, t, axes) for t in (*node.inputs, *node.outputs)):
        return None
    if how == "alone":
        return axes if len(brought) == 1 else None
    if how == "together":
        equal = all(set(pendings[i]) == set(axes) for i in brought)
        others = (x for i, x in enumerate(node.inputs) if i not in brought)
        rest = (x for x in others if _passes(node, node.inputs.index(x)) == "together")
        return axes if equal and all(map(is_zero, rest)) else None
    return None


def _passes(node: Node, i: int) -> str:
    return node.op.passes(i)


def is_zero(x: Tensor) -> bool:
    """A zero is a part of any sum: ``where(mask, pending, 0)``."""
    op = x.node.op if x.node else None
    if isinstance(op, Expand) and x.node:
        return is_zero(x.node.inputs[0])
    return isinstance(op, Constant) and op.array.ndim == 0 and not op.array


def _lies_on(tables: Tables, t: Tensor, axes: Axes) -> bool:
    """Never through an op one of whose dims lies on a pending axis."""
    return any(a in axes for d in t.shape for a in tables.axes(d))
