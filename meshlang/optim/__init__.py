"""Optimizers, written in the language: elementwise code on kept dims, which moves nothing.

They update variables where the tables `params` and `slots` keep them. Every gradient is a tensor
of global semantics: a plain sum over its dims counts each element once, wherever it lies.
"""

from meshlang.optim.adafactor import Adafactor
from meshlang.optim.adam import AdamW
from meshlang.optim.average import Ema, averaged, has_averages
from meshlang.optim.by_name import ByName, Rule
from meshlang.optim.clip import BlockClip, clip_by_global_norm, clip_factor, global_norm
from meshlang.optim.clippy import Clippy, RelativeClip
from meshlang.optim.decays import (
    DecayRateAdam,
    DecayRatePow,
    Exponential,
    LinearDecay,
    Noam,
    Piecewise,
    Polynomial,
    SlantedTriangular,
    WarmupStableDecay,
)
from meshlang.optim.guard import Applied, all_finite, apply_guarded, count_skipped
from meshlang.optim.lamb import Lamb
from meshlang.optim.lion import Lion
from meshlang.optim.optimizer import Optimizer, Target
from meshlang.optim.schedules import Constant, Cosine, LinearWarmup, Product, Rsqrt, Schedule
from meshlang.optim.sgd import Sgd
from meshlang.optim.spikes import SpikeRule

__all__ = [
    "Adafactor",
    "AdamW",
    "Applied",
    "BlockClip",
    "ByName",
    "Clippy",
    "Constant",
    "Cosine",
    "DecayRateAdam",
    "DecayRatePow",
    "Ema",
    "Exponential",
    "Lamb",
    "LinearDecay",
    "LinearWarmup",
    "Lion",
    "Noam",
    "Optimizer",
    "Piecewise",
    "Polynomial",
    "Product",
    "RelativeClip",
    "Rsqrt",
    "Rule",
    "Schedule",
    "Sgd",
    "SlantedTriangular",
    "SpikeRule",
    "Target",
    "WarmupStableDecay",
    "all_finite",
    "apply_guarded",
    "averaged",
    "clip_by_global_norm",
    "clip_factor",
    "count_skipped",
    "global_norm",
    "has_averages",
]
