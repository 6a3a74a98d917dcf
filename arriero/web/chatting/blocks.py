"""A growing text in parts: what is finished is drawn once, and only the rest is drawn again."""

from __future__ import annotations

import re

from markdown_it import MarkdownIt

THOUGHT = re.compile(r"\s*(?:<think>)?(.*?)</think>\s*", re.DOTALL)
LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)")  # as CommonMark has lines
PARSER = MarkdownIt("commonmark").enable("table").disable("inline")
THINKING = re.compile(r"\s*<think>(.*)", re.DOTALL)
REDRAW_SHARE = 50  # a part is drawn again when this fraction of it is new, so that its growth sends 50 times its size


def apart(text: str, thought: str | None = None) -> tuple[str | None, str]:
    """Reasoning, None where there is none, and the answer after it.

    `thought` is what came apart; it may also be in the text, of models whose template tells of no tags. Where such a
    template has opened <think> already, an answer begins within it; that is known once it is closed.
    """
    if thought:
        return thought, text
    if (match := THOUGHT.match(text)) is not None:
        return match[1].strip() or None, text[match.end() :]
    if (match := THINKING.match(text)) is not None:
        return match[1], ""
    return None, text


def finished(text: str) -> list[str]:
    """The top-level Markdown blocks that more text cannot change any more; joined they are how `text` begins.

    A block (paragraph, list, table, fence …) is finished once another one has begun below it, on a complete line. A
    stretch with unclosed $$ or \\[ is not: Markdown does not know that display maths may hold blank lines.
    """
    complete = text[: text.rfind("\n") + 1]
    lines = LINE.findall(complete)
    starts = [token.map[0] for token in PARSER.parse(complete) if token.map and token.level == 0]
    parts, begun = [], 0
    for start in starts[1:]:
        block = "".join(lines[begun:start])
        if block and block.count("$$") % 2 == 0 and block.count("\\[") == block.count("\\]"):
            parts.append(block)
            begun = start
    return parts


def worth_drawing(shown: str, text: str) -> bool:
    """Whether enough of `text` is new. An answer's every growth sends the whole part that grows."""
    return (len(text) - len(shown)) * REDRAW_SHARE >= len(text) and text != shown
