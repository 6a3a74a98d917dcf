"""Messages and tools -> text, by the model's own chat template; and how that template writes a call of a tool."""

from __future__ import annotations

import copy
import datetime
import hashlib
import itertools
import json
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from arriero.errors import UsageError
from arriero.messages import Message, Tool, ToolCall
from arriero.prompt import compat
from arriero.prompt.tracing import Tracer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class TemplateError(UsageError):
    """The chat template cannot do what is asked of it, whatever the conversation or the data."""


class Template:
    """One tokenizer's chat template. `today` and `variables` are the renderer's."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, today: str, variables: Mapping[str, Any]) -> None:
        self._tokenizer = tokenizer
        self._context = {
            "strftime_now": datetime.date.fromisoformat(today).strftime,
            **tokenizer.special_tokens_map,
        }
        self._given: Mapping[str, Any] = {}
        self._given = self.given(variables)._given if variables else {}

    def given(self, variables: Mapping[str, Any]) -> Self:
        """The same template with further variables, whose texts are no more than text, as those of messages are.

        They override variables of the same names that it had. Raises UsageError for a name that the template has from
        elsewhere, and for what is no JSON or not Unicode text.
        """
        if taken := sorted(variables.keys() & self._own_names):
            raise UsageError(
                f"a variable of the chat template may not be called {', '.join(taken)}: the template has that from "
                "elsewhere",
                hint="leave it out; messages, tools and add_generation_prompt are given beside chat_template_kwargs",
            )
        self.tracer  # noqa: B018  the copies share it
        made = copy.copy(self)
        made._given = {**self._given, **json.loads(as_json(dict(variables)))}
        for where, text in made._given_texts():
            _check_unicode(where, text)
        return made

    def _given_texts(self) -> Iterable[tuple[str, str]]:
        return ((f"the template's variable {name}", as_json(value)) for name, value in self._given.items())

    @cached_property
    def open_variables(self) -> frozenset[str]:
        """The variables that may be given: what the template asks for and has from nowhere."""
        from jinja2 import meta

        asked = meta.find_undeclared_variables(self._compiled.environment.parse(self.source))
        return frozenset(asked - self._own_names)

    @property
    def _own_names(self) -> frozenset[str]:
        """What the template has without being given it."""
        arguments = ("messages", "tools", "documents", "add_generation_prompt")
        return frozenset((*arguments, *self._context, *self._compiled.globals))

    @property
    def source(self) -> str:
        """The template's own text."""
        return str(self._tokenizer.get_chat_template())

    @property
    def sha256(self) -> str:
        """Hash of the template's own text, as hex."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    @property
    def named(self) -> str:
        """Which template this is, for messages to people."""
        name = str(getattr(self._tokenizer, "name_or_path", "") or "").rstrip("/").rsplit("/", 1)[-1]
        return f"of {name} ({self.sha256[:12]})" if name else f"({self.sha256[:12]})"

    def text(
        self, messages: Sequence[Message], *, answer_follows: bool, tools: Sequence[Tool] = (), traced: bool = False
    ) -> str:
        """The template's output: what apply_chat_template tokenizes, but with the clock stopped at `today`.

        apply_chat_template itself offers no way to hand the template another clock. `traced` marks what people wrote.
        Raises UsageError where the template refuses the conversation.
        """
        marked = self.tracer.marked if traced else _as_it_is
        shown = list(_as_dicts(messages, self._arguments, marked))
        definitions = [marked(json.loads(as_json(tool.definition))) for tool in tools]
        given = {name: marked(value) for name, value in self._given.items()}
        return self._render(shown, definitions, given, answer_follows=answer_follows)

    def _render(
        self,
        messages: list[dict[str, Any]],
        tools: Sequence[Any],
        given: Mapping[str, Any],
        *,
        answer_follows: bool,
    ) -> str:
        import jinja2

        try:
            text: str = self._compiled.render(
                messages=messages,
                tools=tools or None,
                documents=None,
                add_generation_prompt=answer_follows,
                **self._context,
                **given,
            )
        except (
            jinja2.TemplateError,
            TypeError,
            ValueError,
            RecursionError,
            ArithmeticError,
            LookupError,
            AttributeError,
        ) as error:  # templates fail in all these ways
            system = bool(messages) and messages[0]["role"] == "system"
            hint = "--fold-system puts the system prompt before the first question" if system else ""
            raise UsageError(f"the chat template refuses this conversation: {error}", hint=hint) from error
        return text

    def check(self, messages: Iterable[Message], tools: Iterable[Tool] = ()) -> None:
        """Raise UsageError where a special token, or what is not Unicode text, would get into the prompt."""
        for where, text in itertools.chain(_texts(messages, tools), self._given_texts()):
            if (special := self.tracer.specials.search(text)) is not None:
                raise UsageError(
                    f"{where} holds the special token {special[0]}, which would be read as a part of the prompt's "
                    "structure",
                    hint="write it differently, say with a space in it",
                )
            _check_unicode(where, text)

    @cached_property
    def tracer(self) -> Tracer:
        """What follows the texts of people through this template."""
        from jinja2 import nodes

        added = self._tokenizer.added_tokens_decoder.values()
        specials = {token.content for token in added if token.special and token.content.strip()}
        source = self._compiled.environment.parse(self.source)
        words = {node.value for node in source.find_all(nodes.Const) if isinstance(node.value, str)}
        return Tracer(list(specials), words, {node.attr for node in source.find_all(nodes.Getattr)})

    def _arguments(self, call: ToolCall) -> dict[str, Any] | str:
        """A call's arguments as the template takes them: what is no object as text or, if it must be, in an object."""
        given = call.given
        return given if isinstance(given, dict) or self._takes_text else {"arguments": given}

    @cached_property
    def _takes_text(self) -> bool:
        """Whether the template writes arguments that are no object as the text they are."""
        call = ToolCall("probe0000", "probe_tool", "probe_text")
        turns = (Message("user", "probe"), Message("assistant", "", (call,)), Message("tool", "", (), call.id))
        try:
            shown = list(_as_dicts(turns, lambda _: call.arguments, _as_it_is))
            return call.arguments in self._render(shown, (), self._given, answer_follows=True)
        except UsageError:
            return False

    @cached_property
    def _compiled(self) -> Any:
        return compat.compiled(self.source)


def as_json(value: object) -> str:
    """JSON as chat templates write it; raises UsageError for what JSON cannot express."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"this cannot be written as JSON: {error}, got {reprlib.repr(value)}") from error


def _as_it_is(value: Any) -> Any:
    return value


def check_unicode(messages: Iterable[Message], tools: Iterable[Tool]) -> None:
    """Raise UsageError where what people wrote is not Unicode text, which no tokenizer takes."""
    for where, text in _texts(messages, tools):
        _check_unicode(where, text)


def _check_unicode(where: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{where} is not Unicode text: a lone surrogate at position {error.start}") from error


def _texts(messages: Iterable[Message], tools: Iterable[Tool]) -> Iterable[tuple[str, str]]:
    """All that people wrote, and what it is."""
    for tool in tools:
        yield f"the definition of the tool {tool.name}", as_json(tool.definition)
    for message in messages:
        yield f"the {message.role}'s message", message.content
        if message.reasoning_content:
            yield f"the {message.role}'s reasoning", message.reasoning_content
        for call in message.tool_calls:
            yield from ((f"the call of {call.name}", text) for text in (call.name, arguments_text(call)))


def arguments_text(call: ToolCall) -> str:
    """A call's arguments as JSON or, where the model wrote none, as the text they are."""
    given = call.given
    return given if isinstance(given, str) else as_json(given)


def _as_dicts(
    messages: Sequence[Message], arguments: Callable[[ToolCall], object], marked: Callable[[Any], Any]
) -> Iterable[dict[str, Any]]:
    """Messages as templates take them: `tool_calls` only where there are some, with their `arguments`."""
    names: dict[str | None, str] = {}
    for message in messages:
        made: dict[str, Any] = {"role": message.role, "content": marked(message.content)}
        if message.reasoning_content:
            made["reasoning_content"] = marked(message.reasoning_content)
        if message.tool_calls:
            names |= {call.id: call.name for call in message.tool_calls}
            made["tool_calls"] = [
                {
                    "type": "function",
                    "id": marked(call.id),
                    "function": {"name": marked(call.name), "arguments": marked(arguments(call))},
                }
                for call in message.tool_calls
            ]
        elif message.role == "tool":
            name = names.get(message.tool_call_id, "")
            made |= {"tool_call_id": marked(message.tool_call_id), "name": marked(name)}
        yield made
