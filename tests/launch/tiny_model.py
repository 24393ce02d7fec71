"""The smallest model that trains: for tests of what is around it."""

from collections.abc import Mapping
from dataclasses import dataclass

import gin

import meshlang as ml
from models.losses import LossSums, token_losses, weight_count


@gin.configurable
@dataclass(frozen=True, kw_only=True)
class TinyModel:
    """Predicts a byte from the one before it, with dropout.

    Attributes:
        d_model: width of an embedded token.
        bad_from: the step from which the loss is not finite; None for none.
        bad_until: the step at which it is finite again.
    """

    d_model: int = 16
    bad_from: int | None = None
    bad_until: int = 1_000_000

    def inputs(self, batch: int, length: int) -> dict[str, ml.InputSpec]:
        """What a training step takes."""
        spec = ml.spec(f"batch:{batch} length:{length}", "int32")
        return {"tokens": spec, "targets": spec}

    def count(self, batch: Mapping[str, ml.Tensor]) -> ml.Tensor:
        """The sum of weights."""
        return weight_count(batch)

    def __call__(self, batch: Mapping[str, ml.Tensor], *, train: bool) -> LossSums:
        """The losses of a batch."""
        logits = self.logits(batch, train=train)
        if train:
            ml.summary(ml.mean(ml.square(logits)), "logits_square")
        if train and self.bad_from is not None:
            bad = (ml.step() >= self.bad_from) & (ml.step() < self.bad_until)
            logits = logits * ml.where(bad, float("nan"), 1.0)
        return token_losses(logits, batch["targets"], weights=batch.get("weights"))

    def logits(self, batch: Mapping[str, ml.Tensor], *, train: bool = False) -> ml.Tensor:
        """An embedding and its way back."""
        init = ml.normal_init(0.1)
        table = ml.variable("embedding", f"vocab:264 d_model:{self.d_model}", init=init)
        x = ml.gather(table, batch["tokens"], dim="vocab")
        if train:
            x = ml.dropout(x, 0.1)
        back = ml.variable("unembedding", f"d_model:{self.d_model} vocab:264", init=init)
        return ml.einsum(x, back, reduce="d_model")
