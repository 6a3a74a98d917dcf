"""What both of LangChain's kinds of model share over a Chat, and the kind that takes text."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, cast

from langchain_core.language_models import LLM, LangSmithParams, LanguageModelInput
from langchain_core.outputs import GenerationChunk
from langchain_core.runnables import Runnable
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from arriero.chat import Chat, EngineName, Options, Reply, Stream
from arriero.errors import UsageError
from arriero.langchain.loading import shared
from arriero.langchain.words import listed, renamed
from arriero.messages import Message, Piece, Sampling, with_system
from arriero.prompt import Prompting

PER_CALL = tuple(name for name in Sampling.__slots__ if name != "stop")  # LangChain hands `stop` over by itself


NOTHING = (None, None, "auto", Prompting(template={}, fold_system=False, chat_template=None))  # is said of the model


class Clock:
    """When an answer was asked for, and when it began."""

    def __init__(self) -> None:
        self._asked = time.monotonic()
        self._first: float | None = None

    def seen(self, piece: Piece) -> Piece:
        """Look at a piece that has come."""
        if self._first is None:
            self._first = time.monotonic()
        return piece

    def timings(self, tokens: int) -> dict[str, float]:
        """Seconds from asking, of a whole answer of so many tokens; as in `arriero ask --json`."""
        total = time.monotonic() - self._asked
        first = total if self._first is None else self._first - self._asked
        return {"first_token_s": first, "total_s": total, "tokens_per_second": tokens / total}


class OverChat(BaseModel):
    """What both classes share: the options, the Chat, and calls in LangChain's words turned into calls of it.

    `model`, `adapter`, `system`, `engine` and what is said of the prompt (`template`: variables of the chat template,
    `fold_system`, `chat_template`) are what `arriero.load` takes, and what it raises is raised here. `chat`
    is the loaded model, or one handed in instead of the others; it is never None once the object is made. `loaded_as`
    is internal: what the Chat was loaded with, None when it was handed in.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)
    if TYPE_CHECKING:
        custom_get_token_ids: Callable[[str], list[int]] | None = None  # LangChain's base class has it
    _kind: ClassVar[Literal["chat", "llm"]]

    model: str | Path | None = None
    adapter: str | Path | None = None
    system: str | None = None
    engine: EngineName = "auto"
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
    template: dict[str, Any] = Field(default_factory=dict)
    fold_system: bool = False
    chat_template: str | None = None
    chat: Chat = Field(default=cast("Any", None), exclude=True, repr=False)
    loaded_as: tuple[Any, ...] | None = Field(default=None, exclude=True, repr=False)
    _others: dict[Path | None, Chat] = PrivateAttr(default_factory=dict)  # with the adapters that calls have named

    def _turns(self, prompt: Any) -> Sequence[Message]:
        raise NotImplementedError

    def _chunk(self, piece: Piece, facts: dict[str, Any]) -> Any:
        raise NotImplementedError

    def _options(self, given: dict[str, Any]) -> Options:
        """Take what the kind of model has besides sampling parameters out of a call's arguments."""
        return Options()

    @model_validator(mode="before")
    @classmethod
    def _own_names(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        return renamed(values, cls.model_fields)

    @model_validator(mode="after")
    def _load(self) -> Self:
        self._sampling(None, {})  # a value that makes no sense shows before a model is loaded
        prompting = Prompting(template=self.template, fold_system=self.fold_system, chat_template=self.chat_template)
        wanted = (self.model, self.adapter, self.engine, prompting)
        if self.chat is None or self.loaded_as not in (None, wanted):
            self.chat = shared(self.model, self.adapter, self.engine, prompting)
            self.loaded_as = wanted
        elif self.loaded_as is None and wanted != NOTHING:
            raise UsageError("give either a chat, or the model, adapter, engine and prompt to load one with")
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
            "adapter": self._adapter_directory,
            "system": self.chat.renderer.system if self.system is None else self.system,
            "template": dict(self.chat.renderer.variables),
            "engine": self.chat.engine.name,
            **{name: getattr(self, name) for name in PER_CALL},
            "own_stop": self.stop,  # `stop` is where LangChain puts the call's
        }

    @property
    def _adapter_directory(self) -> str | None:
        if self.adapter is None and self.chat.adapter is not None:
            return str(self.chat.adapter.directory)
        return str(self.adapter) if self.adapter is not None else None

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return LangSmithParams(
            ls_provider="arriero",
            ls_model_name=kwargs.get("model", self.chat.model),
            ls_model_type=self._kind,
            ls_temperature=kwargs.get("temperature", self.temperature),
            ls_max_tokens=kwargs.get("max_tokens", kwargs.get("max_new_tokens", self.max_new_tokens)),
            ls_stop=[*self.stop, *listed(stop)],
        )

    def _sampling(self, stop: list[str] | None, options: Mapping[str, Any]) -> Sampling:
        """A call's parameters over the object's own; the Chat fills in the rest with the model's defaults."""
        own = Sampling(**{name: getattr(self, name) for name in PER_CALL})
        return Sampling(**renamed(options, PER_CALL), stop=(*self.stop, *listed(stop))).over(own)

    def render(self, prompt: LanguageModelInput, **options: Any) -> list[int]:
        """The exact prompt ids that the engine receives for what `invoke` takes, tools and schemas included."""
        chat, turns, _, form = self._request(self._given(prompt), None, options)
        return chat.render(turns, **form)

    def _given(self, prompt: LanguageModelInput) -> Any:
        """What `_turns` takes, of what `invoke` takes."""
        raise NotImplementedError

    def _request(self, prompt: Any, stop: Any, given: Mapping[str, Any]) -> tuple[Chat, Any, Sampling, Options]:
        left = dict(given)
        chat = self._with_adapter(left.pop("adapter")) if "adapter" in left else self.chat
        options = self._options(left)
        turns = with_system(self._turns(prompt), self.system)
        return chat, turns, self._sampling(stop, left), options

    def _with_adapter(self, adapter: str | Path | None) -> Chat:
        """The same model with another adapter, or none, loaded once for this object."""
        directory = Path(adapter).expanduser().resolve() if adapter is not None else None
        if directory == (self.chat.adapter.directory if self.chat.adapter is not None else None):
            return self.chat
        if directory not in self._others:
            self._others[directory] = self.chat.with_adapter(directory)
        return self._others[directory]

    def _begin(self, prompt: Any, stop: Any, given: Mapping[str, Any]) -> tuple[Stream, Clock]:
        clock = Clock()
        chat, messages, sampling, options = self._request(prompt, stop, given)
        return chat.stream(messages, sampling, **options), clock

    async def _abegin(self, prompt: Any, stop: Any, given: Mapping[str, Any]) -> tuple[Stream, Clock]:
        if "adapter" in given:
            await asyncio.to_thread(self._with_adapter, given["adapter"])
        return self._begin(prompt, stop, given)

    def _complete(self, prompt: Any, stop: Any, given: Mapping[str, Any]) -> tuple[Reply, dict[str, Any]]:
        pieces, clock = self._begin(prompt, stop, given)
        reply = Reply.of(list(map(clock.seen, pieces)))
        return reply, self._facts(reply, clock)

    async def _acomplete(self, prompt: Any, stop: Any, given: Mapping[str, Any]) -> tuple[Reply, dict[str, Any]]:
        pieces, clock = await self._abegin(prompt, stop, given)
        async with aclosing(pieces):
            reply = Reply.of([clock.seen(piece) async for piece in pieces])
        return reply, self._facts(reply, clock)

    def _stream(self, prompt: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Iterator[Any]:
        begun, clock = self._begin(prompt, stop, kwargs)
        with closing(begun) as pieces:  # whoever breaks off stops the engine
            for piece in pieces:
                chunk = self._chunk(piece, self._facts(clock.seen(piece), clock))
                if run_manager is not None:
                    run_manager.on_llm_new_token(piece.text, chunk=chunk)
                yield chunk

    async def _astream(self, prompt: Any, stop: Any = None, run_manager: Any = None, **kw: Any) -> AsyncIterator[Any]:
        begun, clock = await self._abegin(prompt, stop, kw)
        async with aclosing(begun) as pieces:
            async for piece in pieces:
                chunk = self._chunk(piece, self._facts(clock.seen(piece), clock))
                if run_manager is not None:
                    await run_manager.on_llm_new_token(piece.text, chunk=chunk)
                yield chunk

    def _facts(self, answer: Piece | Reply, clock: Clock) -> dict[str, Any]:
        """Token counts, finish reason, model and timings in LangChain's words; empty while the answer goes on."""
        if answer.usage is None:
            return {}
        usage = {
            "input_tokens": answer.usage.prompt_tokens,
            "output_tokens": answer.usage.completion_tokens,
            "total_tokens": answer.usage.total_tokens,
        }
        if answer.usage.reasoning_tokens:
            usage["output_token_details"] = {"reasoning": answer.usage.reasoning_tokens}
        timings = clock.timings(answer.usage.completion_tokens)
        metadata = {"finish_reason": answer.finish_reason, "model_name": self.chat.model, "timings": timings}
        return {"usage_metadata": usage, "response_metadata": metadata}


class ArrieroLLM(OverChat, LLM):
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
        return self._complete(prompt, stop, kwargs)[0].text

    async def _acall(self, prompt: str, stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any) -> str:
        return (await self._acomplete(prompt, stop, kwargs))[0].text

    def _given(self, prompt: LanguageModelInput) -> str:
        return self._convert_input(prompt).to_string()

    def _turns(self, prompt: str) -> Sequence[Message]:
        return [Message("user", prompt)]

    def _chunk(self, piece: Piece, facts: dict[str, Any]) -> GenerationChunk:
        return GenerationChunk(text=piece.text, generation_info=facts or None)


class LLaMA3_1_LLM(ArrieroLLM):  # noqa: N801  the tutorial's name
    """The tutorial's class: its constructor, and its system prompt where there is no adapter with one of its own."""

    def __init__(self, model_name_or_path: str | Path | None = None, **options: Any) -> None:
        if options.get("adapter") is None and options.get("chat") is None:
            options = {"system": "You are a helpful assistant.", **options}
        super().__init__(**({} if model_name_or_path is None else {"model": model_name_or_path}), **options)
