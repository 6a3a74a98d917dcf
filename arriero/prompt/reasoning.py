"""What a model thinks before it answers: by which tags its chat template sets that apart, and how it is read.

    prompt  … <|assistant|><think>\\n          the generation prompt has opened the reasoning, or the model opens it
    answer  Let me see.\\n</think>\\n\\nParis.   reasoning "Let me see.", text "Paris."

No list of models is kept here: the template is asked. Tags that stand in its source count as those of reasoning where
it ends a prompt with the opening one or with an empty pair, writes a message's `reasoning_content` between them, or
takes what stands between them out of an earlier answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from arriero.constraint import Constraint, Plain, Reasoned
from arriero.errors import UsageError
from arriero.messages import Message
from arriero.prompt.template import Template
from arriero.prompt.tool_parser.arguments import overlap

# Where a prompt leaves the reasoning: begun by the prompt, over already, or up to the model.
Begins = Literal["opened", "closed", "free"]

_ASKED = Message("user", "probe_question")
_THOUGHT, _ANSWER = "probe_reasoning", "probe_answer"


@dataclass(frozen=True, slots=True)
class Tags:
    """The tags around reasoning, as `<think>` and `</think>`.

    `switch` is the template's variable that turns reasoning off where it is false, None where there is none. `label` is
    what stands between the opening tag and the reasoning and is no part of it, "thought\\n" for Gemma 4's `<|channel>`.
    """

    opening: str
    closing: str
    switch: str | None = None
    label: str = ""

    @classmethod
    def of(cls, template: Template) -> Tags | None:
        """Ask the template; None where it sets no reasoning apart."""
        candidates = dict.fromkeys(_pairs(template.source))
        pair = next((tags for tags in candidates if _sets_apart(template, *tags)), None)
        if pair is None:
            return None
        named = re.search(rf"{re.escape(pair[0])}(\w+)(?:\\n|\n)", template.source)
        return cls(*pair, _switch(template), f"{named[1]}\n" if named is not None else "")

    def around(self, reasoning: str, answer: str) -> str:
        """Reasoning and answer as the model writes them."""
        if self.label:
            return f"{self.opening}{self.label}{reasoning}\n{self.closing}{answer}"
        return f"{self.opening}\n{reasoning}\n{self.closing}\n\n{answer}"

    def begins(self, prompt: str, continued: str | None) -> Begins:
        """Where a prompt leaves the reasoning; `continued` is the text of the answer that it goes on with."""
        if continued is not None and continued.strip():
            inside = continued.lstrip().startswith(self.opening) and self.closing not in continued
            return "opened" if inside else "closed"
        end = prompt.rstrip()
        return "opened" if end.endswith(self.opening) else "closed" if end.endswith(self.closing) else "free"


@dataclass(frozen=True, slots=True)
class Reasoning:
    """How reasoning is read and limited after one prompt: its tags, their ids where one token is a tag, its beginning.

    `stop_token_ids` may not come within it where anything is constrained.
    """

    tags: Tags
    opening_id: int | None
    closing_id: int | None
    begins: Begins
    stop_token_ids: tuple[int, ...]

    def constraint(self, answer: Plain | None, limit: int | None) -> Constraint | None:
        """What the whole output must look like: `answer` is wanted of what follows the reasoning, any text if None.

        Raises UsageError for a limit where the tags are no single tokens, for then nothing says when one is complete.
        """
        if self.begins == "closed" or (answer is None and limit is None):
            return answer
        tags: tuple[int | str, int | str] = (self.tags.opening, self.tags.closing)
        if self.opening_id is not None and self.closing_id is not None:
            tags = (self.opening_id, self.closing_id)
        elif limit is not None:
            raise UsageError(
                f"max_reasoning_tokens needs tags that are tokens of the vocabulary; {self.tags.closing} is not",
                hint="leave it out, or turn reasoning off",
            )
        return Reasoned(*tags, self.begins == "opened", answer, limit, self.stop_token_ids)


class ReasoningReader:
    """Takes reasoning out of a stream of text.

    Invariant, however the text is split: the reasoning's pieces joined are what stands between the tags, without
    blanks around it, and the texts joined are what follows; characters that belong to neither are counted as taken.
    """

    def __init__(self, tags: Tags, begins: Begins) -> None:
        self._tags = tags
        self._held = ""
        self._blank = ""  # of the reasoning, if more of it follows
        self._state: Literal["before", "inside", "after", "text"] = "inside" if begins == "opened" else "before"
        self._begun = False  # whether there has been any reasoning
        self._label = ""  # where it may come next

    @property
    def inside(self) -> bool:
        """Whether what comes next is reasoning."""
        return self._state == "inside"

    def push(self, text: str, *, final: bool = False) -> tuple[str, int, str]:
        """Add text, the `final` one at the end of the answer.

        Returns the reasoning that became certain, how many characters were taken for it, and the text after it.
        """
        self._held += text
        length = len(self._held)
        if self._state == "before":
            self._open(final=final)
        reasoning = self._think(final=final) if self._state == "inside" else ""
        if self._state == "after":
            self._held = self._held.lstrip()
            self._state = "text" if self._held else "after"
        out = ""
        if self._state == "text":
            out, self._held = self._held, ""
        return reasoning, length - len(self._held) - len(out), out

    def _open(self, *, final: bool) -> None:
        begun = self._held.lstrip()
        if begun.startswith(self._tags.opening):
            self._held, self._state = begun[len(self._tags.opening) :], "inside"
            self._label = self._tags.label
        elif final or not self._tags.opening.startswith(begun):
            self._state = "text"

    def _think(self, *, final: bool) -> str:
        if self._label and self._label.startswith(self._held) and not final:
            return ""
        self._held, self._label = self._held.removeprefix(self._label), ""
        reasoning, closing, text = self._held.partition(self._tags.closing)
        if closing:
            self._held, self._state = text, "after"
        else:
            kept = 0 if final else overlap(reasoning, (self._tags.closing,))
            reasoning, self._held = reasoning[: len(reasoning) - kept], reasoning[len(reasoning) - kept :]
        whole = self._blank + reasoning
        shown = whole.rstrip()
        self._blank = whole[len(shown) :]
        if not self._begun:
            shown = shown.lstrip()
            self._begun = bool(shown)
        return shown


def _pairs(source: str) -> Iterator[tuple[str, str]]:
    """Pairs of tags whose closing one stands in a template's source."""
    for tag in re.finditer(r"<(/)\w+>|\[(/)[A-Z_]+\]|<(\w+)\|>", source):
        yield f"<|{tag[3]}>" if tag[3] else tag[0].replace("/", "", 1), tag[0]


def _sets_apart(template: Template, opening: str, closing: str) -> bool:
    """Whether these tags are those of reasoning."""
    pair = f"{re.escape(opening)}\\s*{_THOUGHT}\\s*{re.escape(closing)}"
    ends = [_text(template.given({name: False}), [_ASKED]) for name in _variables(template)]
    for end in (_text(template, [_ASKED]), *ends):
        if re.search(f"{re.escape(opening)}\\s*({re.escape(closing)}\\s*)?$", end):
            return True
    shown = _text(template, [_ASKED, Message("assistant", _ANSWER, reasoning_content=_THOUGHT)], follows=False)
    if re.search(pair, shown):
        return True
    inline = Message("assistant", f"{opening}{_THOUGHT}{closing}{_ANSWER}")
    later = _text(template, [_ASKED, inline, _ASKED])
    return _ANSWER in later and _THOUGHT not in later


def _variables(template: Template) -> list[str]:
    """The names that a template asks for and that neither it nor we set, in order."""
    return sorted(template.open_variables)


def _switch(template: Template) -> str | None:
    """The variable that turns reasoning on and off: it changes a prompt, and how that ends before any other."""
    changes: dict[bool, list[str]] = {True: [], False: []}
    for name in _variables(template):
        off, on = (_text(template.given({name: value}), [_ASKED]) for value in (False, True))
        if off != on:
            changes[off.rpartition(_ASKED.content)[2] != on.rpartition(_ASKED.content)[2]].append(name)
    return next(iter([*changes[True], *changes[False]]), None)


def _text(template: Template, messages: Sequence[Message], *, follows: bool = True) -> str:
    """The template's text, empty where it refuses these messages."""
    try:
        return template.text(messages, answer_follows=follows)
    except UsageError:
        return ""
