"""One conversation on the page: what was said, and the answer that is under way. It knows nothing of drawing.

The page asks, then calls `advance` twenty times a second and draws the turns as they are. An answer belongs to the
session and not to the script run that asked for it: Streamlit breaks a run off at every click, and the next run goes
on advancing the same answer.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from arriero.chat import Chat
from arriero.errors import ArrieroError, EngineError
from arriero.messages import FinishReason, Message, Piece, Sampling, Usage


@dataclass(slots=True)
class Turn:
    """A question and what came of it.

    `finish_reason` is None while the answer is under way and after an error; `seconds` counts from the question to
    the end; `usage` is there once the model came to an end by itself.
    """

    question: str
    answer: str = ""
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    seconds: float = 0.0
    error: ArrieroError | None = None

    @property
    def running(self) -> bool:
        """Whether more of the answer may come."""
        return self.finish_reason is None and self.error is None

    @property
    def tokens_per_second(self) -> float | None:
        """Generated tokens per second of waiting, reading the prompt included; None where they were not counted."""
        return self.usage.completion_tokens / self.seconds if self.usage is not None and self.seconds else None


class Session:
    """A conversation with a Chat. Safe to use from two threads: a run that is being stopped may overlap the next.

    `system` is the system prompt as the user sees it, at first the one the model was trained with.
    """

    def __init__(self, chat: Chat) -> None:
        self.chat = chat
        self.system = chat.renderer.system or ""
        self.turns: list[Turn] = []
        self._answer: _Answer | None = None
        self._lock = threading.RLock()

    @property
    def messages(self) -> list[Message]:
        """What the model is told of the conversation so far: every turn that got an answer, if only a part of one."""
        said: list[Message] = []
        if self.system != (self.chat.renderer.system or ""):
            said.append(Message("system", self.system))
        for turn in self.turns:
            if turn.answer.strip():
                said += [Message("user", turn.question), Message("assistant", turn.answer)]
        return said

    def use(self, chat: Chat) -> None:
        """Go on with another Chat, if it is one; a system prompt that nobody has changed becomes the new one's."""
        with self._lock:
            if self.system == (self.chat.renderer.system or ""):
                self.system = chat.renderer.system or ""
            self.chat = chat

    def ask(self, question: str, sampling: Sampling) -> Turn:
        """Begin an answer, after stopping the one under way. What the model refuses is kept as the turn's error."""
        with self._lock:
            self.stop()
            turn = Turn(question)
            try:
                pieces = self.chat.astream([*self.messages, Message("user", question)], sampling)
                answer = _Answer(turn, pieces)
                self._answer = answer if turn.running else None
            except ArrieroError as error:
                turn.error = error
            self.turns.append(turn)
            return turn

    def advance(self, seconds: float) -> None:
        """Take in what the model says during the next `seconds`; returns at once when the answer ends."""
        with self._lock:
            if self._answer is not None:
                self._answer.advance(seconds)
                if not self._answer.turn.running:
                    self._answer = None

    def stop(self, turn: Turn | None = None) -> None:
        """Stop the answer under way and keep what was said; with `turn`, only if it is that turn's."""
        with self._lock:
            if self._answer is not None and (turn is None or turn is self._answer.turn):
                self._answer.close()
                self._answer = None

    def reset(self) -> None:
        """Begin a new conversation; the system prompt stays as it is."""
        with self._lock:
            self.stop()
            self.turns = []


class _Answer:
    """Reads one stream into its turn, on an event loop that turns only while somebody calls `advance`."""

    def __init__(self, turn: Turn, pieces: AsyncIterator[Piece]) -> None:
        self.turn = turn
        self._began = time.monotonic()
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._task = self._runner.get_loop().create_task(self._read(pieces))
        self.advance(0)  # a stream that was never begun would not cancel the engine's work when it is stopped

    async def _read(self, pieces: AsyncIterator[Piece]) -> None:
        async for piece in pieces:
            self.turn.answer += piece.text
            if piece.finish_reason is not None:
                self.turn.usage = piece.usage
                self.turn.finish_reason = piece.finish_reason

    def advance(self, seconds: float) -> None:
        """Read for at most `seconds`."""
        self._runner.run(asyncio.wait({self._task}, timeout=seconds))
        if self._task.done():
            self.close()

    def close(self) -> None:
        """End the turn; an answer still under way is broken off, which frees the engine."""
        self.turn.seconds = time.monotonic() - self._began
        self._runner.close()  # cancels the task and lets it run to its end
        if self._task.cancelled():
            self.turn.finish_reason = "cancelled"
        elif isinstance(error := self._task.exception(), ArrieroError):
            self.turn.error = error
        elif error is not None:
            logging.getLogger(__name__).error("an answer broke off", exc_info=error)
            self.turn.error = EngineError(f"the answer broke off: {error}", hint="the server's log says where")
