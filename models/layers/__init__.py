"""The layers that models are made of."""

from models.layers.attention import Attention
from models.layers.embedding import Embedding
from models.layers.feed_forward import ACTIVATIONS, FeedForward, FeedForwardResult
from models.layers.initial import matrix_init
from models.layers.norms import rms_norm
from models.layers.positions import NoPositions, Position, PositionTerms, RelativeBias, Rotary

__all__ = [
    "ACTIVATIONS",
    "Attention",
    "Embedding",
    "FeedForward",
    "FeedForwardResult",
    "NoPositions",
    "Position",
    "PositionTerms",
    "RelativeBias",
    "Rotary",
    "matrix_init",
    "rms_norm",
]
