"""The page of a comparison in a real browser: console, widths, labels, keys, paper. Needs Chromium and its driver."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from frontier_data import twelve_families
from untax.report import frontier as page

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (it is in the dev extra)")
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from test_browser import BROWSERS, FLAGS, shoot  # noqa: E402


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return page.write(twelve_families(), tmp_path_factory.mktemp("compare"))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    binary = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("no Chromium and chromedriver on this machine: the page was not looked at")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(driver))
    yield started
    started.quit()


def show(browser: webdriver.Chrome, path: Path, *, width: int = 1280, dark: bool = False, media: str = "") -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": [scheme]})
    browser.get_log("browser")
    browser.get(path.as_uri())


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, False), (1280, True)])
def test_it_opens_without_an_error_and_fits(
    browser: webdriver.Chrome, written: Path, tmp_path: Path, width: int, dark: bool
) -> None:
    show(browser, written, width=width, dark=dark)
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    pictures = [svg for svg in browser.find_elements(By.CSS_SELECTOR, "#front svg.front") if svg.is_displayed()]
    assert len(pictures) == 1
    assert ("narrow" in str(pictures[0].get_attribute("class"))) == (width == 390)
    assert pictures[0].size["width"] >= 340
    assert shoot(browser, f"compare-{width}{'-dark' if dark else ''}", tmp_path).startswith(b"\x89PNG")


def test_labels_do_not_overlap_on_the_screen(browser: webdriver.Chrome, written: Path) -> None:
    """The real boxes of the real letters; a pixel of their white edges may touch."""
    for width in (1280, 390):
        show(browser, written, width=width)
        script = """return [...document.querySelectorAll("#front svg.front")].filter((s) => s.getBoundingClientRect().width)
            .flatMap((s) => [...s.querySelectorAll(".label text")]).map((t) => { const b = t.getBBox(); return [b.x, b.y, b.width, b.height, t.textContent]; })"""
        boxes = browser.execute_script(script)
        assert len(boxes) >= 6
        for i, (x, y, w, h, name) in enumerate(boxes):
            for ox, oy, ow, oh, other in boxes[:i]:
                assert not (x + 1 < ox + ow and ox + 1 < x + w and y + 3 < oy + oh and oy + 3 < y + h), (name, other)


def test_families_and_sorting_by_keyboard(browser: webdriver.Chrome, written: Path) -> None:
    show(browser, written)
    key = browser.find_element(By.CSS_SELECTOR, "#families span[data-family='replay'] button")
    key.send_keys(Keys.ENTER)
    assert key.get_attribute("aria-pressed") == "true"
    faded = browser.find_elements(By.CSS_SELECTOR, "svg.wide .system.faded")
    assert len(faded) == 44
    assert all(mark.get_attribute("data-family") != "replay" for mark in faded)
    key.send_keys(Keys.SPACE)
    assert not browser.find_elements(By.CSS_SELECTOR, ".faded")
    head = browser.find_element(By.CSS_SELECTOR, "#points th:nth-child(2)")
    for order in ("ascending", "descending", "none"):
        head.find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)
        assert head.get_attribute("aria-sort") == order
        cells = browser.find_elements(By.CSS_SELECTOR, "#points tbody td:nth-child(2)")
        values = [float(str(cell.get_attribute("data-value"))) for cell in cells]
        if order != "none":
            assert values == sorted(values, reverse=order == "descending")
    assert browser.find_element(By.CSS_SELECTOR, "#points tbody th").text == "plain@0.1"


def test_without_javascript_and_on_paper(browser: webdriver.Chrome, written: Path, tmp_path: Path) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        show(browser, written)
        assert len(browser.find_elements(By.CSS_SELECTOR, "#points tbody tr")) == 48
        assert not browser.find_elements(By.CSS_SELECTOR, "#families button")
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    show(browser, written, media="print", width=760, dark=True)
    ink = browser.execute_script("return getComputedStyle(document.body).color")
    assert sum(map(int, ink[4:-1].split(","))) < 200  # dark on white, whatever the screen wears
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert all(box.get_attribute("open") for box in browser.find_elements(By.CSS_SELECTOR, "details.matters"))
    wide = browser.execute_script(
        "return [...document.querySelectorAll('table')].every((t) => t.getBoundingClientRect().right <= innerWidth + 1)"
    )
    assert wide
    shoot(browser, "compare-paper", tmp_path)
    assert os.path.getsize(written) < 1_000_000
