"""The report in a browser: all is there, on a desktop and a phone, and nothing is asked of the network."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="no browser: needs Debian's chromium and chromium-driver"
    ),
]


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.add_argument(f"--user-data-dir={tmp_path / 'profile'}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def test_the_report(report: Path, browser: webdriver.Chrome) -> None:
    browser.get((report / "report.html").as_uri())
    assert browser.get_log("browser") == []  # nothing was refused by the content security policy

    images = browser.find_elements(By.CSS_SELECTOR, "#photos img")
    assert len(images) == 6
    assert all(image.get_property("naturalWidth") for image in images)
    bars = browser.find_elements(By.CSS_SELECTOR, "#classes .bar i")
    widths = [bar.size["width"] for bar in bars]
    assert len(bars) == 21
    assert widths[0] > widths[1] > 100  # background, and aeroplane, which was predicted aside
    cells = [cell for cell in browser.find_elements(By.CSS_SELECTOR, "#confusion td") if cell.text]
    assert len(cells) == 3 + 2 + 2  # background is taken for both classes, both are taken for it
    colours = [cell.value_of_css_property("background-color") for cell in cells]
    assert len({*colours}) > 3  # the more, the darker

    for width in (1280, 390):
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500},
        )
        shown = browser.execute_script("return document.documentElement.scrollWidth")
        assert shown <= width, f"the page is {shown} pixels wide on a screen of {width}"
