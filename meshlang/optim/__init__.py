"""Optimizers, written in the language: elementwise code on kept dims, which moves nothing.

They update variables where the tables `params` and `slots` keep them. Every gradient is a tensor
of global semantics: a plain sum over its dims counts each element once, wherever it lies.
"""

from meshlang.optim.adafactor import Adafactor
from meshlang.optim.adam import AdamW
from meshlang.optim.clip import clip_by_global_norm, clip_factor, global_norm
from meshlang.optim.guard import Applied, all_finite, apply_guarded, count_skipped
from meshlang.optim.optimizer import Optimizer, Target
from meshlang.optim.schedules import Constant, Cosine, LinearWarmup, Product, Rsqrt, Schedule
from meshlang.optim.sgd import Sgd

__all__ = [
    "Adafactor",
    "AdamW",
    "Applied",
    "Constant",
    "Cosine",
    "LinearWarmup",
    "Optimizer",
    "Product",
    "Rsqrt",
    "Schedule",
    "Sgd",
    "Target",
    "all_finite",
    "apply_guarded",
    "clip_by_global_norm",
    "clip_factor",
    "count_skipped",
    "global_norm",
]
