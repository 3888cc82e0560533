"""The page in a real browser: no console error, filters, blurred text, keys, paper, phone. Needs Chromium and its driver."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from receipt_data import SPECS, spoiled, system
from untax.receipt import make
from untax.report import examples, page

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (it is in the dev extra)")
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select  # noqa: E402

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)  # fmt: skip
INSULT = "you zorgling"
ATTACK = "</script><script>window.hacked=1</script><img src=x onerror='window.hacked=1'>"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    binary = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip(
            f"no {'Chromium' if binary is None else 'chromedriver'} on this machine: the page was not looked at"
        )
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(driver))
    yield started
    started.quit()


@pytest.fixture(scope="module")
def receipt_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    specs = (SPECS[0], SPECS[2], SPECS[4], SPECS[5])

    def insulting(scores):  # type: ignore[no-untyped-def]
        return spoiled(
            scores, "toxicity", lambda i, row: replace(row, answer=INSULT if row.score else f"polite answer {i}")
        )

    base = insulting(system(n=220, specs=specs))
    base = spoiled(base, "facts", lambda i, row: replace(row, prompt=ATTACK if i == 0 else row.prompt))
    both = {}
    for name, shift in (
        ("contrastive", {"toxicity": -0.36}),
        ("sft", {"toxicity": -0.3, "facts": -0.1, "perplexity": 0.1}),
    ):
        both[name] = [insulting(system(name, seed=s, n=220, specs=specs, shift=shift)) for s in (0, 1)]
    made = [make(base, both["contrastive"], resamples=500), make(base, both["sft"], resamples=500)]
    made.append(make(both["sft"], both["contrastive"], resamples=500))
    found = [e for tuned in both.values() for e in examples.collect(base, tuned)]
    log = [{"step": i, "loss": 2 / (1 + i)} for i in range(20)]
    return page.write(
        made, tmp_path_factory.mktemp("run"), title=f"Looked at {ATTACK}", examples=found,
        curves={"contrastive-seed0": log, "sft-seed0": log}, environment={"command": "untax run x.yaml"},
    )  # fmt: skip


def shoot(browser: webdriver.Chrome, name: str, tmp_path: Path) -> bytes:
    """A screenshot of the whole page; kept where UNTAX_SCREENSHOTS points, if it does."""
    height = browser.execute_script("return Math.min(document.documentElement.scrollHeight, 6000)")
    width = browser.execute_script("return document.documentElement.clientWidth")
    clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True})
    folder = Path(os.environ.get("UNTAX_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.png").write_bytes(base64.b64decode(shot["data"]))
    return (folder / f"{name}.png").read_bytes()


def show(browser: webdriver.Chrome, path: Path, *, width: int = 1280, dark: bool = False, media: str = "") -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    still = {"name": "prefers-reduced-motion", "value": "reduce"}  # clicks would chase a page that glides
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": [scheme, still]})
    browser.get_log("browser")
    browser.get(path.as_uri())


def count(browser: webdriver.Chrome) -> int:
    return int(browser.find_element(By.ID, "count").text.split(" ")[0].replace(",", ""))


def pick(browser: webdriver.Chrome, change: str) -> None:
    browser.find_element(By.CSS_SELECTOR, f"input[name=change][value={change}]").click()


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, False), (1280, True)])
def test_it_opens_without_an_error_and_fits(
    browser: webdriver.Chrome, receipt_page: Path, tmp_path: Path, width: int, dark: bool
) -> None:
    show(browser, receipt_page, width=width, dark=dark)
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert "of 2 abilities" in browser.find_element(By.CSS_SELECTOR, ".sentence").text
    assert shoot(browser, f"receipt-{width}{'-dark' if dark else ''}", tmp_path).startswith(b"\x89PNG")
    paper = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, paper[4:-1].split(","))) < 200) == dark


def test_nothing_from_the_data_runs(browser: webdriver.Chrome, receipt_page: Path) -> None:
    show(browser, receipt_page)
    Select(browser.find_element(By.ID, "f-metric")).select_by_visible_text("facts")
    browser.find_element(By.ID, "f-text").send_keys("facts-0")
    assert ATTACK in browser.find_element(By.ID, "list").text
    assert ATTACK in browser.find_element(By.TAG_NAME, "h1").text
    assert browser.execute_script("return window.hacked") is None
    assert browser.get_log("browser") == []


def test_a_script_that_slipped_in_would_be_stopped(browser: webdriver.Chrome, receipt_page: Path) -> None:
    show(browser, receipt_page)
    browser.execute_script(
        "const s = document.createElement('script'); s.textContent = 'window.late = 1'; document.body.append(s)"
    )
    assert browser.execute_script("return window.late") is None
    assert any("Content Security Policy" in entry["message"] for entry in browser.get_log("browser"))


def test_filters(browser: webdriver.Chrome, receipt_page: Path) -> None:
    show(browser, receipt_page)
    every = count(browser)
    counts = {}
    for change in ("flipped", "worse", "better", "same"):
        pick(browser, change)
        counts[change] = count(browser)
    assert counts["worse"] + counts["better"] == counts["flipped"]  # only 0/1 metrics have answers here
    assert counts["flipped"] + counts["same"] == every
    assert 0 < counts["worse"] < counts["better"]
    pick(browser, "better")
    assert {c.text[0] for c in browser.find_elements(By.CSS_SELECTOR, ".score")} == {"▲"}
    Select(browser.find_element(By.ID, "f-system")).select_by_visible_text("sft against base")
    Select(browser.find_element(By.ID, "f-metric")).select_by_visible_text("toxicity")
    assert 0 < count(browser) < counts["better"]
    assert all(c.text.startswith("▲ toxicity 1 → 0") for c in browser.find_elements(By.CSS_SELECTOR, ".score"))
    browser.find_element(By.ID, "f-text").send_keys("no such thing")
    assert browser.find_element(By.ID, "count").text == "No example fits these filters."


def test_toxic_text_is_not_shown_unasked(browser: webdriver.Chrome, receipt_page: Path) -> None:
    show(browser, receipt_page)
    Select(browser.find_element(By.ID, "f-metric")).select_by_visible_text("toxicity")
    pick(browser, "better")
    listed = browser.find_element(By.ID, "list")
    assert INSULT not in browser.execute_script("return arguments[0].textContent", listed)
    assert "polite answer" in listed.text
    veil = listed.find_element(By.CSS_SELECTOR, ".before .veil")
    veil.send_keys(Keys.ENTER)
    assert listed.text.count(INSULT) == 1
    listed.find_elements(By.CSS_SELECTOR, ".before .veil")[0].click()
    assert listed.text.count(INSULT) == 2
    browser.find_element(By.TAG_NAME, "h1").click()
    browser.switch_to.active_element.send_keys("r")
    assert listed.text.count(INSULT) == 20
    assert browser.find_element(By.ID, "f-unveil").is_selected()
    browser.switch_to.active_element.send_keys("r")
    assert INSULT not in listed.text


def test_pages_and_keys(browser: webdriver.Chrome, receipt_page: Path) -> None:
    show(browser, receipt_page)
    first = browser.find_element(By.CSS_SELECTOR, ".example .meta").text
    browser.find_element(By.ID, "next").click()
    assert browser.find_element(By.ID, "page").text.startswith("page 2 of")
    assert browser.find_element(By.CSS_SELECTOR, ".example .meta").text != first
    browser.switch_to.active_element.send_keys("p")
    assert browser.find_element(By.ID, "page").text.startswith("page 1 of")
    assert not browser.find_element(By.ID, "prev").is_enabled()
    for _ in range(2):
        browser.switch_to.active_element.send_keys("j")
    assert browser.switch_to.active_element == browser.find_elements(By.CSS_SELECTOR, ".example")[1]
    browser.find_element(By.ID, "f-text").send_keys("jnkpr")  # letters typed into the search are only letters
    assert browser.find_element(By.ID, "count").text == "No example fits these filters."


def test_a_line_of_the_ledger_opens(browser: webdriver.Chrome, receipt_page: Path) -> None:
    show(browser, receipt_page)
    line = browser.find_element(By.CSS_SELECTOR, "#ledger summary")
    line.send_keys(Keys.ENTER)
    assert "after Holm" in browser.find_element(By.CSS_SELECTOR, "#ledger .more").text


def test_paper(browser: webdriver.Chrome, receipt_page: Path, tmp_path: Path) -> None:
    show(browser, receipt_page, media="print", width=760, dark=True)
    ink = browser.execute_script("return getComputedStyle(document.body).color")
    assert sum(map(int, ink[4:-1].split(","))) < 200  # dark on white, whatever the screen wears
    assert not browser.find_element(By.ID, "tools").is_displayed()
    assert not browser.find_element(By.TAG_NAME, "nav").is_displayed()
    pdf = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": False})["data"])
    assert pdf.startswith(b"%PDF")
    shoot(browser, "receipt-paper", tmp_path)
