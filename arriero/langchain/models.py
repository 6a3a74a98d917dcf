"""What both of LangChain's kinds of model share over a Chat, or over a server's model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, cast

from langchain_core.language_models import LangSmithParams, LanguageModelInput
from langchain_core.load.serializable import to_json_not_implemented
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr, model_validator

from arriero import hub
from arriero.chat import Chat, EngineName, Options, PromptOptions, Reply, Stream
from arriero.errors import UsageError
from arriero.langchain.clock import Clock
from arriero.langchain.convert import OF_SERVERS, listed, renamed
from arriero.langchain.identity import identity, portable
from arriero.langchain.loading import shared
from arriero.messages import Message, Piece, Sampling, with_system
from arriero.prompt import PromptSettings

if TYPE_CHECKING:
    from arriero.langchain.remote import RemoteChat, RemoteStream

PER_CALL = tuple(name for name in Sampling.__slots__ if name != "stop")  # LangChain hands `stop` over by itself
UNSET = (None, None, "auto", PromptSettings(template={}, fold_system=False, chat_template=None))
OF_LOADING = {"chat", "engine", "template", "fold_system", "chat_template"}
OTHERS = (*OF_LOADING, *OF_SERVERS)


Request = tuple["Chat | RemoteChat", Any, Sampling, Options]


class OverChat(BaseModel):
    """What both classes share: the options, the Chat, and LangChain's calls turned into calls of it.

    `model`, `adapter`, `system`, `engine` and what is said of the prompt (`template`: variables of the chat template,
    `fold_system`, `chat_template`) are what `arriero.load` takes, and what it raises is raised here. `chat` is the
    loaded model, or one handed in instead of the others. `loaded_as` is internal: what the Chat was loaded with, None
    when it was handed in.

    With `base_url` a server answers, `arriero serve` or any that speaks OpenAI's protocol: `model` or `adapter` is what
    it calls the one that answers, by default its own default, `api_key` (or ARRIERO_API_KEY) is sent to it, `timeout`
    is in seconds, `max_retries` how often a request is repeated that could not be answered. `chat` is None then.
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
    base_url: str | None = None
    api_key: SecretStr | None = None
    timeout: float | None = None
    max_retries: int = Field(default=2, ge=0)
    chat: Chat = Field(default=cast("Any", None), exclude=True, repr=False)
    loaded_as: tuple[Any, ...] | None = Field(default=None, exclude=True, repr=False)
    _others: dict[Path | None, Chat] = PrivateAttr(default_factory=dict)  # with the adapters that calls have named
    _remote: RemoteChat | None = PrivateAttr(default=None)
    _identity: dict[str, Any] = PrivateAttr(default_factory=dict)

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
        served = values.get("base_url") is not None
        unset = {name: cls.model_fields[name].get_default(call_default_factory=True) for name in OTHERS}
        # A copy brings every field, also those that it may not be given; what is at its default was not given.
        given = {name: value for name, value in values.items() if name not in unset or value != unset[name]}
        named = renamed(given, [name for name in cls.model_fields if served or name not in OF_SERVERS])
        if served and (local := sorted(OF_LOADING & named.keys())):
            raise UsageError(
                f"with base_url no model is loaded here, got {', '.join(local)}",
                hint="what a call may say of the template goes into chat_template_kwargs",
            )
        return named

    @model_validator(mode="after")
    def _load(self) -> Self:
        self._sampling(None, {})  # a value that makes no sense shows before a model is loaded
        if self.base_url is not None:
            return self._connect(self.base_url)
        prompting = self._prompting
        settings = (self.model, self.adapter, self.engine, prompting)
        if self.chat is None or self.loaded_as not in (None, settings):
            self.chat = shared(self.model, self.adapter, self.engine, prompting)
            self.loaded_as = settings
        elif self.loaded_as is None and settings != UNSET:
            raise UsageError("give either a chat, or the model, adapter, engine and prompt to load one with")
        self._identity = identity(self.chat)
        return self

    @property
    def _prompting(self) -> PromptSettings:
        return PromptSettings(template=self.template, fold_system=self.fold_system, chat_template=self.chat_template)

    def _connect(self, url: str) -> Self:
        from arriero.langchain.remote import RemoteChat, connect

        name = self.model if self.adapter is None else self.adapter
        server = connect(url, self.api_key, self.timeout)
        self._remote = RemoteChat(server, None if name is None else str(name), self.max_retries)
        self._identity = {"base_url": server.address, "model": name}
        return self

    def get_token_ids(self, text: str) -> list[int]:
        """Ids of plain text by the model's own tokenizer, for LangChain's `get_num_tokens` and `trim_messages`."""
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        if self._remote is not None:
            return self._remote.token_ids(text)
        return list(self.chat.renderer.tokenizer.encode(text, add_special_tokens=False))

    @property
    def _identifying_params(self) -> dict[str, Any]:
        """All that an answer depends on besides the prompt: LangChain's caches and traces go by it."""
        return {
            **self._identity,
            **({} if self.system is None else {"system": self.system}),
            **{name: getattr(self, name) for name in PER_CALL},
            "own_stop": self.stop,  # `stop` is where LangChain puts the call's
        }

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """LangChain's `dumps` writes what the object was made with: no weights, keys or absolute paths, but names."""
        return True

    @classmethod
    def get_lc_namespace(cls) -> list[str]:
        """Where `loads` finds the classes."""
        return ["arriero", "langchain"]

    @property
    def lc_secrets(self) -> dict[str, str]:
        """What `dumps` leaves out, and the environment variable from which `loads` may take it."""
        return {"api_key": "ARRIERO_API_KEY"}

    def to_json(self) -> Any:
        """See `is_lc_serializable`. `loads` raises NotFoundError for names that are not known there.

        A Chat that was handed in cannot be written, which LangChain calls "not_implemented".
        """
        if self._remote is None and self.loaded_as is None:
            return to_json_not_implemented(self)
        made: dict[str, Any] = super().to_json()  # type: ignore[misc]  # of LangChain's class
        for name in OF_SERVERS if self._remote is None else OF_LOADING:  # the constructor refuses them
            made["kwargs"].pop(name, None)
        for name in ("model", "adapter"):
            if (given := getattr(self, name)) is not None:
                made["kwargs"][name] = str(given) if self._remote is not None else portable(given)
        if self.chat_template is not None:  # it may be a file
            made["kwargs"]["chat_template"] = self.chat.renderer.given_template
        return made

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return LangSmithParams(
            ls_provider="arriero",
            ls_model_name=kwargs.get("model", self._name),
            ls_model_type=self._kind,
            ls_temperature=kwargs.get("temperature", self.temperature),
            ls_max_tokens=kwargs.get("max_tokens", kwargs.get("max_new_tokens", self.max_new_tokens)),
            ls_stop=[*self.stop, *listed(stop)],
        )

    @property
    def _name(self) -> str:
        """What the model is called; a server is not asked for it."""
        return self.chat.model if self._remote is None else self._remote.known_id or self._remote.server.address

    def _sampling(self, stop: list[str] | None, options: Mapping[str, Any]) -> Sampling:
        """A call's parameters over the object's own; the Chat fills in the rest with the model's defaults."""
        own = Sampling(**{name: getattr(self, name) for name in PER_CALL})
        return Sampling(**renamed(options, PER_CALL), stop=(*self.stop, *listed(stop))).over(own)

    def render(self, prompt: LanguageModelInput, **options: Any) -> list[int]:
        """The exact prompt ids that the engine receives for what `invoke` takes, tools and schemas included."""
        chat, turns, _, form = self._request(self._given(prompt), None, options)
        return chat.render(turns, **cast(PromptOptions, form))

    def _given(self, prompt: LanguageModelInput) -> Any:
        """What `_turns` takes, of what `invoke` takes."""
        raise NotImplementedError

    def _request(self, prompt: Any, stop: Any, given: Mapping[str, Any]) -> Request:
        remaining = dict(given)  # less what is taken out below: sampling parameters
        own = self.chat if self._remote is None else self._remote
        chat = self._with_adapter(remaining.pop("adapter")) if "adapter" in remaining else own
        options = self._options(remaining)
        turns = with_system(self._turns(prompt), self.system)
        return chat, turns, self._sampling(stop, remaining), options

    def _with_adapter(self, adapter: str | Path | None) -> Chat | RemoteChat:
        """The same model with another adapter, or none, loaded once for this object."""
        if self._remote is not None:
            name = self.model if adapter is None else adapter
            return self._remote.with_adapter(None if name is None else str(name))
        adapter_dir = hub.adapter(adapter) if adapter is not None else None
        if adapter_dir == (self.chat.adapter.directory if self.chat.adapter is not None else None):
            return self.chat
        if adapter_dir not in self._others:
            prompting = self._prompting
            if self.chat_template is None:  # without an adapter its template stays: a base model may have none
                del prompting["chat_template"]
            self._others[adapter_dir] = self.chat.with_adapter(adapter_dir, **prompting)
        return self._others[adapter_dir]

    def _begin(self, prompt: Any, stop: Any, given: Mapping[str, Any]) -> tuple[Stream | RemoteStream, Clock]:
        clock = Clock()
        chat, messages, sampling, options = self._request(prompt, stop, given)
        return chat.stream(messages, sampling, **options), clock

    async def _abegin(self, prompt: Any, stop: Any, given: Mapping[str, Any]) -> tuple[Stream | RemoteStream, Clock]:
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
        """Token counts, finish reason, model and timings as LangChain has them; empty while the answer goes on."""
        if answer.usage is None:
            return {}
        timings = clock.timings(answer.usage.completion_tokens)
        metadata = {"finish_reason": answer.finish_reason, "model_name": self._name, "timings": timings}
        if not answer.usage.total_tokens:  # a server that does not count
            return {"response_metadata": metadata}
        usage: dict[str, Any] = {
            "input_tokens": answer.usage.prompt_tokens,
            "output_tokens": answer.usage.completion_tokens,
            "total_tokens": answer.usage.total_tokens,
        }
        if answer.usage.reasoning_tokens:
            usage["output_token_details"] = {"reasoning": answer.usage.reasoning_tokens}
        return {"usage_metadata": usage, "response_metadata": metadata}
