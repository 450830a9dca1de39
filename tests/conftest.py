"""Shared fixtures."""

import os

import hypothesis
import pytest
import torch as th

# CI tries the same examples each time; elsewhere they are new ones
hypothesis.settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    hypothesis.settings.load_profile("ci")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Small networks on one thread: tests run side by side, and sums have one order."""
    th.set_num_threads(1)
