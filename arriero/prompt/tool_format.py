"""What an answer may be, and how that gets into the prompt: tools to call, a JSON schema to fit.

How a model writes the call of a tool is not kept here by hand: its own chat template is asked to render one, and what
stands before, between and after the name and the arguments is the form of all its calls. A call can be demanded in
that form, as a constraint, and `tool_parser.CallReader` must be able to read it. Where the template has no place for
tools, or writes calls that cannot be read, there is a generic form, made of plain turns: see `generic_instruction`.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from arriero.constraint import Choice, JsonSchema, Plain, Series, Text
from arriero.errors import UsageError
from arriero.messages import Message, NamedTool, Role, Tool, ToolCall, ToolChoice
from arriero.prompt.template import Template, TemplateError, arguments_text, as_json
from arriero.prompt.tool_parser import CallReader
from arriero.tools import tool_choice_of

_PROBE = Tool("probe_tool", "", {"type": "object", "properties": {"probe_key": {"type": "string"}}})
_ARGUMENTS = re.compile(r'\{\s*"probe_key"\s*:\s*"probe_value"\s*\}')
_VALUES = {"probe_key": "probe_value"}
_IDS = ("probe0000", "probe0001")  # nine letters or digits, which every template takes
_CALLS = tuple(ToolCall(call_id, _PROBE.name, as_json(_VALUES)) for call_id in _IDS)
_ASKED = (Message("user", "probe_question"),)
_WITH_ID = re.compile(rf',\s*"id":\s*"{_IDS[0]}"|\[CALL_ID\]{_IDS[0]}')  # Mistral's; no demanded call has an id


@dataclass(frozen=True, slots=True)
class ToolCallFormat:
    """How a template writes a call: `before` name `between` arguments `after`, the arguments as JSON.

    `several` says whether it writes more than one into a turn, `short_ids` whether it takes only ids of nine letters
    and digits. Where a template writes arguments in a notation of its own, calls are demanded in the generic form,
    which is read as well.
    """

    before: str = '<tool_call>\n{"name": "'
    between: str = '", "arguments": '
    after: str = "}\n</tool_call>"
    several: bool = True
    short_ids: bool = False

    @classmethod
    def of(cls, template: Template, ends: Sequence[str]) -> ToolCallFormat:
        """Ask the template; `ends` are the texts of the tokens that end a turn.

        Raises TemplateError where it has no place for tools, for calls or for their results, and where it writes calls
        in a form that cannot be read.
        """
        prompt = template.text(_ASKED, answer_follows=True, tools=[_PROBE])
        if prompt == template.text(_ASKED, answer_follows=True):
            raise TemplateError(
                f"the chat template {template.named} has no place for tools: the model was not trained to call any",
                hint="use a model whose template takes tools, such as llama-3.1-8b-instruct",
            )
        whole = _rendered(template, _CALLS[:1])
        written = whole.removeprefix(prompt) if whole.startswith(prompt) else whole.rpartition(_ASKED[0].content)[2]
        if "probe_result" not in written.partition("probe_value")[2]:
            raise _unread(template, written)
        call_format = _as_json_form(written, ends)
        if call_format is None or not _reads(call_format.written(_CALLS[0])):
            if not _reads(written):
                raise _unread(template, written)
            call_format = cls()
        short = not _takes(template, [replace(_CALLS[0], id="call_0123456789")])
        return replace(call_format, several=_takes(template, _CALLS), short_ids=short)

    def written(self, call: ToolCall) -> str:
        """A call in this form."""
        return f"{self.before}{call.name}{self.between}{arguments_text(call)}{self.after}"

    def call(self, tool: Tool) -> Plain:
        """A call of `tool`. Arguments that its schema does not name are left out unless it asks for them."""
        parameters = {"type": "object", "additionalProperties": False, **tool.parameters}
        name = Text(f"{self.before}{tool.name}{self.between}")
        return Series((name, JsonSchema(parameters), *([Text(self.after)] if self.after else [])))

    def normalized(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """The same conversation as the template takes it."""
        made = messages if self.several else one_at_a_time(messages)
        return tuple(map(_with_short_ids, made) if self.short_ids else made)


def _as_json_form(written: str, ends: Sequence[str]) -> ToolCallFormat | None:
    """The form of a call whose arguments are JSON; None where they are not."""
    name, arguments = written.find(_PROBE.name), _ARGUMENTS.search(written)
    if name < 0 or arguments is None:
        return None
    after = written[arguments.end() :]
    after = after[: min((at for end in ends if (at := after.find(end)) >= 0), default=len(after))].rstrip()
    between = written[name + len(_PROBE.name) : arguments.start()]
    return ToolCallFormat(written[:name].lstrip(), _WITH_ID.sub("", between), _WITH_ID.sub("", after))


def _reads(text: str) -> bool:
    """Whether the call of the probe is read out of `text`."""
    reader = CallReader([_PROBE])
    parts = [*reader.push(text), *reader.flush()]
    return [part.call.given for part in parts if part.call is not None] == [_VALUES]


def _rendered(template: Template, calls: Sequence[ToolCall]) -> str:
    results = [Message("tool", "probe_result", tool_call_id=call.id) for call in calls]
    turns = (*_ASKED, Message("assistant", "", tuple(calls)), *results)
    try:
        return template.text(turns, answer_follows=False, tools=[_PROBE])
    except UsageError as error:
        raise TemplateError(f"with tool calls, {error.message}") from error


def _takes(template: Template, calls: Sequence[ToolCall]) -> bool:
    """Whether the template writes all these calls."""
    try:
        return _rendered(template, calls).count("probe_value") == len(calls)
    except TemplateError:
        return False


def _unread(template: Template, written: str) -> TemplateError:
    return TemplateError(
        f"the chat template {template.named} writes calls of tools in a form that is not read here: {written[:200]!r}",
        hint="use a model that calls tools as Llama 3.1 or as Qwen 2.5 and Hermes do",
    )


def _with_short_ids(message: Message) -> Message:
    calls = tuple(replace(call, id=_short(call.id)) for call in message.tool_calls)
    result = message.tool_call_id
    return replace(message, tool_calls=calls, tool_call_id=_short(result) if result is not None else None)


def _short(call_id: str) -> str:
    return hashlib.sha256(call_id.encode()).hexdigest()[:9]


GENERIC = ToolCallFormat()


def generic_instruction(tools: Sequence[Tool]) -> str:
    """What shows the model tools where the template has no place for them; together with `in_plain_turns`:

        system     … <tools> one definition a line </tools> and how to call
        assistant  … <tool_call> {"name": …, "arguments": …} </tool_call>
        user       <tool_response> {"name": …, "content": …} </tool_response>

    in the manner of Hermes (https://github.com/NousResearch/Hermes-Function-Calling), the most widely learnt one.
    """
    if not tools:
        return ""
    listed = "\n".join(as_json(tool.definition["function"]) for tool in tools)
    return (
        f"You can call these functions, each described by its JSON schema:\n<tools>\n{listed}\n</tools>\n"
        "To call one, write its name and its arguments as a JSON object between tags, and nothing after it:\n"
        '<tool_call>\n{"name": "function_name", "arguments": {"argument_name": "value"}}\n</tool_call>\n'
        "Its result comes between <tool_response> tags. Where no function is needed, answer in words."
    )


def in_plain_turns(messages: Sequence[Message]) -> list[Message]:
    """The conversation with calls and results as text, a result in one turn with what the user says next."""
    names: dict[str | None, str] = {}
    made: list[Message] = []
    results = False  # whether the last turn is of results
    for message in messages:
        names |= {call.id: call.name for call in message.tool_calls}
        calls = [GENERIC.written(call) for call in message.tool_calls]
        text = "\n".join(filter(None, (message.content, *calls)))
        if message.role == "tool":
            result = {"name": names.get(message.tool_call_id, ""), "content": text}
            text = f"<tool_response>\n{as_json(result)}\n</tool_response>"
        role: Role = "user" if message.role == "tool" else message.role
        if results and role == "user":
            made[-1] = Message("user", f"{made[-1].content}\n{text}")
        else:
            made.append(Message(role, text, reasoning_content=message.reasoning_content))
        results = role == "user" and (results or message.role == "tool")
    return made


def one_at_a_time(messages: Sequence[Message]) -> list[Message]:
    """The same calls and results as turns of one call each, for templates that write no more into a turn."""
    made: list[Message] = []
    moved: set[int] = set()  # positions of results that stand after their calls now
    for position, message in enumerate(messages):
        if not message.tool_calls:
            made += [message] if position not in moved else []
            continue
        after = itertools.takewhile(lambda at: messages[at].role == "tool", range(position + 1, len(messages)))
        results = {messages[at].tool_call_id: at for at in after}
        for index, call in enumerate(message.tool_calls):
            first = replace(message, tool_calls=(call,))
            made.append(replace(first, content="", reasoning_content=None) if index else first)
            if (at := results.pop(call.id, None)) is not None:
                moved.add(at)
                made.append(messages[at])
    return made


@dataclass(frozen=True, slots=True)
class OutputSpec:
    """What an answer may be. Without a field set: any text.

    `tools` may be called as `choice` says: "auto" leaves it to the model, "required" and a NamedTool demand one call,
    which a constraint makes sure of. With a `schema` the answer is JSON that fits it, or a call if there are tools;
    a demanded call overrides a schema. Without `parallel` the answer ends with its first call.
    """

    tools: tuple[Tool, ...] = ()
    choice: ToolChoice = "auto"
    schema: Mapping[str, Any] | None = None
    parallel: bool = True

    @classmethod
    def of(
        cls,
        tools: Iterable[Tool | Mapping[str, Any]] = (),
        choice: ToolChoice | Mapping[str, Any] = "auto",
        schema: Mapping[str, Any] | None = None,
        *,
        parallel: bool = True,
    ) -> OutputSpec:
        """Check and convert. With the choice "none" the model is not shown the tools: that way it calls none."""
        made, chosen = tuple(map(Tool.of, tools)), tool_choice_of(choice)
        names = [tool.name for tool in made]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UsageError(f"there are two tools of one name: {', '.join(twice)}")
        if isinstance(chosen, NamedTool) and chosen.name not in names:
            raise UsageError(f"tool_choice names {chosen.name!r}, which is not among the tools {', '.join(names)}")
        if chosen == "required" and not made:
            raise UsageError("tool_choice is required, but there are no tools to call")
        checked = None if schema is None else JsonSchema(schema).schema
        return cls(() if chosen == "none" else made, chosen, checked, parallel)

    @property
    def must_call(self) -> bool:
        """Whether a call is demanded."""
        return self.choice == "required" or isinstance(self.choice, NamedTool)

    @property
    def demanded(self) -> tuple[Tool, ...]:
        """The tools one of which must be called; none where the model may do without."""
        named = self.choice.name if isinstance(self.choice, NamedTool) else None
        return tuple(tool for tool in self.tools if named in (None, tool.name)) if self.must_call else ()

    @property
    def instruction(self) -> str:
        """What the prompt says about the schema; empty without one."""
        if self.schema is None or self.must_call:
            return ""
        otherwise = "Unless you call a function, answer" if self.tools else "Answer"
        if self.schema == {"type": "object"}:
            return f"{otherwise} with a JSON object and nothing else."
        return f"{otherwise} with JSON that fits this JSON schema and nothing else:\n{as_json(dict(self.schema))}"

    def constraint(self, call_format: ToolCallFormat | None) -> Plain | None:
        """What the answer must look like, None where it is free. `call_format` is needed where there are tools."""
        schema = [] if self.schema is None or self.must_call else [JsonSchema(self.schema)]
        callables = self.demanded or (self.tools if schema else ())
        calls = [call_format.call(tool) for tool in callables] if call_format is not None else []
        allowed = (*calls, *schema)
        return Choice(allowed) if len(allowed) > 1 else allowed[0] if allowed else None
