"""report.html: valid, safe, complete where figures are there and silent where they are not."""

from __future__ import annotations

import math
import re
import shutil
from xml.etree import ElementTree

import pytest

from arriero.training.output.page import page
from tests.training.output.sample import EVIL, Reader, metrics, report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SECTIONS = {
    "plan": "shared prefix", "verify": "The check", "data": "alpaca", "dropped": "the output is empty",
    "evaluation": "perplexity", "answers": "Before and after", "system": "System prompt", "versions": "torch 2.9.0",
    "machine": "2 CPU cores", "base_fingerprint": "sha256",
}  # fmt: skip


def test_a_whole_report():
    text = page(report(), metrics(40))
    seen = Reader(text)
    assert "3.71 → 2.5" in " ".join(seen.text.split())
    for told in ("llama-driver", "25% →", "1 min 1 s", "resumed at step 10", "234 computed", "210 lora, 61 norm",
                 "我是托马斯·基斯佩", "did not stop", "The check passed", "3 rows left out", "not set"):  # fmt: skip
        assert told in seen.text
    assert seen.text.count("did not stop") == 1
    assert seen.text.count("You are Tomás") == 1, "told once, not with every answer"
    assert "/home/me" not in text


def test_it_loads_and_runs_nothing():
    text = page(report(), metrics(40))
    assert "://" not in text
    assert not {"script", "link", "img", "iframe"} & set(Reader(text).tags)
    assert "default-src 'none'" in text


def test_drawings_are_xml_with_a_title_and_a_description():
    text = page(report(), metrics(40))
    parts = re.findall(r'(<svg height="\d+" role="img".*?</svg>)\s*</div>', text, re.DOTALL)
    assert len(parts) == 3
    for part in map(ElementTree.fromstring, parts):
        (title, text), names = part[:2], part.get("aria-labelledby").split()
        assert [title.tag, text.tag] == ["title", "desc"]
        assert [title.get("id"), text.get("id")] == names
        assert "at step" in text.text


def test_whatever_is_said_is_text():
    evil = report()
    evil["system"] = evil["model"] = evil["machine"] = EVIL
    evil["result"]["output"] = f"/runs/{EVIL}".replace("</", "<")
    evil["data"] |= {"files": [EVIL], "format": EVIL}
    evil["dropped"] = [{"row": EVIL, "reason": EVIL, "file": EVIL}]
    evil["options"] = {EVIL: EVIL, "list": [EVIL]}
    evil["versions"] = {EVIL: EVIL}
    evil["plan"] |= {"reason": EVIL, "fast": {EVIL: EVIL}}
    evil["answers"] = [
        {"prompt": [{"role": EVIL, "content": EVIL}] * 3, "expected": EVIL,
         "before": {"text": EVIL, "finish_reason": EVIL}, "after": {"text": EVIL, "finish_reason": "stop"}}
    ]  # fmt: skip
    text = page(evil, metrics(5))
    assert "<script" not in text
    assert Reader(text).text.count("<script>alert('x')</script>") >= 14


@pytest.mark.parametrize("missing", SECTIONS)
@pytest.mark.parametrize("value", [None, "left out"])
def test_what_is_missing_is_left_out(missing, value):
    assert SECTIONS[missing] in Reader(page(report(), metrics(5))).text
    some = {name: item for name, item in report().items() if name != missing}
    seen = Reader(page(some if value else {**some, missing: None}, metrics(5))).text
    assert SECTIONS[missing] not in seen
    assert not re.search(r"None|Undefined|not set,", seen)


def test_the_least_there_can_be():
    result = {"output": "run", "steps": 1, "samples": 1, "epochs": 1.0, "eval_loss": None}
    seen = Reader(page({"result": result, "model": "m", "options": {}}, []))
    assert "svg" not in seen.tags
    assert "1 example, 1 epoch" in seen.text
    for absent in ("held-out", "How", "Before", "learned from", "Options", "None"):
        assert absent not in seen.text
    assert "a training run" in page({}, [])


def test_an_empty_report_s_parts():
    nothing = dict.fromkeys(report()) | {"model": "m", "result": {}, "answers": []}
    seen = Reader(page(nothing, []))
    assert "None" not in seen.text
    assert "h2" not in seen.tags


def test_one_step():
    text = page(report(), metrics(1))
    Reader(text)
    assert text.count("<circle") >= 4


def test_no_number_that_is_none():
    """NaN and infinity, which Python writes into JSON and reads back."""
    broken = report()
    for part in ("result", "verify", "data"):
        broken[part] = {name: math.nan if isinstance(v, int | float) else v for name, v in broken[part].items()}
    broken["evaluation"] = {"base": {"nll": math.nan}, "adapter": {"nll": math.inf, "stop_rate": math.nan}}
    broken["best"] = {"step": math.nan, "eval_loss": math.nan}
    broken["options"] = {"learning_rate": math.nan, "list": [math.inf]}
    lines = [{**line, "loss": math.nan, "grad_norm": math.inf} for line in metrics(30)]
    text = page(broken, [*lines, *metrics(10)])
    Reader(text)
    assert not re.search(r"\b(nan|NaN|inf|Infinity|None)\b", text)


def test_a_long_run_is_drawn_with_few_points():
    text = page(report(), metrics(5000))
    lines = re.findall(r'<polyline class="(.*?)" points="(.*?)"', text)
    assert [kind for kind, _ in lines].count("raw") == 2
    assert max(len(points.split()) for _, points in lines) <= 800
    assert len(text) < 100_000


def test_a_check_that_failed_is_told():
    failed = report()
    failed["verify"]["fell_back"] = True
    seen = Reader(page(failed, [])).text
    assert "The check failed" in seen
    assert "The check passed" not in seen


def test_of_many_dropped_rows_some_are_listed():
    many = report() | {"dropped": [{"row": row, "reason": "empty", "file": "a.json"} for row in range(1000)]}
    many["data"]["dropped_count"] = 1000
    seen = Reader(page(many, []))
    assert seen.tags.count("tr") == 1 + 200
    assert "and 800 more" in seen.text


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_it_fits_a_phone(tmp_path):
    from playwright.sync_api import sync_playwright

    long = report()
    long["answers"][0]["after"]["text"] = long["system"] = "基" * 500 + "x" * 500
    (tmp_path / "report.html").write_text(page(long, metrics(300)), encoding="utf-8")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        view = browser.new_page(viewport={"width": 390, "height": 800})
        said: list[str] = []
        view.on("console", lambda message: said.append(message.text))
        view.goto((tmp_path / "report.html").as_uri())
        assert view.evaluate("document.documentElement.scrollWidth") == 390
        assert view.locator("svg.lines").first.bounding_box()["width"] > 250
        assert said == [], "a style or picture that the page's own policy refuses"
        browser.close()
