"""The arguments of one call -> the text of a JSON object, as they come.

Each class reads one notation. `read` is given the text that follows what it has taken so far, and returns how many
characters it takes now and the JSON they make; joined, these are the arguments. `done` says that the notation's end
has been read. With `final` no text follows: all that can be used is taken, and the arguments stay cut off.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Protocol

_STRUCTURE = re.compile(r'\\.|["{}]', re.DOTALL)  # of JSON: all that decides where an object ends
_CONTROL = re.compile(r"[\x00-\x1f]")
_WORD = re.compile(r"[^,:{}\[\]<]+")
_PARAMETER = re.compile(r"\s*<parameter=([^<>\n]+)>")
_PARAMETER_PART = re.compile(r"<parameter=[^<>\n]*")
_END_OF_CALL = re.compile(r"\s*</function>|(?=\s*</tool_call>)")  # models leave </function> out
_END_OF_VALUE = re.compile(r"\n?</parameter>|\n?(?=</function>)")
_VALUE_ENDS = ("\n</parameter>", "</parameter>", "\n</function>", "</function>")
_BETWEEN_VALUES = ("<parameter=", "</function>", "</tool_call>")
_PYTHON = {"True": "true", "False": "false", "None": "null"}
_KINDS = {bool: "boolean", int: "integer", float: "number", str: "string", dict: "object", list: "array"}


class Arguments(Protocol):
    """The arguments of one call."""

    done: bool

    def read(self, text: str, *, final: bool) -> tuple[int, str]:
        """How many characters of `text` are taken, and the JSON they make."""


class JsonArguments:
    """A JSON object, passed on as the model writes it; only control characters in its texts are escaped."""

    def __init__(self) -> None:
        self.done = False
        self._depth = 0
        self._quoted = False

    def read(self, text: str, *, final: bool) -> tuple[int, str]:
        """Every character is looked at once; a backslash at the end waits for what it escapes."""
        made, at = [], 0
        for match in _STRUCTURE.finditer(text):
            made += [self._plain(text[at : match.start()]), match[0]]
            at = match.end()
            if match[0] == '"':
                self._quoted = not self._quoted
            elif not self._quoted and match[0] in "{}":
                self._depth += 1 if match[0] == "{" else -1
                if not self._depth:
                    self.done = True
                    return at, "".join(made)
        # an escape at the very end may be half of one: it waits for the next text, unless it is the last
        end = len(text) - (text.endswith("\\") and at < len(text) and not final)
        return end, "".join([*made, self._plain(text[at:end])])

    def _plain(self, text: str) -> str:
        return _CONTROL.sub(lambda match: json.dumps(match[0])[1:-1], text) if self._quoted else text


class XmlArguments:
    """`<parameter=key>\\nvalue\\n</parameter>` and so on until `</function>`, as Qwen3-Coder writes.

    What the tool's `properties` say is not text is JSON there, or Python's True, False and None.
    """

    def __init__(self, properties: Mapping[str, Any]) -> None:
        self.done = False
        self._properties = properties
        self._items = -1  # -1 before the object has begun
        self._kinds: frozenset[str] | None = None  # of the value that is open; None between values
        self._value = ""  # of what is not text
        self._fresh = False  # whether the value has only begun

    def read(self, text: str, *, final: bool) -> tuple[int, str]:
        """Texts come as they are made, other values whole."""
        made, at = [], 0
        if self._items < 0:
            made, self._items = ["{"], 0
        while not self.done:
            step = self._between(text, at, final) if self._kinds is None else self._inside(text, at, final)
            if step is None:
                break
            at += step[0]
            made.append(step[1])
        return at, "".join(made)

    def _between(self, text: str, at: int, final: bool) -> tuple[int, str] | None:
        if begun := _PARAMETER.match(text, at):
            self._kinds, self._fresh, self._value = self._kinds_of(begun[1]), True, ""
            self._items += 1
            comma = ", " if self._items > 1 else ""
            quote = '"' if self._is_text else ""
            return begun.end() - at, f"{comma}{_quoted(begun[1])}: {quote}"
        ended = _END_OF_CALL.match(text, at)
        rest = text[at:].lstrip()
        begins = any(tag.startswith(rest) for tag in _BETWEEN_VALUES) or _PARAMETER_PART.fullmatch(rest)
        if ended is None and begins and not final:
            return None
        self.done = True
        return (ended.end() - at if ended else 0), "}"

    def _inside(self, text: str, at: int, final: bool) -> tuple[int, str] | None:
        skip = at
        if self._fresh:
            if at == len(text):
                return None
            self._fresh = False
            skip += text.startswith("\n", at)
        ended = _END_OF_VALUE.search(text, skip)
        # all but what may begin a closing tag can go out now
        end = ended.start() if ended else len(text) if final else len(text) - overlap(text[skip:], _VALUE_ENDS)
        taken, made = (ended.end() if ended else end) - at, self._part(text[skip:end], last=bool(ended) or final)
        if ended:
            made += '"' if self._is_text else ""
            self._kinds = None
        return (taken, made) if taken else None

    def _part(self, text: str, *, last: bool) -> str:
        if self._is_text:
            return _quoted(text)[1:-1]
        # a number or an object is JSON or not only as a whole
        self._value += text
        return _as_json(self._value, self._kinds or frozenset()) if last else ""

    @property
    def _is_text(self) -> bool:
        return self._kinds == frozenset({"string"})

    def _kinds_of(self, key: str) -> frozenset[str]:
        schema = self._properties.get(key, {"type": "string"})
        return _kinds(schema) if isinstance(schema, Mapping) else frozenset()


class GemmaArguments:
    """`{key:value,…}` with bare keys and with `quote` around texts, as Gemma 4 and FunctionGemma write."""

    def __init__(self, quote: str) -> None:
        self.done = False
        self._quote = quote
        self._quoted = False
        self._levels: list[_Level] = []

    def read(self, text: str, *, final: bool) -> tuple[int, str]:
        """Texts come as they are made, other values whole."""
        made, at = [], 0
        while at < len(text) and not self.done:
            step = self._inside(text, at, final) if self._quoted else self._token(text, at, final)
            if step is None:
                break
            at += step[0]
            made.append(step[1])
        return at, "".join(made)

    def _inside(self, text: str, at: int, final: bool) -> tuple[int, str] | None:
        end = text.find(self._quote, at)
        if end >= 0:
            self._quoted = False
            return end + len(self._quote) - at, _quoted(text[at:end])[1:]
        end = len(text) if final else len(text) - overlap(text[at:], (self._quote,))
        return (end - at, _quoted(text[at:end])[1:-1]) if end > at else None

    def _token(self, text: str, at: int, final: bool) -> tuple[int, str] | None:
        character = text[at]
        if character.isspace() or character == ",":
            return 1, ""
        if text.startswith(self._quote, at):
            self._quoted = True
            return len(self._quote), self._item() + '"'
        if self._quote.startswith(text[at : at + len(self._quote)]) and not final:
            return None
        if character in "{[":
            made = self._item() + character
            self._levels.append(_Level(character == "{"))
            return 1, made
        if character in "}]":
            self._levels.pop()
            self.done = not self._levels
            return 1, character
        if character == ":":
            self._levels[-1].key = False
            return 1, ": "
        return self._word(text, at, final)

    def _word(self, text: str, at: int, final: bool) -> tuple[int, str] | None:
        word = _WORD.match(text, at)
        if word is None:  # no notation of Gemma's: the call ends here, as it is
            self.done = True
            return 0, ""
        if word.end() == len(text) and not final:
            return None
        key = self._levels[-1].key
        made = _quoted(word[0].strip()) if key else _as_json(word[0].strip(), frozenset())
        return len(word[0]), self._item() + made

    def _item(self) -> str:
        """What separates the item that begins from the one before."""
        level = self._levels[-1] if self._levels else None
        if level is None:
            return ""
        # a value after its key: the colon has separated the two
        if level.is_object and not level.key:
            level.key = True
            return ""
        level.items += 1
        return ", " if level.items > 1 else ""


class _Level:
    """An object or a list that is open; `key` says that a key is due or just written."""

    def __init__(self, is_object: bool) -> None:
        self.is_object = is_object
        self.key = is_object
        self.items = 0


def overlap(text: str, marks: tuple[str, ...]) -> int:
    """Length of the longest end of `text` that begins one of `marks`."""
    longest = max(map(len, marks)) - 1
    sizes = range(min(longest, len(text)), 0, -1)
    return next((size for size in sizes if any(mark.startswith(text[-size:]) for mark in marks)), 0)


def refuse(constant: str) -> None:
    """For `json.loads`: what Python reads and JSON does not have."""
    raise ValueError(f"JSON has no {constant}")


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _kinds(schema: Mapping[str, Any]) -> frozenset[str]:
    """The types a JSON schema names; empty where it names none."""
    kind = schema.get("type")
    kinds = {kind} if isinstance(kind, str) else set(kind or ())
    kinds |= {_KINDS.get(type(value), "null") for value in schema.get("enum", ())}
    for option in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        kinds |= _kinds(option) if isinstance(option, Mapping) else set()
    return frozenset(kinds)


def _as_json(text: str, kinds: frozenset[str]) -> str:
    """A value written without quotes: JSON of one of `kinds` (any, without), or else a text."""
    try:
        value = json.loads(_PYTHON.get(text.strip(), text), strict=False, parse_constant=refuse)
    except (ValueError, RecursionError):
        return _quoted(text)
    kind = _KINDS.get(type(value), "null")
    # an integer is a number too
    fits = not kinds or kind in kinds or (kind == "integer" and "number" in kinds)
    return json.dumps(value, ensure_ascii=False) if fits else _quoted(text)
