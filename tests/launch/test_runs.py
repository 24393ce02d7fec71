"""Every configuration under gin/runs/ builds, is used to the last binding, and plans."""

from collections.abc import Callable
from pathlib import Path

import pytest

from launch import gin_config
from launch.gin_registry import register
from launch.run import Run

FOLDER = Path(__file__).resolve().parents[2] / "gin" / "runs"
#: what a file leaves to the command line
REQUIRED = {
    "pydoc.gin": (
        "Run.model=@Transformer()",
        *(
            "Transformer.vocab=264",
            "Transformer.layers=2",
            "Transformer.d_model=32",
            "Transformer.attention=@Attention()",
            "Transformer.feed_forward=@FeedForward()",
            "Attention.heads=4",
            "Attention.d_head=8",
            "FeedForward.d_ff=64",
        ),
    )
}


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.gin")))
def test_a_configuration(name: str, golden: Callable[[str, str], None]) -> None:
    register()
    with gin_config.configured([f"runs/{name}"], REQUIRED.get(name, ())) as config:
        run = config.build(Run)
        config.check_used()
        text = config.operative_text()
    planned = run.plan(run.train_program(), run.eval_program())
    assert planned.cost.flops > 0
    golden(f"launch/{name}", text + "\n")


def test_microbatches_are_one_large_batch() -> None:
    """Sums and counts add up: losses and updates are equal, also with experts."""
    from dataclasses import replace

    import numpy as np

    import meshlang as ml
    from launch.data.batches import BatchSource

    register()
    tiny = [str(Path(__file__).parent / "tiny.gin")]
    with gin_config.configured(
        tiny, ["MESH='data:2 model:2'", "Top2Router.second_policy='all'"]
    ) as config:
        whole = config.build(Run)
    batch = BatchSource({"a": bytes(range(256)) * 8}, batch=8, length=32).at(0)
    found = []
    for run in (whole, replace(whole, microbatches=4)):
        double = ml.Precision("float64", "float64", "float64")
        step = ml.lower(run.plan(run.train_program(double)))
        step.initialize(seed=0)
        losses = [float(step(**batch)["loss"]) for _ in range(3)]
        found.append((losses, {name: step[name] for name in step.plan.variables}))
    (losses, variables), (in_parts, variables_in_parts) = found
    np.testing.assert_allclose(in_parts, losses, rtol=1e-9)
    for name, value in variables.items():
        np.testing.assert_allclose(variables_in_parts[name], value, atol=1e-9, err_msg=name)


def test_a_model_with_fewer_tokens_than_the_data() -> None:
    """Ids that it lacks would be looked up as zeros, and said nothing about."""
    from launch.errors import ConfigError

    register()
    tiny = [str(Path(__file__).parent / "tiny.gin")]
    with gin_config.configured(tiny, ["Transformer.vocab=256"]) as config:
        run = config.build(Run)
    run.check_vocabulary(256)
    with pytest.raises(ConfigError) as error:
        run.check_vocabulary(257)
    assert str(error.value) == (
        "the model has fewer tokens than the data.\n"
        "  vocab               256\n"
        "  tokens of the data  257\n"
        "  fix: give the model a vocab of 257 or more"
    )
