"""How a call begins: text that begins with a mark, or an answer that begins with a bracket -> the name that is called.

A call is certain once a known name stands where the form has it and the arguments begin as they must; from there on
the arguments are passed on as they come. Where the arguments come first, or are Python, the call is read whole.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from arriero.prompt.tool_parser.arguments import Arguments, GemmaArguments, JsonArguments, XmlArguments, refuse

PYTHON_TAG, TOOL_CALL, FUNCTION, MISTRAL = "<|python_tag|>", "<tool_call>", "<function=", "[TOOL_CALLS]"
GEMMA_4, FUNCTION_GEMMA, TOOL_CODE = "<|tool_call>", "<start_function_call>", "```tool_code"
OPENINGS = (PYTHON_TAG, TOOL_CALL, FUNCTION, MISTRAL, GEMMA_4, FUNCTION_GEMMA, TOOL_CODE)
CLOSINGS = ("</tool_call>", "</function>", "<tool_call|>", "<end_function_call>")
QUOTES = {GEMMA_4: '<|"|>', FUNCTION_GEMMA: "<escape>"}
# What is a token of its own in some vocabularies.
MARKERS = (PYTHON_TAG, TOOL_CALL, MISTRAL, "[ARGS]", "[CALL_ID]", *QUOTES, *QUOTES.values(), *CLOSINGS)

_HEAD = re.compile(
    r'\{\s*(?:"(?:type|id)"\s*:\s*"[^"]*"\s*,\s*)*"name"\s*:\s*"([^"]*)"\s*,'
    r'\s*"(?:arguments|parameters)"\s*:\s*(?=\{\s*["}])'
)
_FIRST_KEY = re.compile(r'\{\s*(?:"([^"]*)("\s*(:\s*(?:"([^"]*)("?))?)?)?)?')
_KEYS = ("name", "type", "parameters", "arguments", "id")  # of an object that is a call, in whatever order
_OBJECT = re.compile(r'\{\s*["}]')  # its first key, or its end
_OBJECT_PART = re.compile(r"\{?\s*")  # _PART: what may still become the form above it
_FUNCTION_NAME = re.compile(r"([^<>\s]+)>\s*")
_FUNCTION_PART = re.compile(r"[^<>\s]{0,128}")  # 128: the longest name; no endless wait for text that is none
_MISTRAL_NAME = re.compile(r"([\w.-]+)(?:\[CALL_ID\]\w+)?(?:\[ARGS\])?\s*(?=\{)")  # the id is its own, ours replaces it
_MISTRAL_PART = re.compile(r"[\w.-]{0,128}(?:\[[A-Z_]{0,8}\]?\w{0,64}){0,2}\s*")
_GEMMA_NAME = re.compile(r"\s*call:\s*([\w.-]+)\s*(?=\{)")
_GEMMA_PART = re.compile(r"\s*(?:call:\s*[\w.-]{0,128}\s*)?")
_BUILTIN = re.compile(r"([A-Za-z_][\w-]*)\.call\(")
_BUILTIN_PART = re.compile(r"[A-Za-z_][\w-]{0,127}(\.(c(a(l(l\(?)?)?)?)?)?")
_LIST = re.compile(r"\[\s*([A-Za-z_]\w*)\(")  # Python: only a known name makes it a call
_LIST_PART = re.compile(r"\[\s*([A-Za-z_]\w{0,127})?")


@dataclass(frozen=True, slots=True)
class Begun:
    """A call whose opening is the first `length` characters; its arguments follow.

    `wrapped` says that they stand in an object that ends after them, `listed` that it is one of a list.
    """

    length: int
    name: str
    arguments: Arguments
    wrapped: bool = False
    listed: bool = False


@dataclass(frozen=True, slots=True)
class Whole:
    """Calls, as (name, arguments), that are all of the first `length` characters."""

    length: int
    calls: tuple[tuple[str, str], ...]
    listed: bool = False


Verdict = Begun | Whole | Literal["undecided", "no call"]


class Opening:
    """Judges the text that may begin a call; the text may only grow from one `judge` to the next.

    `tools` are the properties of their parameters, by name.
    """

    def __init__(self, tools: Mapping[str, Mapping[str, Any]]) -> None:
        self._tools = tools
        self._object: _ObjectEnd | None = None
        self._tried = 0  # ends in the text before this do not end a call

    def judge(self, text: str, *, final: bool) -> Verdict:
        """What the text begins with; with `final` it is all there is."""
        mark = next((mark for mark in OPENINGS if text.startswith(mark)), None)
        match mark:
            case None if any(opening.startswith(text) for opening in OPENINGS):
                return "undecided"
            case None:
                return self._bare(text)
            case "<tool_call>":
                return self._tagged(text, _after_blanks(text, len(TOOL_CALL)))
            case "<function=":
                return self._function(text, len(FUNCTION))
            case "[TOOL_CALLS]":
                return self._mistral(text, _after_blanks(text, len(MISTRAL)))
            case "<|python_tag|>":
                return self._after_python_tag(text, _after_blanks(text, len(PYTHON_TAG)))
            case "```tool_code":
                return self._tool_code(text, final=final)
        return self._gemma(text, mark)

    def _bare(self, text: str) -> Verdict:
        if text.startswith("{"):
            return self._wrapped(text, 0, tagged=False)
        if listed := _LIST.match(text):
            return self._python_list(text) if listed[1] in self._tools else "no call"
        part = _LIST_PART.fullmatch(text)
        return "undecided" if part and self._may_be_name(part[1] or "") else "no call"

    def _tagged(self, text: str, start: int) -> Verdict:
        if text.startswith(FUNCTION, start):
            return self._function(text, start + len(FUNCTION))
        return "undecided" if FUNCTION.startswith(text[start:]) else self._objects(text, start)

    def _objects(self, text: str, start: int) -> Verdict:
        """One object with a call, or a list of them."""
        listed = text.startswith("[", start)
        start = _after_blanks(text, start + listed)
        if start == len(text):
            return "undecided"
        return self._wrapped(text, start, tagged=True, listed=listed) if text[start] == "{" else "no call"

    def _function(self, text: str, start: int) -> Verdict:
        named = _FUNCTION_NAME.match(text, start)
        if named is None:
            return "undecided" if _FUNCTION_PART.fullmatch(text, start) else "no call"
        rest, tool = text[named.end() :], self._tools.get(named[1])
        if tool is None:
            return "no call"
        if _OBJECT.match(rest):
            return Begun(named.end(), named[1], JsonArguments())
        if rest.startswith(("<parameter=", "</function>")):
            return Begun(named.end(), named[1], XmlArguments(tool))
        begins = _OBJECT_PART.fullmatch(rest) or any(tag.startswith(rest) for tag in ("<parameter=", "</function>"))
        return "undecided" if begins else "no call"

    def _mistral(self, text: str, start: int) -> Verdict:
        if text.startswith(("[", "{"), start) and not text.startswith(("[A", "[C"), start):
            return self._objects(text, start)
        named = _MISTRAL_NAME.match(text, start)
        if named is None:
            return "undecided" if _MISTRAL_PART.fullmatch(text, start) else "no call"
        return self._begun(text, named, JsonArguments())

    def _gemma(self, text: str, mark: str) -> Verdict:
        named = _GEMMA_NAME.match(text, len(mark))
        if named is None:
            rest = text[len(mark) :]
            return "undecided" if "call:".startswith(rest.lstrip()) or _GEMMA_PART.fullmatch(rest) else "no call"
        return self._begun(text, named, GemmaArguments(QUOTES[mark]))

    def _begun(self, text: str, named: re.Match[str], arguments: Arguments) -> Verdict:
        if named[1] not in self._tools:
            return "no call"
        if isinstance(arguments, JsonArguments) and not _OBJECT.match(text, named.end()):
            return "undecided" if _OBJECT_PART.fullmatch(text, named.end()) else "no call"
        return Begun(named.end(), named[1], arguments)

    def _after_python_tag(self, text: str, start: int) -> Verdict:
        if start == len(text):
            return "undecided"
        if text[start] == "{":
            return self._wrapped(text, start, tagged=False)
        if called := _BUILTIN.match(text, start):
            return self._builtin(text, called[1], called.end())
        return "undecided" if _BUILTIN_PART.fullmatch(text, start) else "no call"

    def _wrapped(self, text: str, start: int, *, tagged: bool, listed: bool = False) -> Verdict:
        """An object of name and arguments."""
        if head := _HEAD.match(text, start):
            if head[1] not in self._tools:
                return "no call"
            return Begun(head.end(), head[1], JsonArguments(), wrapped=True, listed=listed)
        self._object = self._object or _ObjectEnd(start)  # goes on where it was
        end = self._object.find(text)
        if end is None:
            return "undecided" if tagged or self._may_be_call(text, start) else "no call"
        call = self._whole(text[start:end], tagged=tagged)
        return Whole(end, (call,), listed) if call is not None else "no call"

    def _may_be_call(self, text: str, start: int) -> bool:
        """Whether an object that has not ended begins as a call of a known tool does."""
        begun = _FIRST_KEY.match(text, start)
        if begun is None:
            return False
        key, complete, colon, name, named = begun.groups()
        if key is not None and complete is None:
            return any(name.startswith(key) for name in _KEYS)
        if key is None or colon is None or (key == "name" and name is None):
            return begun.end() == len(text) and key in (None, *_KEYS)
        if key != "name":
            return key in _KEYS
        return name in self._tools if named else self._may_be_name(name)

    def _may_be_name(self, begun: str) -> bool:
        return any(name.startswith(begun) for name in self._tools)

    def _whole(self, text: str, *, tagged: bool) -> tuple[str, str] | None:
        """The call that a JSON object of name and arguments is."""
        try:
            value = json.loads(text, strict=False, parse_constant=refuse)
            arguments = value.get("parameters", value.get("arguments", {} if tagged else None))
            if isinstance(arguments, str):  # some models write the arguments as the text of an object
                arguments = json.loads(arguments, strict=False, parse_constant=refuse)
        except (ValueError, RecursionError):
            return None
        return self._made(value.get("name"), arguments)

    def _made(self, name: object, values: object) -> tuple[str, str] | None:
        if not isinstance(name, str) or name not in self._tools or not isinstance(values, dict):
            return None
        try:
            return name, json.dumps(values, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError):
            return None

    def _builtin(self, text: str, name: str, start: int) -> Verdict:
        """The call that ends with the first parenthesis that makes it one."""
        for closing in re.finditer(r"\)", text[self._tried :]):  # one in a quoted text is none
            end = self._tried + closing.end()
            if end > start and (called := _python(f"f({text[start:end]}")):
                call = self._made(name, self._values(name, called[0]))
                return Whole(end, (call,)) if call is not None else "no call"
        self._tried = len(text)
        return "undecided"

    def _python_list(self, text: str) -> Verdict:
        """Calls in brackets, which end with the first bracket that makes them Python."""
        for closing in re.finditer(r"\]", text[self._tried :]):
            end = self._tried + closing.end()
            if called := _python(text[:end]):
                return self._all(end, called)
        self._tried = len(text)
        return "undecided"

    def _tool_code(self, text: str, *, final: bool) -> Verdict:
        """Calls on lines of their own, in print() or not, until the block ends."""
        end = text.find("```", len(TOOL_CODE))
        if end < 0 and not final:
            return "undecided"
        called = _python(text[len(TOOL_CODE) : end if end >= 0 else len(text)])
        return self._all(end + 3 if end >= 0 else len(text), called) if called else "no call"

    def _all(self, length: int, called: Iterable[ast.Call]) -> Verdict:
        calls = []
        for node in called:
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            calls.append(self._made(name, self._values(name, node)))
        complete = tuple(call for call in calls if call is not None)
        return Whole(length, complete) if len(complete) == len(calls) else "no call"

    def _values(self, name: str, called: ast.Call) -> dict[str, Any] | None:
        """The arguments by name; those without a name are the tool's properties in order."""
        keys = [*self._tools.get(name, ())][: len(called.args)]
        try:
            values = [ast.literal_eval(value) for value in called.args]
            named = {str(word.arg): ast.literal_eval(word.value) for word in called.keywords}
        except (ValueError, TypeError, RecursionError, MemoryError):
            return None
        return dict(zip(keys, values, strict=True)) | named if len(keys) == len(values) else None


class _ObjectEnd:
    """Finds where the JSON object that begins at `start` ends, looking at every character once."""

    def __init__(self, start: int) -> None:
        self._at = start
        self._arguments = JsonArguments()

    def find(self, text: str) -> int | None:
        """The position after the object; None while `text`, which may grow, does not hold all of it."""
        if not self._arguments.done:
            self._at += self._arguments.read(text[self._at :], final=False)[0]
        return self._at if self._arguments.done else None


def _python(code: str) -> list[ast.Call]:
    """The calls that a piece of Python is, without the print() around them; empty where it is anything else."""
    try:
        body = ast.parse(code.strip()).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    values = [line.value if isinstance(line, ast.Expr) else None for line in body]
    if len(values) == 1 and isinstance(values[0], ast.List):
        values = [*values[0].elts]
    made: list[ast.Call] = []
    for value in values:
        printed = isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "print"
        inner = value.args[0] if printed and len(value.args) == 1 else value  # type: ignore[union-attr]
        if not isinstance(inner, ast.Call):
            return []
        made.append(inner)
    return made


def _after_blanks(text: str, start: int) -> int:
    return len(text) - len(text[start:].lstrip())
