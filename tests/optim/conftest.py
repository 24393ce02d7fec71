"""Tests of optimizers share one process, hence one number of virtual devices."""

import pytest

from meshlang.lowering import runtime


@pytest.fixture(scope="session", autouse=True)
def devices() -> None:
    runtime.start(devices=8)
