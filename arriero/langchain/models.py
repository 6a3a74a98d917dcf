"""What both of LangChain's kinds of model share over a Chat, and the kind that takes text."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, cast

from langchain_core.language_models import LLM, LangSmithParams
from langchain_core.outputs import GenerationChunk
from langchain_core.runnables import Runnable
from pydantic import BaseModel, ConfigDict, Field, model_validator

from arriero.chat import Chat, EngineName, Options, Reply, load
from arriero.errors import UsageError
from arriero.langchain.words import listed, renamed
from arriero.messages import Message, Piece, Sampling, with_system
from arriero.prompt import Prompting

PER_CALL = tuple(name for name in Sampling.__slots__ if name != "stop")  # LangChain hands `stop` over by itself


NOTHING = (None, None, "auto", Prompting(template={}, fold_system=False, chat_template=None))  # is said of the model


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

    def _turns(self, prompt: Any) -> Sequence[Message]:
        raise NotImplementedError

    def _chunk(self, piece: Piece) -> Any:
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
            self.chat = load(self.model, adapter=self.adapter, engine=self.engine, **prompting)
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

    def _request(self, prompt: Any, stop: Any, given: Mapping[str, Any]) -> tuple[Any, Sampling, Options]:
        options = self._options(left := dict(given))
        turns = with_system(self._turns(prompt), self.system)
        return turns, self._sampling(stop, left), options

    def _complete(self, prompt: Any, stop: Any, given: Mapping[str, Any]) -> Reply:
        messages, sampling, options = self._request(prompt, stop, given)
        return self.chat.complete(messages, sampling, **options)

    async def _acomplete(self, prompt: Any, stop: Any, given: Mapping[str, Any]) -> Reply:
        messages, sampling, options = self._request(prompt, stop, given)
        return await self.chat.acomplete(messages, sampling, **options)

    def _stream(self, prompt: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Iterator[Any]:
        messages, sampling, options = self._request(prompt, stop, kwargs)
        with closing(self.chat.stream(messages, sampling, **options)) as pieces:  # whoever breaks off stops the engine
            for piece in pieces:
                chunk = self._chunk(piece)
                if run_manager is not None:
                    run_manager.on_llm_new_token(piece.text, chunk=chunk)
                yield chunk

    async def _astream(self, prompt: Any, stop: Any = None, run_manager: Any = None, **kw: Any) -> AsyncIterator[Any]:
        messages, sampling, options = self._request(prompt, stop, kw)
        async with aclosing(self.chat.astream(messages, sampling, **options)) as pieces:
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
        return self._complete(prompt, stop, kwargs).text

    async def _acall(self, prompt: str, stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any) -> str:
        return (await self._acomplete(prompt, stop, kwargs)).text

    def _turns(self, prompt: str) -> Sequence[Message]:
        return [Message("user", prompt)]

    def _chunk(self, piece: Piece) -> GenerationChunk:
        return GenerationChunk(text=piece.text, generation_info=self._facts(piece) or None)
