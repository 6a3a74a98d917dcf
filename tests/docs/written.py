"""What README, docs and examples tell their readers to type, each with its file and line."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
EXAMPLES = sorted([*ROOT.glob("examples/*.yaml"), *ROOT.glob("examples/*.py")])
USAGE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)  # docs/cli.md's own: `arriero VERB [OPTIONS] …`
BLOCK = re.compile(r"(?:^(?: {4}.*)?\n)+", re.MULTILINE)
INLINE = re.compile(r"`([^`]+)`")
PROMPT = re.compile(r"^\w+\$ ")
BETWEEN = {"&&", "|", "<", ">", ";"}


@dataclass(frozen=True)
class Written:
    """A line of a block, a whole block, or what stands between backticks in a sentence."""

    file: Path
    line: int
    text: str
    inline: bool = False

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line}: {self.text}"

    def commands(self) -> list[list[str]]:
        """The words of each command in it; comments and the prompt of a machine are none."""
        try:
            words = shlex.split(PROMPT.sub("", self.text), comments=True)
        except ValueError:  # an apostrophe: no command
            return []
        commands: list[list[str]] = [[]]
        for word in words:
            if word in BETWEEN:
                commands.append([])
            else:
                commands[-1].append(word)
        return [command for command in commands if command]


def _read(file: Path) -> str:
    return USAGE.sub(lambda usage: "\n" * usage[0].count("\n"), file.read_text(encoding="utf-8"))


def _found(file: Path, text: str, at: int, what: str, *, inline: bool) -> Written:
    return Written(file, text.count("\n", 0, at) + 1, what, inline)


def blocks() -> Iterator[Written]:
    """The indented blocks of all texts, without their indentation."""
    for file in TEXTS:
        text = _read(file)
        for found in BLOCK.finditer(text):
            if found[0].strip():
                at = found.start() + len(found[0]) - len(found[0].lstrip("\n"))
                lines = found[0].strip("\n").split("\n")
                yield _found(file, text, at, "\n".join(line[4:] for line in lines), inline=False)


def lines() -> Iterator[Written]:
    """The lines of those blocks, and the commands in the examples' comments and settings."""
    for block in blocks():
        for offset, line in enumerate(block.text.split("\n")):
            yield Written(block.file, block.line + offset, line)
    for file in EXAMPLES:
        text = file.read_text(encoding="utf-8")
        for found in re.finditer(r"\b(?:arriero (?!\w+:)|python -m ).*", text):
            yield _found(file, text, found.start(), re.split(r"[:;.] ", found[0])[0], inline=False)


def inline() -> Iterator[Written]:
    """What stands between backticks; it may go over the end of a line."""
    for file in TEXTS:
        text = _read(file)
        outside = BLOCK.sub(lambda block: re.sub(r"[^\n]", " ", block[0]), text)
        for found in INLINE.finditer(outside):
            if "\n\n" not in found[1]:
                yield _found(file, text, found.start(), " ".join(found[1].split()), inline=True)
