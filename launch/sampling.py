"""Continuations of held-out texts, one byte at a time, drawn on the host."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

import meshlang as ml
from launch.data.batches import BOS
from launch.data.topics import Corpus
from launch.run import Run, Sampling


def continuations(
    run: Run, train: ml.Executable, corpus: Corpus, program: ml.Program
) -> list[tuple[str, str]]:
    """Prompts from held-out texts, and what the model writes after each.

    Args:
        run: says how many and how.
        train: whose variables are used.
        corpus: prompts are the first bytes of its longest held-out texts.
        program: the training program: the layout may name dims that only it has.
    """
    sampling = run.sampling
    if sampling.count < 1:
        return []
    rows = run.sample_rows()
    planned = run.plan(run.sample_program(rows), program)
    model = ml.lower(planned, store=train.store)
    texts = sorted(corpus.heldout.values(), key=len, reverse=True)[: sampling.count]
    prompts = [text[: sampling.prompt] for text in texts]
    written = [[BOS, *prompt] for prompt in prompts]
    random = np.random.default_rng(run.seed)
    for _ in range(sampling.size):
        logits = np.asarray(model(**_window(written, rows, run.length, planned.inputs)))
        for row, sequence in enumerate(written):
            sequence.append(draw(logits[row], sampling, random))
    return [
        (_text(prompt), _text(bytes(sequence[1 + len(prompt) :])))
        for prompt, sequence in zip(prompts, written, strict=True)
    ]


def draw(logits: np.ndarray, sampling: Sampling, random: np.random.Generator) -> int:
    """One byte from logits [vocab]; tokens that are no bytes are never drawn.

    >>> draw(np.array([0.0, 3.0]), Sampling(temperature=0.0), np.random.default_rng(0))
    1
    """
    logits = np.array(logits[:256], np.float64)
    if sampling.temperature == 0:
        return int(logits.argmax())
    order = np.argsort(-logits, kind="stable")[: sampling.top_k]
    weights = np.exp((logits[order] - logits[order[0]]) / sampling.temperature)
    return int(random.choice(order, p=weights / weights.sum()))


def _window(
    written: list[list[int]], rows: int, length: int, inputs: Collection[str]
) -> dict[str, np.ndarray]:
    """The last tokens of each sequence, from the left; the place is that of the last one."""
    tokens = np.zeros((rows, length), np.int32)
    segments = np.zeros((rows, length), np.int32)
    place = np.zeros(rows, np.int32)
    for row, sequence in enumerate(written):
        seen = sequence[-length:]
        tokens[row, : len(seen)] = seen
        segments[row, : len(seen)] = 1
        place[row] = len(seen) - 1
    found = {"tokens": tokens, "segments": segments, "place": place}
    return {name: array for name, array in found.items() if name in inputs}


def _text(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")
