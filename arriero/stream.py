"""One answer on its way: a generation's token ids -> pieces of text, calls of tools, log-probabilities.

    ids ─> Detokenizer ─> ReasoningReader ─> StopFilter ─> CallReader ─> pieces
           whole chars    not the answer     cut at stop   text or call

Every stage may hold text back; how far the answer has been let through, in characters, tells which tokens it stands
for, so a piece carries exactly the log-probabilities of its own text.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace

from arriero.engines import Generation
from arriero.engines.detokenizer import Detokenizer
from arriero.engines.stopping import StopFilter
from arriero.errors import EngineError
from arriero.messages import CallDelta, FinishReason, Message, Piece, TokenLogprob, ToolCall, Usage
from arriero.pieces import text_and_reasoning
from arriero.prompt import CallReader, OutputSpec, Part, Reasoning, ReasoningReader, Renderer


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer. `logprobs`, where asked for, are those of the tokens that make up `text`.

    Where the answer was cut off within the last of `tool_calls`, the finish reason is not "tool_calls". `stop` is the
    stop string at which it was cut, if it was. `reasoning` is what the model thought before.
    """

    text: str
    finish_reason: FinishReason
    usage: Usage
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    stop: str | None = None
    reasoning: str = ""

    @classmethod
    def of(cls, pieces: Sequence[Piece]) -> Reply:
        """All pieces of a stream joined."""
        last = pieces[-1]
        if last.finish_reason is None or last.usage is None:
            raise EngineError("the answer ended without a finish reason")
        text, reasoning = text_and_reasoning(pieces)
        return cls(
            text,
            last.finish_reason,
            last.usage,
            tuple(call for piece in pieces for call in piece.tool_calls),
            tuple(token for piece in pieces for token in piece.logprobs),
            last.stop,
            reasoning,
        )

    @property
    def message(self) -> Message:
        """The answer as a turn of the conversation, to go on with."""
        return Message("assistant", self.text, self.tool_calls, reasoning_content=self.reasoning or None)


class Stream(Iterator[Piece], AsyncIterator[Piece]):
    """An answer on its way: iterate it with `for` or with `async for`, not both.

    `close`, `aclose`, or letting go of it stops the engine, also before the first piece. `clamped` is the limit of
    tokens where the window has room for fewer than were asked for.
    """

    clamped: int | None = None

    def __init__(
        self,
        generation: Generation,
        renderer: Renderer,
        stop: Sequence[str],
        output_spec: OutputSpec,
        reasoning: Reasoning | None = None,
    ) -> None:
        self._generation = generation
        self._decoder = AnswerDecoder(generation, renderer, stop, output_spec, reasoning)
        self._tokens = iter(generation)
        self._atokens = aiter(generation)
        self._ended = False

    def __iter__(self) -> Stream:
        return self

    def __aiter__(self) -> Stream:
        return self

    def __next__(self) -> Piece:
        while not self._ended:
            try:
                piece = self._piece(None if self._decoder.stopped else next(self._tokens, None))
            except BaseException:  # an interrupted reader will not come back for the rest
                self.close()
                raise
            if piece is not None:
                return piece
        raise StopIteration

    async def __anext__(self) -> Piece:
        while not self._ended:
            try:
                piece = self._piece(None if self._decoder.stopped else await anext(self._atokens, None))
            except BaseException:  # a cancelled task, above all
                self.close()
                raise
            if piece is not None:
                return piece
        raise StopAsyncIteration

    def _piece(self, token: int | None) -> Piece | None:
        """The piece that this token completes, if any; None is the end of the generation."""
        if token is not None:
            piece = self._decoder.push(token)
            if piece is not None or not self._decoder.stopped:
                return piece
        self.close()
        return self._decoder.last()

    @property
    def usage(self) -> Usage:
        """The token counts so far."""
        return Usage(self._generation.prompt_tokens, self._generation.completion_tokens)

    @property
    def ahead(self) -> int | None:
        """How many others get their turn before this answer; None where it does not wait for one."""
        return self._generation.ahead

    @property
    def prompt_logprobs(self) -> list[TokenLogprob]:
        """Where they were asked for, those of the prompt's tokens but the first; complete from the first piece on."""
        return self._generation.prompt_logprobs

    @property
    def end_logprob(self) -> TokenLogprob | None:
        """Where asked for and already there, that of the token that ended the turn, which is in no piece."""
        last = self._generation.logprobs[-1:]
        return last[0] if last and self._decoder.ends(last[0].token_id) else None

    def cancel(self) -> None:
        """Stop the engine's work on this answer, from any thread; it ends with the reason "cancelled"."""
        self._generation.cancel()

    def close(self) -> None:
        """Stop the engine's work on this answer; nothing follows."""
        self._ended = True
        self._generation.cancel()

    async def aclose(self) -> None:
        """`close` for async code."""
        self.close()

    def __del__(self) -> None:
        self._generation.cancel()


class AnswerDecoder:
    """Turns one generation's ids into pieces, without the end-of-turn token."""

    def __init__(
        self,
        generation: Generation,
        renderer: Renderer,
        stop: Sequence[str],
        output_spec: OutputSpec,
        reasoning: Reasoning | None,
    ) -> None:
        self._generation = generation
        self._end = renderer.stop_token_ids
        self._special = renderer.special_ids
        markers = renderer.markers if output_spec.tools else {}
        tags = set() if reasoning is None else {reasoning.opening_id, reasoning.closing_id}
        self._hidden = self._special - tags
        self._detokenizer = Detokenizer(renderer.tokenizer, self._hidden - markers.keys())
        self._thoughts = ReasoningReader(reasoning.tags, reasoning.begins) if reasoning is not None else None
        self._reasoning_tokens = 0
        self._filter = StopFilter(stop)
        demanded = [tool.name for tool in output_spec.demanded]
        self._reader = CallReader(output_spec.tools, markers.values(), demanded) if output_spec.tools else None
        self._only_one = not output_spec.parallel
        self._spans = _TokenSpans()
        self._tokens = 0
        self._calls = 0
        self._over = False  # whether a token has come that ends the turn, which an engine need not know

    @property
    def stopped(self) -> bool:
        """Whether a stop string has been found, or as many calls have been made as may be."""
        return self._over or self._filter.stopped or self._complete

    def ends(self, token: int) -> bool:
        """Whether this token ends a turn."""
        return token in self._end

    def push(self, token: int) -> Piece | None:
        """The piece that became certain with this token, if any."""
        self._tokens += 1
        if token in self._end:
            self._over = True
            return None
        self._reasoning_tokens += self._thoughts is not None and self._thoughts.inside
        text = self._detokenizer.push(token)
        if self._generation.logprobs and token not in self._hidden:
            self._spans.token(self._generation.logprobs[self._tokens - 1])
        self._spans.text(text)
        thought, text = self._think(text)
        piece = replace(self._piece(self._read(self._filter.push(text))), reasoning=thought)
        return piece if piece.text or piece.tool_calls or piece.call_deltas or thought else None

    def last(self) -> Piece:
        """What is left, the finish reason and the token counts."""
        text = thought = ""
        if not (self._filter.stopped or self._complete):
            rest = self._detokenizer.flush()
            self._spans.text(rest)
            thought, rest = self._think(rest, final=True)
            text = self._filter.push(rest) + self._filter.flush()
        parts = self._read(text)
        if self._reader is not None and not self._complete:
            parts += self._reader.flush()
        piece = self._piece(parts)
        reason = "stop" if self.stopped else self._generation.finish_reason
        if reason == "stop" and self._calls and not (self._reader and self._reader.unfinished):
            reason = "tool_calls"
        usage = Usage(self._generation.prompt_tokens, self._tokens, self._reasoning_tokens)
        return replace(piece, finish_reason=reason, usage=usage, stop=self._filter.matched, reasoning=thought)

    def _think(self, text: str, *, final: bool = False) -> tuple[str, str]:
        """What of a text is reasoning, and what follows that."""
        if self._thoughts is None:
            return "", text
        thought, taken, text = self._thoughts.push(text, final=final)
        self._spans.upto(taken)  # no log-probabilities of what is not the answer
        return thought, text

    def _read(self, text: str) -> list[Part]:
        if not text:
            return []
        return self._reader.push(text) if self._reader is not None else [Part(text, len(text))]

    def _piece(self, parts: list[Part]) -> Piece:
        text, calls, deltas, logprobs = "", list[ToolCall](), list[CallDelta](), list[TokenLogprob]()
        for part in parts:
            if self._complete:
                break
            spelled = self._spans.upto(part.length)
            logprobs += spelled if part.text else []
            text += part.text
            deltas += [part.delta] if part.delta is not None else []
            calls += [part.call] if part.call is not None else []
            self._calls += part.call is not None
        return Piece(text, tool_calls=tuple(calls), logprobs=tuple(logprobs), call_deltas=CallDelta.joined(deltas))

    @property
    def _complete(self) -> bool:
        return self._only_one and self._calls > 0


class _TokenSpans:
    """Which tokens spell which characters of an answer: (position after the text a token is part of, token)."""

    def __init__(self) -> None:
        self._spelling: list[TokenLogprob] = []  # tokens of which no text has come yet
        self._tokens: deque[tuple[int, TokenLogprob]] = deque()
        self._length = 0
        self._through = 0

    def token(self, token: TokenLogprob) -> None:
        """A token whose text comes with the next `text`."""
        self._spelling.append(token)

    def text(self, text: str) -> None:
        """Text that became certain; may be empty."""
        self._length += len(text)
        if text:
            self._tokens.extend((self._length, token) for token in self._spelling)
            self._spelling = []

    def upto(self, length: int) -> list[TokenLogprob]:
        """The tokens whose text is through once `length` more characters are."""
        self._through += length
        ready = []
        while self._tokens and self._tokens[0][0] <= self._through:
            ready.append(self._tokens.popleft()[1])
        return ready
