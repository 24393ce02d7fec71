"""The position-wise feed-forward network, and the form of result that its stand-ins have."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import meshlang as ml
from models.errors import ModelError, one_of
from models.layers.initial import matrix_init

#: by the name that configurations use; "gelu" is the tanh form, as in T5
ACTIVATIONS: Mapping[str, Callable[[ml.Tensor], ml.Tensor]] = {
    "relu": ml.relu,
    "gelu": ml.gelu_tanh,
    "silu": ml.silu,
}


@dataclass(frozen=True)
class FeedForwardResult:
    """What stands in a layer's feed-forward slot returns this, or a class with these attributes.

    Attributes:
        y: of the dims of its input.
        auxiliary: a loss of its own, a "high" scalar to add to the model's; None when it has none.
        metrics: name -> (sum, count), in "high"; the mean is their quotient.
    """

    __parts__: ClassVar[bool] = True

    y: ml.Tensor
    auxiliary: ml.Tensor | None = None
    metrics: dict[str, tuple[ml.Tensor, ml.Tensor]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class FeedForward:
    """Two matrices with an activation between: ``activation(x in) out``.

    Gated, ``(activation(x gate) * (x in)) out`` (Shazeer, GLU Variants Improve Transformer, 2020).
    Variables: ``in`` and ``gate`` [d_model d_ff], ``out`` [d_ff d_model]. No biases.

    Attributes:
        d_ff: width between the matrices.
        activation: "relu", "gelu" (the tanh form) or "silu".
        gated: with a gate.
        dropout: rate, between the matrices.
        init_scale: of the initial variance of matrices; see `matrix_init`.
    """

    d_ff: int
    activation: str = "relu"
    gated: bool = False
    dropout: float = 0.0
    init_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise ModelError(one_of("FeedForward.activation", self.activation, ACTIVATIONS))

    def __call__(self, x: ml.Tensor, *, train: bool) -> FeedForwardResult:
        """Apply the network at each position.

        Dims:
            x        [dims... d_model]
            returns  y of the same dims

        Example:
            >>> import meshlang as ml
            >>> layer = FeedForward(d_ff=8, gated=True, activation="silu")
            >>> fn = lambda x: layer(x, train=False).y
            >>> ml.trace(fn, x=ml.spec("batch:2 d_model:4")).outputs
            [Tensor[batch:2 d_model:4] float32]
        """
        d_model = x.shape["d_model"]
        widen = ml.Shape([d_model, ml.Dim("d_ff", self.d_ff)])
        into = ml.variable("in", widen, init=matrix_init(d_model.size, self.init_scale))
        activate = ACTIVATIONS[self.activation]
        hidden = ml.einsum(x, into, reduce="d_model")
        if self.gated:
            gate = ml.variable("gate", widen, init=matrix_init(d_model.size, self.init_scale))
            hidden = activate(ml.einsum(x, gate, reduce="d_model")) * hidden
        else:
            hidden = activate(hidden)
        if train:
            hidden = ml.dropout(hidden, self.dropout)
        out = ml.variable(
            "out", ml.Shape(reversed(widen)), init=matrix_init(self.d_ff, self.init_scale)
        )
        return FeedForwardResult(ml.einsum(hidden, out, reduce="d_ff"))
