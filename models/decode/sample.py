"""Sampling one token at a time: the program gives logits, the host draws."""

from collections.abc import Mapping

import meshlang as ml
from models.protocol import TrainableModel


def next_logits(
    model: TrainableModel, batch: Mapping[str, ml.Tensor], place: ml.Tensor
) -> ml.Tensor:
    """The logits of the token after one place of each row of a fixed window.

    What stands after the place has no part in them, so a window that is not yet full serves.

    Args:
        model: see `models.protocol`.
        batch: its inputs, apart from `targets`.
        place: int32; in each row the last token that counts.

    Dims:
        batch    [batch length] each
        place    [batch]
        returns  [batch vocab], in "high" precision

    Example:
        >>> import meshlang as ml
        >>> from models.layers import Attention, FeedForward
        >>> from models.transformer import Transformer
        >>> model = Transformer(
        ...     vocab=11, layers=1, d_model=8, attention=Attention(heads=2, d_head=4),
        ...     feed_forward=FeedForward(d_ff=16))
        >>> fn = lambda tokens, place: next_logits(model, {"tokens": tokens}, place)
        >>> window = ml.spec("batch:2 length:4", "int32")
        >>> ml.trace(fn, tokens=window, place=ml.spec("batch:2", "int32")).outputs
        [Tensor[batch:2 vocab:11] float32]
    """
    logits = model.logits(batch, train=False)
    return ml.cast(ml.gather(logits, place, dim="length"), "high")
