"""Pictures of every page, for the docs and for looking at: `python -m tests.web.screens ADDRESS DIRECTORY`.

ADDRESS is that of a running server, such as http://127.0.0.1:6006. Each page is taken in both languages, both schemes
and both widths, into `PAGE-LANGUAGE-SCHEME-WIDTH.png`; on the page "compare" a question is asked first.
"""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import Page, expect

from arriero.web.page import ICONS
from arriero.web.words import say, speaking
from tests.web.browsing import tabs

LOCALES = {"en": "en-US", "zh": "zh-CN"}
SIZES = {1200: 800, 390: 844}
QUESTIONS = {"en": "What is a llama, in **one** sentence?", "zh": "用一句话说明什么是羊驼。"}


def take(address: str, directory: Path, pages: tuple[str, ...] = tuple(ICONS)) -> list[Path]:
    """Take all pictures; returns their files. Raises AssertionError where a page asks anything of another machine."""
    directory.mkdir(parents=True, exist_ok=True)
    taken, outside = [], []
    host = urlsplit(address).netloc
    with tabs(host, outside) as open_tab:
        for name, language, scheme, width in product(pages, LOCALES, ("light", "dark"), SIZES):
            size = {"width": width, "height": SIZES[width]}
            page = open_tab(f"/{name}", viewport=size, color_scheme=scheme, locale=LOCALES[language])
            expect(page.get_by_test_id("stMain")).to_be_visible(timeout=60_000)
            expect(page.locator("[data-testid=stSkeleton], [data-stale=true]")).to_have_count(0, timeout=60_000)
            with speaking(language):
                if name == "compare":
                    compare(page, QUESTIONS[language])
            page.evaluate("document.fonts.ready")
            taken.append(directory / f"{name}-{language}-{scheme}-{width}.png")
            page.screenshot(path=taken[-1])
            page.context.close()
    assert outside == []
    return taken


def compare(page: Page, question: str) -> None:
    """Ask the two models that are chosen, and wait for both."""
    page.get_by_label(say("compare.prompts")).fill(question)
    page.get_by_role("button", name=say("compare.start"), exact=True).click()
    expect(page.get_by_role("button", name=say("compare.tie"))).to_be_visible(timeout=120_000)


if __name__ == "__main__":
    print(*take(sys.argv[1], Path(sys.argv[2])), sep="\n")
