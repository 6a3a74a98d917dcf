"""What Ollama's clients send, and what that is in our words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from arriero.chat import Chat, PromptOptions
from arriero.messages import Message, Role, Sampling, Tool, ToolCall
from arriero.server.errors import RequestError, at
from arriero.server.lenient import LenientBody, Stops, Unsupported
from arriero.server.models import ServedModel
from arriero.server.routes.thinking import with_thinking
from arriero.server.schemas import Penalty, Schema, StopString, Temperature, TopP, Whole
from arriero.server.service import Service
from arriero.tools import NO_PARAMETERS

LATEST = ":latest"  # the tag of a model that is named without one


def find(service: Service, name: str) -> ServedModel:
    """The model of that name, perhaps with the tag "latest"; RequestError 404 where there is none."""
    models = service.models
    return models.find(name if name in models else name.removesuffix(LATEST))


class Options(LenientBody):
    """How to choose tokens. Those for loading a model (`num_ctx`, `num_gpu` …) are taken and have no effect."""

    num_predict: Whole | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: Whole | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repeat_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: Whole | None = None
    stop: StopString | Stops | None = None
    repeat_last_n: Whole | None = None
    mirostat: Unsupported = None
    typical_p: float | None = None
    tfs_z: float | None = None

    def check(self) -> None:
        """RequestError for what would change the answer and is not supported."""
        penalized = self.repeat_penalty not in (None, 1) or self.presence_penalty or self.frequency_penalty
        refused = {
            "typical_p": self.typical_p not in (None, 1),
            "tfs_z": self.tfs_z not in (None, 1),
            "repeat_last_n": penalized and self.repeat_last_n not in (None, -1),  # penalties look at everything here
        }
        for name in [name for name, wrong in refused.items() if wrong]:
            param = f"options.{name}"
            raise RequestError(f"the field {param} is not supported", param=param, code="unsupported_parameter")

    def sampling(self) -> Sampling:
        """The parameters; below 0 `num_predict` means no limit, `top_k` all tokens, and `seed` any."""
        self.check()
        limit = self.num_predict if self.num_predict is not None and self.num_predict > 0 else None
        return Sampling(
            max_new_tokens=limit,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=None if self.top_k is None else max(0, self.top_k),
            min_p=self.min_p,
            repetition_penalty=self.repeat_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            seed=None if self.seed is None or self.seed < 0 else self.seed % 2**63,
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
        )


class GenerationBody(LenientBody):
    """What both kinds of requests have. null counts as absent; without `stream` there is one."""

    model: str
    stream: bool | None = None
    format: Literal["", "json"] | Schema | None = None
    options: Options | None = None
    think: bool | Literal["low", "medium", "high"] | None = None
    logprobs: Unsupported = None
    top_logprobs: Unsupported = None

    def sampling(self) -> Sampling:
        """How to choose tokens."""
        return (self.options or Options()).sampling()

    def prompt_and_sampling(self, chat: Chat, options: PromptOptions) -> tuple[PromptOptions, Sampling]:
        """Prompt options and sampling, with what the request says of thinking, of which there is one degree."""
        enabled = None if self.think is None else bool(self.think)
        return with_thinking(chat, options | {"schema": self.answer_schema()}, self.sampling(), enabled, param="think")

    def answer_schema(self) -> Schema | None:
        """The JSON schema that the answer fits, None for free text."""
        return {"type": "object"} if self.format == "json" else None if not self.format else dict(self.format)


class CalledFunction(LenientBody):
    """Which function is called, with which arguments."""

    name: Annotated[str, Field(min_length=1)]
    arguments: dict[str, Any] | None = None


class CallBody(LenientBody):
    """A call that the model made. Older clients send no `id`."""

    id: Annotated[str, Field(min_length=1)] | None = None
    function: CalledFunction


class MessageBody(LenientBody):
    """One turn. A result of a tool says whose it is by `tool_call_id` or `tool_name`, or by its position."""

    role: Role
    content: str | None = None
    images: Unsupported = None
    tool_calls: list[CallBody] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None
    thinking: str | None = None


class FunctionBody(LenientBody):
    """A function that may be called."""

    name: str
    description: str | None = None
    parameters: Schema | None = None


class ToolBody(LenientBody):
    """A tool; functions are the only ones."""

    type: Literal["function"] = "function"
    function: FunctionBody

    def tool(self) -> Tool:
        """This tool in our words."""
        function = self.function
        parameters = NO_PARAMETERS if function.parameters is None else function.parameters
        return Tool(function.name, function.description or "", parameters)


class ChatBody(GenerationBody):
    """The body of `POST /api/chat`."""

    messages: list[MessageBody] | None = None
    tools: list[ToolBody] | None = None

    def tool_list(self) -> list[Tool]:
        """The tools that may be called."""
        with at("tools"):
            return [tool.tool() for tool in self.tools or ()]

    def conversation(self) -> list[Message]:
        """The turns, with ids for calls that came without, so that each result belongs to one."""
        messages: list[Message] = []
        waiting: list[ToolCall] = []
        for number, turn in enumerate(self.messages or ()):
            if turn.role == "tool":
                with at(f"messages[{number}]"):
                    call = _call_for(turn, waiting)
                waiting.remove(call)
                messages.append(Message("tool", turn.content or "", tool_call_id=call.id))
                continue
            waiting = [_call(call, f"call_{number}_{index}") for index, call in enumerate(turn.tool_calls or ())]
            role: Role = turn.role
            thought = turn.thinking if role == "assistant" else None
            messages.append(Message(role, turn.content or "", tuple(waiting), reasoning_content=thought))
        return messages


class GenerateBody(GenerationBody):
    """The body of `POST /api/generate`."""

    prompt: str | None = None
    system: str | None = None
    images: Unsupported = None
    suffix: Unsupported = None
    template: Unsupported = None
    context: Unsupported = None
    raw: Unsupported = None

    def conversation(self) -> list[Message]:
        """The prompt as the user's turn, after the system prompt if there is one."""
        system = [Message("system", self.system)] if self.system else []
        return [*system, Message("user", self.prompt or "")]


def _call(call: CallBody, made_up: str) -> ToolCall:
    arguments = json.dumps(call.function.arguments or {}, ensure_ascii=False)
    return ToolCall(call.id or made_up, call.function.name, arguments)


def _call_for(turn: MessageBody, waiting: Sequence[ToolCall]) -> ToolCall:
    """The call whose result this turn is; RequestError where there is none."""
    by_id = [call for call in waiting if call.id == turn.tool_call_id]
    by_name = [call for call in waiting if turn.tool_name in (None, call.name)]
    for call in [*by_id, *by_name]:
        return call
    raise RequestError("this is the result of a tool that was not called before it", param="tool_name")
