"""Markdown for a terminal, as it streams in.

Finished blocks (paragraphs, lists, pieces of code …) are printed once and scroll away as any text. Only the last block
is drawn again as it grows, and of that no more than fits on the screen.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import ClassVar

from markdown_it.token import Token
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, JustifyMethod, RenderResult
from rich.live import Live
from rich.markdown import CodeBlock, Heading, Markdown, Paragraph
from rich.segment import Segment
from rich.syntax import Syntax
from rich.text import Text

from arriero.markup import PARSER

WIDE = "\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe4f\uff00-\uff60\uffe0-\uffe6"
OPENING, CLOSING = "〈《「『【〔〖（｛“‘", "、。〉》」』】〕〗！），．：；？｝…—”’"
# What is never broken: a wide character or a word, with the punctuation that must not stand alone before or after it.
UNIT = re.compile(rf"\s*[{OPENING}]*(?:[{WIDE}]|[^\s{WIDE}]+)[{CLOSING}]*\s*")
INTERVAL = 0.05  # seconds between drawings, at least
SHARE = 0.1  # of the time may go into drawing


@contextlib.contextmanager
def streamed() -> Iterator[Callable[[str], None]]:
    """A function that takes the answer's text as it comes; a thread draws it on standard output."""
    page = Page(Console(highlight=False))
    drawing = threading.Thread(target=page.run, name="markdown", daemon=True)
    try:
        with page.live:
            drawing.start()
            try:
                yield page.add
            finally:
                page.stop()
                drawing.join()
    finally:
        page.finish()


class Page:
    """What is drawn of one answer. `_text` is what follows the last block that was printed for good.

    Only one thread at a time draws, which is the one in `run` until `stop`.
    """

    def __init__(self, console: Console) -> None:
        self.live = Live(console=console, auto_refresh=False, transient=True)
        self._console = console
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._new: list[str] = []
        self._text = ""
        self._begun = False

    def add(self, text: str) -> None:
        """Take in more text, without drawing it: an interrupt cannot leave a drawing half done."""
        with self._lock:
            self._new.append(text)

    def run(self) -> None:
        """Draw what is new now and then, until `stop`."""
        pause = INTERVAL
        while not self._stopped.wait(pause):
            started = time.monotonic()
            self.draw()
            # a drawing of t seconds is followed by t * (1 / SHARE - 1) without one: SHARE of the time
            pause = max(INTERVAL, (time.monotonic() - started) * (1 / SHARE - 1))

    def stop(self) -> None:
        """Have `run` return."""
        self._stopped.set()

    def draw(self) -> None:
        """Print blocks that are finished and draw the growing one again, if there is anything new."""
        if not self._take():
            return
        end = finished(self._text)
        done, self._text = self._text[:end], self._text[end:]
        self.live.update(_Drawn(self._text, after=self._begun or end > 0, fitting=True))
        if end:
            self._print(done)  # above the growing block, which is drawn again with it
        else:
            self.live.refresh()

    def finish(self) -> None:
        """Print the last block, once the growing one is gone from the screen."""
        self._take()
        if self._text.strip():
            self._print(self._text)

    def _print(self, text: str) -> None:
        self._console.print(_Drawn(text, after=self._begun))
        self._begun = True

    def _take(self) -> bool:
        """Move what is new to the text; whether there was anything."""
        with self._lock:
            new, self._new = self._new, []
        self._text += "".join(new)
        return bool(new)


def finished(text: str) -> int:
    """How many characters at the beginning of `text` are whole blocks: nothing that follows can change them.

    That is all but the last block, as Markdown closes blocks in order. A line that is still being written may turn
    out to go on with the block before it, so it does not count.
    """
    return sum(map(len, blocks(text[: text.rfind("\n") + 1])[:-1]))


def blocks(text: str) -> list[str]:
    """The text cut before every block but the first, nested ones aside."""
    lines = [f"{line}\n" for line in text.split("\n")]
    lines[-1] = lines[-1][:-1]
    starts = [token.map[0] for token in PARSER.parse(text) if token.level == 0 and token.map]
    return ["".join(lines[begin:end]) for begin, end in pairwise([0, *starts[1:], len(lines)])]


class _Drawn:
    """Blocks with an empty line between them, and before them where they come `after` others.

    With `fitting` only as many of the last lines as fit on the screen.
    """

    def __init__(self, text: str, *, after: bool, fitting: bool = False) -> None:
        self._text = text
        self._after = after
        self._fitting = fitting

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines: list[list[Segment]] = []
        for block in blocks(self._text):
            drawn = console.render_lines(AnswerMarkdown(block), options, pad=False)
            full = [index for index, line in enumerate(drawn) if any(segment.text.strip() for segment in line)]
            if full:  # some of Rich's elements come with empty lines around them
                lines += [[]] if lines or self._after else []
                lines += drawn[full[0] : full[-1] + 1]
        # one line less than the screen has, or the cursor below them would make it scroll
        for line in lines[1 - max(2, options.size.height) :] if self._fitting else lines:
            yield from line
            yield Segment.line()


class _Heading(Heading):
    """Rich centres the first level."""

    LEVEL_ALIGN: ClassVar[dict[str, JustifyMethod]] = {}


class _CodeBlock(CodeBlock):
    """Code between its fences, in the terminal's own colours and without an indent that would be copied along."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text("```" + ("" if self.lexer_name == "text" else self.lexer_name), style="dim")
        yield Syntax(str(self.text).rstrip(), self.lexer_name, theme="ansi_dark", word_wrap=True)
        yield Text("```", style="dim")


class _Paragraph(Paragraph):
    """Broken between Chinese, Japanese and Korean characters too, and not before their closing punctuation.

    Rich breaks at blanks only, so that a line with some Latin words in it would end at the last of them.
    """

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in self.text.split("\n"):
            for row in line.divide(breaks(line.plain, options.max_width)):
                row.rstrip()
                yield row


def breaks(line: str, width: int) -> list[int]:
    """Offsets at which to break a line so that no row takes more than `width` cells, as far as its words allow."""
    offsets, used = [], 0  # used: cells of the row so far, trailing blanks included
    for unit in UNIT.finditer(line):
        if used and used + cell_len(unit[0].rstrip()) > width:
            offsets.append(unit.start())
            used = 0
        used += cell_len(unit[0])
    return offsets


class AnswerMarkdown(Markdown):
    """Rich's Markdown, but tags and formulas stay as written, line ends are kept, and a link shows where it leads."""

    elements = Markdown.elements | {
        "heading_open": _Heading, "paragraph_open": _Paragraph, "fence": _CodeBlock, "code_block": _CodeBlock,
    }  # fmt: skip

    def __init__(self, text: str) -> None:
        super().__init__("", hyperlinks=False)
        self.parsed = [plain for token in PARSER.parse(text) for plain in _without_maths(token)]
        for token in self.parsed:
            for child in token.children or ():
                if child.type == "softbreak":
                    child.type = "hardbreak"
                elif child.type == "math":
                    child.type, child.content = "text", child.markup


def _without_maths(token: Token) -> list[Token]:
    """The token itself, or a paragraph of the lines of a formula."""
    if token.type not in ("math_block", "math_begun"):
        return [token]
    lines = [Token("text", "", 0, content=line) for line in token.markup.split("\n")]
    children = [child for line in lines for child in (Token("hardbreak", "br", 0), line)][1:]
    begin, end = Token("paragraph_open", "p", 1), Token("paragraph_close", "p", -1)
    return [begin, Token("inline", "", 0, children=children), end]
