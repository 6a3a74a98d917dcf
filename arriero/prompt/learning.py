"""A conversation to learn from -> the texts of its examples: every trained answer behind the prompt that asks for it.

Where the template shows earlier turns the same way whatever follows, the text of the whole conversation holds all its
prompts, and one example all its answers. Templates of reasoning models rewrite what was said; there each answer is an
example of its own:

    conversation   q1  <think>r1</think>a1   q2  <think>r2</think>a2
    examples       q1 <think> | r1</think>a1
                   q1 a1 q2 <think> | r2</think>a2

What stands before an answer is what answering would give the engine, and what is learnt is what the model would have
to write after it, even where the template itself would not show that again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from arriero.errors import UsageError
from arriero.messages import Message, Tool
from arriero.prompt.asking import earlier_answer_starts
from arriero.prompt.encoding import RenderedText
from arriero.prompt.template import Template

Answers = Literal["auto", "each", "all", "last"]
_HERE = "\U0010fffd"  # a private character that no template strips
_OPENED = re.compile(r"<(\w+)>(\s*)$")
_CLOSING = re.compile(r"</(\w*think\w*|\w*reason\w*|\w*thought\w*)>", re.IGNORECASE)


@dataclass(frozen=True)
class Lesson:
    """Messages to learn from, as the template takes them. `ends` are the texts of the tokens that end a turn."""

    template: Template
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...]
    ends: tuple[str, ...]

    def layouts(self, answers: Answers) -> list[RenderedText]:
        """The texts of the examples. auto: one example where that can be, else one for each answer.

        Raises UsageError where the template refuses the conversation or leaves an answer out, and where there is no
        answer to be learnt.
        """
        if not self.answers:
            raise UsageError("the conversation has no assistant message, so there is nothing to learn from it")
        learnt = self.answers[-1:] if answers == "last" else self.answers
        learnt = tuple(turn for turn in learnt if self.messages[turn].trained)
        if not learnt:
            raise UsageError("none of the answers that are trained is to be learnt (weight, train or loss)")
        together = self._together(learnt) if answers != "each" else None
        if together is not None:
            return [together]
        if answers == "all":
            raise UsageError(
                f"the chat template {self.template.named} rewrites earlier turns, so that one example cannot hold all "
                "answers as they are asked for",
                hint="--answers each makes an example of each answer",
            )
        return [self._alone(turn) for turn in learnt]

    @cached_property
    def answers(self) -> tuple[int, ...]:
        """The turns of the assistant."""
        return tuple(index for index, message in enumerate(self.messages) if message.role == "assistant")

    @cached_property
    def _prompts(self) -> dict[int, str]:
        return {}

    def _prompt(self, turn: int) -> str:
        """What answering would give the engine for an answer in place of the message `turn`."""
        if turn not in self._prompts:
            self._prompts[turn] = self.template.text(self.messages[:turn], answer_follows=True, tools=self.tools)
        return self._prompts[turn]

    def _together(self, learnt: Sequence[int]) -> RenderedText | None:
        """The conversation as the template writes it; None where its answers are not behind their prompts there."""
        text = self.template.text(self.messages, answer_follows=False, tools=self.tools)
        for turn in learnt:
            before = self._prompt(turn)
            if not (text.startswith(before) and self._holds(turn, text[len(before) :])):
                return None
        cuts = earlier_answer_starts(text, self.answers, self._prompt)
        return _layout(text, cuts, learnt) if cuts.keys() >= set(learnt) else None

    def _alone(self, turn: int) -> RenderedText:
        before = self._prompt(turn)
        text = self.template.text(self.messages[: turn + 1], answer_follows=False, tools=self.tools)
        if not (text.startswith(before) and self._holds(turn, text[len(before) :])):
            text = before + self._written(turn)
        cuts = earlier_answer_starts(before, [each for each in self.answers if each < turn], self._prompt)
        return _layout(text, {**cuts, turn: len(before)}, (turn,))

    def _holds(self, turn: int, after: str) -> bool:
        """Whether the text after a prompt has all of a message before the turn ends; templates strip and re-indent."""
        message = self.messages[turn]
        answer = after[: min((at for end in self.ends if (at := after.find(end)) >= 0), default=len(after))]
        if not all(call.name in answer for call in message.tool_calls):
            return False
        if message.content in answer and not message.reasoning_content:
            return True
        begun, answer = _squeezed(self._prompt(turn)[-40:]), _squeezed(answer)  # 40: the longest opening of an answer
        for part in (message.reasoning_content or "", message.content):
            said = _squeezed(part)
            at = (begun + answer).rfind(said)
            if at < 0 or (said and at + len(said) <= len(begun)):
                return False
        return True

    def _written(self, turn: int) -> str:
        """What the model would have to write after the prompt: the answer, its calls and the end of the turn."""
        message = self.messages[turn]
        marked = replace(message, content=_HERE, reasoning_content=None)
        text = self.template.text((*self.messages[:turn], marked), answer_follows=False, tools=self.tools)
        _, found, ending = text.rpartition(_HERE)
        if not found:
            what = "the text beside the calls of " if message.tool_calls else ""
            raise UsageError(
                f"the chat template {self.template.named} leaves {what}message {turn} out: it would not be learnt",
                hint="put the text into a turn of its own, or leave it out",
            )
        return self._spoken(turn) + ending

    def _spoken(self, turn: int) -> str:
        """Reasoning and answer as the model writes them, without what the prompt has begun of them already."""
        before, message = self._prompt(turn), self.messages[turn]
        opened = _OPENED.search(before)
        if opened is not None and f"</{opened[1]}>" not in self.template.source:
            opened = None  # not a tag but how a turn begins
        named = opened or _CLOSING.search(self.template.source)
        tag, close = (f"<{named[1]}>", f"</{named[1]}>") if named is not None else ("<think>", "</think>")
        text = message.content
        if (message.reasoning_content or close in text) and before.rstrip().endswith(close):
            raise UsageError(
                f"message {turn} holds reasoning, and the prompt before it asks for an answer without any",
                hint="leave the reasoning out, or the template's variable that switches it off",
            )
        if close not in text and (message.reasoning_content or opened is not None):
            text = f"{tag}\n{(message.reasoning_content or '').strip()}\n{close}\n\n{text.lstrip()}"
        if opened is not None and text.lstrip().startswith(tag):
            text = text.lstrip().removeprefix(tag).removeprefix(opened[2])
        return text


def _layout(text: str, cuts: Mapping[int, int], learnt: Sequence[int]) -> RenderedText:
    return RenderedText(text, tuple(cuts.values()), tuple(cuts), learnt=tuple(learnt))


def _squeezed(text: str) -> str:
    return "".join(text.split())
