"""A tiny training from the browser, against a real `arriero serve`."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from arriero.runs import listed, log_tail, state_of
from tests.cli.served import Program

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
WAIT = 90_000  # milliseconds; the training's process imports torch


def number(page: Page, label: str, value: object) -> None:
    box = page.get_by_role("spinbutton", name=label)
    box.fill(str(value))
    box.press("Enter")
    settled(page)


def pick(page: Page, label: str, text: str) -> None:
    box = page.get_by_role("combobox", name=label)
    box.fill(text)
    box.press("Enter")
    settled(page)


def settled(page: Page) -> None:
    """Once the page's script has run."""
    expect(page.get_by_test_id("stApp")).to_have_attribute("data-test-script-state", "notRunning")


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_a_training_is_planned_started_stopped_taken_up_and_served(rows_file, model_dir, tmp_path):
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine (apt-get install chromium)")
    rows = Path(shutil.copy(rows_file, tmp_path / "browser.json"))
    expect.set_options(timeout=WAIT)
    program = Program(tmp_path, model_dir, page=True)
    try:
        address = program.ready()
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            page = browser.new_context(locale="en-GB").new_page()
            complaints: list[str] = []
            page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
            page.set_default_timeout(WAIT)
            page.goto(address)
            page.get_by_role("link", name="Train").click()
            train(page, rows, model_dir)
            browser.close()
            assert [text for text in complaints if "Content Security Policy" in text] == []
    finally:
        program.kill()


def train(page: Page, rows: Path, model_dir: Path) -> None:
    pick(page, "Data", str(rows))
    expect(page.get_by_role("textbox", name="Name of the adapter")).to_have_value(re.compile("^browser"))
    pick(page, "Base model", str(model_dir))
    number(page, "Epochs", 500)
    number(page, "Batch size", 4)
    number(page, "Eval fraction", 0)
    page.get_by_role("button", name="Make a plan").click()
    expect(page.get_by_test_id("stMetricValue").first).to_have_text("1,000")  # steps
    page.get_by_role("button", name="Start training").click()

    expect(page.get_by_text(re.compile(r"^[\d,]+ of 1,000 steps"))).to_be_visible()
    expect(page.get_by_test_id("stVegaLiteChart").locator("canvas, svg").first).to_be_visible()
    record = listed()[0]
    assert (record.data, state_of(record).name) == (str(rows), "running")
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("heading", name="stopped")).to_be_visible()
    assert state_of(record).name == "stopped", log_tail(record)
    page.get_by_role("button", name="Go on").click()
    expect(page.get_by_role("heading", name="finished")).to_be_visible(timeout=150_000)
    report = page.frame_locator("iframe").first
    expect(report.get_by_text("Rows").first).to_be_visible()
    page.get_by_role("button", name="Chat with it").click()
    expect(page).not_to_have_url(re.compile("train"))
    expect(page.get_by_role("combobox", name="Model")).to_have_value(re.compile("^browser"))
