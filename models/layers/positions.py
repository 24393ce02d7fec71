"""How attention learns where tokens stand: by a bias for distances, by rotation, or not at all."""

from dataclasses import dataclass
from math import log
from typing import Protocol

import meshlang as ml
from models.errors import ModelError
from models.layers.initial import matrix_init


@dataclass(frozen=True)
class PositionTerms:
    """What positions do to attention: made once, used by all layers.

    Attributes:
        bias: [heads length memory], "high", to add to the logits; None adds nothing.
        cosines, sines: [length d_head/2], "high", of the angles by which queries and keys are
            turned; None turns nothing.
    """

    bias: ml.Tensor | None = None
    cosines: ml.Tensor | None = None
    sines: ml.Tensor | None = None

    def turn(self, x: ml.Tensor) -> ml.Tensor:
        """Queries or keys, turned by their positions.

        Pair j is made of the elements j and j + d_head/2.

        Dims:
            x        [batch length heads d_head]
            returns  the same
        """
        if self.cosines is None or self.sines is None:
            return x
        half = self.cosines.shape["d_head"].size
        cosines, sines = ml.cast(self.cosines, x.dtype), ml.cast(self.sines, x.dtype)
        first = ml.slice(x, "d_head", size=half)
        second = ml.slice(x, "d_head", start=half, size=half)
        turned = [first * cosines - second * sines, second * cosines + first * sines]
        return ml.concat(turned, "d_head")


class Position(Protocol):
    """Makes what positions do to attention."""

    def prepare(self, *, length: int, heads: int, d_head: int) -> PositionTerms:
        """The terms for `length` queries and as many memories, in the trace of a model."""
        ...


@dataclass(frozen=True, kw_only=True)
class NoPositions:
    """Only the causal mask tells positions apart."""

    def prepare(self, *, length: int, heads: int, d_head: int) -> PositionTerms:
        """No terms."""
        return PositionTerms()


@dataclass(frozen=True, kw_only=True)
class RelativeBias:
    """A bias for each head and bucket of distances, looking back (Raffel et al., 2019).

    Half of the buckets are single distances, the others grow as the logarithm, and the last one
    holds all from `max_distance` on. One variable serves all layers: ``relative_bias``
    [buckets heads].

    Attributes:
        buckets: how many.
        max_distance: the first distance that is certainly in the last bucket.

    Raises:
        ModelError: the numbers leave no room for buckets that grow.
    """

    buckets: int = 32
    max_distance: int = 128

    def __post_init__(self) -> None:
        if self.buckets < 2 or self.max_distance <= self.buckets // 2:
            rows = [("buckets", self.buckets), ("max_distance", self.max_distance)]
            fix = "choose 2 buckets or more, and a max_distance above half of their number"
            raise ModelError(ml.errors.message("RelativeBias has no room to grow.", rows, fix))

    def prepare(self, *, length: int, heads: int, d_head: int) -> PositionTerms:
        """The bias [heads length memory] of all pairs.

        Example:
            >>> import meshlang as ml
            >>> fn = lambda: RelativeBias().prepare(length=4, heads=2, d_head=8).bias
            >>> ml.trace(fn).outputs
            [Tensor[heads:2 length:4 memory:4] float32]
        """
        shape = f"buckets:{self.buckets} heads:{heads}"
        table = ml.variable("relative_bias", shape, init=matrix_init(self.buckets), use="high")
        buckets = ml.constant([self.bucket(d) for d in range(length)], "distance", "int32")
        by_distance = ml.gather(table, buckets, dim="buckets")
        back = ml.range(f"length:{length}").expand(memory=length) - ml.range(f"memory:{length}")
        bias = ml.gather(by_distance, ml.maximum(back, 0), dim="distance")
        return PositionTerms(bias=ml.arrange(bias, "heads length memory"))

    def bucket(self, distance: int) -> int:
        """The bucket of a memory that lies so many positions back.

        Exact arithmetic on the host: no rounding of a logarithm decides between two buckets on
        one machine and not on another.

        >>> [RelativeBias().bucket(d) for d in (0, 15, 16, 18, 19, 64, 112, 113, 128, 900)]
        [0, 15, 16, 16, 17, 26, 30, 31, 31, 31]
        """
        exact = self.buckets // 2
        if distance < exact:
            return distance
        growth = log(distance / exact) / log(self.max_distance / exact)
        return min(exact + int(growth * (self.buckets - exact)), self.buckets - 1)


@dataclass(frozen=True, kw_only=True)
class Rotary:
    """Queries and keys are turned by their positions (Su et al., RoFormer, 2021).

    Pair j, of the elements j and j + d_head/2, turns by position * base ** (-2j / d_head).
    Positions count from the start of the row, also in packed rows: attention depends on
    differences alone.

    Attributes:
        base: the slowest pair takes nearly 2 pi times as many positions to turn once.
    """

    base: float = 10_000.0

    def prepare(self, *, length: int, heads: int, d_head: int) -> PositionTerms:
        """Cosines and sines [length d_head/2] of all angles.

        Raises:
            ModelError: d_head is odd.

        Example:
            >>> import meshlang as ml
            >>> fn = lambda: Rotary().prepare(length=4, heads=2, d_head=8).sines
            >>> ml.trace(fn).outputs
            [Tensor[length:4 d_head:4] float32]
        """
        if d_head % 2:
            rows = [("d_head", d_head)]
            raise ModelError(
                ml.errors.message("Rotary turns pairs, and d_head is odd.", rows, "make it even")
            )
        half = d_head // 2
        speeds = ml.exp(ml.range(f"d_head:{half}", "high") * (-log(self.base) / half))
        places = ml.range(f"length:{length}", "high")
        angles = ml.einsum(places, speeds, keep="length d_head")
        return PositionTerms(cosines=ml.cos(angles), sines=ml.sin(angles))
