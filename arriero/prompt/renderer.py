"""The only place where a conversation becomes token ids. It knows the tokenizer's chat template and nothing of models.

The template is rendered to text and that text is tokenized once, so there is exactly one BOS where the template
writes one. Ids and loss mask are born together. For every assistant turn the text before its answer is rendered as a
prompt too; a trained answer's example begins with it (`learning`), and where it ends the answer starts:

    text   <s>user|hello</s><s>bot|hi</s>\\n
    answer starts                  ^
    ids    <s> user hello </s> <s> bot  hi </s> \\n
    mask    0   0    0     0    0   0   1   1    0

The ids before an answer start are exactly the ids of the prompt alone, so the prompt an engine gets is what training
put before the answer. Where a tokenizer would merge characters across it (an answer that begins with a newline after a
prompt that ends with one), the text is tokenized in two parts there, as it happens in generation too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Unpack

from arriero.errors import UsageError
from arriero.messages import Conversation, Message, turns_of, with_system
from arriero.prompt.encoding import Encoder, Ids, LiteralEncoder, RenderedText
from arriero.prompt.example_renderer import Answers, ExampleRenderer
from arriero.prompt.options import agreeing, folded, instructed
from arriero.prompt.prompt_renderer import ChatTemplateOptions, Prompt, PromptRenderer, ending_of
from arriero.prompt.reasoning import Reasoning, Tags
from arriero.prompt.rendered import Rendered
from arriero.prompt.template import Template, TemplateError, check_unicode
from arriero.prompt.tool_format import GENERIC, OutputSpec, ToolCallFormat, generic_instruction, in_plain_turns
from arriero.prompt.tool_parser import MARKERS
from arriero.prompt.tracing import lifted

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import PreTrainedTokenizerFast

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Renderer:
    """Renders conversations for one tokenizer.

    `system` is put in front of conversations that bring no system prompt (None: the template decides). `today` is
    the date, as YYYY-MM-DD, that templates asking for the current date are given: frozen, so that a prompt does not
    change from one day to the next. `variables` are those of the template (`enable_thinking` …), of which a request may
    not change the `frozen` ones. `answers` says which answers are trained, and whether as examples of their own; see
    `learning`. `fold_system` puts the system prompt before the first question. `given_template` is the chat template
    where it is not the tokenizer's own.
    """

    tokenizer: PreTrainedTokenizerFast
    stop_token_ids: tuple[int, ...]
    system: str | None = None
    today: str = "2024-07-26"
    variables: Mapping[str, Any] = field(default_factory=dict)
    answers: Answers = "auto"
    frozen: frozenset[str] = frozenset()
    fold_system: bool = False
    given_template: str | None = None

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

    def prompt(
        self,
        messages: Iterable[Message | Mapping[str, Any]],
        output_spec: OutputSpec | None = None,
        **ends: Unpack[ChatTemplateOptions],
    ) -> Ids:
        """The ids of `asked`."""
        return self.asked(messages, output_spec, **ends).ids

    def asked(
        self,
        messages: Iterable[Message | Mapping[str, Any]],
        output_spec: OutputSpec | None = None,
        **ends: Unpack[ChatTemplateOptions],
    ) -> Prompt:
        """What an engine continues: turns in whatever order the template takes them, and how the answer begins.

        Where an assistant's text is the last turn it goes on, unless the flags, `Chat.stream`'s, say otherwise. What
        `output_spec` asks for is shown to the model: tools where the template puts them, an instruction at the end of
        the system prompt. `chat_template_kwargs` override the template's variables of the same names. Raises
        UsageError where they change one that was trained, and where the template refuses the turns or leaves one out.
        """
        output_spec = output_spec or OutputSpec()
        turns = with_system(turns_of(messages), self.system)
        # of the turns as they came: calls and instructions change them below
        ending = ending_of(turns, ends.get("continue_final_message"), ends.get("add_generation_prompt"))
        if ending == "continued" and (output_spec.schema is not None or output_spec.must_call):
            raise UsageError(
                "an answer that must be a call or fit a schema cannot be continued, only begun",
                hint="leave the assistant's message at the end out",
            )
        check_unicode((*turns, Message("system", output_spec.instruction)), output_spec.tools)
        tools, tools_shown = output_spec.tools, ""
        calls = any(message.tool_calls or message.role == "tool" for message in turns)
        # earlier calls need a form too, even where no tool may be called any more
        call_format = self.tool_call_format if tools or calls else None
        if call_format is GENERIC:
            turns, tools, tools_shown = tuple(in_plain_turns(turns)), (), generic_instruction(tools)
        if instruction := "\n\n".join(filter(None, (tools_shown, output_spec.instruction))):
            turns = instructed(turns, instruction, takes_system=self._takes_system)
        # last, for an instruction may only now have made a system prompt
        turns = folded(turns) if self.fold_system else turns
        variables = agreeing(ends.get("chat_template_kwargs") or {}, self.variables, self.frozen)
        template = self.chat_template.given(variables) if variables else self.chat_template
        rendered = PromptRenderer(template, tools, ending, call_format).render(turns)
        continued = turns[-1].content if ending == "continued" else None
        return Prompt(self._answer_ids(rendered), self._reasoning(rendered.text, continued))

    def _reasoning(self, prompt: str, continued: str | None) -> Reasoning | None:
        if self.tags is None:
            return None
        ids = self.tokenizer.get_vocab()
        # None where a tag is no token of its own: then reasoning cannot be limited
        pair = ids.get(self.tags.opening), ids.get(self.tags.closing)
        return Reasoning(self.tags, *pair, self.tags.begins(prompt, continued), self.stop_token_ids)

    @cached_property
    def tags(self) -> Tags | None:
        """The tags around reasoning, None where the template sets none apart."""
        return Tags.of(self.chat_template)

    def _answer_ids(self, rendered: RenderedText) -> Ids:
        """The ids of a rendered text, in which special tokens are nothing but structure."""
        structure = rendered.structure or ()
        (encoding,) = self._encoder.encode([rendered.text])
        # nearly always no text holds a special token, and the tokenizer as it is does
        if self._encoder.astray(rendered.text, encoding, structure) is None:
            return self._encoder.starts(rendered, encoding)[0]
        # else those of the structure move to the private-use area, and all others are encoded as text
        rendered = replace(rendered, text=lifted(rendered.text, structure))
        (encoding,) = self._literal_encoder.encode([rendered.text])
        if (special := self._literal_encoder.astray(rendered.text, encoding, structure)) is not None:
            raise UsageError(f"the tokenizer reads {special!r}, which stands in the conversation, as a special token")
        return self._literal_encoder.starts(rendered, encoding)[0]

    @cached_property
    def _takes_system(self) -> bool:
        asked = (Message("system", "probe_system"), Message("user", "probe_question"))
        try:
            return "probe_system" in self.chat_template.text(asked, answer_follows=True)
        except UsageError:
            return False

    @cached_property
    def native_call_format(self) -> ToolCallFormat:
        """How the model writes calls of tools by its own template; raises TemplateError where it cannot."""
        return ToolCallFormat.of(self.chat_template, self.tokenizer.convert_ids_to_tokens(list(self.stop_token_ids)))

    @cached_property
    def tool_call_format(self) -> ToolCallFormat:
        """How the model is shown tools and calls them: by its template or, where that cannot, in the generic form."""
        try:
            return self.native_call_format
        except TemplateError as error:
            _announce(f"tools are shown to the model in a generic form, which it may not have learnt: {error.message}")
            return GENERIC

    @cached_property
    def markers(self) -> Mapping[int, str]:
        """The special tokens that mark calls of tools, by id."""
        added = self.tokenizer.added_tokens_decoder
        return {index: token.content for index, token in added.items() if token.special and token.content in MARKERS}

    def render(self, conversation: Conversation) -> Rendered:
        """A conversation's last example: all of it, where the template lets one example hold all answers."""
        return self.examples(conversation)[-1]

    def examples(self, conversation: Conversation) -> list[Rendered]:
        """The ids and loss spans of a conversation's examples; raises as `rendered_texts` does, and TemplateError."""
        examples = []
        for example in self.tokenize(self.rendered_texts(conversation.with_system(self.system))):
            if isinstance(example, UsageError):
                raise example
            examples.append(example)
        return examples

    def tokenize(self, rendered_texts: Sequence[RenderedText]) -> list[Rendered | UsageError]:
        """Tokenize many examples at once; where one cannot be learnt from, the list has the error."""
        encodings = self._encoder.encode([rendered.text for rendered in rendered_texts])
        return [self._masked(rendered, encoding) for rendered, encoding in zip(rendered_texts, encodings, strict=True)]

    def rendered_texts(self, conversation: Conversation) -> list[RenderedText]:
        """The texts of a conversation's examples, and where in them answers begin; see `learning`.

        Raises TemplateError where the template takes no tools, and UsageError where it refuses the conversation, no
        answer is to be learnt, or the content holds a special token or is not Unicode text.
        """
        messages, tools = conversation.messages, conversation.tools
        if conversation.text is not None:
            return [self._document(conversation.text)]
        messages = folded(messages) if self.fold_system else messages
        self.chat_template.check(messages, tools)
        if tools or any(message.tool_calls for message in messages):
            # no generic form here: what is learnt is the model's own
            messages = self.native_call_format.normalized(messages)
        ends = self.tokenizer.convert_ids_to_tokens(list(self.stop_token_ids))
        tags = {} if self.tags is None else {"tags": self.tags}
        return ExampleRenderer(self.chat_template, messages, tools, tuple(ends), **tags).render(self.answers)

    def _document(self, text: str) -> RenderedText:
        """A text as it is, as in pre-training: between the tokens that begin and end one, where there are such."""
        self.chat_template.check([Message("user", text)])
        begin, end = (str(token or "") for token in (self.tokenizer.bos_token, self.tokenizer.eos_token))
        return RenderedText(begin + text + end, (len(begin),), (0,), document=True)

    def surely_longer(self, text: str, tokens: int) -> bool:
        """Whether a text has more than `tokens` tokens, judged by its beginning; False where that does not suffice."""
        # tokens are rarely longer than 8 characters; 64 of slack, for at the cut they may come out differently
        size = 8 * (tokens + 64)  # characters
        if len(text) <= 2 * size:
            return False
        (beginning,) = self._encoder.encode([text[:size]])
        return len(beginning.ids) > tokens + 64

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """The ids of all special tokens."""
        return frozenset(index for index, token in self.tokenizer.added_tokens_decoder.items() if token.special)

    def is_special(self, token: int) -> bool:
        """Whether an id stands for a special token."""
        return token in self.special_ids

    @cached_property
    def _encoder(self) -> Encoder:
        added = self.tokenizer.added_tokens_decoder
        specials = {index: token.content for index, token in added.items() if token.special}
        return Encoder(self.tokenizer.backend_tokenizer, specials, self.tokenizer.unk_token_id)

    @cached_property
    def _literal_encoder(self) -> LiteralEncoder:
        return LiteralEncoder(self.tokenizer)

    def _masked(self, rendered: RenderedText, encoding: Encoding) -> Rendered | UsageError:
        ids, starts = self._encoder.starts(rendered, encoding)
        if rendered.document:
            return Rendered(tuple(ids), ((starts[0], len(ids)),))
        answers = [(start, turn) for start, turn in zip(starts, rendered.turns, strict=True) if turn in rendered.learnt]
        try:
            return Rendered(tuple(ids), tuple((start, self._end_of_turn(ids, start, turn)) for start, turn in answers))
        except TemplateError as error:
            return error

    def _end_of_turn(self, ids: Ids, start: int, turn: int) -> int:
        """The position after the first stop token at or after `start`."""
        # the loss includes the stop token: a model that never sees it learnt never stops
        for position in range(start, len(ids)):
            if ids[position] in self.stop_token_ids:
                return position + 1
        expected = self.tokenizer.convert_ids_to_tokens(list(self.stop_token_ids))
        raise TemplateError(
            f"the chat template {self.chat_template.named} puts no stop token after message {turn}: the model would "
            f"never learn to stop (the stop tokens are {expected}; generation_config.json names them as eos_token_id)",
            hint="name the token that ends a turn as eos_token_id in the model's generation_config.json",
        )


@cache
def _announce(message: str) -> None:
    """Say it once in the log, however many renderers there are."""
    log.warning(message)
