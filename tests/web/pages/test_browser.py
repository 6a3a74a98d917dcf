"""The data and models pages in a real browser, served as `arriero serve` does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import ConsoleMessage, Page, expect, sync_playwright

from arriero import hub
from arriero.data.records import read
from arriero.web import Site, set_site
from arriero.web.backend import Choice
from tests.conftest import ROWS
from tests.web.browsing import CHROMIUM, FLAGS, served
from tests.web.pages.visiting import Offering

WAIT = 60_000  # milliseconds


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The page on a free port."""
    with served() as found:
        yield found


@pytest.fixture
def tab(address, home, model_dir, monkeypatch) -> Iterator[Page]:
    """A browser tab on the page, as wide as a telephone; what the browser complains of is an error."""
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine (apt-get install chromium)")
    monkeypatch.setenv("ARRIERO_MODEL", str(model_dir))
    set_site(Site(Offering(Choice("owner/one", window=256))))
    complaints: list[str] = []

    def note(message: ConsoleMessage) -> None:
        if message.type == "error":
            complaints.append(message.text)

    expect.set_options(timeout=WAIT)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_context(viewport={"width": 390, "height": 800}, locale="en-US").new_page()
        page.set_default_timeout(WAIT)
        page.on("console", note)
        page.goto(f"http://{address}/")
        yield page
        browser.close()
    assert complaints == []


def go(page: Page, name: str) -> None:
    """To a page by the sidebar, which a telephone opens and closes."""
    page.get_by_test_id("stExpandSidebarButton").click()
    page.get_by_test_id("stSidebarNav").get_by_role("link", name=name).click()
    expect(page.get_by_role("heading", name=name)).to_be_attached()
    page.get_by_test_id("stSidebarCollapseButton").get_by_role("button").click()


def upload(page: Page, name: str, content: str) -> None:
    page.get_by_test_id("stFileUploader").locator("input").set_input_files(
        {"name": name, "mimeType": "application/json", "buffer": content.encode()}
    )


def test_a_bad_upload_is_explained_a_good_one_shown_edited_and_saved(tab, home):
    go(tab, "Data")
    tab.get_by_text("Upload a file").click()
    upload(tab, "bad.json", '[{"instruction": "a", "output": "b"}, {"instr')
    expect(tab.get_by_text("bad.json, row 1: is not valid JSON")).to_be_visible()
    expect(tab.get_by_text("Try: was the file cut off while copying?")).to_be_visible()
    upload(tab, "rows.json", json.dumps(ROWS))
    expect(tab.locator(".figures")).to_contain_text("Kept8")
    expect(tab.locator("[data-testid=stVegaLiteChart] canvas, [data-testid=stVegaLiteChart] svg")).to_have_count(2)
    tab.get_by_role("radio", name="Rows").click()
    loss = tab.locator(".ids .l[title]")
    expect(loss.first).to_have_text("m")
    assert loss.first.evaluate("span => getComputedStyle(span).backgroundColor") == "rgba(38, 160, 105, 0.28)"
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    tab.get_by_role("button", name="Edit").nth(1).click()
    tab.get_by_role("dialog").get_by_role("textbox", name="output").fill("a llama")
    tab.get_by_role("dialog").get_by_role("textbox", name="output").press("Control+Enter")
    tab.get_by_role("button", name="Keep").click()
    expect(tab.get_by_text("Edited and not saved: 1")).to_be_visible()
    tab.get_by_role("button", name="Save", exact=True).click()
    expect(tab.get_by_text("Saved 8 rows as")).to_be_visible()
    saved = [record for _, record in read(home / "datasets" / "uploads" / "rows-edited.json")]
    assert saved == [ROWS[0], {**ROWS[1], "output": "a llama"}, *ROWS[2:]]


def test_a_model_is_removed_after_a_question_and_not_while_it_is_served(tab, home, model_dir):
    for name in ("owner--one", "owner--two"):
        path = shutil.copytree(model_dir, home / "models" / name)
        hub.store.write_manifest(path, name=name, source="huggingface", revision="abc")
    go(tab, "Models")
    buttons = tab.get_by_role("button", name="Remove")
    expect(buttons.nth(0)).to_be_disabled()
    buttons.nth(1).click()
    tab.get_by_role("button", name="Remove it").click()
    expect(tab.get_by_text("owner/two")).to_have_count(0)
    assert [path.name for path in (home / "models").iterdir()] == ["owner--one"]
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
