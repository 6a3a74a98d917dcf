"""The only place where a conversation becomes token ids. It knows the tokenizer's chat template and nothing of models.

The template is rendered and tokenized in one step, so there is exactly one BOS where the template writes one. Ids
and loss mask are born together: for every assistant turn the ids before its answer are asked for as a prompt, and
must be a prefix of the ids with the answer. What follows the prefix, up to the token that ends the turn, is loss:

    ids    <s> user  hello </s> <s> bot  hi  </s> \\n
    mask    0   0     0     0    0   0    1   1    0

So the prompt that an engine gets is, by construction, what training put before the answer.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from arriero.errors import UsageError
from arriero.messages import Conversation, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True, slots=True)
class Rendered:
    """Token ids of a conversation and, for each, whether training takes a loss on predicting it. Equal length."""

    ids: tuple[int, ...]
    mask: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Renderer:
    """Renders conversations for one tokenizer.

    `system` is put in front of conversations that bring no system prompt (None: the template decides). `today` is
    the date, as YYYY-MM-DD, that templates asking for the current date are given: frozen, so that a prompt does not
    change from one day to the next. `variables` are passed to the template as they are (`date_string` …).
    """

    tokenizer: PreTrainedTokenizerFast
    stop_token_ids: tuple[int, ...]
    system: str | None = None
    today: str = "2024-07-26"
    variables: Mapping[str, Any] = field(default_factory=dict)

    @property
    def template_sha256(self) -> str:
        """Hash of the chat template's text, as hex."""
        return hashlib.sha256(str(self.tokenizer.chat_template).encode()).hexdigest()

    def prompt(self, messages: Iterable[Message | Mapping[str, Any]]) -> list[int]:
        """The ids an engine continues: the conversation, which must end with the user, and the generation prompt."""
        conversation = Conversation.of(messages).with_system(self.system)
        if conversation.turns[-1].role != "user":
            raise UsageError("the conversation must end with a user message for the model to answer")
        return self._ids(conversation.messages, answer_follows=True)

    def render(self, conversation: Conversation) -> Rendered:
        """The ids of a whole conversation and the mask that is true on every answer and the token that ends it.

        Raises UsageError where the template is not prefix-stable (an earlier turn renders differently once a later
        one is there, or the answer is rewritten so that no token ends it), naming the turn.
        """
        messages = conversation.with_system(self.system).messages
        full = self._ids(messages, answer_follows=False)
        mask = [False] * len(full)
        for index, message in enumerate(messages):
            if message.role != "assistant":
                continue
            start = len(self._prefix(messages[:index], full, index))
            for position in range(start, self._end_of_turn(full, start, index)):
                mask[position] = True
        if not any(mask):
            raise UsageError("the conversation has no assistant message, so there is nothing to learn from it")
        return Rendered(tuple(full), tuple(mask))

    def _prefix(self, before: tuple[Message, ...], full: list[int], turn: int) -> list[int]:
        prefix = self._ids(before, answer_follows=True)
        if full[: len(prefix)] != prefix:
            raise UsageError(
                f"the chat template is not prefix-stable: the prompt before message {turn} is not a prefix of the "
                "whole conversation's ids, so what is trained would not be what is served",
                hint="use a model whose template renders earlier turns the same way whatever follows",
            )
        return prefix

    def _end_of_turn(self, ids: list[int], start: int, turn: int) -> int:
        """The position after the first stop token at or after `start`."""
        for position in range(start, len(ids)):
            if ids[position] in self.stop_token_ids:
                return position + 1
        raise UsageError(
            f"the chat template puts no stop token after message {turn}: the model would never learn to stop",
            hint=f"the stop tokens are {list(self.stop_token_ids)}; check generation_config.json",
        )

    def _ids(self, messages: tuple[Message, ...], *, answer_follows: bool) -> list[int]:
        text = self._text(messages, answer_follows=answer_follows)
        return list(self.tokenizer(text, add_special_tokens=False, return_attention_mask=False)["input_ids"])

    def _text(self, messages: tuple[Message, ...], *, answer_follows: bool) -> str:
        """The template's output: what apply_chat_template tokenizes, but with the clock stopped at `today`.

        apply_chat_template itself offers no way to hand the template another clock.
        """
        import jinja2
        from transformers.utils.chat_template_utils import _compile_jinja_template

        template = _compile_jinja_template(self.tokenizer.get_chat_template())
        try:
            text: str = template.render(
                messages=[{"role": message.role, "content": message.content} for message in messages],
                tools=None,
                documents=None,
                add_generation_prompt=answer_follows,
                strftime_now=datetime.date.fromisoformat(self.today).strftime,
                **{**self.tokenizer.special_tokens_map, **self.variables},
            )
        except jinja2.TemplateError as error:
            raise UsageError(f"the chat template refuses this conversation: {error}") from error
        return text
