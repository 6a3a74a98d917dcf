"""Which characters of a rendered prompt people wrote, and which the chat template.

What people wrote is moved into a private-use area of Unicode, character by character, and rendered again:

    rendered    <|user|>say <|end|><|end|>
    traced      <|user|>■■■ ■■■■■■■<|end|>

A special token is structure if none of its characters moved. Blanks, quotes and backslashes stay where they are, for
templates strip and escape them, and so do words that the template itself looks for (`</think>`), which could not be
found otherwise; but never one that might be a part of a special token.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

Spans = tuple[tuple[int, int], ...]
MARK = "\U0010fffd"  # a private character that no template strips


class _Private(dict[int, int]):
    """Maps code points to private ones, in the same order, as `str.translate` takes it."""

    def __missing__(self, code: int) -> int:
        stays = code > 0xFFFF or 0xD800 <= code < 0xE000 or chr(code) in '"\\' or chr(code).isspace() or code < 0x20
        self[code] = code if stays else code + 0xF0000
        return self[code]


_PRIVATE = _Private()


def private(text: str) -> str:
    """The text moved into the private-use area."""
    return text.translate(_PRIVATE)


class Tracer:
    """Follows text through one chat template. `words` are the texts that its source holds, `names` the attributes."""

    def __init__(self, specials: Sequence[str], words: Iterable[str], names: Iterable[str]) -> None:
        ordered = sorted(specials, key=lambda text: (-len(text), text))
        self.specials = re.compile("|".join(map(re.escape, ordered)) or r"(?!)")
        movable = {word for word in words if private(word) != word}
        self._names = {name for name in movable.union(names) if not self.specials.search(name)}
        apart = (word for word in movable if not any(_overlap(word, special) for special in ordered))
        self._words = sorted(apart, key=lambda word: (-len(word), word))

    def mark(self, text: str) -> str:
        """A text that somebody wrote, so that it is recognised in what becomes of it."""
        present = [word for word in self._words if word in text]
        if not present:
            return private(text)
        parts = re.split(f"({'|'.join(map(re.escape, present))})", text)
        parts[::2] = map(private, parts[::2])
        return "".join(parts)

    def marked(self, value: Any) -> Any:
        """JSON with its texts marked; of the keys only those that the template does not ask for."""
        if isinstance(value, str):
            return self.mark(value)
        if isinstance(value, list):
            return [self.marked(item) for item in value]
        if isinstance(value, dict):
            return {key if key in self._names else self.mark(key): self.marked(item) for key, item in value.items()}
        return value

    def structure(self, text: str, traced: str) -> Spans | None:
        """Where in `text` the template wrote special tokens; None where that is ambiguous.

        A template that decides by what people wrote renders something else from the marked text. Then all special
        tokens are structure if there are the same ones in both.
        """
        written = list(self.specials.finditer(traced))
        if private(text) != private(traced):
            own, written = written, list(self.specials.finditer(text))
            if [match[0] for match in written] != [match[0] for match in own]:
                return None
        return tuple(match.span() for match in written)


def lifted(text: str, structure: Spans) -> str:
    """The text with its structure, and nothing else, in the private-use area."""
    parts, position = [], 0
    for start, end in structure:
        parts += [text[position:start], private(text[start:end])]
        position = end
    return "".join((*parts, text[position:]))


def _overlap(word: str, special: str) -> bool:
    """Whether a text may hold both, sharing a character."""
    if word in special or special in word:
        return True
    sizes = range(1, min(len(word), len(special)))
    return any(word.endswith(special[:size]) or word.startswith(special[-size:]) for size in sizes)
