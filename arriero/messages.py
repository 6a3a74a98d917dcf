"""The words every room speaks: messages, sampling parameters, pieces of an answer, token counts.

Small frozen dataclasses without behaviour beyond checking themselves. This file knows nothing of tokenizers or models.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self, get_args

from arriero.errors import UsageError
from arriero.pieces import FinishReason as FinishReason
from arriero.pieces import Piece as Piece
from arriero.pieces import TokenLogprob as TokenLogprob
from arriero.pieces import Usage as Usage
from arriero.tools import CallDelta as CallDelta
from arriero.tools import NamedTool as NamedTool
from arriero.tools import Tool as Tool
from arriero.tools import ToolCall as ToolCall
from arriero.tools import ToolChoice as ToolChoice

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    An assistant's turn may hold calls of tools besides, or instead of, text; a turn of the role "tool" is the result
    of the call that `tool_call_id` names. Training takes a loss on the assistant's turns that are `trained`.
    `reasoning_content` is what the assistant thought before its answer, without the tags around it; None: not known.
    """

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    trained: bool = True
    reasoning_content: str | None = None

    @classmethod
    def of(cls, value: Message | Mapping[str, Any]) -> Message:
        """Turn `{"role": …, "content": …}` into a Message; raises UsageError that names what is wrong.

        OpenAI's assistant messages with `tool_calls`, whose content may be null, and tool messages are understood, and
        so is the assistant's `reasoning_content`, under the name `reasoning` too.
        """
        if isinstance(value, Message):
            return value
        if not isinstance(value, Mapping):
            raise UsageError(f"a message must be an object with role and content, got {type(value).__name__}")
        unknown = sorted(set(value) - {"role", "content", "tool_calls", "tool_call_id", *_REASONING})
        if unknown:
            raise UsageError(f"a message has the fields role and content, got also {', '.join(map(str, unknown))}")
        role, content, calls = value.get("role"), value.get("content"), value.get("tool_calls") or ()
        if role not in ROLES:
            raise UsageError(f"a message's role must be one of {', '.join(ROLES)}, got {role!r}")
        if not isinstance(calls, list | tuple):
            raise UsageError(f"a message's tool_calls must be a list, got {type(calls).__name__}")
        if content is None and (calls or role == "assistant"):
            content = ""
        if not isinstance(content, str):
            raise UsageError(f"a message's content must be text, got {type(content).__name__}")
        reasoning = next((value[name] for name in _REASONING if value.get(name) is not None), None)
        if not isinstance(reasoning, str | None):
            raise UsageError(f"a message's reasoning_content must be text, got {type(reasoning).__name__}")
        made = tuple(map(ToolCall.of, calls))
        return cls(role, content, made, value.get("tool_call_id"), reasoning_content=reasoning)


_REASONING = ("reasoning_content", "reasoning")


def joined(messages: Iterable[Message]) -> list[Message]:
    """The messages with texts of one role in a row as one turn, on lines of their own.

    For templates that take only turns that alternate; LangChain's `merge_message_runs` does the same.
    """
    made: list[Message] = []
    for message in messages:
        last = made[-1] if made else None
        if last is not None and last.role == message.role != "tool" and not (last.tool_calls or message.tool_calls):
            thought = "\n".join(filter(None, (last.reasoning_content, message.reasoning_content))) or None
            made[-1] = replace(last, content=f"{last.content}\n{message.content}", reasoning_content=thought)
        else:
            made.append(message)
    return made


def turns_of(messages: Iterable[Message | Mapping[str, Any]]) -> tuple[Message, ...]:
    """Turns to be answered, in whatever order: what a model can be given is its chat template's business.

    Raises UsageError where there is none, or one has what belongs to another role.
    """
    turns = tuple(map(Message.of, messages))
    if not turns:
        raise UsageError("a conversation needs at least one message")
    for number, message in enumerate(turns, 1):
        _check_role(number, message)
    return turns


def with_system(turns: Sequence[Message], system: str | None) -> tuple[Message, ...]:
    """The turns with `system` in front, unless they begin with their own or `system` is None."""
    if system is None or (turns and turns[0].role == "system"):
        return tuple(turns)
    return (Message("system", system), *turns)


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns to learn from: an optional system message, then user and assistant in turn, beginning with the user.

    After an assistant's turn with tool calls come their results, one for each call, and then the assistant again, or
    the user. Raises UsageError where the order makes no sense, a user turn is blank, an answer is empty or the
    arguments of a call are not a JSON object. `turns_of` is what answering takes. `tools` are shown to the model. Where
    there is a `text`, there are no turns: it is learnt as it is.
    """

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    text: str | None = None

    def __post_init__(self) -> None:
        if self.text is not None:
            if self.messages or not self.text.strip():
                raise UsageError("the text is empty" if not self.messages else "a text has no turns beside it")
            return
        if not self.turns:
            raise UsageError("a conversation needs at least one user message")
        due: tuple[Role, ...] = ("user",)
        waiting: list[str] = []  # ids of the calls whose results have not come
        for number, message in enumerate(self.turns, 1):
            if message.role not in due:
                missing = f": the results of the calls {', '.join(waiting)} come first" if waiting else ""
                raise UsageError(f"turn {number} must come from the {due[0]}, got {message.role}{missing}")
            waiting = _waiting(number, message, waiting)
            due = ("tool",) if waiting else _AFTER[message.role]
        if waiting and self.turns[-1].role == "tool":
            raise UsageError(f"the results of the calls {', '.join(waiting)} are missing")

    @property
    def turns(self) -> tuple[Message, ...]:
        """The messages without the leading system message."""
        return self.messages[1:] if self.system is not None else self.messages

    @property
    def system(self) -> str | None:
        """The system prompt, None when the conversation brings none."""
        first = self.messages[0] if self.messages else None
        return first.content if first is not None and first.role == "system" else None

    @classmethod
    def of(cls, messages: Iterable[Message | Mapping[str, Any]]) -> Conversation:
        """Build from messages or plain dictionaries."""
        return cls(tuple(Message.of(message) for message in messages))

    def with_system(self, system: str | None) -> Conversation:
        """This conversation with `system` in front, unless it brings its own or `system` is None."""
        return self if self.text is not None else replace(self, messages=with_system(self.messages, system))


_AFTER: Mapping[Role, tuple[Role, ...]] = {
    "user": ("assistant",),
    "assistant": ("user",),
    "tool": ("assistant", "user"),
}


def _check_role(number: int, message: Message) -> None:
    if message.reasoning_content is not None and message.role != "assistant":
        raise UsageError(f"turn {number} ({message.role}) has reasoning_content, which only the assistant's turns have")
    if message.tool_calls and message.role != "assistant":
        raise UsageError(f"turn {number} ({message.role}) has tool calls, which only the assistant makes")
    if message.tool_call_id is not None and message.role != "tool":
        raise UsageError(f"turn {number} ({message.role}) has a tool_call_id, which only tool messages have")


def _waiting(number: int, message: Message, waiting: list[str]) -> list[str]:
    """The ids of the calls whose results are still to come after this turn; checks the turn by itself too."""
    _check_role(number, message)
    for call in message.tool_calls:
        call.values  # noqa: B018  raises where they are none
    calls = [call.id for call in message.tool_calls]
    if len(set(calls)) != len(calls):
        raise UsageError(f"turn {number} has two calls of one id: {', '.join(calls)}")
    if message.role == "tool":
        if message.tool_call_id not in waiting:
            expected = " or ".join(map(repr, waiting))
            raise UsageError(f"turn {number} is the result of the call {message.tool_call_id!r}, expected {expected}")
        return [call for call in waiting if call != message.tool_call_id]
    if not calls and not message.content.strip():
        raise UsageError(f"turn {number} ({message.role}) is empty")
    return calls


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose tokens. None means the model's own default. The command line declares its options from here.

    Parameters
    ----------
    max_new_tokens
        Longest answer in tokens. Default, and at most: what the model's window leaves.
    temperature
        0 is greedy.
    top_p
        Keep the most probable tokens that together reach this probability.
    top_k
        Keep this many most probable tokens; 0 keeps all.
    min_p
        Keep tokens at least this fraction as probable as the most probable one.
    repetition_penalty
        Above 1 makes repetition less likely: of what the prompt and the answer so far hold.
    presence_penalty
        Subtracted from the logit of every token that the answer already holds.
    frequency_penalty
        The same, times how often the answer holds it.
    seed
        Same seed, same answer.
    stop
        Text at which the answer is cut; may be given several times.
    logit_bias
        Token ids and what is added to their logits, -100 to 100.
    max_reasoning_tokens
        At most this many tokens of reasoning; then its closing tag is forced and the answer begins. Default: no limit.

    """

    max_new_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logit_bias: tuple[tuple[int, float], ...] = ()
    max_reasoning_tokens: int | None = None

    def __post_init__(self) -> None:
        _check("max_new_tokens", self.max_new_tokens, low=1, kind=int)
        _check("temperature", self.temperature, low=0, high=2)
        _check("top_p", self.top_p, low=0, high=1)
        _check("top_k", self.top_k, low=0, kind=int)
        _check("min_p", self.min_p, low=0, high=1)
        _check("repetition_penalty", self.repetition_penalty, low=0.01)
        _check("presence_penalty", self.presence_penalty, low=-2, high=2)
        _check("frequency_penalty", self.frequency_penalty, low=-2, high=2)
        _check("max_reasoning_tokens", self.max_reasoning_tokens, low=0, kind=int)
        _check("seed", self.seed, low=0, high=2**63 - 1, kind=int)
        given: object = self.stop  # callers without a type checker pass a bare text
        if isinstance(given, str) or not all(isinstance(stop, str) and stop for stop in self.stop):
            raise UsageError(f"stop must be a tuple of texts, none of them empty, got {self.stop!r}")
        for token, bias in self.logit_bias:
            _check("logit_bias's token", token, low=0, kind=int)
            _check(f"logit_bias of token {token}", bias, low=-100, high=100)

    def over(self, defaults: Sampling) -> Self:
        """These parameters, with what is None (or an empty `stop`) taken from `defaults`."""
        missing = {name: getattr(defaults, name) for name in self.__slots__ if getattr(self, name) in (None, ())}
        return replace(self, **missing)


def _check(name: str, value: float | None, *, low: float, high: float = float("inf"), kind: type = float) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int if kind is int else (int, float)):
        raise UsageError(f"{name} must be a {'whole ' if kind is int else ''}number, got {value!r}")
    if not low <= value <= high:
        limit = f"at least {low}" if high == float("inf") else f"between {low} and {high}"
        raise UsageError(f"{name} must be {limit}, got {value}")
