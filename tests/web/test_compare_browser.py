"""The page "compare" in a real browser: two answers grow side by side, through clicks and a reload."""

from __future__ import annotations

import pytest
from playwright.sync_api import ConsoleMessage, expect

from arriero.web import Local, Site, Visitor, set_site
from tests.web.browsing import served, tabs


def complains(message: ConsoleMessage) -> bool:
    """Whether it is an error. Streamlit's client looks for its server below a page's address first, and finds 404."""
    return message.type == "error" and "/compare/_stcore/" not in message.location["url"]


@pytest.mark.slow
@pytest.mark.parametrize(("locale", "start", "better"), [("en-US", "Compare", "Better"), ("zh-CN", "开始比较", "更好")])
def test_two_answers_side_by_side_and_a_vote(scripted_chat, tmp_path, monkeypatch, locale, start, better):
    monkeypatch.setenv("ARRIERO_HOME", str(tmp_path))
    base, adapter = scripted_chat("这是**“重点”**内容", gate=4), scripted_chat("the adapter's")
    set_site(Site(Local({"base": base, "adapter": adapter}.items)))
    outside: list[str] = []
    errors: list[str] = []
    with served() as address, tabs(address, outside) as open_tab:
        page = open_tab("/compare", locale=locale)
        page.on("console", lambda message: errors.append(message.text) if complains(message) else None)
        expect(page.get_by_test_id("stSidebarNav")).to_contain_text({"Better": "Compare", "更好": "比较"}[better])
        page.locator("textarea").first.fill("你是谁？")
        page.get_by_role("button", name=start).click()
        left, right = (page.locator(f"[class*=st-key-side-][class*='-0-{side}']") for side in (0, 1))
        expect(right).to_contain_text("the adapter's", timeout=60_000)
        expect(left).to_contain_text("这是", timeout=60_000)  # the engine is held at its gate
        page.reload()
        expect(right).to_contain_text("the adapter's", timeout=60_000)
        expect(left).to_contain_text("这是", timeout=60_000)
        base.engine.release.set()
        expect(left.locator("strong")).to_have_text("“重点”", timeout=60_000)
        boxes = left.bounding_box(), right.bounding_box()
        assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]
        left.get_by_role("button", name=better).click()
        expect(page.get_by_test_id("stDataFrame")).to_be_visible(timeout=60_000)
        page.set_viewport_size({"width": 390, "height": 844})
        while page.evaluate("document.documentElement.scrollWidth") > 390:  # the test's own time limit ends this
            pass
    assert len(base.engine.asked) == 1
    assert '"winner": "base"' in (tmp_path / "votes.jsonl").read_text()
    assert (outside, errors) == ([], [])


def test_a_page_asked_for_by_its_address_comes_in_the_frame_and_only_to_whom_it_is_for(scripted_chat):
    """Streamlit ran what lay in a folder `pages` beside its script without asking the script."""
    set_site(Site(Local({"base": scripted_chat("x")}.items), lambda _: Visitor("somebody", admin=False)))
    outside: list[str] = []
    with served() as address, tabs(address, outside) as open_tab:
        page = open_tab("/compare", locale="zh-CN")
        links = page.get_by_test_id("stSidebarNavLink")
        expect(links).to_have_text(["forum对话", "compare比较"], timeout=60_000)
    assert outside == []
