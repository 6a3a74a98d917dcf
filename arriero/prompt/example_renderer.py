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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from arriero.errors import UsageError
from arriero.messages import Message, Tool
from arriero.prompt.encoding import RenderedText
from arriero.prompt.prompt_renderer import earlier_answer_starts
from arriero.prompt.reasoning import Begins, Tags
from arriero.prompt.template import Template
from arriero.prompt.tracing import MARK

Answers = Literal["auto", "each", "all", "last"]
_TAGS = Tags("<think>", "</think>")  # where the template itself sets no reasoning apart


@dataclass(frozen=True)
class ExampleRenderer:
    """Messages to learn from, as the template takes them.

    `ends` are the texts of the tokens that end a turn, `tags` those around reasoning, by the template or as usual.
    """

    template: Template
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...]
    ends: tuple[str, ...]
    tags: Tags = _TAGS

    def render(self, answers: Answers) -> list[RenderedText]:
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
        text = self._text(self.messages)
        # every trained answer has to be there, and behind exactly the prompt that answering would give
        if not all(self._shows(self.messages, turn, text) for turn in learnt):
            return None
        starts = earlier_answer_starts(text, self.answers, self._prompt)
        return _rendered(text, starts, learnt) if starts.keys() >= set(learnt) else None

    def _alone(self, turn: int) -> RenderedText:
        """The conversation up to an answer, as the template writes it or, where it leaves some out, as it would."""
        # what follows the answer is cut off: with it the template might render the answer otherwise
        before, messages = self._prompt(turn), self.messages[: turn + 1]
        text = self._text(messages)
        if not self._shows(messages, turn, text):
            text = before + self._written(turn)
        # nothing is learnt of earlier answers, but tokens must not merge across their beginnings either
        starts = earlier_answer_starts(before, [answer for answer in self.answers if answer < turn], self._prompt)
        return _rendered(text, {**starts, turn: len(before)}, (turn,))

    def _text(self, messages: Sequence[Message]) -> str:
        return self.template.text(messages, answer_follows=False, tools=self.tools)

    def _shows(self, messages: Sequence[Message], turn: int, text: str) -> bool:
        """Whether the `text` of messages has all of the answer `turn` behind its prompt, before the turn ends.

        Blanks do not count, for templates strip and re-indent. Nor does a text by itself where it might be found in
        something else: reasoning, and the text beside calls, are marked to see whether the mark arrives.
        """
        message, before = self.messages[turn], self._prompt(turn)
        if not text.startswith(before):
            return False
        answer = _squeezed(self._until_end(text[len(before) :]))
        content = _squeezed(message.content)
        # the prompt has written the opening tag already
        if self._begins(turn) == "opened":
            content = content.removeprefix(self.tags.opening)
        if content not in answer or not all(_squeezed(call.name) in answer for call in message.tool_calls):
            return False
        marked = []
        if message.reasoning_content:
            marked.append(replace(message, reasoning_content=message.reasoning_content + MARK))
        if message.tool_calls and content:
            marked.append(replace(message, content=message.content + MARK))
        return all(self._arrives((*messages[:turn], changed, *messages[turn + 1 :]), len(before)) for changed in marked)

    def _arrives(self, messages: Sequence[Message], start: int) -> bool:
        """Whether a mark in messages gets into their text, in the turn that begins at `start`."""
        return MARK in self._until_end(self._text(messages)[start:])

    def _until_end(self, answer: str) -> str:
        return answer[: min((at for end in self.ends if (at := answer.find(end)) >= 0), default=len(answer))]

    def _begins(self, turn: int) -> Begins:
        return self.tags.begins(self._prompt(turn), None)

    def _written(self, turn: int) -> str:
        """What the model would have to write after the prompt: the answer, its calls and the end of the turn."""
        message = self.messages[turn]
        marked = replace(message, content=MARK, reasoning_content=None)
        # the mark shows where the template puts an answer's text; what stands behind it ends the turn
        _, mark, ending = self._text((*self.messages[:turn], marked)).rpartition(MARK)
        if not mark:
            what = "the text beside the calls of " if message.tool_calls else ""
            raise UsageError(
                f"the chat template {self.template.named} leaves {what}message {turn} out: it would not be learnt",
                hint="put the text into a turn of its own, or leave it out",
            )
        return self._spoken(turn) + ending

    def _spoken(self, turn: int) -> str:
        """Reasoning and answer as the model writes them, without what the prompt has begun of them already."""
        message, before = self.messages[turn], self._prompt(turn)
        opening, closing, begins = self.tags.opening, self.tags.closing, self._begins(turn)
        text = message.content
        if begins == "closed" and (message.reasoning_content or closing in text):
            raise UsageError(
                f"message {turn} holds reasoning, and the prompt before it asks for an answer without any",
                hint="leave the reasoning out, or the template's variable that switches it off",
            )
        if closing not in text and (message.reasoning_content or begins == "opened"):
            text = self.tags.around((message.reasoning_content or "").strip(), text.lstrip())
        # the prompt ends with the tag, perhaps with blanks after it: neither may come twice
        if begins == "opened" and text.lstrip().startswith(opening):
            text = text.lstrip().removeprefix(opening).removeprefix(before[len(before.rstrip()) :])
        return text


def _rendered(text: str, starts: Mapping[int, int], learnt: Sequence[int]) -> RenderedText:
    return RenderedText(text, tuple(starts.values()), tuple(starts), learnt=tuple(learnt))


def _squeezed(text: str) -> str:
    return "".join(text.split())
