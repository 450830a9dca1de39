"""Pages in a browser without a window. The fixture `browser` is in conftest."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.remote.webdriver import WebDriver


@contextlib.contextmanager
def chromium(profile: Path) -> Iterator[WebDriver]:
    """
    Start Chromium, and end it. Where it is not installed, the test is skipped; it fails if `CI_BROWSER` is set.

    :param profile: A directory for what the browser stores
    """
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (program and driver):
        if os.environ.get("CI_BROWSER"):
            pytest.fail("CI has to open pages in Chromium, and there is none")
        pytest.skip("Chromium and its driver are not installed (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in (
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
        *("--disable-background-networking", "--disable-component-update", "--window-size=1280,1000"),
        f"--user-data-dir={profile}",
    ):
        options.add_argument(argument)
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    try:
        yield browser
    finally:
        browser.quit()
