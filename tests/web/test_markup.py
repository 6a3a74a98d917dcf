"""What a browser draws of an answer: every case of the table, through Streamlit's own renderer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.markup_cases import CASES, Case
from tests.web.browsing import served, tabs

SCRIPT = """
import streamlit as st
from arriero.markup import to_streamlit
from tests.markup_cases import CASES

for index, case in enumerate(CASES.values()):
    with st.container(key=f"case-{index}"):
        st.markdown(to_streamlit(case.said))
st.text("all drawn", help=None)
"""
SEEN = """element => {
    const copy = element.cloneNode(true);
    const all = selector => [...copy.querySelectorAll(selector)];
    const texts = selector => all(selector).map(found => found.textContent.trim());
    copy.querySelectorAll("button, [data-testid=stHeaderActionElements]").forEach(found => found.remove());
    const maths = copy.querySelectorAll(".katex").length;
    copy.querySelectorAll(".katex").forEach(found => found.remove());
    copy.querySelectorAll("br").forEach(found => found.replaceWith("\\n"));
    copy.querySelectorAll("td, th, li, p, hr").forEach(found => found.append("\\n"));
    return {
        text: copy.textContent, strong: texts("strong"), em: texts("em"), code: texts("code"), maths: maths,
        links: all("a").map(found => [found.getAttribute("href"), found.rel, found.target]),
        styled: all("p span").filter(found => found.className || found.getAttribute("style")).length,
        pictures: copy.querySelectorAll("img, svg, iframe, video").length,
    };
}"""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """All cases, drawn one below the other; what is asked of another machine fails them all."""
    script = tmp_path_factory.mktemp("page") / "cases.py"
    script.write_text(SCRIPT)
    outside: list[str] = []
    with served(script) as address, tabs(address, outside) as open_tab:
        page = open_tab()
        expect(page.get_by_text("all drawn")).to_be_visible(timeout=60_000)
        expect(page.get_by_test_id("stSkeleton")).to_have_count(0, timeout=60_000)
        yield page
        assert outside == []


@pytest.mark.parametrize("name", CASES)
def test_what_a_reader_sees(drawn, name):
    case: Case = CASES[name]
    place: Locator = drawn.locator(f".st-key-case-{list(CASES).index(name)}")
    seen = place.evaluate(SEEN)
    text = case.said if case.text is None else case.text
    assert seen["text"].split() == text.split()
    assert (seen["strong"], seen["em"], seen["code"]) == (list(case.strong), list(case.em), list(case.code))
    assert seen["maths"] == case.maths
    assert seen["links"] == [[address, "noopener noreferrer", "_blank"] for address in case.links]
    assert (seen["styled"], seen["pictures"]) == (0, 0)
    if case.tags:
        expect(place.locator(case.tags).first).to_be_attached()
