"""Turns to be answered -> the text of a prompt, by a chat template that takes what it takes.

Training knows which order of turns makes sense; here that is the template's business. What it refuses is refused in
its own words, and a turn that it leaves out is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypedDict

from arriero.errors import UsageError
from arriero.messages import Message, Tool, joined
from arriero.prompt.encoding import Ids, RenderedText
from arriero.prompt.reasoning import Reasoning
from arriero.prompt.template import Template, TemplateError
from arriero.prompt.tool_format import ToolCallFormat
from arriero.prompt.tracing import MARK, Spans

# What a prompt ends with: an answer's beginning, as the template writes it; the text of the last turn, whose answer
# goes on; or the end of the last turn.
Ending = Literal["begun", "continued", "closed"]


class ChatTemplateOptions(TypedDict, total=False):
    """What a prompt ends with, as `Chat.stream` has it, and further variables of its template."""

    continue_final_message: bool | None
    add_generation_prompt: bool | None
    chat_template_kwargs: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Prompt:
    """The ids an engine continues, and how reasoning is read from what it generates; None where there is none."""

    ids: Ids
    reasoning: Reasoning | None


_CHANGE = "\U0010fffc"  # beside MARK, where both may stand


def ending_of(
    turns: Sequence[Message], continue_final_message: bool | None, add_generation_prompt: bool | None
) -> Ending:
    """What a prompt of these turns ends with; of what is None, what is natural: an assistant's text goes on.

    Raises UsageError where there is nothing to continue, or both are asked for.
    """
    final = turns[-1]
    text = final.role == "assistant" and not final.tool_calls
    if continue_final_message and add_generation_prompt:
        raise UsageError("continue_final_message goes on with an answer, add_generation_prompt begins one: not both")
    if continue_final_message and not text:
        raise UsageError(f"the last message must be an assistant's text to be continued, got a {final.role}'s")
    if text and continue_final_message is not False and not add_generation_prompt:
        return "continued"
    return "closed" if add_generation_prompt is False else "begun"


@dataclass(frozen=True, slots=True)
class PromptRenderer:
    """How turns become a prompt. `call_format` is how the template writes calls, None where there are none."""

    template: Template
    tools: Sequence[Tool]
    ending: Ending
    call_format: ToolCallFormat | None

    def render(self, turns: Sequence[Message]) -> RenderedText:
        """The prompt's text, where earlier answers begin in it, and what of it is structure.

        Texts of one role in a row are joined where the template does not take them apart. Raises UsageError where it
        refuses the turns, naming its words, or leaves one out, naming that.
        """
        last = turns[-1]
        if self.ending == "continued" and not (last.content or last.reasoning_content) and len(turns) > 1:
            # an empty text continued is an answer begun
            return replace(self, ending="begun").render(turns[:-1])
        try:
            return self._rendered(turns)
        except UsageError:
            # two questions in a row, say: templates that insist on alternating roles take them as one
            merged = joined(turns)
            if len(merged) == len(turns):
                raise
            try:
                return self._rendered(merged)
            except UsageError:
                pass
            raise

    def _rendered(self, turns: Sequence[Message]) -> RenderedText:
        text = self._text(turns)
        traced = self._traced(turns)
        if (left_out := self._left_out(turns, text, traced)) is not None:
            role = turns[left_out].role
            raise UsageError(
                f"the chat template {self.template.named} leaves message {left_out} ({role}) out of the prompt",
                hint="put it where the template has a place for it, say at the beginning or into a user's message",
            )
        shown = self._shown(turns)
        answers = [index for index, turn in enumerate(shown) if turn.role == "assistant"]
        starts = earlier_answer_starts(
            text, answers, lambda turn: self.template.text(shown[:turn], answer_follows=True, tools=self.tools)
        )
        return RenderedText(text, tuple(starts.values()), tuple(starts), self._structure(turns, text, traced))

    def _structure(self, turns: Sequence[Message], text: str, traced: str | None) -> Spans:
        structure = self.template.tracer.structure(text, traced) if traced is not None else None
        if structure is None:
            self.template.check(turns, self.tools)  # names the special token, where it stands in one text as it is
        if traced is None:
            return tuple(match.span() for match in self.template.tracer.specials.finditer(text))
        if structure is None:
            raise TemplateError(
                f"the chat template {self.template.named} rewrites what it is given, and puts special tokens together "
                "from it",
                hint="write the messages differently",
            )
        return structure

    def _shown(self, turns: Sequence[Message]) -> Sequence[Message]:
        return self.call_format.normalized(turns) if self.call_format is not None else turns

    def _text(self, turns: Sequence[Message], *, traced: bool = False) -> str:
        shown = list(self._shown(turns))
        if self.ending == "continued":
            # templates strip texts and close turns; what stands before the mark is neither
            shown[-1] = replace(shown[-1], content=shown[-1].content + MARK)
        text = self.template.text(shown, answer_follows=self.ending == "begun", tools=self.tools, traced=traced)
        if self.ending != "continued":
            return text
        before, *after = text.split(MARK)
        if len(after) != 1:
            raise TemplateError(
                f"the chat template {self.template.named} does not show the last message as it is, so it cannot be "
                "continued",
                hint="leave it out, or begin a new answer after it: add_generation_prompt",
            )
        return before

    def _traced(self, turns: Sequence[Message]) -> str | None:
        """The text with what people wrote marked, None where the template refuses that or it is nested too deeply."""
        try:
            return self._text(turns, traced=True)
        except (UsageError, RecursionError):
            return None

    def _left_out(self, turns: Sequence[Message], text: str, traced: str | None) -> int | None:
        """The index of a turn that the template leaves out.

        Where all marked texts stand one after the other, there is none. Where they don't, each is changed in turn to
        see whether that changes the prompt. An assistant's turn with calls is in the prompt by its calls.
        """
        with_text = [index for index, turn in enumerate(turns) if turn.content.strip() and not turn.tool_calls]
        position = 0
        for index in with_text:
            content = turns[index].content.strip()
            mark = self.template.tracer.mark(content)
            at = traced.find(mark, position) if traced is not None and mark != content else -1
            if at < 0:
                return next((turn for turn in with_text if not self._shows(turns, turn, text)), None)
            position = at + len(mark)
        return None

    def _shows(self, turns: Sequence[Message], index: int, text: str) -> bool:
        changed = list(turns)
        changed[index] = replace(turns[index], content=turns[index].content + _CHANGE)
        try:
            return self._text(changed) != text
        except UsageError:
            return True


def earlier_answer_starts(text: str, answers: Iterable[int], prompt: Callable[[int], str]) -> dict[int, int]:
    """Where in a text the answers begin, by their turns, ascending; `prompt` gives what stands before a turn's answer.

    Not those that the template renders otherwise once others follow.
    """
    starts: dict[int, int] = {}
    longest = 0
    for turn in answers:
        try:
            before = prompt(turn)
        except UsageError:  # before the first turn there is nothing, and many templates refuse that
            continue
        if text.startswith(before) and len(before) >= longest:
            starts[turn] = longest = len(before)
    return starts
