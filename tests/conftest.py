"""Shared fixtures."""

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
import torch as th

if TYPE_CHECKING:
    from collections.abc import Iterator

    from selenium.webdriver.remote.webdriver import WebDriver

# How long examples take says how busy the machine is. CI tries the same ones each time; elsewhere they are new
hypothesis.settings.register_profile(
    "any speed",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
    derandomize=bool(os.environ.get("CI")),
)
hypothesis.settings.load_profile("any speed")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Small networks on one thread: tests run side by side, and sums have one order."""
    th.set_num_threads(1)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, with the source distribution that it is built from beside it."""
    directory, root = tmp_path_factory.mktemp("dist"), Path(__file__).parent.parent
    subprocess.run([sys.executable, "-m", "build", "--outdir", directory, root], check=True, capture_output=True)
    (built,) = directory.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[WebDriver]":
    """Chromium, started once for each module of tests."""
    from browser import chromium  # here, for most tests need no Selenium

    with chromium(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened
