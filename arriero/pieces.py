"""An answer on its way, in pieces; what it took. `messages` has these words for all other rooms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from arriero.tools import CallDelta, ToolCall

FinishReason = Literal["stop", "length", "tool_calls", "cancelled"]


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one request; the end-of-turn token counts as generated, and so do `reasoning_tokens`."""

    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A generated token, the natural logarithm of its probability, and the most probable alternatives likewise."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """The next bit of an answer: whole characters only, never a part of a stop string.

    The last piece of a stream carries `finish_reason` and `usage`; its text may be empty. `logprobs`, where asked for,
    are those of the tokens since the last piece. Calls of tools come twice: as they are made in `call_deltas`, at most
    one a call, and whole in `tool_calls`, with the piece that ends their arguments, the last one at the latest. `stop`,
    with the last piece, is the stop string at which the answer was cut. `reasoning` is what the model thinks before
    it answers, all of which comes before the first text or call.
    """

    text: str
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    call_deltas: tuple[CallDelta, ...] = ()
    stop: str | None = None
    reasoning: str = ""


def text_and_reasoning(pieces: Sequence[Piece]) -> tuple[str, str]:
    """What the pieces of an answer come to, one after the other."""
    return "".join(piece.text for piece in pieces), "".join(piece.reasoning for piece in pieces)
