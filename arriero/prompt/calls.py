"""The text of an answer -> text and calls of tools, a piece at a time.

Read are the forms that these models write:

    {"name": …, "parameters": {…}}                      Llama 3.1 and later, at the beginning of an answer or after
                                                        <|python_tag|>; several with ";" or blanks between
    <|python_tag|>brave_search.call(query="…")          its built-in tools
    <function=name>{…}</function>                       its other form for custom tools
    <tool_call>\\n{"name": …, "arguments": …}\\n</tool_call>     ChatML in the manner of Hermes: Qwen 2.5 and 3, SmolLM3

as https://www.llama.com/docs/model-cards-and-prompt-formats/llama3_1/ and
https://github.com/NousResearch/Hermes-Function-Calling describe them. `parameters` and `arguments` are taken for each
other, for the models do so too. What is no call of a known tool after all comes out as the text it is.
"""

from __future__ import annotations

import ast
import json
import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from arriero.messages import ToolCall

PYTHON_TAG, TOOL_CALL, FUNCTION = "<|python_tag|>", "<tool_call>", "<function="
MARKERS = (PYTHON_TAG, TOOL_CALL, "</tool_call>", "</function>")  # tokens of their own in some vocabularies
_OPENINGS = (PYTHON_TAG, TOOL_CALL, FUNCTION)
_OPENING = re.compile("|".join(map(re.escape, _OPENINGS)))
_BARE = re.compile(r"\s*\{")
_BLANK = re.compile(r"\s*")
_BETWEEN_CALLS = re.compile(r"[\s;]*")
_NAMED = re.compile(r"<function=([^<>\s]+)>")
_NAMED_PART = re.compile(r"<function=[^<>\s]{0,128}")
_BUILTIN = re.compile(r"([A-Za-z_][\w-]*)\.call\(")
_BUILTIN_PART = re.compile(r"[A-Za-z_][\w-]{0,127}(\.(c(a(l(l\(?)?)?)?)?)?")
_FIRST_KEY = re.compile(r'\{\s*(?:"([^"]*)("\s*(:\s*(?:"([^"]*)("?))?)?)?)?')
_KEYS = ("name", "type", "parameters", "arguments", "id")
_CLOSING = re.compile(r"\)")
_STRUCTURE = re.compile(r'\\.|["{}]', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of `length` characters of an answer: the text to show for it, or the call it is, or neither."""

    text: str
    length: int
    call: ToolCall | None = None


_Verdict = tuple[int, ToolCall] | Literal["undecided", "no call"]  # where a call ends, and the call


class CallReader:
    """Reads one answer; `names` are the tools that may be called.

    Invariants, however the text is split into pieces: the lengths of all parts add up to that of the text; the texts
    of the parts are the text without its calls and the blanks around them. Text that cannot belong to a call is passed
    on at once. `hidden` are the markers that are special tokens of this vocabulary, which are never shown.
    """

    def __init__(self, names: Collection[str], hidden: Collection[str] = ()) -> None:
        self._names = frozenset(names)
        self._hidden = tuple(hidden)
        self._blank = ""  # belongs to a call, if one follows
        self._held = ""  # begins, or may begin, with a call
        self._object: _ObjectEnd | None = None  # of the object in `_held`
        self._tried = 0  # parentheses in `_held` before this do not end a call
        self._bare = True  # whether an object that follows may be a call
        self._after_call = False

    def push(self, text: str) -> list[Part]:
        """Add text; returns what has become certain."""
        self._held += text
        return self._read(final=False)

    def flush(self) -> list[Part]:
        """What is left at the end of the answer. A call whose closing tag is missing is one nevertheless."""
        parts = self._read(final=True)
        if self._blank:
            self._show(parts, "")
        return parts

    def _read(self, *, final: bool) -> list[Part]:
        parts: list[Part] = []
        while self._held:
            if self._after_call and (end := _end(_BETWEEN_CALLS, self._held)):
                parts.append(Part("", end))
                self._held = self._held[end:]
                continue
            if start := self._opening():
                self._show(parts, self._take(start))
                continue
            verdict = self._judge(final=final)
            if verdict == "undecided":
                break
            if isinstance(verdict, tuple):
                end, call = verdict
                parts.append(Part("", len(self._blank + self._take(end)), call))
                self._blank, self._bare, self._after_call = "", True, True
            else:
                marker = _OPENING.match(self._held)
                self._show(parts, self._take(marker.end() if marker else 1))
        return parts

    def _opening(self) -> int:
        """Where in the held text a call begins or, at its end, may begin."""
        if self._bare and (bare := _BARE.match(self._held)):
            return bare.end() - 1
        found = _OPENING.search(self._held)
        return found.start() if found else len(self._held) - _overlap(self._held)

    def _take(self, count: int) -> str:
        taken, self._held = self._held[:count], self._held[count:]
        self._object, self._tried = None, 0
        return taken

    def _show(self, parts: list[Part], text: str) -> None:
        """Pass text on, but keep the blanks at its end unless it is empty."""
        whole = self._blank + text
        cut = len(whole.rstrip()) if text else len(whole)
        shown, self._blank = whole[:cut], whole[cut:]
        visible = shown
        for marker in self._hidden:
            visible = visible.replace(marker, "")
        if shown:
            parts.append(Part(visible, len(shown)))
        if visible.strip():
            self._bare = self._after_call = False

    def _judge(self, *, final: bool) -> _Verdict:
        """Whether the held text begins with a call; once it is all there is (`final`) that is decided."""
        if self._held.startswith(TOOL_CALL):
            verdict = self._tagged(len(TOOL_CALL), "</tool_call>", None, final=final)
        elif named := _NAMED.match(self._held):
            verdict = self._tagged(named.end(), "</function>", named[1], final=final)
        elif self._held.startswith(PYTHON_TAG):
            verdict = self._after_python_tag(_end(_BLANK, self._held, len(PYTHON_TAG)))
        elif self._held.startswith("{"):
            verdict = self._bare_object(0)
        else:
            part = _NAMED_PART.fullmatch(self._held) or any(text.startswith(self._held) for text in _OPENINGS)
            verdict = "undecided" if part else "no call"
        return "no call" if final and verdict == "undecided" else verdict

    def _tagged(self, start: int, closing: str, name: str | None, *, final: bool) -> _Verdict:
        """An object between tags; the closing tag may be missing."""
        start = _end(_BLANK, self._held, start)
        if start == len(self._held):
            return "undecided"
        if self._held[start] != "{":
            return "no call"
        end = self._object_end(start)
        if end is None:
            return "undecided"
        call = self._call(self._held[start:end], name, tagged=True)
        if call is None:
            return "no call"
        rest = self._held[end:].lstrip()
        if rest.startswith(closing):
            return len(self._held) - len(rest) + len(closing), call
        if closing.startswith(rest):
            return (len(self._held), call) if final else "undecided"
        return end, call

    def _after_python_tag(self, start: int) -> _Verdict:
        if start == len(self._held):
            return "undecided"
        if self._held[start] == "{":
            return self._bare_object(start)
        if called := _BUILTIN.match(self._held, start):
            return self._builtin(called[1], called.end())
        return "undecided" if _BUILTIN_PART.fullmatch(self._held, start) else "no call"

    def _bare_object(self, start: int) -> _Verdict:
        end = self._object_end(start)
        if end is None:
            return "undecided" if self._may_be_call(start) else "no call"
        call = self._call(self._held[start:end], None, tagged=False)
        return (end, call) if call is not None else "no call"

    def _may_be_call(self, start: int) -> bool:
        """Whether an object that has not ended begins as a call of a known tool does."""
        begun = _FIRST_KEY.match(self._held, start)
        if begun is None:
            return False
        key, complete, colon, name, named = begun.groups()
        if key is not None and complete is None:
            return any(known.startswith(key) for known in _KEYS)
        if key is None or colon is None or (key == "name" and name is None):
            return begun.end() == len(self._held) and key in (None, *_KEYS)
        if key != "name":
            return key in _KEYS
        return name in self._names if named else any(known.startswith(name) for known in self._names)

    def _object_end(self, start: int) -> int | None:
        self._object = self._object or _ObjectEnd(start)
        return self._object.find(self._held)

    def _call(self, text: str, name: str | None, *, tagged: bool) -> ToolCall | None:
        """The call that a JSON object is: `name`'s arguments or, without a name, name and arguments."""
        try:
            value = json.loads(text, strict=False, parse_constant=_refuse)
            if name is None:
                arguments = value.get("parameters", value.get("arguments", {} if tagged else None))
                name, value = value.get("name"), arguments
            if isinstance(value, str):  # some models write the arguments as the text of an object
                value = json.loads(value, strict=False, parse_constant=_refuse)
        except (ValueError, RecursionError):
            return None
        return self._made(name, value)

    def _builtin(self, name: str, start: int) -> _Verdict:
        """The call that ends with the first parenthesis that makes it one; keyword arguments are literals."""
        for closing in _CLOSING.finditer(self._held, max(start, self._tried)):
            end = self._tried = closing.end()
            try:
                found = ast.parse(f"f({self._held[start:end]}", mode="eval").body
                if isinstance(found, ast.Call) and not found.args:
                    values = {str(word.arg): ast.literal_eval(word.value) for word in found.keywords}
                    call = self._made(name, values)
                    return (end, call) if call is not None else "no call"
            except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
                continue
        return "undecided"

    def _made(self, name: object, values: object) -> ToolCall | None:
        if not isinstance(name, str) or name not in self._names or not isinstance(values, dict):
            return None
        try:
            arguments = json.dumps(values, ensure_ascii=False, allow_nan=False)
            arguments.encode()  # escapes can spell half of a surrogate pair, which no one could be sent
        except (TypeError, ValueError, RecursionError):
            return None
        return ToolCall(f"call_{secrets.token_hex(12)}", name, arguments)


class _ObjectEnd:
    """Finds where the JSON object that begins at `start` ends, looking at every character once."""

    def __init__(self, start: int) -> None:
        self._at = start
        self._depth = 0
        self._quoted = False
        self._end: int | None = None

    def find(self, text: str) -> int | None:
        """The position after the object; None while `text`, which may grow, does not hold all of it."""
        if self._end is not None:
            return self._end
        for found in _STRUCTURE.finditer(text, self._at):
            self._at = found.end()
            if found[0] == '"':
                self._quoted = not self._quoted
            elif not self._quoted and found[0] in "{}":
                self._depth += 1 if found[0] == "{" else -1
                if not self._depth:
                    self._end = self._at
                    return self._end
        if self._at < len(text):  # a backslash at the end waits for what it escapes
            self._at = len(text) - text.endswith("\\")
        return None


def _end(pattern: re.Pattern[str], text: str, start: int = 0) -> int:
    """Where a pattern that always matches ends."""
    found = pattern.match(text, start)
    return found.end() if found else start


def _overlap(text: str) -> int:
    """Length of the longest end of `text` that begins an opening."""
    longest = max(map(len, _OPENINGS)) - 1
    sizes = range(min(longest, len(text)), 0, -1)
    return next((size for size in sizes if any(opening.startswith(text[-size:]) for opening in _OPENINGS)), 0)


def _refuse(constant: str) -> None:
    raise ValueError(f"JSON has no {constant}")
