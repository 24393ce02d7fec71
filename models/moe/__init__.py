"""Mixtures of experts: each token goes through a few of many feed-forward networks."""

from models.moe.dispatch import combine, dispatch
from models.moe.mixture import MixtureOfExperts, MoeResult
from models.moe.routers import Route, Router, SwitchRouter, Top2Router

__all__ = [
    "MixtureOfExperts",
    "MoeResult",
    "Route",
    "Router",
    "SwitchRouter",
    "Top2Router",
    "combine",
    "dispatch",
]
