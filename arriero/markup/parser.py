r"""The parser: CommonMark with tables and `~~strikethrough~~`, and

maths        $…$ under Pandoc's rule (`tex_math_dollars`), $$…$$, \( … \) and \[ … \], as tokens `math` in a
             text, `math_block`, and `math_begun` for a block that has no end
emphasis     also beside Chinese, Japanese and Korean punctuation, where CommonMark's flanking rule finds none
             (https://github.com/tats-u/markdown-cjk-friendly)
not          HTML, which is text; headings by underlining, which would make a heading of the text above a "-"
             that becomes a list
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.parser_inline import ParserInline
from markdown_it.ruler import RuleOptionsType
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline
from markdown_it.rules_inline.state_inline import Scanned

MATHS = re.compile(
    r"\$\$(?P<dollars>[^`]+?)\$\$|\\\[(?P<brackets>.+?)\\\]|\\\((?P<parentheses>.+?)\\\)"
    r"|\$(?![\s$])(?P<dollar>(?:[^$\n`\\]|\\.)*?(?<!\s))\$(?!\d)",
    re.DOTALL,
)
DISPLAYED = {"$$": "$$", "\\[": "\\]"}


class _State(StateInline):
    """An inline parser's state under the CJK-friendly flanking rule."""

    def scanDelims(self, start: int, canSplitWord: bool) -> Scanned:  # noqa: N802, N803  markdown-it's names
        """Whether the run of markers at `start` can open and close emphasis."""
        end = start
        while end < self.posMax and self.src[end] == self.src[start]:
            end += 1
        before = self.src[start - 1] if start else " "
        after = self.src[end] if end < self.posMax else " "
        # CommonMark 0.31, 6.2, but for CJK: punctuation of CJK counts as a letter, a CJK letter beside it as a blank
        left = not after.isspace() and (not _foreign(after) or before.isspace() or _punctuation(before) or _cjk(before))
        right = not before.isspace() and (not _foreign(before) or after.isspace() or _punctuation(after) or _cjk(after))
        return Scanned(
            left and (canSplitWord or not right or _punctuation(before)),
            right and (canSplitWord or not left or _punctuation(after)),
            end - start,
        )


class _Inline(ParserInline):
    """Markdown-it's parser of a paragraph's text, with that state."""

    def parse(self, src: str, md: MarkdownIt, env: Any, tokens: list[Any]) -> list[Any]:
        """Fill `tokens` with what `src` says."""
        state = _State(src, md, env, tokens)
        self.tokenize(state)
        for rule in self.ruler2.getRules(""):
            rule(state)
        return state.tokens


def _punctuation(char: str) -> bool:
    return unicodedata.category(char)[0] in "PS"


def _cjk(char: str) -> bool:
    return unicodedata.east_asian_width(char) in "WFH" and unicodedata.category(char) != "So"


def _foreign(char: str) -> bool:
    """Punctuation of other scripts, “ and ” among it."""
    return _punctuation(char) and not _cjk(char)


def _inline_maths(state: StateInline, silent: bool) -> bool:
    if state.src[state.pos] not in "$\\" or (match := MATHS.match(state.src, state.pos, state.posMax)) is None:
        return False
    if not silent:
        token = state.push("math", "math", 0)
        token.content = next(group for group in match.groups() if group is not None)
        token.markup, token.info = match[0], "display" if match[0][:2] in DISPLAYED else ""
    state.pos = match.end()
    return True


def _block_maths(state: StateBlock, begin: int, end: int, silent: bool) -> bool:
    r"""A block that begins with $$ or \[ and goes to the line that ends with its partner, or to an empty line.

    Without its partner, which may be still to come, it is the text that it is: so no line of a formula is ever drawn
    as a list, and what is drawn of a growing answer stays.
    """
    first = state.getLines(begin, begin + 1, state.blkIndent, False).strip()
    close = DISPLAYED.get(first[:2])
    if state.is_code_block(begin) or close is None or close in first[2:].rstrip().removesuffix(close):
        return False
    if silent:
        return True
    line, ended = begin, len(first) > 3 and first.endswith(close)
    while not ended and line + 1 < end and not state.isEmpty(line + 1) and state.sCount[line + 1] >= state.blkIndent:
        line += 1
        ended = state.getLines(line, line + 1, state.blkIndent, False).rstrip().endswith(close)
    state.line = line + 1
    token = state.push("math_block" if ended else "math_begun", "math", 0)
    token.map, token.block = [begin, state.line], True
    token.markup = state.getLines(begin, state.line, state.blkIndent, False).strip()
    token.content = token.markup[2:-2].strip() if ended else token.markup
    return True


def _parser() -> MarkdownIt:
    made = MarkdownIt("commonmark", {"html": False})  # tags are text here
    made.enable(["strikethrough", "table"]).disable("lheading")
    rules = made.inline
    made.inline = _Inline()
    made.inline.ruler, made.inline.ruler2 = rules.ruler, rules.ruler2
    made.inline.ruler.before("escape", "maths", _inline_maths)
    interrupts: RuleOptionsType = {"alt": ["paragraph", "reference", "blockquote", "list"]}
    made.block.ruler.before("fence", "maths", _block_maths, interrupts)
    return made


PARSER = _parser()
