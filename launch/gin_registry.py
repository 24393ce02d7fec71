"""What gin files may name: constructors, registered here and nowhere else."""

from __future__ import annotations

from launch.gin_source import load_gin


def register() -> None:
    """Register the constructors, once a process."""
    if _done:
        return
    _done.append(True)
    gin = load_gin()
    for module, classes in _classes().items():
        for cls in classes:
            gin.external_configurable(cls, name=cls.__name__, module=module)


_done: list[bool] = []


def _classes() -> dict[str, tuple[type, ...]]:
    """By the module name under which gin knows them."""
    import meshlang as ml
    from launch.data.text import PydocText
    from launch.run import Initial, Run, Sampling
    from models import layers, moe
    from models.transformer import Transformer

    return {
        "launch": (Initial, Run, Sampling, PydocText),
        "models": (
            Transformer,
            layers.Attention,
            layers.FeedForward,
            layers.NoPositions,
            layers.RelativeBias,
            layers.Rotary,
            moe.MixtureOfExperts,
            moe.SwitchRouter,
            moe.Top2Router,
        ),
        "optim": (
            ml.optim.Adafactor,
            ml.optim.AdamW,
            ml.optim.BlockClip,
            ml.optim.ByName,
            ml.optim.Clippy,
            ml.optim.Constant,
            ml.optim.Cosine,
            ml.optim.DecayRateAdam,
            ml.optim.DecayRatePow,
            ml.optim.Ema,
            ml.optim.Exponential,
            ml.optim.Lamb,
            ml.optim.LinearDecay,
            ml.optim.LinearWarmup,
            ml.optim.Lion,
            ml.optim.Noam,
            ml.optim.Piecewise,
            ml.optim.Polynomial,
            ml.optim.Product,
            ml.optim.RelativeClip,
            ml.optim.Rsqrt,
            ml.optim.Rule,
            ml.optim.Sgd,
            ml.optim.SlantedTriangular,
            ml.optim.SpikeRule,
            ml.optim.WarmupStableDecay,
        ),
    }
