"""CallReader: the text of one answer -> parts that are text, or belong to calls of tools."""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from arriero.prompt.tool_parser.arguments import overlap
from arriero.prompt.tool_parser.opening import CLOSINGS, OPENINGS, Begun, Opening, Whole
from arriero.tools import CallDelta, Tool, ToolCall

_OPENING = re.compile("|".join(map(re.escape, OPENINGS)))
_BARE = re.compile(r"\s*[{\[]")
_BETWEEN_CALLS = re.compile(r"[\s;]*")
_BETWEEN_LISTED = re.compile(r"[\s;,\]]*")
_REST = re.compile(r'\s*(?:,\s*"[^{}]*)?\}')  # of an object, after the arguments
_REST_PART = re.compile(r'\s*(?:,\s*(?:"[^{}]*)?)?')
_NAME = re.compile(r'"name"\s*:\s*"([^"]+)"')


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of `length` characters of an answer: the text to show for it, or what it adds to a call, or neither.

    `call` is the whole call, with the part that ends its arguments.
    """

    text: str
    length: int
    delta: CallDelta | None = None
    call: ToolCall | None = None


class _Call:
    """The call whose arguments are being read."""

    def __init__(self, begun: Begun, index: int) -> None:
        self.source = begun.arguments
        self.wrapped = begun.wrapped
        self.index = index
        self.id = new_id()
        self.name = begun.name
        self._made: list[str] = []

    def add(self, arguments: str) -> CallDelta:
        self._made.append(arguments)
        return CallDelta(self.index, arguments)

    def made(self) -> ToolCall:
        return ToolCall(self.id, self.name, "".join(self._made))


class CallReader:
    """Reads one answer; `tools` may be called.

    Where a call is `demanded` of one of these names, an answer that is cut off before its call has begun is a call
    without arguments, if its name is known, and in no case text.

    Invariants, however the text is split into pieces: the lengths of all parts add up to that of the text; the texts
    of the parts are the text without its calls and the blanks around them; the arguments of a call's deltas, joined,
    are those of the call. Text that cannot belong to a call is passed on at once. `hidden` are the markers that are
    special tokens of this vocabulary, which are never shown.
    """

    def __init__(self, tools: Iterable[Tool], hidden: Collection[str] = (), demanded: Collection[str] = ()) -> None:
        self._tools = {tool.name: tool.properties for tool in tools}
        self._hidden = tuple(hidden)
        self._demanded = tuple(demanded)
        self._blank = ""  # belongs to a call, if one follows
        self._held = ""  # begins, or may begin, with a call; or goes on with one
        self._opening = Opening(self._tools)
        self._call: _Call | None = None
        self._in_object = False  # that holds the call whose arguments have ended
        self._bare = True  # whether a bracket that follows may begin a call
        self._after_call = False
        self._listed = False
        self._calls = 0
        self.unfinished = False  # whether the answer ended within a call

    def push(self, text: str) -> list[Part]:
        """Add text; returns what has become certain."""
        self._held += text
        return self._read(final=False)

    def flush(self) -> list[Part]:
        """What is left at the end of the answer.

        A call whose closing tag is missing is one nevertheless, and so is one that was cut off within its arguments.
        """
        parts = self._read(final=True)
        if self._call is not None:
            self._continue(parts, final=True)
        if self._blank:
            self._show(parts, "")
        return parts

    def _read(self, *, final: bool) -> list[Part]:
        parts: list[Part] = []
        while self._held and self._step(parts, final=final):
            pass
        return parts

    def _step(self, parts: list[Part], *, final: bool) -> bool:
        """Go on by one part, or by one decision; False where that needs more text."""
        if self._call is not None:
            return self._continue(parts, final=final)
        if self._in_object:
            return self._end_object(parts, final=final)
        if self._after_call and (length := self._between(final=final)) is not None:
            self._drop(parts, length)
            return length > 0
        if start := self._next_opening():
            self._show(parts, self._take(start))
            return True
        return self._judge(parts, final=final)

    def _judge(self, parts: list[Part], *, final: bool) -> bool:
        verdict = self._opening.judge(self._held, final=final)
        if verdict == "undecided" and not final:
            return False
        if isinstance(verdict, Begun):
            self._begin(parts, verdict)
        elif isinstance(verdict, Whole):
            self._add_whole(parts, verdict)
        elif verdict == "undecided" and self._demanded and not self._calls:
            self._cut_off(parts)
        else:
            # no call after all: the mark is text, and what follows it is looked at anew
            marker = _OPENING.match(self._held)
            self._show(parts, self._take(marker.end() if marker else 1))
        return True

    def _begin(self, parts: list[Part], begun: Begun) -> None:
        self._call = _Call(begun, self._calls)
        self._start(begun.listed)
        # blanks before a call are the call's: they are counted, but never shown
        length = len(self._blank + self._take(begun.length))
        parts.append(Part("", length, CallDelta(self._call.index, "", self._call.id, self._call.name)))
        self._blank = ""

    def _add_whole(self, parts: list[Part], whole: Whole) -> None:
        length = len(self._blank + self._take(whole.length))
        for name, arguments in whole.calls:
            call = ToolCall(new_id(), name, arguments)
            parts.append(Part("", length, CallDelta(self._calls, arguments, call.id, name), call))
            # of several calls in one stretch, the first takes its whole length
            length = 0
            self._start(whole.listed)
        self._blank, self._after_call = "", True

    def _start(self, listed: bool) -> None:
        self._calls += 1
        self._listed = listed or (self._listed and self._after_call)
        # Llama writes several calls in a row, all without a mark
        self._bare, self._after_call = True, False

    def _continue(self, parts: list[Part], *, final: bool) -> bool:
        call = self._call
        assert call is not None  # noqa: S101  for mypy; `_step` has looked
        length, arguments = call.source.read(self._held, final=final)
        # cut off: the arguments stay as far as they came, and the call counts as unfinished
        if final and not call.source.done:
            length, self.unfinished = len(self._held), True
        ended = call.source.done or final
        if not (length or arguments or ended):
            return False
        self._take(length)
        delta = call.add(arguments)
        parts.append(Part("", length, delta if arguments else None, call.made() if ended else None))
        if ended:
            self._call, self._in_object, self._after_call = None, call.wrapped, True
        return True

    def _end_object(self, parts: list[Part], *, final: bool) -> bool:
        """What stands between the arguments of a call and the end of the object that holds it."""
        rest = _REST.match(self._held)
        if rest is None and _REST_PART.fullmatch(self._held):
            if final:
                self._drop(parts, len(self._held))
            return final
        self._drop(parts, rest.end() if rest else 0)
        self._in_object = False
        return True

    def _between(self, *, final: bool) -> int | None:
        """How much of the held text only separates calls: 0 is not certain, None nothing."""
        between = (_BETWEEN_LISTED if self._listed else _BETWEEN_CALLS).match(self._held)
        if between and between.end():
            return between.end()
        for closing in CLOSINGS:
            if self._held.startswith(closing):
                return len(closing)
        if any(closing.startswith(self._held) for closing in CLOSINGS):
            # at the end a tag that was cut off is dropped, but "<" and "</" are text
            return (len(self._held) if len(self._held) > 2 else None) if final else 0
        return None

    def _cut_off(self, parts: list[Part]) -> None:
        """A demanded call of which not even the arguments have begun."""
        match = _NAME.search(self._held)
        name = match[1] if match else self._demanded[0] if len(self._demanded) == 1 else ""
        length, self._blank = len(self._blank + self._take(len(self._held))), ""
        self.unfinished = True
        if name not in self._tools:
            parts.append(Part("", length))
            return
        call = ToolCall(new_id(), name, "")
        parts.append(Part("", length, CallDelta(0, "", call.id, name), call))

    def _next_opening(self) -> int:
        """Where in the held text a call begins or, at its end, may begin."""
        if self._bare and (bare := _BARE.match(self._held)):
            return bare.end() - 1
        match = _OPENING.search(self._held)
        return match.start() if match else len(self._held) - overlap(self._held, OPENINGS)

    def _take(self, count: int) -> str:
        # an Opening remembers how far it has looked, so it holds for one beginning only
        taken, self._held = self._held[:count], self._held[count:]
        self._opening = Opening(self._tools)
        return taken

    def _drop(self, parts: list[Part], length: int) -> None:
        if length:
            self._take(length)
            parts.append(Part("", length))

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
        # text between calls ends the row of calls: a bracket in it is no call
        if visible.strip():
            self._bare = self._after_call = self._listed = False


def new_id() -> str:
    """An id that no other call has."""
    return f"call_{secrets.token_hex(12)}"
