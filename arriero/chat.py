"""Chat: model + adapter + prompt contract -> a stream of text pieces. The one answering interface.

Terminal, LangChain, server and web page all go through here, so they all send the engine the same ids for the same
conversation, stop at the same tokens and cut at the same stop strings.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arriero import hub
from arriero.engines import Engine, Generation, load_engine
from arriero.engines.base import Precision as Precision
from arriero.engines.choose import EngineName as EngineName
from arriero.engines.detokenizer import Detokenizer
from arriero.engines.sampling import default_sampling
from arriero.engines.stopping import StopFilter
from arriero.errors import ContextLengthError, EngineError
from arriero.messages import DEFAULT_MAX_NEW_TOKENS, FinishReason, Message, Piece, Sampling, Usage
from arriero.prompt import Renderer, bind

Messages = Iterable[Message | Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer."""

    text: str
    finish_reason: FinishReason
    usage: Usage


class Chat:
    """A loaded model that answers conversations. Build one with `load`; use it from any number of threads.

    `model` is the model's name, `adapter` the adapter's (None without one), `window` the context size in tokens. Chats
    over the same engine differ in adapter and renderer.
    """

    def __init__(
        self, engine: Engine, renderer: Renderer, *, model: str, adapter: str | None, window: int, defaults: Sampling
    ) -> None:
        self.engine = engine
        self.renderer = renderer
        self.model = model
        self.adapter = adapter
        self.window = window
        self.defaults = defaults

    def render(self, messages: Messages) -> list[int]:
        """The exact prompt ids the engine receives for these messages, which end with the user's."""
        return self.renderer.prompt(messages)

    def stream(self, messages: Messages, sampling: Sampling | None = None) -> Stream:
        """Answer piece by piece; the last piece carries finish reason and usage. Breaking off stops the engine.

        Bad messages, and a prompt that does not fit the window, raise here and not at the first piece.
        """
        return Stream(self, *self._submit(messages, sampling))

    def astream(self, messages: Messages, sampling: Sampling | None = None) -> Stream:
        """`stream` for async code; the event loop is free while the engine works."""
        return self.stream(messages, sampling)

    def complete(self, messages: Messages, sampling: Sampling | None = None) -> Reply:
        """The whole answer at once."""
        return _joined(list(self.stream(messages, sampling)))

    async def acomplete(self, messages: Messages, sampling: Sampling | None = None) -> Reply:
        """`complete` for async code."""
        return _joined([piece async for piece in self.astream(messages, sampling)])

    def close(self) -> None:
        """Free the model."""
        self.engine.close()

    def _submit(self, messages: Messages, sampling: Sampling | None) -> tuple[Generation, Sampling]:
        chosen = (sampling or Sampling()).over(self.defaults)
        prompt_ids = self.render(messages)
        room = self.window - len(prompt_ids)
        if room < (chosen.max_new_tokens or 1):
            raise ContextLengthError(len(prompt_ids), chosen.max_new_tokens or 1, self.window)
        limit = chosen.max_new_tokens or min(DEFAULT_MAX_NEW_TOKENS, room)
        return self.engine.submit(prompt_ids, chosen, max_new_tokens=limit, adapter=self.adapter), chosen


class Stream(Iterator[Piece], AsyncIterator[Piece]):
    """An answer on its way: iterate it with `for` or with `async for`, not both.

    `close`, `aclose`, or letting go of it stops the engine, also before the first piece.
    """

    def __init__(self, chat: Chat, generation: Generation, sampling: Sampling) -> None:
        self._generation = generation
        self._answer = _Answer(chat, generation, sampling)
        self._tokens = iter(generation)
        self._atokens = aiter(generation)
        self._ended = False

    def __next__(self) -> Piece:
        while not self._ended:
            try:
                piece = self._piece(next(self._tokens, None))
            except BaseException:  # an interrupted reader will not come back for the rest
                self.close()
                raise
            if piece is not None:
                return piece
        raise StopIteration

    async def __anext__(self) -> Piece:
        while not self._ended:
            try:
                piece = self._piece(await anext(self._atokens, None))
            except BaseException:  # a cancelled task, above all
                self.close()
                raise
            if piece is not None:
                return piece
        raise StopAsyncIteration

    def _piece(self, token: int | None) -> Piece | None:
        """The piece that this token completes, if any; None is the end of the generation."""
        if token is not None and (text := self._answer.push(token)):
            return Piece(text)
        if token is not None and not self._answer.stopped:
            return None
        self.close()
        return self._answer.last()

    def close(self) -> None:
        """Stop the engine's work on this answer; nothing follows."""
        self._ended = True
        self._generation.cancel()

    async def aclose(self) -> None:
        """`close` for async code."""
        self.close()

    def __del__(self) -> None:
        self._generation.cancel()


class _Answer:
    """Turns one generation's ids into text: whole characters, cut at stop strings, without the end-of-turn token."""

    def __init__(self, chat: Chat, generation: Generation, sampling: Sampling) -> None:
        self._generation = generation
        self._end = chat.renderer.stop_token_ids
        self._detokenizer = Detokenizer(chat.renderer.tokenizer)
        self._filter = StopFilter(sampling.stop)
        self._tokens = 0

    @property
    def stopped(self) -> bool:
        """Whether a stop string has been found."""
        return self._filter.stopped

    def push(self, token: int) -> str:
        """The text that became certain with this token."""
        self._tokens += 1
        return "" if token in self._end else self._filter.push(self._detokenizer.push(token))

    def last(self) -> Piece:
        """What is left, the finish reason and the token counts."""
        text = "" if self.stopped else self._filter.push(self._detokenizer.flush()) + self._filter.flush()
        reason = "stop" if self.stopped else self._generation.finish_reason
        return Piece(text, reason, Usage(self._generation.prompt_tokens, self._tokens))


def _joined(pieces: list[Piece]) -> Reply:
    last = pieces[-1]
    if last.finish_reason is None or last.usage is None:
        raise EngineError("the answer ended without a finish reason")
    return Reply("".join(piece.text for piece in pieces), last.finish_reason, last.usage)


def load(
    model: str | Path | None = None,
    *,
    adapter: str | Path | None = None,
    name: str | None = None,
    system: str | None = None,
    engine: EngineName = "auto",
    precision: Precision = "auto",
) -> Chat:
    """Load a model, and an adapter if one is given, ready to answer.

    `model` is a catalogue name, a repository id or a directory; None means the adapter's own base model, or the
    embedded model. `name` is what the adapter is called, by default as its directory. `system` replaces the system
    prompt, which otherwise is the one the adapter was trained with. `precision` is that of the weights.
    Raises ContractError when the adapter belongs to another model or prompt.
    """
    found = bind(model, adapter, system=system)
    name = (name or found.adapter_dir.name) if found.adapter_dir else None
    adapters = {name: found.adapter_dir} if name and found.adapter_dir else {}
    return Chat(
        load_engine(found.model_dir, found.renderer.stop_token_ids, adapters, engine, precision),
        found.renderer,
        model=hub.name_of(found.model_dir),
        adapter=name,
        window=hub.window(found.model_dir),
        defaults=default_sampling(found.model_dir),
    )
