"""Shared fixtures."""

import pytest
import torch as th


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Small networks on one thread: tests run side by side, and sums have one order."""
    th.set_num_threads(1)
