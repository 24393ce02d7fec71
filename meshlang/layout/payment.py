"""When a pending sum is paid: where it is made, unless all its consumers cost strictly fewer bytes.

One sweep from the results back decides. An add of k values pending over the same axes counts 1/k
for each; ties pay early; a sum that its consumers only cut is priced as a reduce_scatter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf

from meshlang.dims import Dim
from meshlang.layout.layout import Tables
from meshlang.layout.values import BYTES
from meshlang.program import Node
from meshlang.tensor import Tensor

Axes = tuple[str, ...]


class Payments:
    """Which tensors of a program stay pending after they are made."""

    def __init__(
        self,
        nodes: Sequence[Node],
        tables: Tables,
        made_pending: Callable[[Node], list[Axes]],
        results: Sequence[Tensor],
        sums: Sequence[Tensor] = (),
        trips: int = 1,
    ) -> None:
        """Decide for all tensors.

        Args:
            nodes: of the program, those that anything needs.
            tables: where dims lie.
            made_pending: the axes over which each result of a node begins to be pending.
            results: what leaves the program, and so is paid.
            sums: results that a loop adds up, which may stay pending.
            trips: of that loop; such a sum is paid once for all of them.
        """
        self._tables = tables
        self.potential: dict[Tensor, Axes] = {}
        for node in nodes:
            for y, made in zip(node.outputs, made_pending(node), strict=True):
                self.potential[y] = tuple(dict.fromkeys((*self._through(node), *made)))
        self._consumers: dict[Tensor, list[Node]] = {}
        for node in nodes:
            for x in dict.fromkeys(node.inputs):
                self._consumers.setdefault(x, []).append(node)
        self._sums, self._trips = set(sums), trips
        self._results = set(results)
        self._cost: dict[Tensor, float] = {}
        self.late: dict[Tensor, bool] = {}
        for node in reversed(nodes):
            for y in node.outputs:
                self._decide(y)

    def _through(self, node: Node) -> Axes:
        """The pending axes that come out of a node if nothing is paid before."""
        pending = [self.potential.get(x, ()) for x in node.inputs]
        how = [node.op.passes(i) for i in range(len(node.inputs))]
        brought = [i for i, p in enumerate(pending) if p]
        if not brought:
            return ()
        axes = pending[brought[0]]
        if self._blocked(node, axes):
            return ()
        if how[brought[0]] == "move":
            target = {a for d in node.outputs[0].shape for a in self._tables.axes(d)}
            return tuple(a for a in axes if a not in target)
        if len(brought) == 1 and how[brought[0]] == "alone":
            return axes
        free = [i for i, h in enumerate(how) if h == "together"]
        equal = all(set(pending[i]) == set(axes) for i in free)
        return axes if equal and set(brought) == set(free) else ()

    def _blocked(self, node: Node, axes: Axes) -> bool:
        """Never through an op one of whose dims lies on a pending axis; a move may cut it."""
        if node.op.passes(0) == "move":
            return self._on(node.inputs[0], axes)
        return any(self._on(t, axes) for t in (*node.inputs, *node.outputs))

    def _on(self, t: Tensor, axes: Axes) -> bool:
        return any(a in axes for d in t.shape for a in self._tables.axes(d))

    def _decide(self, y: Tensor) -> None:
        axes = self.potential.get(y, ())
        if not axes:
            return
        early = self._all_reduce(y, axes)
        late = self._paid_by_consumers(y, axes)
        self.late[y] = late < early
        self._cost[y] = min(early, late)

    def _paid_by_consumers(self, y: Tensor, axes: Axes) -> float:
        if y in self._results:
            return inf
        total = self._all_reduce(y, axes) / self._trips if y in self._sums else 0.0
        consumers = self._consumers.get(y, [])
        if not consumers and y not in self._sums:
            return inf
        for node in consumers:
            total += self._through_cost(node, y, axes)
        return total

    def _through_cost(self, node: Node, y: Tensor, axes: Axes) -> float:
        if self._blocked(node, axes):
            return inf
        out = node.outputs[0]
        places = [i for i, x in enumerate(node.inputs) if x is y]
        how = node.op.passes(places[0])
        if how == "move":
            return self._move_cost(node, y, axes)
        if not set(axes) <= set(self.potential.get(out, ())):
            return inf
        pending = [x for x in node.inputs if self.potential.get(x)]
        if how == "alone" and len(pending) == 1:
            return self._cost.get(out, inf)
        if how == "together":
            return self._cost.get(out, inf) * len(places) / len(node.inputs)
        return inf

    def _move_cost(self, node: Node, y: Tensor, axes: Axes) -> float:
        """A reduce_scatter over the axes that the target appends; the rest goes on."""
        out = node.outputs[0]
        target = {a for d in out.shape for a in self._tables.axes(d)}
        cut = tuple(a for a in axes if a in target)
        ways = self._tables.mesh.ways(cut)
        cost = self._bytes(y) * (ways - 1) / ways
        return cost + (self._cost.get(out, inf) if set(axes) - set(cut) else 0.0)

    def _all_reduce(self, y: Tensor, axes: Axes) -> float:
        ways = self._tables.mesh.ways(axes)
        return 2.0 * (ways - 1) / ways * self._bytes(y)

    def _bytes(self, y: Tensor) -> int:
        mesh = self._tables.mesh

        def block(d: Dim) -> int:
            return d.size // mesh.ways(self._tables.axes(d))

        size = BYTES[y.dtype]
        for d in y.shape:
            size *= block(d)
        return size
