"""Tests of models share one process, hence one number of virtual devices."""

import pytest

import meshlang as ml


@pytest.fixture(scope="session", autouse=True)
def devices() -> None:
    ml.start(devices=8)
