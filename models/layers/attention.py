"""Attention of a row of tokens to itself."""

from dataclasses import dataclass
from math import sqrt

import meshlang as ml
from models.layers.initial import matrix_init
from models.layers.positions import PositionTerms

#: added to the logits of what may not be seen: its weight is 0 exactly
_HIDDEN = -1e9


def causal_mask(length: int, segments: ml.Tensor | None = None) -> ml.Tensor:
    """What is added to attention logits: 0 where a query sees a memory, -1e9 where it does not.

    A query sees itself and what stands before it, of its own segment if there are segments. It is
    added rather than used to select, since an added constant costs the backward pass nothing.

    Args:
        length: how many queries, and as many memories.
        segments: int32; which tokens belong together.

    Dims:
        segments  [batch length]
        returns   [length memory], with segments [batch length memory], in "high" precision

    Example:
        >>> import meshlang as ml
        >>> ml.run(lambda: causal_mask(2))
        array([[ 0.e+00, -1.e+09],
               [ 0.e+00,  0.e+00]], dtype=float32)
    """
    query = ml.range(f"length:{length}").expand(memory=length)
    seen, order = ml.range(f"memory:{length}") <= query, "length memory"
    if segments is not None:
        theirs = segments.rename(length="memory").expand(length=length)
        seen = ml.equal(segments.expand(memory=length), theirs) & seen
        order = "batch length memory"
    # In the order of the logits, so that no layer turns it again.
    return ml.arrange(ml.where(seen, ml.zeros("", "high"), _HIDDEN), order)


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Multi-head attention (Vaswani et al., 2017) with softmax in "high" precision.

    Variables: ``q``, ``k``, ``v`` [d_model heads d_head] and ``out`` [heads d_head d_model]. No
    biases. Queries are scaled by d_head ** -0.5.

    Attributes:
        heads: how many.
        d_head: width of a head.
        dropout: rate, of the weights.
        init_scale: of the initial variance of matrices; see `matrix_init`.
    """

    heads: int
    d_head: int
    dropout: float = 0.0
    init_scale: float = 1.0

    def __call__(
        self, x: ml.Tensor, *, mask: ml.Tensor, positions: PositionTerms, train: bool
    ) -> ml.Tensor:
        """Mix each position with what it may see.

        Keys and values are renamed from length to memory: a layout that does not mention memory
        holds them whole, however it divides length.

        Args:
            x: activations.
            mask: see `causal_mask`.
            positions: see `Position.prepare`.
            train: whether weights are dropped.

        Dims:
            x        [batch length d_model]
            returns  the same

        Example:
            >>> import meshlang as ml
            >>> layer = Attention(heads=2, d_head=4)
            >>> def fn(x):
            ...     return layer(x, mask=causal_mask(3), positions=PositionTerms(), train=False)
            >>> ml.trace(fn, x=ml.spec("batch:2 length:3 d_model:8")).outputs
            [Tensor[batch:2 length:3 d_model:8] float32]
        """
        q, k, v = self._projected(x)
        q = positions.turn(q) * (1.0 / sqrt(self.d_head))
        k = positions.turn(k).rename(length="memory")
        v = v.rename(length="memory")
        logits = ml.cast(ml.einsum(q, k, keep="batch heads length memory"), "high") + mask
        if positions.bias is not None:
            logits = logits + positions.bias
        weights = ml.cast(ml.softmax(logits, "memory"), "compute")
        if train:
            weights = ml.dropout(weights, self.dropout)
        mixed = ml.einsum(weights, v, keep="batch length heads d_head")
        shape = ml.Shape([*self._heads, x.shape["d_model"]])
        out = ml.variable("out", shape, init=matrix_init(self.heads * self.d_head, self.init_scale))
        return ml.einsum(mixed, out, reduce="heads d_head")

    @property
    def _heads(self) -> tuple[ml.Dim, ml.Dim]:
        return ml.Dim("heads", self.heads), ml.Dim("d_head", self.d_head)

    def _projected(self, x: ml.Tensor) -> list[ml.Tensor]:
        """Queries, keys and values [batch length heads d_head], by one product.

        One wide matrix is multiplied faster than three narrow ones, which a divided `heads` makes
        narrower still; and the gradient of x is one sum.
        """
        d_model = x.shape["d_model"]
        shape = ml.Shape([d_model, *self._heads])
        init = matrix_init(d_model.size, self.init_scale)
        weights = ml.stack([ml.variable(name, shape, init=init) for name in "qkv"], "qkv")
        made = ml.einsum(x, weights, keep="batch length qkv heads d_head")
        return ml.unstack(made, "qkv")
