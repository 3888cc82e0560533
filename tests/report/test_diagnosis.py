"""The pages of `untax diagnose`: what they load, what they draw, what they say, and that the same figures give the same bytes."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from untax import predictions
from untax.diagnostics.common import Document, Estimate, Gap, of_tables, transitions
from untax.diagnostics.flips import Flip, Flips
from untax.diagnostics.repetition import repetition
from untax.diagnostics.scored import Scored
from untax.diagnostics.shifts import Concentration, Moved, Point, TokenShift
from untax.predictions import Module, Prediction, SetConflict, Span
from untax.report import charts, diagnosis, prediction
from untax.report.diagnosis import Diagnosis

HOSTILE = "<script>alert(1)</script>"


def at(value: float, low: float = math.nan, high: float = math.nan, n: int = 40) -> Estimate:
    return Estimate(value, low, high, n)


def a_diagnosis(name: str = "facts") -> Diagnosis:
    documents = [Document("garden" if i % 2 else "travel", 0.1 + 0.01 * (i % 7), 0.02 * (i % 3), 30) for i in range(40)]
    pairs = [Gap(2 + 0.1 * (i % 5), 1 + 0.1 * (i % 4), 3.0, 2.0, 4, f"c{i}") for i in range(20)]
    controls = [Gap(1 + 0.1 * (i % 5), 0.9, 1.0, 0.8, 4, f"k{i}") for i in range(20)]
    told = of_tables(documents, pairs, controls, resamples=200)
    lost = transitions([1] * 30 + [0] * 10, [0] * 12 + [1] * 18 + [0] * 10, math.inf, resamples=200)
    whole = Concentration(at(0.2, 0.1, 0.3), at(0.1, 0.05, 0.2), at(2.0, 1.5, 2.5))
    points = tuple(Point(float(t), at(0.1 * t), at(0.05), at(0.2 + t)) for t in range(6))
    shift = TokenShift(
        at(0.8, 0.7, 0.9), at(0.1, 0.05, 0.2), at(0.1, 0.05, 0.2), at(0.3), at(0.4), at(0.2), at(0.5), 0.0, points, points[1:],
        (Moved(5, " the", 7, 3, 1.25, 0.4), Moved(6, "\n", 2, 0, 0.1, 0.1)), None, whole, 12, 0, 240, "the same text",
    )  # fmt: skip
    from untax.diagnostics import layers

    moved = tuple(
        layers.Moved(
            f"model.layers.{layer}.{kind}", layer, kind, 0.1 * (1 + layer), 2.0, 0.05 * (1 + layer), 0.2, 3.0, 1.5, 64
        )
        for layer in range(2)
        for kind in ("q", "mlp")
    )
    flip = Flip("i1", "", f"question {HOSTILE}", "right", "wrong", 1.0, 1)
    return Diagnosis(
        base="lab", tuned="tuned", per="shared token", sentences=told.sentences, shift=shift, moved=moved, notes=("a note",),
        scored=Scored(told.overall, told.selective, {}, told.selectivity, {name: lost}, (0,), ("a remark",)),
        flips=(Flips(name, (flip,) * 15, (), 40, 0, 1, 0.3, 0.0),),
    )  # fmt: skip


def a_prediction() -> Prediction:
    modules = [
        Module(f"layer {layer} {kind}", kind, layer, 64, -0.4, 1.0, 1.0, 0.001, 0.002)
        for layer in (0, 1)
        for kind in ("q", "mlp")
    ]
    modules.append(Module("embedding", "embedding", None, 640, 0.0, 0.0, 1.0, 0.0, 0.0))
    return Prediction(
        learning_rate=1e-3, steps=100, optimizer="adamw", seed=0, safety_rows=8, batch_size=4, safety_loss=3.0, reference_loss=1.0,
        modules=tuple(modules), sets=(SetConflict("general", 8, 80, 1.0, -0.39, 0.004, 0.008),),
        batches=Span(-0.38, 0.02, -0.41, -0.35, 4), alike=Span(0.7, 0.1, 0.6, 0.8, 6), adam_batches=Span(0.008, 0.001, 0.007, 0.009, 4),
        sign_agreement=0.7, measured_step=0.009, measured_far=0.2,
        data=repetition(["I will not say that."] * 8, tokens=[6] * 8, reference_tokens=[20] * 8),
    )  # fmt: skip


def correlated() -> dict:
    rows = [
        {
            "system": f"s{i}",
            "seed": 0,
            "family": f"f{i % 4}",
            "predictors": {"cosine": -0.1 * i, "adam_step": float(i % 3)},
            "tax": float(i),
        }
        for i in range(12)
    ]
    return predictions.correlations(rows, made="2025-11-21", unit="points", scope="twelve invented runs")


def pages(folder: Path) -> list[Path]:
    return [
        diagnosis.write(
            a_diagnosis(), folder, title="tuned against lab", again=[("command", "untax diagnose lab tuned")]
        ),
        prediction.write_prediction(
            a_prediction(), folder, title="lab: a against b", measured=correlated(), again=[("command", "x")]
        ),
    ]


# --------------------------------------------------------------------------- what both pages keep to


def test_pages_load_nothing_and_allow_only_their_own_style(tmp_path):
    for page in pages(tmp_path):
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"""(?:src|href|url)\s*[=(]\s*["']?(?!#)[^"'#\s>]""", text.replace('href="#', "")), page
        assert "http" not in text.replace("http-equiv", "")
        assert "<script" not in text
        assert " style=" not in text
        allowed = re.search(r"style-src 'sha256-([^']+)'", text)
        style = re.search(r"<style>(.*?)</style>", text, flags=re.S)
        assert allowed is not None
        assert style is not None
        assert base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode() == allowed[1]
        assert "script-src" not in text  # default-src 'none' holds for scripts too


def test_the_same_figures_give_the_same_bytes(tmp_path):
    one, two = pages(tmp_path / "one"), pages(tmp_path / "two")
    for first, second in zip(one, two, strict=True):
        for suffix in (".html", ".md", ".json"):
            assert first.with_suffix(suffix).read_bytes() == second.with_suffix(suffix).read_bytes()


def test_what_comes_from_data_is_escaped(tmp_path):
    page = diagnosis.write(a_diagnosis(name=HOSTILE), tmp_path, title=HOSTILE)
    text = page.read_text(encoding="utf-8")
    assert HOSTILE not in text
    assert text.count("&lt;script&gt;alert(1)") > 14
    assert HOSTILE not in (tmp_path / "diagnosis.md").read_text(encoding="utf-8")


def test_json_has_no_number_that_is_none(tmp_path):
    for page in pages(tmp_path):
        json.loads(page.with_suffix(".json").read_text(), parse_constant=pytest.fail)


# --------------------------------------------------------------------------- after a training


def test_the_diagnosis_shows_all_of_its_parts(tmp_path):
    text = diagnosis.write(a_diagnosis(), tmp_path, title="t").read_text(encoding="utf-8")
    for part in ("forgetting", "items", "shift", "where", "again"):
        assert f'id="{part}"' in text
    assert "garden" in text
    assert "and 3 more in diagnosis.json" in text  # 15 lost, 12 shown
    assert "␣the" in text
    assert "⏎" in text
    assert "a remark" in text
    assert "a note" in text
    assert text.count('class="heat"') == 1


def test_what_was_not_measured_has_no_part(tmp_path):
    bare = Diagnosis("lab", "tuned", Scored(None, None, {}, None, {}, (0,)))
    text = diagnosis.write(bare, tmp_path, title="t").read_text(encoding="utf-8")
    assert "no line that tells of forgetting" in text
    for part in ("items", "shift", "where"):
        assert f'id="{part}"' not in text


def test_the_verdict_says_what_was_lost_for_sure():
    """12 of 30 right answers lost, none won: exact McNemar p = 2^-11 < .05; the same with 1 lost is no loss that can be shown."""
    told = diagnosis.verdict(a_diagnosis())
    assert "lost, for sure, in facts (30 %)" in told
    assert "net of control pairs" in told
    assert "by 10 % of their size" in told  # layer 1: .2 / 2
    one = transitions([1] * 30 + [0] * 10, [0] + [1] * 29 + [0] * 10, math.inf, resamples=200)
    made = a_diagnosis()
    scored = Scored(made.scored.overall, None, {}, None, {"facts": one}, (0,))
    told = diagnosis.verdict(Diagnosis("lab", "tuned", scored))
    assert "No line of questions surely lost" in told


def test_the_section_can_stand_on_another_page():
    made = str(diagnosis.section(a_diagnosis().scored))
    assert made.startswith("<section")
    assert made.endswith("</section>")
    assert made.count("<section") == 1
    assert "On ordinary text the model moved" in made
    assert "On ordinary text the model moved" not in str(diagnosis.section(a_diagnosis().scored, told=False))


def test_a_shrink_that_is_not_known_neither_grew_nor_shrank():
    nan = math.nan
    gaps = [Gap(nan, nan, nan, nan, 2, f"{i}") for i in range(5)]
    told = of_tables([Document("", 0.1, 0.0, 30)] * 4, gaps, gaps, resamples=200)
    made = diagnosis.verdict(Diagnosis("a", "b", Scored(told.overall, told.selective, {}, None, {}, (0,))))
    assert "could not be compared; with the control pairs it could not be compared, so nobody knows" in made
    assert "grew" not in made


def test_without_controls_nobody_knows_whether_it_was_selective():
    documents = [Document("", 0.1, 0.0, 30)] * 4
    told = of_tables(documents, [Gap(2.0, 1.0, 2.0, 1.0, 2, f"{i}") for i in range(5)], resamples=200)
    made = diagnosis.verdict(Diagnosis("a", "b", Scored(told.overall, told.selective, {}, None, {}, (0,))))
    assert "shrank by 50 %" in made
    assert "no control pairs" in made


# --------------------------------------------------------------------------- before a training


def test_the_prediction_page_says_what_the_terminal_says(tmp_path):
    made = a_prediction()
    text = prediction.write_prediction(made, tmp_path, title="t", measured=None).read_text(encoding="utf-8")
    terminal = prediction.prediction_table(made)
    assert "Expect a large rise of the reference loss" in terminal
    assert "pull strongly against the references (cosine of the gradients −0.36" in terminal  # -1.6 / sqrt(4 * 5)
    assert "the queries of layers 0 to 1 (cosine −0.40" in terminal
    assert "3.3 times shorter" in terminal
    for line in terminal.splitlines():
        assert line.removeprefix("- ") in text.replace("&#39;", "'")
    assert "Not measured yet" in text
    assert "not measured yet" in prediction.correlation_table(None)
    told = json.loads((tmp_path / "before-training.json").read_text())
    assert told["predictors"]["cosine"] == pytest.approx(-1.6 / math.sqrt(20))
    assert told["measured"] is None


def test_every_correlation_is_printed_with_its_interval_whatever_it_is(tmp_path):
    measured = correlated()
    text = prediction.write_prediction(a_prediction(), tmp_path, title="t", measured=measured).read_text(
        encoding="utf-8"
    )
    table = prediction.correlation_table(measured)
    assert measured["entries"][0]["spearman"] == -1.0
    for entry in measured["entries"]:
        shown = f"{predictions.signed(entry['spearman'])} ({predictions.signed(entry['low'])} to {predictions.signed(entry['high'])})"
        assert shown in table
        assert shown in text
    assert "twelve invented runs" in table
    assert "twelve invented runs" in text


# --------------------------------------------------------------------------- pictures


def test_bars_by_hand():
    """Values 0 and 10: the axis has a twelfth of air on both sides, -.8333 to 10.8333; zero lies at .8333 / 11.6667 = 7.14 %."""
    made = charts.bars([("a", 10.0, 5.0, 10.0, "ten"), ("b", 0.0, math.nan, math.nan, "none")])
    assert made.zero == pytest.approx(7.14)
    assert (made.rows[0].start, made.rows[0].place) == (pytest.approx(7.14), pytest.approx(92.86))
    assert made.rows[0].low == 50.0
    assert (made.rows[1].width, made.rows[1].low) == (0.0, None)
    fixed = charts.bars([("a", -50.0, math.nan, math.nan, "")], least=-100.0, most=100.0)
    assert (fixed.zero, fixed.rows[0].start, fixed.rows[0].width, fixed.rows[0].rising) == (50.0, 25.0, 25.0, False)


def test_heat_maps_by_hand():
    made = charts.heat_map(
        {("r", "a"): 1.0, ("r", "b"): -0.5, ("s", "a"): math.nan}, rows=["r", "s"], columns=["a", "b"]
    )
    assert [(cell.strength, cell.negative) for cell in made.cells] == [(1.0, False), (0.5, True)]
    assert made.cells[1].x - made.cells[0].x == charts.CELL_W
    assert charts.heat_map({("r", "a"): 3.0}, rows=["r"], columns=["a"], full=2.0).cells[0].strength == 1.0


def test_curves_by_hand():
    """x from 0 to 4 is 46 to 330, y from 0 to 2 is 166 up to 12."""
    made = charts.curves({"a": [(0, 0), (4, 2)], "lone": [(0, 1)]}, x_name="x", y_name="y")
    assert made is not None
    assert [line.points for line in made.lines] == ["46.0,166.0 330.0,12.0"]
    assert charts.curves({"lone": [(0, 1)]}, x_name="x", y_name="y") is None


# --------------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[object]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (it is in the dev extra)")
    from selenium.webdriver.chrome.service import Service
    from test_browser import BROWSERS, FLAGS

    binary = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("no Chromium and chromedriver on this machine: the pages were not looked at")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=Service(driver))
    yield started
    started.quit()


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, False), (390, True)])
def test_pages_open_without_an_error_and_fit(browser, tmp_path, width, dark):
    for page in pages(tmp_path):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": [scheme]})
        browser.get(page.as_uri())
        assert browser.get_log("browser") == [], page
        script = "return document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        assert browser.execute_script(script), f"{page} is wider than {width} pixels"
        if os.environ.get("UNTAX_SHOTS"):
            browser.save_screenshot(str(Path(os.environ["UNTAX_SHOTS"]) / f"{page.stem}-{width}.png"))
