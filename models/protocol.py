"""What a training run asks of a model, and a model of the parts that may stand in its layers."""

from collections.abc import Mapping
from typing import Protocol

import meshlang as ml
from models.losses import LossSums, Metrics


class TrainableModel(Protocol):
    """A language model that `launch` can train, evaluate and sample from.

    Write a class with these four methods, name its module with ``--module``, and its constructor
    in a gin file. Methods are called while a program is traced: variables are made by
    `ml.variable`, and no method knows of devices, meshes or layouts.
    """

    def inputs(self, batch: int, length: int) -> Mapping[str, ml.InputSpec]:
        """The inputs of a training step, by the names that the data has.

        `tokens` int32 [batch length]; `targets`, of the same form, the tokens one place further
        on; `segments`, likewise, which number the texts of a row, if the model wants them.

        Args:
            batch: rows.
            length: tokens of a row.
        """
        ...

    def count(self, batch: Mapping[str, ml.Tensor]) -> ml.Tensor:
        """The sum of a batch's weights: a "high" scalar that depends on the inputs alone.

        It is `LossSums.count` of the same batch; see `models.losses.weight_count`.
        """
        ...

    def __call__(self, batch: Mapping[str, ml.Tensor], *, train: bool) -> LossSums:
        """The losses of a batch.

        Args:
            batch: a tensor for each of `inputs`; in evaluations also `weights` [batch length], 0
                where a row is filled up.
            train: whether what only training has is on: dropout, jitter.
        """
        ...

    def logits(self, batch: Mapping[str, ml.Tensor], *, train: bool = False) -> ml.Tensor:
        """[batch length vocab], for the token after each position. `targets` may be missing."""
        ...


class FeedForwardSlot(Protocol):
    """What may stand in a layer's feed-forward slot: `FeedForward`, `MixtureOfExperts`."""

    def __call__(self, x: ml.Tensor, *, train: bool) -> "SlotResult":
        """Activations [batch length d_model] to a result.

        Variables are made in the scope around. `train` turns on what only training has.
        """
        ...


class SlotResult(Protocol):
    """What a feed-forward slot returns; `models.layers.FeedForwardResult` is one."""

    @property
    def y(self) -> ml.Tensor:
        """Of the dims of the slot's input."""
        ...

    @property
    def auxiliary(self) -> ml.Tensor | None:
        """A "high" scalar to add to the model's loss, or None."""
        ...

    @property
    def metrics(self) -> Metrics:
        """name -> (sum, count)."""
        ...
