"""A Chat as a LangChain model: ChatArriero takes messages, ArrieroLLM takes text.

    chain = ChatPromptTemplate.from_template("Explain {thing}.") | ChatArriero(adapter="runs/llama-driver")
    for chunk in chain.stream({"thing": "packing"}): print(chunk.text, end="")

Both turn LangChain's words into ours and hand them to `Chat`; ids, stop strings and streams are its business. The
model is loaded when the object is made: a wrong name shows at once and no event loop ever waits for weights. Objects
can share one Chat (`ChatArriero(chat=chat)`); the copies that LangChain makes (`configurable_fields`) do.

Sampling parameters are given to the constructor or with a call, whose `stop` adds to the object's own. LangChain's
`max_tokens` and the tutorial's `model_name_or_path` are understood; unknown names raise UsageError.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, cast

try:
    from langchain_core.language_models import LLM, BaseChatModel, LangSmithParams
    from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, SystemMessage
    from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult, GenerationChunk
    from langchain_core.runnables import Runnable
except ImportError as error:
    raise ImportError('arriero.langchain needs langchain-core: pip install "arriero[langchain]"') from error

from pydantic import BaseModel, ConfigDict, Field, model_validator

from arriero.chat import Chat, Reply, load
from arriero.errors import UsageError
from arriero.messages import Conversation, Message, Piece, Role, Sampling

ROLES: Mapping[type[BaseMessage], Role] = {SystemMessage: "system", HumanMessage: "user", AIMessage: "assistant"}
PER_CALL = tuple(name for name in Sampling.__slots__ if name != "stop")  # LangChain hands `stop` over by itself
ALIASES = {"model_name_or_path": "model", "max_tokens": "max_new_tokens"}
WITHOUT_EFFECT = {"api_key", "base_url", "max_retries", "streaming", "timeout"}  # LangChain's, for remote models


class _OverChat(BaseModel):
    """What both classes share: the options, the Chat, and calls in LangChain's words turned into calls of it.

    `model`, `adapter`, `system` and `engine` are what `arriero.load` takes, and what it raises is raised here. `chat`
    is the loaded model, or one handed in instead of the others; it is never None once the object is made. `loaded_as`
    is internal: what the Chat was loaded with, None when it was handed in.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)
    if TYPE_CHECKING:
        custom_get_token_ids: Callable[[str], list[int]] | None  # LangChain's base class has it
    _kind: ClassVar[Literal["chat", "llm"]]

    model: str | Path | None = None
    adapter: str | Path | None = None
    system: str | None = None
    engine: Literal["auto", "transformers", "openvino"] = "auto"
    max_new_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    chat: Chat = Field(default=cast("Any", None), exclude=True, repr=False)
    loaded_as: tuple[Any, ...] | None = Field(default=None, exclude=True, repr=False)

    def _turns(self, prompt: Any) -> Sequence[Message]:
        raise NotImplementedError

    def _chunk(self, piece: Piece) -> Any:
        raise NotImplementedError

    @model_validator(mode="before")
    @classmethod
    def _own_names(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        if ignored := sorted(WITHOUT_EFFECT.intersection(values)):
            warnings.warn(f"{', '.join(ignored)}: no effect on a model in this process", stacklevel=4)
        return _renamed({name: value for name, value in values.items() if name not in ignored}, cls.model_fields)

    @model_validator(mode="after")
    def _load(self) -> Self:
        self._sampling(None, {})  # a value that makes no sense shows before a model is loaded
        wanted = (self.model, self.adapter, self.engine)
        if self.chat is None or self.loaded_as not in (None, wanted):
            self.chat = load(self.model, adapter=self.adapter, engine=self.engine)
            self.loaded_as = wanted
        elif self.loaded_as is None and wanted != (None, None, "auto"):
            raise UsageError("give either a chat, or the model, adapter and engine to load one from")
        return self

    def get_token_ids(self, text: str) -> list[int]:
        """Ids of plain text by the model's own tokenizer, for LangChain's `get_num_tokens` and `trim_messages`."""
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        return list(self.chat.renderer.tokenizer.encode(text, add_special_tokens=False))

    @property
    def _identifying_params(self) -> dict[str, Any]:
        """All that an answer depends on besides the prompt: LangChain's caches and traces go by it."""
        return {
            "model": str(self.chat.model if self.model is None else self.model),
            "adapter": self.chat.adapter if self.adapter is None else str(self.adapter),
            "system": self.chat.renderer.system if self.system is None else self.system,
            "engine": self.chat.engine.name,
            **{name: getattr(self, name) for name in PER_CALL},
            "own_stop": self.stop,  # `stop` is where LangChain puts the call's
        }

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return LangSmithParams(
            ls_provider="arriero",
            ls_model_name=kwargs.get("model", self.chat.model),
            ls_model_type=self._kind,
            ls_temperature=kwargs.get("temperature", self.temperature),
            ls_max_tokens=kwargs.get("max_tokens", kwargs.get("max_new_tokens", self.max_new_tokens)),
            ls_stop=[*self.stop, *_listed(stop)],
        )

    def _sampling(self, stop: list[str] | None, options: Mapping[str, Any]) -> Sampling:
        """A call's parameters over the object's own; the Chat fills in the rest with the model's defaults."""
        own = Sampling(**{name: getattr(self, name) for name in PER_CALL})
        return Sampling(**_renamed(options, PER_CALL), stop=(*self.stop, *_listed(stop))).over(own)

    def _request(self, prompt: Any, stop: list[str] | None, options: Mapping[str, Any]) -> tuple[Any, Sampling]:
        conversation = Conversation(tuple(self._turns(prompt))).with_system(self.system)
        return conversation.messages, self._sampling(stop, options)

    def _stream(self, prompt: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Iterator[Any]:
        pieces = self.chat.stream(*self._request(prompt, stop, kwargs))
        with closing(pieces):  # whoever breaks off stops the engine at once
            for piece in pieces:
                chunk = self._chunk(piece)
                if run_manager is not None:
                    run_manager.on_llm_new_token(piece.text, chunk=chunk)
                yield chunk

    async def _astream(self, prompt: Any, stop: Any = None, run_manager: Any = None, **kw: Any) -> AsyncIterator[Any]:
        pieces = self.chat.astream(*self._request(prompt, stop, kw))
        async with aclosing(pieces):
            async for piece in pieces:
                chunk = self._chunk(piece)
                if run_manager is not None:
                    await run_manager.on_llm_new_token(piece.text, chunk=chunk)
                yield chunk

    def _facts(self, answer: Piece | Reply) -> dict[str, Any]:
        """Token counts, finish reason and model under LangChain's names; empty while the answer goes on."""
        if answer.usage is None:
            return {}
        usage = {
            "input_tokens": answer.usage.prompt_tokens,
            "output_tokens": answer.usage.completion_tokens,
            "total_tokens": answer.usage.total_tokens,
        }
        metadata = {"finish_reason": answer.finish_reason, "model_name": self.chat.model}
        return {"usage_metadata": usage, "response_metadata": metadata}


class ArrieroLLM(_OverChat, LLM):
    """Text in, text out: each prompt is one user message. A stream's last chunk carries finish reason and usage."""

    _kind = "llm"
    # LangChain's text models answer a batch one prompt after the other. In threads, as its chat models do it, the
    # engine computes the answers together: eight of them took a third of the time on two CPU cores.
    batch = Runnable.batch
    abatch = Runnable.abatch

    @property
    def _llm_type(self) -> str:
        return "arriero"

    def _call(self, prompt: str, stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any) -> str:
        return self.chat.complete(*self._request(prompt, stop, kwargs)).text

    async def _acall(self, prompt: str, stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any) -> str:
        return (await self.chat.acomplete(*self._request(prompt, stop, kwargs))).text

    def _turns(self, prompt: str) -> Sequence[Message]:
        return [Message("user", prompt)]

    def _chunk(self, piece: Piece) -> GenerationChunk:
        return GenerationChunk(text=piece.text, generation_info=self._facts(piece) or None)


class ChatArriero(_OverChat, BaseChatModel):  # type: ignore[misc]  # its `_stream(messages)` is ours and LLM's `prompt`
    """System, human and AI messages of text in; an AI message out, with token counts and finish reason.

    Messages of one role in a row are joined with a line break, as LangChain's `merge_message_runs` does. Tools and
    structured output are not supported yet: `bind_tools` and `with_structured_output` raise NotImplementedError.
    """

    _kind = "chat"

    @property
    def _llm_type(self) -> str:
        return "arriero-chat"

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        return self._answer(self.chat.complete(*self._request(messages, stop, kwargs)))

    async def _agenerate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        return self._answer(await self.chat.acomplete(*self._request(messages, stop, kwargs)))

    def _answer(self, reply: Reply) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=AIMessage(reply.text, **self._facts(reply)))])

    def _turns(self, prompt: list[BaseMessage]) -> Sequence[Message]:
        runs = groupby(map(_turn, prompt), key=lambda message: message.role)
        return [Message(role, "\n".join(message.content for message in run)) for role, run in runs]

    def _chunk(self, piece: Piece) -> ChatGenerationChunk:
        last: Literal["last"] | None = None if piece.finish_reason is None else "last"
        message = AIMessageChunk(content=piece.text, chunk_position=last, **self._facts(piece))
        return ChatGenerationChunk(message=message)


def _turn(message: BaseMessage) -> Message:
    """One of LangChain's messages as ours; raises UsageError for kinds and contents the model cannot be given."""
    role = next((role for kind, role in ROLES.items() if isinstance(message, kind)), None)
    if role is None:
        raise UsageError(f"the model takes system, human and AI messages, got a {type(message).__name__}")
    if getattr(message, "tool_calls", None) or getattr(message, "invalid_tool_calls", None):
        raise UsageError(f"the model takes messages of text, got an {type(message).__name__} with tool calls")
    parts = [message.content] if isinstance(message.content, str) else message.content
    texts = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    if others := [str(part.get("type")) for part in texts if part.get("type") != "text"]:
        raise UsageError(f"the model takes text, got content of type {', '.join(others)}")
    return Message(role, "".join(part["text"] for part in texts))


def _renamed(given: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """`given` under our names; raises UsageError for an unknown name, with the nearest known one."""
    named: dict[str, Any] = {}
    for name, value in given.items():
        own = ALIASES.get(name, name)
        if own not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise UsageError(f"unknown argument {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        if own in named:
            raise UsageError(f"{own!r} is given twice, under two names")
        named[own] = value
    return named


def _listed(stop: list[str] | str | None) -> Sequence[str]:
    return [stop] if isinstance(stop, str) else stop or ()
