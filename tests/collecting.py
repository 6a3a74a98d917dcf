"""What is done with the tests once they are collected: hooks that `conftest.py` takes over."""

from __future__ import annotations

import gc
from collections.abc import Generator

import pytest


@pytest.hookimpl(tryfirst=True)  # before xdist looks for the marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """For `--dist loadgroup`: a file's tests stay together, and all of Ray's, so that one cluster runs at a time."""
    if not config.pluginmanager.hasplugin("xdist"):  # as in the environment of the real vLLM
        return
    for item in items:
        file = item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group("ray" if file.startswith("tests/cluster/") else file))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported by now stays: to look through it was half of the time of every training run in these tests."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()
