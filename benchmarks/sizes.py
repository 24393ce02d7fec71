"""The model that is measured: its sizes, its weights and its batches, as NumPy alone.

Both sides of a comparison read this file, so that they compute the same function from the same
values. It imports no TensorFlow, since a side may have to set devices up before TensorFlow wakes.

The model is a decoder without positions. A layer is ``x += attention(norm(x))`` and then
``x += feed_forward(norm(x))``; in every second layer the feed-forward network is a mixture of
experts. A last norm and a matrix of its own (not the embedding) make the logits. Norms divide by
the root of the mean square and have a scale; nothing has a bias; the feed-forward is a plain ReLU.
"""

import math
import zlib
from dataclasses import dataclass

import numpy as np

from meshlang.errors import MeshlangError, message

SECOND_EXPERT_POLICIES = ("all", "none", "threshold")
COMPUTE_DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class Sizes:
    """Every number of the measured model; the defaults are the ones that the marks speak of.

    Attributes:
        batch: Rows of a batch.
        length: Tokens of a row.
        vocab: Number of token ids.
        layers: Number of layers.
        d_model: Width of the residual stream.
        heads: Number of attention heads.
        d_head: Width of a head.
        d_ff: Hidden width of a dense feed-forward network.
        experts: Number of experts of a mixture layer.
        d_expert: Hidden width of an expert.
        moe_every: Layer ``i``, counted from 0, is a mixture if ``i + 1`` is a multiple of this.
        group_size: Tokens that share the experts' capacity: neighbours, a divisor of the batch.
        capacity_factor: Places that a group's experts have together for each of its tokens, as
            Mesh-TensorFlow counts them. A token asks for two: the default leaves a quarter free.
        min_capacity: The fewest places of an expert for a group.
        second_expert: When a token goes to its second expert: ``"all"``, ``"none"``, or
            ``"threshold"``, when its normalised gate exceeds ``second_threshold``. All of them
            need no random numbers, so two implementations can agree.
        second_threshold: See ``second_expert``.
        balance_weight: What the balance loss of each mixture layer is multiplied with.
        compute: dtype of activations; variables, optimizer slots and routers are float32.
        learning_rate: Adam's step size.
        beta1: Adam's decay of the mean of gradients.
        beta2: Adam's decay of the mean of their squares.
        epsilon: What Adam adds to the root of the latter, before either is corrected for its start
            from zero, as TensorFlow's kernel does.

    Raises:
        MeshlangError: The batch is no whole number of groups, or a choice is unknown.

    >>> Sizes().capacity, Sizes().groups
    (40, 16)
    """

    batch: int = 16
    length: int = 128
    vocab: int = 2048
    layers: int = 4
    d_model: int = 256
    heads: int = 4
    d_head: int = 64
    d_ff: int = 1024
    experts: int = 8
    d_expert: int = 1024
    moe_every: int = 2
    group_size: int = 128
    capacity_factor: float = 2.5
    min_capacity: int = 4
    second_expert: str = "all"
    second_threshold: float = 0.2
    balance_weight: float = 1e-2
    compute: str = "float32"
    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        if self.batch * self.length % self.group_size:
            rows = [
                ("batch x length", f"{self.batch} x {self.length} = {self.batch * self.length}"),
                ("group_size", self.group_size),
            ]
            fix = "choose a group_size that divides batch x length"
            raise MeshlangError(message("the batch is no whole number of groups.", rows, fix))
        _one_of("second_expert", self.second_expert, SECOND_EXPERT_POLICIES)
        _one_of("compute", self.compute, COMPUTE_DTYPES)

    @property
    def groups(self) -> int:
        """Number of groups in a batch."""
        return self.batch * self.length // self.group_size

    @property
    def capacity(self) -> int:
        """Places of one expert for one group of tokens."""
        places = int(self.group_size * self.capacity_factor / self.experts)
        return max(min(self.group_size, places), self.min_capacity)

    def is_mixture(self, layer: int) -> bool:
        """Whether the feed-forward network of ``layer``, from 0, is a mixture of experts."""
        return (layer + 1) % self.moe_every == 0


def _one_of(field: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        fix = f"use one of: {', '.join(known)}"
        raise MeshlangError(message(f"{field} is {value!r}, which does not exist.", fix=fix))


@dataclass(frozen=True)
class Weight:
    """One weight. Its dims are copies, inputs, outputs in this order, named as fields of `Sizes`.

    Attributes:
        inputs: Dims that a product with the weight sums over, by names with spaces between.
        outputs: Dims that the product gains.
        copies: Dims along which there is one such matrix, or vector, each.
    """

    inputs: str
    outputs: str
    copies: str = ""

    @property
    def dims(self) -> tuple[str, ...]:
        """The dims' names in the order of the array."""
        return tuple(f"{self.copies} {self.inputs} {self.outputs}".split())

    def initial(self, sizes: Sizes, generator: np.random.Generator) -> np.ndarray:
        """Draws a float32 array: normal with variance 1 / inputs; a vector is ones."""
        shape = [getattr(sizes, dim) for dim in self.dims]
        if len(shape) == 1:
            return np.ones(shape, np.float32)
        inputs = math.prod(getattr(sizes, dim) for dim in self.inputs.split())
        return (generator.standard_normal(shape) / math.sqrt(inputs)).astype(np.float32)


NORM = Weight("", "d_model")
ATTENTION = {
    "attention_norm": NORM,
    "query": Weight("d_model", "heads d_head"),
    "key": Weight("d_model", "heads d_head"),
    "value": Weight("d_model", "heads d_head"),
    "output": Weight("heads d_head", "d_model"),
}
FEED_FORWARD = {
    "feed_forward_norm": NORM,
    "wi": Weight("d_model", "d_ff"),
    "wo": Weight("d_ff", "d_model"),
}
MIXTURE = {
    "feed_forward_norm": NORM,
    "router": Weight("d_model", "experts"),
    "expert_wi": Weight("d_model", "d_expert", copies="experts"),
    "expert_wo": Weight("d_expert", "d_model", copies="experts"),
}


def weights_of(sizes: Sizes) -> dict[str, Weight]:
    """Lists the weights: those of layer ``i`` are called ``layer_i/query`` and so on.

    >>> weights_of(Sizes())["layer_1/expert_wi"].dims
    ('experts', 'd_model', 'd_expert')
    >>> "layer_0/expert_wi" in weights_of(Sizes())
    False
    """
    weights = {"embedding": Weight("", "d_model", copies="vocab")}
    for layer in range(sizes.layers):
        parts = ATTENTION | (MIXTURE if sizes.is_mixture(layer) else FEED_FORWARD)
        weights |= {f"layer_{layer}/{name}": weight for name, weight in parts.items()}
    return weights | {"final_norm": NORM, "logits": Weight("d_model", "vocab")}


def initial_weights(sizes: Sizes, seed: int) -> dict[str, np.ndarray]:
    """Draws the weights; each depends on the seed, its own name and its shape alone.

    Args:
        sizes: The model's sizes.
        seed: At least 0.

    Returns:
        float32 arrays with the names and dims of `weights_of`: norms are ones, a matrix is normal
        with a variance of one over its number of inputs, and the embedding has variance one.

    >>> initial_weights(Sizes(), seed=0)["logits"].shape
    (256, 2048)
    """
    return {
        name: weight.initial(sizes, np.random.default_rng([seed, zlib.crc32(name.encode())]))
        for name, weight in weights_of(sizes).items()
    }


def batch(sizes: Sizes, seed: int) -> dict[str, np.ndarray]:
    """Draws tokens and, as targets, the token after each: what a language model is trained on.

    Args:
        sizes: The model's sizes.
        seed: At least 0.

    Returns:
        ``tokens`` and ``targets``: int32 [batch length], uniform over the vocabulary.

    >>> {name: array.shape for name, array in batch(Sizes(), seed=0).items()}
    {'tokens': (16, 128), 'targets': (16, 128)}
    """
    shape = (sizes.batch, sizes.length + 1)
    ids = np.random.default_rng(seed).integers(0, sizes.vocab, shape, dtype=np.int32)
    return {"tokens": ids[:, :-1], "targets": ids[:, 1:]}
