"""Shared fixtures."""

import os
import shutil
from typing import TYPE_CHECKING

import hypothesis
import pytest
import torch as th

if TYPE_CHECKING:
    from collections.abc import Iterator

    from selenium.webdriver.remote.webdriver import WebDriver

# CI tries the same examples each time; elsewhere they are new ones
hypothesis.settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    hypothesis.settings.load_profile("ci")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Small networks on one thread: tests run side by side, and sums have one order."""
    th.set_num_threads(1)


@pytest.fixture
def browser(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[WebDriver]":
    """Chromium without a window."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        if os.environ.get("CI_BROWSER"):
            pytest.fail("CI has to open pages in Chromium, and there is none")
        pytest.skip("Chromium and its driver are not installed (Debian: apt-get install chromium chromium-driver)")
    from selenium import webdriver  # the tests of the core run without it

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
        *("--disable-background-networking", "--disable-component-update", "--window-size=1280,1000"),
        f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):
        options.add_argument(argument)
    opened = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield opened
    opened.quit()
