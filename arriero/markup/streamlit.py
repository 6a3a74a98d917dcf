"""Tokens written down again, so that Streamlit's renderer (remark with GFM, directives, emoji, maths) shows just them.

Of its own marks none is left. A text that it would replace (`:smile:`, `->`, an address) is cut in two by a span
without style, `:color[…]`, which leaves nothing behind when it is copied. Nothing is fetched: an image becomes a link.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Callable, Sequence

from markdown_it.tree import SyntaxTreeNode

from arriero.markup.parser import PARSER

LIVE = re.compile(r"(?:https?://|mailto:)\S", re.IGNORECASE)
REPLACED = re.compile(  # by Streamlit, in a text: emoji and icons, addresses, and arrows, at their second character
    r":(?=[\w+/-]+:)|(?<=http):(?=//)|(?<=https):(?=//)|(?<=www)\.|@(?=[\w-]+\.)"
    r"|(?<!\S)(?:<-|[<>~-])[->=](?![^\s:.@])",
    re.IGNORECASE,
)
SPECIAL = re.compile(r"[\\`*_\[\]<>&$~|{}]")
BEGINS_BLOCK = re.compile(r"^([#>+=-]|\d{1,9}(?=[.)]))")
MARKS = {"strong": "**", "em": "_", "s": "~~"}
SEAM = ":color[]"
LINE = frozenset({"line"})
CELL = LINE | {"cell"}
DISPLAY = re.compile(r"(\n\$\$\n.*?\n\$\$\n)", re.DOTALL)
SURROGATES = re.compile("[\ud800-\udfff]")
SHOWN_ADDRESS = 80  # characters of an address that is no link
DIAGRAM = "mermaid"  # Streamlit would draw it
Pieces = list[tuple[str, str]]  # (Markdown, the mark at both its ends or "")


def to_streamlit(text: str) -> str:
    """The answer `text`, or as much of it as there is, for `st.markdown`. Takes any text and raises nothing."""
    text = SURROGATES.sub("\ufffd", text)
    blocks = SyntaxTreeNode(PARSER.parse(text)).children
    if blocks and _begun(blocks[-1], text):
        unfinished = text.split("\n")[blocks[-1].map[0] :] if blocks[-1].map else []
        return "\n\n".join(filter(None, [_blocks(blocks[:-1]), _lines("\n".join(map(_text, unfinished)))]))
    return _blocks(blocks)


def _begun(block: SyntaxTreeNode, text: str) -> bool:
    """Whether the last block has nothing in it yet: a "-" may become a list, or a number; "***" a rule, or bold."""
    if block.type == "hr":
        return block.markup[0] != "-" and not text.endswith("\n")
    empty = block.type in ("bullet_list", "ordered_list", "heading", "blockquote")
    return empty and not any(node.content for node in block.walk())


# ---- blocks


def _blocks(nodes: Sequence[SyntaxTreeNode], *, between: str = "\n\n") -> str:
    return between.join(filter(None, (BLOCKS.get(node.type, _verbatim)(node) for node in nodes)))


def _paragraph(node: SyntaxTreeNode) -> str:
    parts = DISPLAY.split(_inline(node))  # the odd ones are formulas that stand for themselves
    parts[::2] = map(_lines, parts[::2])
    return "".join(parts).strip("\n")


def _lines(text: str) -> str:
    """Lines that stay lines, as in the terminal, and none of which begins a block."""
    lines = (line.strip(" \t") for line in text.split("\n"))
    return "\\\n".join(BEGINS_BLOCK.sub(_escaped_begin, line) for line in lines if line)


def _escaped_begin(match: re.Match[str]) -> str:
    return f"{match[0]}\\" if match[0].isdigit() else f"\\{match[0]}"


def _heading(node: SyntaxTreeNode) -> str:
    text = _one_line(node, LINE)
    return f"{'#' * int(node.tag[1])} {re.sub(r'#$', chr(92) + '#', text)}"


def _one_line(node: SyntaxTreeNode, within: frozenset[str]) -> str:
    return _inline(node, within).strip()


def _code(node: SyntaxTreeNode) -> str:
    language = re.match(r"[\w+#.-]*", node.info.strip())
    name = language[0] if language and language[0].lower() != DIAGRAM else ""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", node.content)), default=0))
    ended = "\n" if node.content and not node.content.endswith("\n") else ""
    return f"{fence}{name}\n{node.content}{ended}{fence}"


def _displayed(node: SyntaxTreeNode) -> str:
    lines = [line for line in node.content.split("\n") if line.strip()]
    return _display("\n".join(lines)) or _verbatim(node)


def _display(tex: str) -> str:
    return f"$$\n{tex.strip()}\n$$" if tex.strip() and "$$" not in tex else ""


def _verbatim(node: SyntaxTreeNode) -> str:
    return _lines("\n".join(map(_text, (node.markup or node.content).split("\n"))))


def _quote(node: SyntaxTreeNode) -> str:
    return re.sub("(?m)^", "> ", _blocks(node.children))


def _list(node: SyntaxTreeNode) -> str:
    tight = all(child.hidden for item in node.children for child in item.children if child.type == "paragraph")
    number = int(node.attrs.get("start", 1))
    items = []
    for index, item in enumerate(node.children):
        marker = f"{number + index}{item.markup} " if node.type == "ordered_list" else f"{item.markup} "
        inner = _blocks(item.children, between="\n" if tight else "\n\n")
        items.append(marker + re.sub(r"(?m)(?<=\n)(?=.)", " " * len(marker), inner))
    return ("\n" if tight else "\n\n").join(items)


def _table(node: SyntaxTreeNode) -> str:
    rows = [row.children for section in node.children for row in section.children]
    signs = {"text-align:left": ":--", "text-align:right": "--:", "text-align:center": ":-:"}
    rule = "|".join(signs.get(str(cell.attrs.get("style")), "---") for cell in rows[0])
    lines = ["|".join(f" {_one_line(cell, CELL)} " for cell in row) for row in rows]
    return "\n".join(f"|{line}|" for line in [lines[0], rule, *lines[1:]])


BLOCKS: dict[str, Callable[[SyntaxTreeNode], str]] = {
    "paragraph": _paragraph,
    "heading": _heading,
    "fence": _code,
    "code_block": _code,
    "math_block": _displayed,
    "blockquote": _quote,
    "bullet_list": _list,
    "ordered_list": _list,
    "table": _table,
    "hr": lambda _: "___",  # "* ***" would be a rule and no list
}


# ---- the text of a block


def _inline(node: SyntaxTreeNode, within: frozenset[str] = frozenset()) -> str:
    """The text inside a block, a mark or a link; `within` says which it is in, and "line" where it has to be one."""
    pieces = [piece for child in node.children for piece in _pieces(child, within)]
    return _joined([piece for piece in pieces if piece[0]])


def _pieces(node: SyntaxTreeNode, within: frozenset[str]) -> Pieces:
    if node.type == "inline":
        return [(_inline(node, within), "")]
    if node.type in MARKS:
        if node.type in within:  # em in em, which cannot be told from an end
            return [piece for child in node.children for piece in _pieces(child, within)]
        inner = _inline(node, within | {node.type})
        edged = re.sub(r"^\s|\s$", lambda match: f"&#{ord(match[0])};", inner)
        return [(f"{MARKS[node.type]}{edged}{MARKS[node.type]}", MARKS[node.type])] if inner else []
    return [(INLINE[node.type](node, within), "")]


def _joined(pieces: Pieces) -> str:
    """The pieces in a row. What stands beside a mark is made punctuation to the renderer's flanking rule."""
    joined, last = "", ""
    for text, mark in pieces:
        if (mark and mark == last) or (text[0] in "$`" and joined.endswith(text[0])):
            joined += SEAM
        elif mark and joined:
            joined = joined[:-1] + _as_punctuation(joined[-1])
        elif last:
            text = _as_punctuation(text[0]) + text[1:]
        if text[0] == "[" and joined.endswith("!"):
            joined = f"{joined[:-1]}\\!"
        joined, last = joined + text, mark
    return joined


def _as_punctuation(char: str) -> str:
    punctuation = char in string.punctuation or unicodedata.category(char)[0] == "P"
    return char if punctuation or char.isspace() else f"&#{ord(char)};"


def _text(text: str) -> str:
    """Text that means nothing but itself, to Markdown and to Streamlit."""
    parts, begin = [], 0
    for match in REPLACED.finditer(text):
        cut = match.start() + (len(match[0]) > 1)
        parts += [_plain(text[begin:cut]), f":color[{_plain(text[cut])}]"]
        begin = cut + 1
    return "".join([*parts, _plain(text[begin:])])


def _plain(text: str) -> str:
    text = SPECIAL.sub(r"\\\g<0>", re.sub(r"[\r\n\0]", " ", text))
    return re.sub(r":(?!\s)", "&#58;", text)


def _span(node: SyntaxTreeNode, within: frozenset[str]) -> str:
    code = node.content
    fence = "`" * (1 + max(map(len, re.findall("`+", code)), default=0))
    pad = " " if code.strip(" ") and (code[0] in "` " or code[-1] in "` ") else ""
    return f"{fence}{pad}{code.replace('|', chr(92) + '|') if 'cell' in within else code}{pad}{fence}"


def _maths(node: SyntaxTreeNode, within: frozenset[str]) -> str:
    tex = " ".join(node.content.split())
    if node.info and not within and (block := _display(tex)):
        return f"\n{block}\n"
    if not tex or "$$" in tex:
        return _text(node.markup)
    mark = "$$" if "$" in tex else "$"
    return f"{mark}{tex.replace('|', chr(92) + 'vert ') if 'cell' in within else tex}{mark}"


def _link(node: SyntaxTreeNode, within: frozenset[str]) -> str:
    address, label = str(node.attrs["href"]), _inline(node, within | {"link"})
    return _linked(label or _text(address), address, within) or f"\\[{label}\\]({_text(_short(address))})"


def _image(node: SyntaxTreeNode, within: frozenset[str]) -> str:
    address, label = str(node.attrs["src"]), _text(node.content)
    return _linked(label or _text(_short(address)), address, within) or f"!\\[{label}\\]({_text(_short(address))})"


def _linked(label: str, address: str, within: frozenset[str]) -> str:
    if "link" in within:
        return label
    safe = re.sub(r"[<>\\\s]|:(?=material/)", lambda match: f"%{ord(match[0]):02X}", address).replace("&", "&amp;")
    return f"[{label}](<{safe}>)" if LIVE.match(address) else ""


def _short(address: str) -> str:
    return address if len(address) <= SHOWN_ADDRESS else f"{address[:SHOWN_ADDRESS]}…"


INLINE: dict[str, Callable[[SyntaxTreeNode, frozenset[str]], str]] = {
    "text": lambda node, _: _text(node.content),
    "softbreak": lambda _, within: " " if "line" in within else "\n",
    "hardbreak": lambda _, within: " " if "line" in within else "\n",
    "code_inline": _span,
    "math": _maths,
    "link": _link,
    "image": _image,
}
