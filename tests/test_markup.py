"""What a model writes, on its way to the page: what it means, and nothing else."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from arriero.markup import PARSER, to_streamlit
from tests.markup_cases import CASES

PLAIN = MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"])
MARKUP = [
    *["a", "中", "“", "”", "：", "*", "**", "***", "_", "__", "~~", "~", "`", "``", "```", "\n", "\n\n", " ", "    "],
    *["[", "](http://a.b)", "(", ")", "#", "# ", "- ", "1. ", "> ", "| ", "|---|\n", "\\", "<b>", "&amp;", "&#32;"],
    *[":", "x:", "!", "=", "===", "-", "---", "<http://a.b>", "{", "}", "\t", ":-", "->", ">=", "@a.b", "www.a"],
]


@pytest.mark.parametrize("name", CASES)
def test_what_is_written_for_the_page(name):
    assert to_streamlit(CASES[name].said) == CASES[name].written


@given(st.text() | st.lists(st.sampled_from([*MARKUP, "$", "$$", "\\(", "\\)", "\\[", "\\]", "\ud800"])).map("".join))
def test_any_text_can_be_drawn(text):
    to_streamlit(text).encode()


@given(st.lists(st.text(st.sampled_from("abc中文，。 é"), min_size=1).map(str.strip).filter(bool), min_size=1))
def test_text_without_marks_is_left_as_it_is(paragraphs):
    text = "\n\n".join(paragraphs)
    assert to_streamlit(text) == text


@given(st.lists(st.sampled_from([*MARKUP, "$x$", "\\(", ":red[x]"])).map("".join))
def test_code_is_left_as_it_is(code):
    code = code.strip("\n")
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", code)), default=0))
    block = f"{fence}\n{code}\n{fence}"
    assert to_streamlit(block) == block


@given(st.lists(st.sampled_from(MARKUP), max_size=14).map("".join))
def test_the_renderer_sees_what_was_parsed(text):
    """Read by CommonMark's own rules it has the same blocks, marks and text."""
    text += "\n\nend"  # so that no block is only begun
    meant = shape(PARSER.parse(text))
    assume("image" not in meant and "math" not in meant and not re.search(r"\[\s*\]\(", text))
    seamless = re.sub(r":color\[(&#58;|\\?.)\]", r"\1", to_streamlit(text).replace(":color[]", "&#8203;"))
    assert shape(PLAIN.parse(seamless)) == meant


def shape(tokens):
    """Kinds and texts in order, without what no reader can see: blanks at ends, marks inside themselves."""
    parts, depth = [], dict.fromkeys(("s", "em", "strong", "link"), 0)
    names = {"code_block": "fence", "softbreak": "break", "hardbreak": "break", "math_inline": "math"}
    for token in flat(tokens):
        kind = token.type.rpartition("_")[0]
        if kind in depth:
            depth[kind] += token.nesting
            if max(depth[kind], depth[kind] - token.nesting) > 1:
                continue
        name = names.get(token.type, token.type)
        content = token.content.removesuffix("\n")
        parts.append({"break": "\n", "text": content}.get(name, f"<{name} {content!r}>"))
    drawn = re.sub(r"[ \t\u200b]*(\n|<[a-z_]+ '[^>]*>)[ \t\u200b]*", r"\1", "".join(parts))
    drawn = re.sub(r"\n+(?=<paragraph_close)|(?<=<paragraph_open ''>)\n+|(?<=\n)\n", "", drawn)
    return re.sub(r"<paragraph_open ''><paragraph_close ''>|<(\w+_list)_close ''><\1_open ''>", "", drawn)


def flat(tokens):
    for token in tokens:
        yield from token.children if token.type == "inline" else [token]
