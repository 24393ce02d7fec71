"""Losses of language models, as sums and counts: parts of a batch add up exactly."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import meshlang as ml

#: name -> (sum, count), scalars in "high"; the mean is their quotient
Metrics = dict[str, tuple[ml.Tensor, ml.Tensor]]


@dataclass(frozen=True)
class LossSums:
    """What a model makes of a batch, or of a part of one. All are "high".

    The objective is ``loss / count + auxiliary``. For a batch in parts it is the sum over parts of
    ``loss / (count of the whole batch) + auxiliary / (number of parts)``: see `weight_count`.

    Attributes:
        loss: scalar; the sum over tokens of weight * (cross entropy + z-loss), in nats.
        count: scalar; the sum of weights.
        auxiliary: scalar; losses of the layers' own, a mean over the tokens of this part.
        metrics: name -> (sum, count); the mean is their quotient.
    """

    __parts__: ClassVar[bool] = True

    loss: ml.Tensor
    count: ml.Tensor
    auxiliary: ml.Tensor
    metrics: Metrics = field(default_factory=dict)


def weight_count(batch: Mapping[str, ml.Tensor]) -> ml.Tensor:
    """The sum of a batch's weights, which are 1 each when it has none.

    It depends on the inputs alone, so that parts of a batch may be divided by the whole one's.

    Args:
        batch: `targets`, and `weights` if tokens do not all count alike.

    Dims:
        targets, weights  [batch length]
        returns           [], in "high" precision
    """
    if "weights" in batch:
        return ml.sum(ml.cast(batch["weights"], "high"))
    return ml.full("", batch["targets"].shape.size, "high")


def token_losses(
    logits: ml.Tensor,
    targets: ml.Tensor,
    *,
    weights: ml.Tensor | None = None,
    z_loss: float = 0.0,
    auxiliary: ml.Tensor | None = None,
    metrics: Metrics | None = None,
) -> LossSums:
    """Cross entropy with a z-loss, and what else the model has to say.

    Where the vocabulary is divided, logits stay where they are: a maximum, a sum and the target's
    logit travel, all of the dims of `targets`.

    Args:
        logits: unnormalized log probabilities.
        targets: the tokens that came; int32.
        weights: how much each token counts; 1 each when left out.
        z_loss: coefficient of logsumexp(logits) ** 2, which keeps logits from drifting (de
            Brebisson and Vincent, 2016); added to each token's loss.
        auxiliary: becomes that of the result; 0 when left out.
        metrics: join those of the result: `cross_entropy` and, with a z-loss, `z_loss`.

    Dims:
        logits            [batch length vocab]
        targets, weights  [batch length]

    Example:
        >>> import meshlang as ml
        >>> def fn(logits, targets):
        ...     sums = token_losses(logits, targets)
        ...     return sums.loss, sums.count
        >>> logits = ml.constant([[0.0, 0.0], [0.0, 0.0]], "batch vocab")
        >>> ml.run(fn, logits=logits, targets=ml.constant([0, 1], "batch"))
        (array(1.3862944, dtype=float32), array(2., dtype=float32))
    """
    logits = ml.cast(logits, "high")
    log_z = ml.logsumexp(logits, "vocab")
    cross_entropy = log_z - ml.gather(logits, targets, dim="vocab")
    batch = {"targets": targets} | ({} if weights is None else {"weights": weights})
    count = weight_count(batch)
    loss = _weighted_sum(cross_entropy, weights)
    found: Metrics = {"cross_entropy": (loss, count)}
    if z_loss:
        extra = _weighted_sum(ml.square(log_z), weights) * z_loss
        found["z_loss"] = (extra, count)
        loss = loss + extra
    auxiliary = ml.zeros("", "high") if auxiliary is None else auxiliary
    return LossSums(loss, count, auxiliary, found | (metrics or {}))


def _weighted_sum(x: ml.Tensor, weights: ml.Tensor | None) -> ml.Tensor:
    return ml.sum(x if weights is None else x * ml.cast(weights, "high"))
