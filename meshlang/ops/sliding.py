"""Ops whose windows slide along dims: what a processor's windows reach over, and the way back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from meshlang.dims import Dim, Shape
from meshlang.ops.span import Span, as_tensorflow
from meshlang.program import Op, Spec


class Sliding(Op):
    """An op along dims that may be divided. `y` is the shape whose dims count windows."""

    @property
    def slides(self) -> Sequence[tuple[str, Span]]:
        """The dims along which windows slide, and how."""
        raise NotImplementedError

    def layers(self, b: Any, y: Shape) -> list[tuple[str, Any]]:
        """For each dim what the processors reach over."""
        ways = b.tables.mesh.ways
        return [(dim, lies.reach(ways(b.axes(y[dim])))) for dim, lies in self.slides]

    def is_whole(self, b: Any, y: Shape) -> bool:
        """Whether TensorFlow can pad: no dim is divided, and it has a word for it."""
        divided = any(b.axes(y[dim]) for dim, _ in self.slides)
        return not divided and bool(as_tensorflow([lies for _, lies in self.slides]))

    def reached(self, b: Any, x: Any, y: Shape, fill: float = 0) -> Any:
        """The input with what the windows of each processor reach over."""
        if self.is_whole(b, y):
            return x
        for dim, layer in self.layers(b, y):
            x = b.reach(x, dim, layer, fill)
        return x

    def returned(
        self,
        b: Any,
        operands: Sequence[Any],
        x: Spec,
        y: Shape,
        pending: tuple[str, ...] = (),
    ) -> Any:
        """The transpose: what a processor makes of its windows, added up where it lies."""
        if self.is_whole(b, y):
            return b.local(self, operands, [x], pending=pending)[0]
        made, at = x.shape, {}
        for dim, layer in self.layers(b, y):
            long = Dim(f"{dim}.run", sum(run.size for run in layer[0]) * len(layer))
            made = made.swap(made[dim], long)
            at[long] = b.axes(x.shape[dim])
        value = b.local_at(self, operands, Spec(made, x.dtype), at, pending)
        for dim, layer in reversed(self.layers(b, y)):
            value = b.give_back(value, x.shape[dim], layer)
        return value
