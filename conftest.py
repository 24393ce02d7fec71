"""What tests and doctests share: one number of virtual devices for each process of pytest."""

import importlib.util

import pytest


@pytest.fixture(scope="session", autouse=True)
def eight_processors() -> None:
    """TensorFlow starts once in a process, and meshes in tests have up to eight processors."""
    if importlib.util.find_spec("tensorflow") is not None:
        from meshlang.lowering.runtime import start

        start(devices=8)
