"""A decoder-only transformer."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import meshlang as ml
from models.errors import ModelError
from models.layers import Attention, Embedding, FeedForward, PositionTerms, RelativeBias, rms_norm
from models.layers.attention import causal_mask
from models.layers.positions import Position
from models.losses import LossSums, Metrics, token_losses, weight_count
from models.protocol import FeedForwardSlot, SlotResult

Batch = Mapping[str, ml.Tensor]


@dataclass(frozen=True, kw_only=True)
class Transformer:
    """A language model that predicts each token from those before it; see `models.protocol`.

    A layer is ``x += attention(norm(x))`` and then ``x += feed_forward(norm(x))``. Depth is a scan
    over the dim `layers`: programs do not grow with it, and each variable of a layer is a stack of
    all layers' with `layers` in front. Where experts stand in every k-th layer, a trip of the scan
    is k layers, of which the last has them, and the scopes ``layers/0`` to ``layers/k-1`` tell its
    variables apart.

    Variables: those of `Embedding` and of the positions; ``layers/attention_norm``,
    ``layers/attention/q`` and so on, ``layers/feed_forward_norm``, ``layers/feed_forward/in`` or
    ``layers/moe/...``; ``final_norm``.

    Attributes:
        vocab: number of tokens; may be more than occur, to divide by a mesh.
        layers: how many.
        d_model: width of the residual stream.
        attention: of each layer.
        feed_forward: of the layers without experts; may be left out where all have them.
        moe: experts, for every `moe_every`-th layer's feed-forward slot.
        moe_every: layer i, from 0, has experts if i + 1 is a multiple of this.
        position: how attention learns where tokens stand: `RelativeBias`, `Rotary`, `NoPositions`.
        dropout: rate, of the embedded tokens, of what each layer adds, and of the last
            activations. Attention weights and hidden activations have their own.
        tied: whether the logits use the embedding's table.
        embedding_deviation: of the embedding's initial values.
        z_loss: coefficient of logsumexp(logits) ** 2.
        residual: the precision in which layers add up, "compute" or "high". Where products are in
            bfloat16, "high" spares casts and rounding, and holds twice the bytes for each addend.
        unroll: write depth out instead: the same variables and results, a larger program.

    Raises:
        ModelError: the layers are no whole number of trips, or a feed-forward is missing.
    """

    vocab: int
    layers: int
    d_model: int
    attention: Attention
    feed_forward: FeedForward | None = None
    moe: FeedForwardSlot | None = None
    moe_every: int = 1
    position: Position = field(default_factory=RelativeBias)
    dropout: float = 0.0
    tied: bool = False
    embedding_deviation: float = 1.0
    z_loss: float = 1e-4
    residual: str = "compute"
    unroll: bool = False

    def __post_init__(self) -> None:
        every = self._layers_per_trip
        if every < 1 or self.layers < 1 or self.layers % every:
            rows = [("layers", self.layers), ("moe_every", every)]
            fix = "make layers a multiple of moe_every"
            raise ModelError(
                ml.errors.message("every k-th layer has experts, and k leaves a rest.", rows, fix)
            )
        if self.feed_forward is None and (self.moe is None or every > 1):
            rows = [("feed_forward", None), ("moe", self.moe), ("moe_every", self.moe_every)]
            fix = "give feed_forward=FeedForward(d_ff=...)"
            raise ModelError(
                ml.errors.message("layers without experts need a feed-forward.", rows, fix)
            )

    def inputs(self, batch: int, length: int) -> dict[str, ml.InputSpec]:
        """`tokens`, `targets` and `segments`; see `models.protocol.TrainableModel.inputs`."""
        spec = ml.spec(f"batch:{batch} length:{length}", "int32")
        return {"tokens": spec, "targets": spec, "segments": spec}

    def count(self, batch: Batch) -> ml.Tensor:
        """The sum of a batch's weights; see `models.losses.weight_count`."""
        return weight_count(batch)

    def __call__(self, batch: Batch, *, train: bool) -> LossSums:
        """The losses of a batch; see `models.protocol.TrainableModel.__call__`.

        Dims:
            tokens, targets   [batch length], int32
            segments          the same, may be missing: rows are one text each
            weights           [batch length], "high", may be missing: 1 each

        Example:
            >>> import meshlang as ml
            >>> from models.layers import Attention, FeedForward
            >>> model = Transformer(
            ...     vocab=11, layers=2, d_model=8, attention=Attention(heads=2, d_head=4),
            ...     feed_forward=FeedForward(d_ff=16))
            >>> fn = lambda **batch: model(batch, train=True).loss
            >>> program = ml.trace(fn, **model.inputs(batch=2, length=4))
            >>> program.variables["layers/attention/q"]
            Variable layers/attention/q [layers':2 d_model':8 heads':2 d_head':4] float32
        """
        logits, auxiliary, metrics = self._run(batch, train)
        return token_losses(
            logits,
            batch["targets"],
            weights=batch.get("weights"),
            z_loss=self.z_loss,
            auxiliary=auxiliary,
            metrics=metrics,
        )

    def logits(self, batch: Batch, *, train: bool = False) -> ml.Tensor:
        """[batch length vocab] in "high" precision, for the token after each position."""
        return self._run(batch, train)[0]

    # -- what is traced -----------------------------------------------------------------------

    @property
    def _layers_per_trip(self) -> int:
        return 1 if self.moe is None else self.moe_every

    def _run(self, batch: Batch, train: bool) -> tuple[ml.Tensor, ml.Tensor | None, Metrics]:
        """Logits, the layers' own loss, and their metrics."""
        tokens = batch["tokens"]
        length = tokens.shape["length"].size
        heads = {"heads": self.attention.heads, "d_head": self.attention.d_head}
        mask = causal_mask(length, batch.get("segments"))
        positions = self.position.prepare(length=length, **heads)
        embedding = Embedding(
            vocab=self.vocab,
            d_model=self.d_model,
            tied=self.tied,
            deviation=self.embedding_deviation,
        )
        x = ml.cast(self._dropped(embedding.lookup(tokens), train), self.residual)

        def trip(x: ml.Tensor, _: None) -> tuple[ml.Tensor, tuple[ml.Tensor | None, Metrics]]:
            with ml.scope("layers"):
                return self._layers(x, mask, positions, train)

        over = f"layers:{self.layers // self._layers_per_trip}"
        x, (auxiliaries, metrics) = ml.scan(trip, x, over=over, unroll=self.unroll)
        auxiliary = None if auxiliaries is None else ml.sum(auxiliaries)
        metrics = {
            name: (ml.sum(total, "layers"), ml.sum(count, "layers"))
            for name, (total, count) in metrics.items()
        }
        x = self._dropped(rms_norm(x, "final_norm"), train)
        return embedding.logits(x), auxiliary, metrics

    def _layers(
        self, x: ml.Tensor, mask: ml.Tensor, positions: PositionTerms, train: bool
    ) -> tuple[ml.Tensor, tuple[ml.Tensor | None, Metrics]]:
        """One trip of the scan: the layers up to the next one with experts."""
        auxiliary, metrics = None, {}
        for place in range(self._layers_per_trip):
            last = place + 1 == self._layers_per_trip
            if self._layers_per_trip == 1:
                x, result = self._layer(x, last, mask, positions, train)
            else:
                with ml.scope(f"{place}"):
                    x, result = self._layer(x, last, mask, positions, train)
            if result.auxiliary is not None:
                auxiliary = result.auxiliary
            metrics |= result.metrics
        return x, (auxiliary, metrics)

    def _layer(
        self, x: ml.Tensor, last: bool, mask: ml.Tensor, positions: PositionTerms, train: bool
    ) -> tuple[ml.Tensor, SlotResult]:
        normed = rms_norm(x, "attention_norm")
        with ml.scope("attention"):
            y = self.attention(normed, mask=mask, positions=positions, train=train)
        x = x + ml.cast(self._dropped(y, train), self.residual)
        normed = rms_norm(x, "feed_forward_norm")
        if self.moe is not None and last:
            with ml.scope("moe"):
                result = self.moe(normed, train=train)
        else:
            assert self.feed_forward is not None  # checked when the model was made
            with ml.scope("feed_forward"):
                result = self.feed_forward(normed, train=train)
        return x + ml.cast(self._dropped(result.y, train), self.residual), result

    def _dropped(self, x: ml.Tensor, train: bool) -> ml.Tensor:
        return ml.dropout(x, self.dropout) if train else x
