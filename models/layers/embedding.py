"""Tokens to activations, and activations to logits."""

from dataclasses import dataclass
from math import sqrt

import meshlang as ml
from models.layers.initial import matrix_init


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """A table of one row for each token, and the way back to logits.

    Variables: ``embedding`` [vocab d_model], and ``unembedding`` of the same dims unless tied.

    Attributes:
        vocab: number of tokens; may be more than occur, to divide by a mesh.
        d_model: width of a row.
        tied: the way back uses the same table, with activations times d_model ** -0.5, so that
            logits begin of size 1 either way (Raffel et al., 2019).
        deviation: of the table's initial values, which are normal.
    """

    vocab: int
    d_model: int
    tied: bool = False
    deviation: float = 1.0

    def lookup(self, tokens: ml.Tensor) -> ml.Tensor:
        """The rows of tokens: read, not multiplied with one-hot tensors.

        Dims:
            tokens   [dims...], int32; outside of [0, vocab) it gives zeros
            returns  [dims... d_model]
        """
        return ml.gather(self._table(), tokens, dim="vocab")

    def logits(self, x: ml.Tensor) -> ml.Tensor:
        """Unnormalized log probabilities of tokens.

        Dims:
            x        [dims... d_model]
            returns  [dims... vocab], in "high" precision
        """
        if self.tied:
            product = ml.einsum(x * (1.0 / sqrt(self.d_model)), self._table(), reduce="d_model")
        else:
            table = ml.variable("unembedding", self._shape, init=matrix_init(self.d_model))
            product = ml.einsum(x, table, reduce="d_model")
        return ml.cast(product, "high")

    @property
    def _shape(self) -> str:
        return f"vocab:{self.vocab} d_model:{self.d_model}"

    def _table(self) -> ml.Tensor:
        return ml.variable("embedding", self._shape, init=ml.normal_init(self.deviation))
