"""The logits after one place of each row."""

import numpy as np

import meshlang as ml
from models.decode.sample import next_logits
from models.layers import Attention, FeedForward
from models.transformer import Transformer
from tests.harness import DOUBLE

MODEL = Transformer(
    vocab=11,
    layers=2,
    d_model=8,
    attention=Attention(heads=2, d_head=4),
    feed_forward=FeedForward(d_ff=16),
)
WINDOW = ml.spec("batch:3 length:6", "int32")


def test_what_stands_after_the_place_has_no_part():
    def fn(tokens: ml.Tensor, segments: ml.Tensor, place: ml.Tensor) -> list[ml.Tensor]:
        batch = {"tokens": tokens, "segments": segments}
        return [next_logits(MODEL, batch, place), MODEL.logits(batch)]

    specs = {"tokens": WINDOW, "segments": WINDOW, "place": ml.spec("batch:3", "int32")}
    planned = ml.plan(ml.trace(fn, precision=DOUBLE, **specs))
    run = ml.lower(planned, backend="simulated")
    run.initialize(0)
    tokens = np.random.default_rng(6).integers(0, 11, (3, 6)).astype(np.int32)
    place = np.array([0, 3, 5], np.int32)
    filled = (np.arange(6) <= place[:, None]).astype(np.int32)
    after, every = run(tokens=tokens * filled, segments=filled, place=place)
    _, wanted = run(tokens=tokens, segments=np.ones((3, 6), np.int32), place=place)
    np.testing.assert_array_equal(after.numpy(), every.numpy()[np.arange(3), place])
    np.testing.assert_allclose(
        after.numpy(), wanted.numpy()[np.arange(3), place], rtol=0, atol=1e-13
    )
