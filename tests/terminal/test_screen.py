"""What is shown: never a control character, every block once, lines that fit."""

from __future__ import annotations

import io
import itertools
import re
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from arriero.terminal.markdown import UNIT, AnswerMarkdown, Page, blocks, breaks, finished
from arriero.terminal.screen import answering, clean, note

ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31m\x1b]52;c;cm0gLXJm\x1b\\a\rb\x08\x7f\x00"
ANSWER = """# Llamas

They *hum*.
Line two.

1. one

2. two

   still two

```python
print("骆驼")

# a blank line above
```

| a | b |
|---|---|
| 1 | 骆驼 |

> quoted

Text <b>with</b> a [link](https://example.org).
"""


@given(st.text())
@example(ESCAPES)
def test_no_control_character_is_left(text):
    cleaned = clean(text)
    assert not any(unicodedata.category(character) == "Cc" and character not in "\t\n" for character in cleaned)
    assert cleaned == "".join(clean(character) for character in text), "safe piece by piece"


def test_everything_else_is_left_as_it_is():
    text = "a\tb\n骆驼 👩‍👩‍👧 é שלום\u200b"
    assert clean(text) == text


def test_an_answer_cannot_speak_to_the_terminal(capsys):
    with answering() as show:
        for character in ESCAPES:
            show(character)
    note(ESCAPES)
    captured = capsys.readouterr()
    assert captured.out == captured.err == "]0;owned[2J31m]52;c;cm0gLXJm\\ab\n"


def drawn(pieces, width=60, height=20):
    """What a terminal got, every piece drawn for itself, and what then stands on it."""
    output = io.StringIO()
    page = Page(Console(file=output, force_terminal=True, width=width, height=height, highlight=False))
    with page.live:
        for piece in pieces:
            page.add(piece)
            page.draw()
    page.finish()
    return output.getvalue(), screen(output.getvalue())


def screen(output):
    """The lines that a terminal shows after `output`; it understands what Rich writes."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", output):
        if part == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif part == "\r":
            column = 0
        elif part.endswith("A"):
            row -= int(part[2:-1] or 1)
        elif part == "\x1b[2K":
            lines[row] = ""
        elif not part.startswith("\x1b"):
            lines[row] = lines[row][:column].ljust(column) + part
            column += len(part)
    return "\n".join(line.rstrip() for line in lines).rstrip().split("\n")


def test_a_streamed_answer_ends_as_the_whole_one():
    whole = drawn([ANSWER])[1]
    assert drawn(list(ANSWER))[1] == whole
    assert drawn(list(ANSWER), height=4)[1] == whole, "also where no block fits on the screen"


def test_a_finished_block_is_printed_once():
    """Only a growing block is drawn again; what is above it has scrolled away."""
    output, _ = drawn(["first block\n\n", *["second block goes on\n"] * 10])
    assert "first block" not in output[output.index("second block goes on", output.index("second block") + 60) :]
    assert output.count("second block") > 10


def test_what_the_answer_looks_like():
    assert drawn([ANSWER])[1] == [
        "Llamas",
        "",
        "They hum.",
        "Line two.",
        "",
        " 1 one",
        " 2 two",
        "   still two",
        "",
        "```python",
        'print("骆驼")',
        "",
        "# a blank line above",
        "```",
        "",
        " a  b",
        " ───────",
        " 1  骆驼",
        "",
        "▌ quoted",
        "",
        "Text <b>with</b> a link (https://example.org).",
    ]


def test_chinese_bold_is_bold_where_it_was_meant():
    """CommonMark's flanking rule made 内容，**注意： bold, or nothing."""
    output, lines = drawn(["这是**“重点”**内容，**注意：**请看。"])
    assert lines == ["这是“重点”内容，注意：请看。"]
    bold = re.findall(r"\x1b\[1m(.*?)\x1b\[0m", output)
    assert bold[-2:] == ["“重点”", "注意："]


@pytest.mark.parametrize(
    "maths", [r"so \(a_1*b_1*\) and $x*y*z$", "\\[\na\n- b\n= c\n\\]", "$$ a_b*c*d_e $$", "$$\n*a*\nb"]
)
def test_formulas_stay_as_they_were_written(maths):
    r"""Markdown took \( for an escaped bracket, their stars for emphasis and their lines for a list."""
    assert drawn(list(maths))[1] == maths.split("\n")


@given(
    st.lists(
        st.sampled_from(["a", "- a", "1. b", "```", "> q", "# h", "", "    code", "| a |", "|--|", "===", "$$", "\\["])
    )
)
def test_a_finished_block_never_changes(lines):
    """Block by block the answer is what it is as a whole, and more of it changes the last block only."""
    text = "\n".join(lines) + "\n"
    end = finished(text)
    tokens = [(t.type, t.content) for t in AnswerMarkdown(text).parsed]
    parts = [(t.type, t.content) for part in blocks(text) for t in AnswerMarkdown(part).parsed]
    assert parts == tokens
    assert "".join(blocks(text)) == text
    assert end == 0 or text[end - 1] == "\n"
    for more in ("- x\n", "x\n", "===\n"):
        later = finished(text + more)
        assert later >= end


@given(st.text(alphabet="ab 。，（）骆驼é", max_size=60), st.integers(4, 20))
def test_lines_are_broken_where_they_are_full(line, width):
    cuts = [0, *breaks(line, width), len(line)]
    parts = [line[start:end] for start, end in itertools.pairwise(cuts)]
    for part, following in itertools.pairwise(parts):
        assert not re.match("[。，）]", following) or part.endswith(" ")
        unit = UNIT.match(following)[0].rstrip()
        assert cell_len(part) + cell_len(unit) > width, "there was room for more"
    assert all(cell_len(part.rstrip()) <= width or len(UNIT.findall(part)) == 1 for part in parts)


@pytest.mark.parametrize(
    ("line", "width", "parts"),
    [
        ("在 Python 中，可以使用列表。", 12, ["在 Python ", "中，可以使用", "列表。"]),
        ("我们说「你好」。", 10, ["我们说「你", "好」。"]),
        ("我们说「你好」。", 8, ["我们说", "「你", "好」。"]),
        ("plain words only", 11, ["plain words ", "only"]),
    ],
)
def test_chinese_lines(line, width, parts):
    cuts = [0, *breaks(line, width), len(line)]
    assert [line[start:end] for start, end in itertools.pairwise(cuts)] == parts
