"""The words of tool calling: tools, calls of them, and the choice among them; also as OpenAI's objects.

https://platform.openai.com/docs/guides/function-calling describes those objects.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from arriero.constraint import JsonSchema
from arriero.errors import UsageError

NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}}


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function the model wants called.

    `arguments` is the text of a JSON object, as in OpenAI's API, unless the model wrote it wrong or was cut off.
    """

    id: str
    name: str
    arguments: str

    @property
    def values(self) -> dict[str, Any]:
        """The arguments by name; raises UsageError where they are not a JSON object."""
        try:
            values = json.loads(self.arguments)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"the arguments of the call of {self.name} are not JSON: {error}") from error
        if not isinstance(values, dict):
            raise UsageError(f"the arguments of the call of {self.name} must be a JSON object, got {self.arguments!r}")
        return values

    @property
    def given(self) -> dict[str, Any] | str:
        """The arguments by name or, where the model wrote no JSON object that can be sent on, the text they are."""
        try:
            values = self.values
            json.dumps(values, ensure_ascii=False, allow_nan=False).encode()  # half a surrogate pair has no bytes
        except (UsageError, ValueError, RecursionError):
            return self.arguments
        return values

    @classmethod
    def of(cls, value: ToolCall | Mapping[str, Any]) -> ToolCall:
        """A call from `{"id": …, "type": "function", "function": {"name": …, "arguments": text}}`.

        Arguments that are no JSON object are taken as they are: a model may have written them.
        """
        if isinstance(value, ToolCall):
            return value
        function = _function(value, "a tool call")
        made = cls(value.get("id", ""), function.get("name", ""), function.get("arguments") or "{}")
        if not all(isinstance(text, str) and text for text in (made.id, made.name, made.arguments)):
            raise UsageError(f"a tool call needs an id, a name and arguments, all of them text, got {dict(value)}")
        return made

    @property
    def definition(self) -> dict[str, Any]:
        """The call as OpenAI's object, which `of` reads."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


@dataclass(frozen=True, slots=True)
class CallDelta:
    """What comes next of a call: the first of a call has its id and name. `index` counts the calls of an answer.

    The arguments of all deltas of a call, joined, are the call's.
    """

    index: int
    arguments: str
    id: str = ""
    name: str = ""

    @property
    def definition(self) -> dict[str, Any]:
        """The delta as OpenAI's object."""
        head = {"id": self.id, "type": "function"} if self.id else {}
        name = {"name": self.name} if self.id else {}
        return {"index": self.index, **head, "function": {**name, "arguments": self.arguments}}

    @staticmethod
    def joined(deltas: Iterable[CallDelta]) -> tuple[CallDelta, ...]:
        """One delta for each call."""
        made: dict[int, CallDelta] = {}
        for delta in deltas:
            earlier = made.get(delta.index)
            arguments = earlier.arguments + delta.arguments if earlier is not None else delta.arguments
            made[delta.index] = replace(earlier or delta, arguments=arguments)
        return tuple(made.values())


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that may be called. `parameters` is the JSON schema of its arguments, an object's."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=lambda: NO_PARAMETERS)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not NAME.fullmatch(self.name):
            raise UsageError(
                f"a tool's name must be 1 to 128 letters, digits or any of _ . - in plain ASCII, got {self.name!r}"
            )
        if not isinstance(self.description, str):
            raise UsageError(f"the description of the tool {self.name} must be text, got {self.description!r}")
        if not isinstance(self.parameters, Mapping) or self.parameters.get("type", "object") != "object":
            raise UsageError(
                f"the parameters of the tool {self.name} must be the JSON schema of an object, got {self.parameters!r}"
            )
        try:
            JsonSchema(self.parameters)
        except UsageError as error:
            raise UsageError(f"the parameters of the tool {self.name}: {error.message}", hint=error.hint) from error

    @classmethod
    def of(cls, value: Tool | Mapping[str, Any]) -> Tool:
        """A tool from `{"type": "function", "function": {"name": …, "description"?, "parameters"?, "strict"?}}`.

        `strict` changes nothing: where a call is required its arguments always fit the schema, elsewhere the model
        writes freely.
        """
        if isinstance(value, Tool):
            return value
        function = _function(value, "a tool")
        if unknown := sorted(set(function) - {"name", "description", "parameters", "strict"}):
            raise UsageError(f"a tool's function has name, description, parameters and strict, got also {unknown}")
        given = {name: function[name] for name in ("description", "parameters") if function.get(name) is not None}
        return cls(function.get("name", ""), **given)

    @property
    def properties(self) -> Mapping[str, Any]:
        """The schema of each argument that the parameters name."""
        properties = self.parameters.get("properties")
        return properties if isinstance(properties, Mapping) else {}

    @property
    def definition(self) -> dict[str, Any]:
        """The tool as OpenAI's object, which chat templates take."""
        function = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class NamedTool:
    """The choice of one tool that must be called."""

    name: str


ToolChoiceName = Literal["none", "auto", "required"]
ToolChoice = ToolChoiceName | NamedTool


def tool_choice_of(value: ToolChoice | Mapping[str, Any]) -> ToolChoice:
    """A choice from OpenAI's words for it, `{"type": "function", "function": {"name": …}}` among them."""
    match value:
        case "none" | "auto" | "required" | NamedTool():
            return value
        case {"type": "function", "function": {"name": str(name)}}:
            return NamedTool(name)
    raise UsageError(f"tool_choice must be none, auto, required or a function by name, got {value!r}")


def _function(value: object, what: str) -> Mapping[str, Any]:
    if isinstance(value, Mapping) and value.get("type", "function") == "function":
        function = value.get("function")
        if isinstance(function, Mapping):
            return function
    raise UsageError(f'{what} must be an object {{"type": "function", "function": {{"name": …}}}}, got {value!r}')
