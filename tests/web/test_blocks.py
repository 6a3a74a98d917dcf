"""A growing answer in parts: cutting it changes nothing of what is drawn, and little is sent twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from arriero.markup import to_streamlit
from arriero.web.chatting.blocks import apart, finished, worth_drawing
from arriero.web.chatting.live import Growing

LINES = [
    "a", "b **c**", "", "", "- x", "  y", "1. z", "    code", "```", "```py", "~~~", "| a | b |", "|---|---|", "# h",
    "===", "---", "> q", "<b>", "$$", "x^2", "\\[", "\\]", "  - deep", "\tt",
]  # fmt: skip
texts = st.lists(st.sampled_from(LINES), max_size=25).map("\n".join)
MARKDOWN = MarkdownIt("commonmark").enable("table")


@given(texts)
def test_parts_are_drawn_as_the_whole(text):
    parts = finished(text)
    rest = text[len("".join(parts)) :]
    assert text.startswith("".join(parts))
    assert "".join(MARKDOWN.render(part) for part in [*parts, rest]) == MARKDOWN.render(text)


@given(texts, st.data())
def test_what_is_finished_stays_so_whatever_follows(text, data):
    """A growing answer was cut where the next line changed the block above: a table's head, a setext heading."""
    cut = data.draw(st.integers(0, len(text)))
    before, after = finished(text[:cut]), finished(text)
    assert after[: len(before)] == before


@pytest.mark.parametrize("opening", ["```py\n", "- a\n\n  ", "| a |\n|---|\n", "$$\n", "\\[\nx\n\n", "> a\n"])
def test_an_open_block_is_not_cut(opening):
    assert finished("before\n\n" + opening) == ["before\n\n"]


class Place:
    """Counts what is sent: stands for Streamlit's container and its elements."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    def empty(self) -> Place:
        return self

    def markdown(self, text: str) -> None:
        self.sent.append(text)


@pytest.mark.parametrize("line", ["a paragraph that never ends ", "some words\n", "a line of its own\n\n"])
def test_the_growth_of_an_answer_sends_at_most_fifty_times_its_size(line):
    place = Place()
    growing, text = Growing(place), "```\n" if line.endswith("\n") else ""
    for _ in range(600):
        text += line
        growing.draw(text)
    growing.draw(text, whole=True)
    assert sum(map(len, place.sent)) < 60 * len(text)
    assert place.sent[-1] == to_streamlit(text)


def test_nothing_new_is_not_drawn():
    assert not worth_drawing("abc", "abc")
    assert worth_drawing("", "a")


@pytest.mark.parametrize(
    ("text", "thought", "answer"),
    [
        ("yes", None, "yes"),
        ("<think>h", "h", ""),
        ("\n<think>\nhm\n</think>\n\nyes", "hm", "yes"),
        ("hm</think>yes", "hm", "yes"),  # the template has opened it
        ("<think>\n\n</think>\n\nyes", None, "yes"),
        ("a `<think>` tag", None, "a `<think>` tag"),
    ],
)
def test_reasoning(text, thought, answer):
    found, said = apart(text)
    assert (found.strip() if found else found, said) == (thought, answer)
