"""Answers of several models to the same prompts, side by side, while they grow. It knows nothing of drawing.

A round belongs to its visitor and not to a tab or a script run, which Streamlit breaks off at every click: all rounds
are read on one event loop in a thread of its own, and whoever looks draws what is there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from arriero.errors import ArrieroError, EngineError
from arriero.messages import FinishReason, Message, Sampling, Usage
from arriero.web.backend import Backend
from arriero.web.background import Background, failure

PROMPTS_AT_ONCE = 4  # a list of prompts must not fill the server's queue


@dataclass(slots=True)
class Side:
    """One model's answer. `seconds` counts from its turn to its end, and is 0 before; only the loop writes to it."""

    model: str
    text: str = ""
    thought: str = ""
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    error: ArrieroError | None = None
    seconds: float = 0.0

    @property
    def ended(self) -> bool:
        """Whether nothing changes any more."""
        return self.finish_reason is not None or self.error is not None


@dataclass(slots=True)
class Duel:
    """One prompt and its answers, one from each model."""

    prompt: str
    sides: list[Side]

    @property
    def ended(self) -> bool:
        """Whether all answers are there."""
        return all(side.ended for side in self.sides)


@dataclass(slots=True)
class Round:
    """The same prompts, system prompt and sampling for each of `models`. `system` None is each model's own."""

    models: Sequence[str]
    prompts: Sequence[str]
    system: str | None
    sampling: Sampling
    id: str = field(default_factory=lambda: uuid4().hex)
    duels: list[Duel] = field(init=False)

    def __post_init__(self) -> None:
        self.duels = [Duel(prompt, [Side(model) for model in self.models]) for prompt in self.prompts]

    @property
    def ended(self) -> bool:
        """Whether all answers are there."""
        return all(duel.ended for duel in self.duels)

    def messages(self, prompt: str) -> list[Message]:
        """What each model is asked."""
        asked = Message("user", prompt)
        return [asked] if self.system is None else [Message("system", self.system), asked]


class Rounds:
    """The last round of each visitor, in flight or ended. From any thread."""

    def __init__(self) -> None:
        self._rounds: dict[str | None, Round] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}  # by round; touched on the loop only
        self._background = Background("comparing")

    def get(self, owner: str | None) -> Round | None:
        """The visitor's round, None before the first."""
        return self._rounds.get(owner)

    def start(self, owner: str | None, round_: Round, backend: Backend) -> None:
        """Begin a round, after stopping the visitor's last one."""
        self.stop(owner)
        self._rounds[owner] = round_
        self._background.call(self._begin, round_, backend)

    def stop(self, owner: str | None) -> None:
        """Stop the visitor's round and keep what was said."""
        round_ = self.get(owner)
        if round_ is not None:
            self._background.call(self._cancel, round_)

    def _begin(self, round_: Round, backend: Backend) -> None:
        task = asyncio.get_running_loop().create_task(_answer_all(round_, backend))
        self._tasks[round_.id] = task
        task.add_done_callback(lambda _: self._tasks.pop(round_.id))

    def _cancel(self, round_: Round) -> None:
        if round_.id in self._tasks:
            self._tasks[round_.id].cancel()
        for side in (side for duel in round_.duels for side in duel.sides if not side.ended):
            side.finish_reason = "cancelled"


async def _answer_all(round_: Round, backend: Backend) -> None:
    slots = asyncio.Semaphore(PROMPTS_AT_ONCE)

    async def answer(duel: Duel) -> None:
        async with slots:
            messages = round_.messages(duel.prompt)
            await asyncio.gather(*(_answer(side, messages, round_.sampling, backend) for side in duel.sides))

    await asyncio.gather(*map(answer, round_.duels))


async def _answer(side: Side, messages: Sequence[Message], sampling: Sampling, backend: Backend) -> None:
    """Read one answer to its end. What a model refuses is the side's error; the others go on."""
    began = time.monotonic()
    try:
        stream: Any = await asyncio.to_thread(backend.astream, side.model, messages, sampling)  # renders the prompt
        async with aclosing(stream):
            async for piece in stream:
                side.text += piece.text
                side.thought += piece.reasoning
                side.seconds = time.monotonic() - began
                if piece.finish_reason is not None:
                    side.usage, side.finish_reason = piece.usage, piece.finish_reason
        if not side.ended:
            side.error = EngineError("the answer ended without saying why")
    except Exception as error:
        side.error = failure(error)
