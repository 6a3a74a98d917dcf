"""One answer in flight: what is asked for, what was said so far, and how it is saved."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from arriero.errors import ArrieroError
from arriero.history import AnswerInfo, History, Node, SavedConversation
from arriero.messages import FinishReason, Message, Piece, Sampling, Usage
from arriero.web.backend import Pieces

SAVE_SECONDS = 1.0  # how often an answer in flight is saved, so that a crash loses no more than this


@dataclass(frozen=True, slots=True)
class Request:
    """An answer that is asked for: from `model`, to `messages`, which end with the question at the node `parent`.

    `history` is that of the conversation's owner; `continued` the answer that goes on, which then ends `messages`.
    `thinking` says whether the model thinks first, None leaves it to the model.
    """

    history: History
    conversation: int
    parent: int
    model: str
    messages: Sequence[Message]
    sampling: Sampling
    continued: Node | None = None
    thinking: bool | None = None


@dataclass(slots=True, eq=False)
class LiveCompletion:
    """An answer as those see it who draw it; only the loop writes to it.

    `thought` is the reasoning before it. `node` is the answer's once it is saved. `first` and `began` are moments on
    the monotonic clock. After `ended` is set nothing changes; one of `finish_reason` and `error` is there then.
    """

    request: Request
    text: str = ""
    thought: str = ""
    node: int | None = None
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    error: ArrieroError | None = None
    began: float = field(default_factory=time.monotonic)
    first: float | None = None
    ended: threading.Event = field(default_factory=threading.Event)
    _pieces: Pieces | None = None
    _task: asyncio.Task[None] | None = None
    _ending: bool = False

    @property
    def ahead(self) -> int | None:
        """How many others get their turn first; None where it does not wait for one."""
        return self._pieces.ahead if self._pieces is not None else None

    @property
    def info(self) -> AnswerInfo:
        """What the answer took so far."""
        usage, seconds = self.usage, time.monotonic() - self.began
        if usage is None and self._pieces is not None:
            usage = self._pieces.usage
        return AnswerInfo(
            self.request.model,
            self.finish_reason,
            usage.prompt_tokens if usage is not None else None,
            usage.completion_tokens if usage is not None else None,
            seconds,
            self.first - self.began if self.first is not None else None,
        )

    async def read(self, pieces: Pieces) -> None:
        """Take in all of an answer."""
        self._pieces = pieces
        saved = time.monotonic()
        try:
            async for piece in pieces:
                self._take(piece)
                if time.monotonic() - saved > SAVE_SECONDS and self.finish_reason is None:
                    await asyncio.to_thread(self.save)
                    saved = time.monotonic()
        finally:
            self.usage = self.usage or pieces.usage
            await pieces.aclose()

    def _take(self, piece: Piece) -> None:
        if (piece.text or piece.reasoning) and self.first is None:
            self.first = time.monotonic()
        self.text += piece.text
        self.thought += piece.reasoning
        if piece.finish_reason is not None:
            self.usage, self.finish_reason = piece.usage, piece.finish_reason

    def save(self) -> None:
        """Put what was said into the history; an answer of blanks is none. Raises ArrieroError."""
        asked, message = self.request, Message("assistant", self.text, reasoning_content=self.thought or None)
        if self.node is not None:
            asked.history.amend(asked.conversation, self.node, message, self.info)
        elif self.text.strip() or self.thought.strip():
            saved = SavedConversation(asked.model, id=asked.conversation)
            self.node = asked.history.add(saved, asked.parent, message, self.info).id
