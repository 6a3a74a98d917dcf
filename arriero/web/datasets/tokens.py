"""A row's ids as coloured text: prompt grey, loss green, boundaries and special tokens visible."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

Decode = Callable[[list[int]], str]
HALF = "\ufffd"  # what a decoder makes of a part of a character
MOST = 4  # bytes of a character in UTF-8, so ids that it can be spread over
VISIBLE = str.maketrans({"\n": "↵\n", "\r": "␍", "\t": "⇥\t"})
STYLE = """<style>
.ids{font:0.85rem/1.9 var(--ids-font,ui-monospace,"Cascadia Mono","DejaVu Sans Mono",monospace);white-space:pre-wrap;
overflow-wrap:anywhere;unicode-bidi:isolate}
.ids span{padding:.12em 1px;box-shadow:inset 1px 0 rgb(128 128 128/.55);unicode-bidi:isolate}
.ids .p{background:rgb(128 128 128/.13)} .ids .l{background:rgb(38 160 105/.28)}
.ids .s{font-weight:700;font-size:.78em;outline:1px dashed rgb(128 128 128/.7);outline-offset:-1px;padding:.12em .3em}
.key span{padding:.1em .5em;margin-right:.5em}
</style>"""


@dataclass(frozen=True, slots=True)
class Piece:
    """Neighbouring ids that make text together: one, or those that a character is spread over."""

    ids: tuple[int, ...]
    text: str
    loss: bool
    special: bool


def pieces(ids: Sequence[int], mask: Sequence[bool], decode: Decode, is_special: Callable[[int], bool]) -> list[Piece]:
    """Every id in exactly one piece, in order; `ids` and `mask` have the same length."""
    done: list[Piece] = []
    group: list[int] = []
    for index, token in enumerate(ids):
        special = is_special(token)
        if group and (special or mask[index] != mask[index - 1] or len(group) == MOST):
            done.extend(_singly(group, mask[index - 1], decode))
            group = []
        group.append(token)
        before = list(done[-1].ids) if done and not done[-1].special else []
        if special or HALF not in (text := _after(before, group, decode)):
            text = decode(group) if special else text
            done.append(Piece(tuple(group), text, mask[index], special))
            group = []
    return [*done, *_singly(group, bool(mask and mask[-1]), decode)]


def _after(before: list[int], group: list[int], decode: Decode) -> str:
    """The text of `group` where it stands: alone, some tokenizers leave a leading space out."""
    lead, whole = decode(before), decode(before + group)
    return whole[len(lead) :] if before and whole.startswith(lead) else decode(group)


def _singly(group: Iterable[int], loss: bool, decode: Decode) -> Iterator[Piece]:
    """Ids that make no character, each by itself."""
    return (Piece((token,), decode([token]), loss, False) for token in group)


def as_html(row: Iterable[Piece]) -> str:
    """Pieces as HTML, everything in them as text; an id's number shows under the pointer."""
    spans = []
    for piece in row:
        kind = ("l" if piece.loss else "p") + (" s" if piece.special else "")
        shown = html.escape(piece.text.translate(VISIBLE))
        text = shown.rstrip("\n")
        after = shown[len(text) :]  # a line that ends inside a span goes on with an empty box
        spans.append(f'<span class="{kind}" title="{" ".join(map(str, piece.ids))}">{text}</span>{after}')
    return f'<div class="ids" dir="auto">{"".join(spans).rstrip()}</div>'


def key(prompt: str, loss: str, special: str) -> str:
    """What the colours mean, in the given words."""
    words = (("p", prompt), ("l", loss), ("p s", special))
    spans = (f'<span class="{kind}">{html.escape(word)}</span>' for kind, word in words)
    return f'<div class="ids key">{"".join(spans)}</div>'
