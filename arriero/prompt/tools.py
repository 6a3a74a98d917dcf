"""What an answer may be, and how that gets into the prompt: tools to call, a JSON schema to fit.

How a model writes the call of a tool is not kept here by hand: its own chat template is asked to render one, and what
stands before, between and after the name and the arguments is the form of all its calls. A call can be demanded in
that form, as a constraint, and `calls.CallReader` must be able to read it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from arriero.constraint import Choice, Constraint, JsonSchema, Series, Text
from arriero.errors import UsageError
from arriero.messages import Message, NamedTool, Tool, ToolCall, ToolChoice
from arriero.prompt.calls import CallReader
from arriero.prompt.template import Template, TemplateError, as_json
from arriero.tools import tool_choice_of

_PROBE = Tool("probe_tool", "", {"type": "object", "properties": {"probe_key": {"type": "string"}}})
_ARGUMENTS = re.compile(r'\{\s*"probe_key"\s*:\s*"probe_value"\s*\}')
_CALLS = tuple(ToolCall(f"call_probe{n}", _PROBE.name, '{"probe_key": "probe_value"}') for n in range(2))
_ASKED = (Message("user", "probe_question"),)


@dataclass(frozen=True, slots=True)
class CallForm:
    """How a template writes a call: `before` name `between` arguments `after`.

    `several` says whether it writes more than one into a turn.
    """

    before: str
    between: str
    after: str
    several: bool

    @classmethod
    def of(cls, template: Template, ends: Sequence[str]) -> CallForm:
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
        written = whole.removeprefix(prompt)
        name, arguments = written.find(_PROBE.name), _ARGUMENTS.search(written)
        if written == whole or name < 0 or arguments is None or "probe_result" not in written[arguments.end() :]:
            raise _unread(template, written)
        after = written[arguments.end() :]
        after = after[: min((at for end in ends if (at := after.find(end)) >= 0), default=len(after))].rstrip()
        between = written[name + len(_PROBE.name) : arguments.start()]
        made = cls(written[:name].lstrip(), between, after, several=_takes_several(template))
        reader = CallReader([_PROBE.name])
        call = made.before + _PROBE.name + made.between + arguments[0] + made.after
        parts = [*reader.push(call), *reader.flush()]
        if [part.call is not None for part in parts] != [True]:
            raise _unread(template, call)
        return made

    def call(self, tool: Tool) -> Constraint:
        """A call of `tool`. Arguments that its schema does not name are left out unless it asks for them."""
        parameters = {"type": "object", "additionalProperties": False, **tool.parameters}
        name = Text(f"{self.before}{tool.name}{self.between}")
        return Series((name, JsonSchema(parameters), *([Text(self.after)] if self.after else [])))


def _rendered(template: Template, calls: tuple[ToolCall, ...]) -> str:
    results = [Message("tool", "probe_result", tool_call_id=call.id) for call in calls]
    try:
        return template.text((*_ASKED, Message("assistant", "", calls), *results), answer_follows=False, tools=[_PROBE])
    except UsageError as error:
        raise TemplateError(f"with tool calls, {error.message}") from error


def _takes_several(template: Template) -> bool:
    try:
        return len(_ARGUMENTS.findall(_rendered(template, _CALLS))) == len(_CALLS)
    except TemplateError:
        return False


def _unread(template: Template, written: str) -> TemplateError:
    return TemplateError(
        f"the chat template {template.named} writes calls of tools in a form that is not read here: {written[:200]!r}",
        hint="use a model that calls tools as Llama 3.1 or as Qwen 2.5 and Hermes do",
    )


def one_at_a_time(messages: Sequence[Message]) -> list[Message]:
    """The same calls and results as turns of one call each, for templates that write no more into a turn."""
    made: list[Message] = []
    results: dict[str | None, Message] = {}
    for position, message in enumerate(messages):
        if not message.tool_calls:
            made += [message] if results.pop(message.tool_call_id, None) is not message else []
            continue
        after = itertools.takewhile(lambda turn: turn.role == "tool", messages[position + 1 :])
        called = {call.id for call in message.tool_calls}
        results = {result.tool_call_id: result for result in after if result.tool_call_id in called}
        for index, call in enumerate(message.tool_calls):
            made.append(replace(message, content="" if index else message.content, tool_calls=(call,)))
            made += [results[call.id]] if call.id in results else []
    return made


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an answer may be. Without a field set: any text.

    `tools` may be called as `choice` says: "auto" leaves it to the model, "required" and a NamedTool demand one call,
    which a constraint makes sure of. With a `schema` the answer is JSON that fits it, or a call if there are tools;
    a demanded call goes before a schema.
    """

    tools: tuple[Tool, ...] = ()
    choice: ToolChoice = "auto"
    schema: Mapping[str, Any] | None = None

    @classmethod
    def of(
        cls,
        tools: Iterable[Tool | Mapping[str, Any]] = (),
        choice: ToolChoice | Mapping[str, Any] = "auto",
        schema: Mapping[str, Any] | None = None,
    ) -> Wanted:
        """Check and convert. With the choice "none" the model is not shown the tools: that way it calls none."""
        made, chosen = tuple(map(Tool.of, tools)), tool_choice_of(choice)
        names = [tool.name for tool in made]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UsageError(f"there are two tools of one name: {', '.join(twice)}")
        if isinstance(chosen, NamedTool) and chosen.name not in names:
            raise UsageError(f"tool_choice names {chosen.name!r}, which is not among the tools {', '.join(names)}")
        if chosen == "required" and not made:
            raise UsageError("tool_choice is required, but there are no tools to call")
        if schema is not None and not isinstance(schema, Mapping):
            raise UsageError(f"a schema must be a JSON schema, an object, got {type(schema).__name__}")
        if schema is not None:
            as_json(dict(schema))
        return cls(() if chosen == "none" else made, chosen, schema)

    @property
    def must_call(self) -> bool:
        """Whether a call is demanded."""
        return self.choice == "required" or isinstance(self.choice, NamedTool)

    @property
    def instruction(self) -> str:
        """What the model is told about the schema; empty without one."""
        if self.schema is None or self.must_call:
            return ""
        otherwise = "Unless you call a function, answer" if self.tools else "Answer"
        if self.schema == {"type": "object"}:
            return f"{otherwise} with a JSON object and nothing else."
        return f"{otherwise} with JSON that fits this JSON schema and nothing else:\n{as_json(dict(self.schema))}"

    def constraint(self, form: CallForm | None) -> Constraint | None:
        """What the answer must look like, None where it is free. `form` is the template's where there are tools."""
        schema = [] if self.schema is None or self.must_call else [JsonSchema(self.schema)]
        calls: list[Constraint] = []
        if form is not None and (self.must_call or schema):
            named = self.choice.name if isinstance(self.choice, NamedTool) else None
            calls = [form.call(tool) for tool in self.tools if named in (None, tool.name)]
        allowed = (*calls, *schema)
        return Choice(allowed) if len(allowed) > 1 else allowed[0] if allowed else None
