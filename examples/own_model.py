"""A model of one's own, trained by meshlang's launch: a neural n-gram (Bengio et al., 2003).

From any folder that holds this file:

    meshlang-train --module=own_model --gin_file=runs/pydoc.gin --gin.Run.model='@NeuralNgram()' \
        --mesh='data:2 model:2' --layout='batch:data hidden:model' --steps=50 --model_dir=ngram

The model knows nothing of meshes: the layout divides its dims by their names.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import gin

import meshlang as ml
from models.losses import LossSums, token_losses, weight_count


@gin.configurable
@dataclass(frozen=True, kw_only=True)
class NeuralNgram:
    """Predicts a byte from the `order` tokens before it.

    Attributes:
        order: tokens that are looked at.
        vocab: number of tokens.
        d_model: width of an embedded token.
        hidden: width of the hidden layer.
    """

    order: int = 6
    vocab: int = 264
    d_model: int = 32
    hidden: int = 256

    def inputs(self, batch: int, length: int) -> dict[str, ml.InputSpec]:
        """What a training step takes."""
        spec = ml.spec(f"batch:{batch} length:{length}", "int32")
        return {"tokens": spec, "targets": spec}

    def count(self, batch: Mapping[str, ml.Tensor]) -> ml.Tensor:
        """The sum of weights."""
        return weight_count(batch)

    def __call__(self, batch: Mapping[str, ml.Tensor], *, train: bool) -> LossSums:
        """The losses of a batch."""
        return token_losses(self.logits(batch), batch["targets"], weights=batch.get("weights"))

    def logits(self, batch: Mapping[str, ml.Tensor], *, train: bool = False) -> ml.Tensor:
        """One matrix for each place before the next token, summed, then a hidden layer."""
        tokens = batch["tokens"]
        table = ml.variable("embedding", f"vocab:{self.vocab} d_model:{self.d_model}", init=_unit)
        parts = []
        for back in range(self.order):
            seen = ml.gather(table, shifted(tokens, back), dim="vocab")
            shape = f"d_model:{self.d_model} hidden:{self.hidden}"
            weight = ml.variable(f"back_{back}", shape, init=ml.normal_init(self._scale))
            parts.append(ml.einsum(seen, weight, reduce="d_model"))
        shape = f"hidden:{self.hidden} vocab:{self.vocab}"
        out = ml.variable("out", shape, init=ml.normal_init(self.hidden**-0.5))
        return ml.cast(ml.einsum(ml.relu(ml.add_n(parts)), out, reduce="hidden"), "high")

    @property
    def _scale(self) -> float:
        return (self.order * self.d_model) ** -0.5


_unit = ml.normal_init(1.0)


def shifted(tokens: ml.Tensor, back: int) -> ml.Tensor:
    """The tokens `back` places before; in front of a row there are zeros."""
    length = tokens.shape["length"].size
    return ml.slice(ml.pad(tokens, "length", before=back), "length", start=0, size=length)
