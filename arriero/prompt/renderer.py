"""The only place where a conversation becomes token ids. It knows the tokenizer's chat template and nothing of models.

The template is rendered to text and that text is tokenized once, so there is exactly one BOS where the template
writes one. Ids and loss mask are born together. For every assistant turn the text before its answer is rendered as a
prompt too; it must be a prefix of the text with the answer, and where it ends is a cut:

    text   <s>user|hello</s><s>bot|hi</s>\\n
    cut                            ^
    ids    <s> user hello </s> <s> bot  hi </s> \\n
    mask    0   0    0     0    0   0   1   1    0

The ids before a cut are exactly the ids of the prompt alone, so the prompt an engine gets is what training put before
the answer. Where a tokenizer would merge characters across a cut (an answer that begins with a newline after a prompt
that ends with one), the text is tokenized in two parts there, as it happens in generation too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Literal

from arriero.errors import UsageError
from arriero.messages import Conversation, Message, Tool
from arriero.prompt.calls import MARKERS
from arriero.prompt.template import Template, TemplateError
from arriero.prompt.tools import GENERIC, CallForm, Wanted, in_plain_turns, told_generic

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import PreTrainedTokenizerFast

log = logging.getLogger(__name__)

Answers = Literal["all", "last"]
Ids = list[int]


@dataclass(frozen=True, slots=True)
class Rendered:
    """Token ids of a conversation, and the spans [start, end) of them that training takes a loss on predicting."""

    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]

    @property
    def mask(self) -> tuple[bool, ...]:
        """For each id whether it is in a span."""
        mask = [False] * len(self.ids)
        for start, end in self.spans:
            mask[start:end] = [True] * (end - start)
        return tuple(mask)

    def cut(self, length: int) -> Rendered | None:
        """Shortened to `length` ids by cutting the last answer and keeping its end token; None if there is no room."""
        start, end = self.spans[-1]
        if start >= length - 1 or len(self.ids) <= length:
            return self if len(self.ids) <= length else None
        ids = (*self.ids[: length - 1], self.ids[end - 1])
        return Rendered(ids, (*self.spans[:-1], (start, length)))


@dataclass(frozen=True, slots=True)
class Layout:
    """A rendered conversation before it is tokenized.

    `cuts` are the positions in `text` where an answer begins, ascending; `turns` the indices of those messages.
    """

    text: str
    cuts: tuple[int, ...]
    turns: tuple[int, ...]


@dataclass(frozen=True)
class Renderer:
    """Renders conversations for one tokenizer.

    `system` is put in front of conversations that bring no system prompt (None: the template decides). `today` is
    the date, as YYYY-MM-DD, that templates asking for the current date are given: frozen, so that a prompt does not
    change from one day to the next. `variables` are passed to the template as they are (`date_string` …). `answers`
    says whether every answer is trained or only a conversation's last.
    """

    tokenizer: PreTrainedTokenizerFast
    stop_token_ids: tuple[int, ...]
    system: str | None = None
    today: str = "2024-07-26"
    variables: Mapping[str, Any] = field(default_factory=dict)
    answers: Answers = "all"

    def __getstate__(self) -> dict[str, Any]:
        """Only the fields travel to another process; what was worked out from them is worked out again there."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    @cached_property
    def chat_template(self) -> Template:
        """What turns messages into text."""
        return Template(self.tokenizer, self.today, self.variables)

    @property
    def template(self) -> str:
        """The chat template's own text."""
        return self.chat_template.source

    @property
    def template_sha256(self) -> str:
        """Hash of the chat template's text, as hex."""
        return self.chat_template.sha256

    def with_system(self, system: str | None) -> Renderer:
        """The same renderer under another system prompt."""
        return replace(self, system=system)

    def prompt(self, messages: Iterable[Message | Mapping[str, Any]], wanted: Wanted | None = None) -> Ids:
        """The ids an engine continues: the conversation and the generation prompt.

        The conversation must end with the user or with the results of tools. What is `wanted` of the answer is shown
        to the model: tools where the template puts them, an instruction at the end of the system prompt.
        """
        wanted = wanted or Wanted()
        conversation = Conversation.of(messages).with_system(self.system)
        if conversation.turns[-1].role not in ("user", "tool"):
            raise UsageError("the conversation must end with a user message or the results of tools")
        tools, told = wanted.tools, ""
        calls = any(message.tool_calls or message.role == "tool" for message in conversation.messages)
        if (tools or calls) and self.tool_form is GENERIC:
            self.chat_template.check(conversation.messages, tools)
            conversation = Conversation(tuple(in_plain_turns(conversation.messages)))
            tools, told = (), told_generic(tools)
        if instruction := "\n\n".join(filter(None, (told, wanted.instruction))):
            conversation = self._instructed(conversation, instruction)
        layout = self.layout(conversation, answer_follows=True, tools=tools)
        (encoding,) = self._encode([layout.text])
        return self._starts(layout, encoding)[0]

    def _instructed(self, conversation: Conversation, instruction: str) -> Conversation:
        """With an instruction at the end of the system prompt or, where the template takes none, of the question."""
        if self._takes_system:
            system = f"{conversation.system}\n\n{instruction}" if conversation.system else instruction
            return Conversation((Message("system", system), *conversation.turns))
        messages = list(conversation.messages)
        last = max(index for index, message in enumerate(messages) if message.role == "user")
        messages[last] = replace(messages[last], content=f"{messages[last].content}\n\n{instruction}")
        return Conversation(tuple(messages))

    @cached_property
    def _takes_system(self) -> bool:
        asked = (Message("system", "probe_system"), Message("user", "probe_question"))
        try:
            return "probe_system" in self.chat_template.text(asked, answer_follows=True)
        except UsageError:
            return False

    @cached_property
    def call_form(self) -> CallForm:
        """How the model writes calls of tools by its own template; raises TemplateError where it cannot."""
        return CallForm.of(self.chat_template, self.tokenizer.convert_ids_to_tokens(list(self.stop_token_ids)))

    @cached_property
    def tool_form(self) -> CallForm:
        """How the model is shown tools and calls them: by its template or, where that cannot, in the generic form."""
        try:
            return self.call_form
        except TemplateError as error:
            _announce(f"tools are shown to the model in a generic form, which it may not have learnt: {error.message}")
            return GENERIC

    @cached_property
    def markers(self) -> Mapping[int, str]:
        """The special tokens that mark calls of tools, by id."""
        added = self.tokenizer.added_tokens_decoder
        return {index: token.content for index, token in added.items() if token.special and token.content in MARKERS}

    def render(self, conversation: Conversation) -> Rendered:
        """The ids of a whole conversation and the mask; raises as `layout` does, and `TemplateError`."""
        layout = self.layout(conversation.with_system(self.system))
        (rendered,) = self.render_layouts([layout])
        return rendered

    def render_layouts(self, layouts: Sequence[Layout]) -> list[Rendered]:
        """Tokenize many conversations at once; see `render`."""
        encodings = self._encode([layout.text for layout in layouts])
        return [self._masked(layout, encoding) for layout, encoding in zip(layouts, encodings, strict=True)]

    def layout(self, conversation: Conversation, *, answer_follows: bool = False, tools: Sequence[Tool] = ()) -> Layout:
        """The text of a conversation and where its answers begin.

        Raises TemplateError where the template is not prefix-stable, naming the turn, or takes no tools, and UsageError
        where it refuses the conversation, the content holds a special token or is not Unicode text.
        """
        messages = conversation.messages
        self.chat_template.check(messages, tools)
        if tools or any(message.tool_calls for message in messages):
            messages = self.call_form.fitted(messages)
        text = self.chat_template.text(messages, answer_follows=answer_follows, tools=tools)
        turns = tuple(index for index, message in enumerate(messages) if message.role == "assistant")
        cuts = []
        for turn in turns:
            before = self.chat_template.text(messages[:turn], answer_follows=True, tools=tools)
            if not text.startswith(before):
                raise TemplateError(
                    f"the chat template {self.chat_template.named} is not prefix-stable: the prompt before message "
                    f"{turn} is not how the whole conversation begins, so what is trained would not be what is served",
                    hint="use a model whose template renders earlier turns the same way whatever follows",
                )
            cuts.append(len(before))
        return Layout(text, tuple(cuts), turns)

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """The ids of all special tokens."""
        return frozenset(index for index, token in self.tokenizer.added_tokens_decoder.items() if token.special)

    def is_special(self, token: int) -> bool:
        """Whether an id stands for a special token."""
        return token in self.special_ids

    def _encode(self, texts: list[str]) -> list[Encoding]:
        encodings: list[Encoding] = self.tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
        return encodings

    def _masked(self, layout: Layout, encoding: Encoding) -> Rendered:
        if not layout.cuts:
            raise UsageError("the conversation has no assistant message, so there is nothing to learn from it")
        ids, starts = self._starts(layout, encoding)
        begin = 0 if self.answers == "all" else len(starts) - 1
        answers = list(zip(starts, layout.turns, strict=True))[begin:]
        return Rendered(tuple(ids), tuple((start, self._end_of_turn(ids, start, turn)) for start, turn in answers))

    def _end_of_turn(self, ids: Ids, start: int, turn: int) -> int:
        """The position after the first stop token at or after `start`."""
        for position in range(start, len(ids)):
            if ids[position] in self.stop_token_ids:
                return position + 1
        expected = self.tokenizer.convert_ids_to_tokens(list(self.stop_token_ids))
        raise TemplateError(
            f"the chat template {self.chat_template.named} puts no stop token after message {turn}: the model would "
            f"never learn to stop (the stop tokens are {expected})",
            hint="name the token that ends a turn as eos_token_id in the model's generation_config.json",
        )

    def _starts(self, layout: Layout, encoding: Encoding) -> tuple[Ids, list[int]]:
        """The ids, and for each cut the index of the first id after it."""
        ids: Ids = encoding.ids
        starts = [self._clean_start(layout.text, ids, cut, encoding) for cut in layout.cuts]
        if None not in starts:
            return ids, [start for start in starts if start is not None]
        return self._in_parts(layout.text, layout.cuts)

    def _clean_start(self, text: str, ids: Ids, cut: int, encoding: Encoding) -> int | None:
        """The index of the id that begins at `cut`, if the ids before it are certainly those of the prompt alone.

        They are when a special token stands before the cut, for tokenizers never merge across one, and the ids
        between it and the cut are those of that bit of text by itself. None means: not certain.
        """
        start = encoding.char_to_token(cut)
        if start is None or _begin(encoding, start) != cut:
            return None
        special = start - 1
        while special >= 0 and ids[special] not in self.special_ids:
            special -= 1
        if special < 0:
            return None
        between = text[_begin(encoding, special) : cut]
        return start if ids[special:start] == self._alone(between) else None

    def _alone(self, text: str) -> Ids:
        """The ids of a piece of text; remembered, since what precedes an answer is nearly always the same."""
        known: dict[str, Ids] = self.__dict__.setdefault("_known", {})
        if text not in known and len(known) < 1000:
            known[text] = self._encode([text])[0].ids
        return known[text] if text in known else self._encode([text])[0].ids

    def _in_parts(self, text: str, cuts: tuple[int, ...]) -> tuple[Ids, list[int]]:
        """Tokenize so that at every cut the ids before it are those of the prompt alone, by definition."""
        if not cuts:
            return self._encode([text])[0].ids, []
        head, starts = self._in_parts(text[: cuts[-1]], cuts[:-1])
        whole: Ids = self._encode([text])[0].ids
        if whole[: len(head)] != head:
            whole = head + self._encode([text[cuts[-1] :]])[0].ids
        return whole, [*starts, len(head)]


@cache
def _announce(message: str) -> None:
    """Say it once in the log, however many renderers there are."""
    log.warning(message)


def _begin(encoding: Encoding, token: int) -> int:
    """The position in the text where a token begins; -1 for a token that stands for no text."""
    span = encoding.token_to_chars(token)
    return -1 if span is None else span[0]
