"""What was said, under which settings; saved as it happens. It knows nothing of terminals."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from arriero.chat import Chat, Stream
from arriero.errors import ArrieroError, UsageError
from arriero.history import ChangedElsewhere, History, SavedConversation
from arriero.messages import FinishReason, Message, Piece, Sampling
from arriero.pieces import text_and_reasoning

Show = Callable[[str], None]
SAVE_SECONDS = 1.0  # how often an answer in flight is saved, so that a crash loses no more than this


class Dialogue:
    """A conversation with a Chat.

    `turns` is what was said, and ends with an answer. `system` replaces the system prompt of model or adapter unless it
    is None. `saved` is the conversation in `history`, which is None where nothing is to be kept. `speed` is that of the
    last whole answer, in tokens per second after the first. `notices` are for the user to see. `watch` gets every piece
    of an answer before its text is shown.
    """

    def __init__(
        self, chat: Chat, sampling: Sampling, history: History | None = None, saved: SavedConversation | None = None
    ) -> None:
        self.chat = chat
        self.sampling = sampling
        self.history = history
        self.saved = saved or SavedConversation(
            chat.model, str(chat.adapter.directory) if chat.adapter is not None else None
        )
        self.system = self.saved.system
        self.turns: list[Message] = []
        self.speed: float | None = None
        self.notices: list[str] = []
        self.watch: Callable[[Piece], None] = lambda _: None

    @property
    def messages(self) -> list[Message]:
        """The conversation as the model gets it."""
        return self._under_system(self.turns)

    def _under_system(self, turns: Sequence[Message]) -> list[Message]:
        return [*([Message("system", self.system)] if self.system is not None else ()), *turns]

    @property
    def _last_question(self) -> int:
        """The last question's index in `turns`; UsageError where nothing was asked yet."""
        asked = [index for index, message in enumerate(self.turns) if message.role == "user"]
        if not asked:
            raise UsageError("nothing was asked yet")
        return asked[-1]

    def last_prompt(self) -> list[int]:
        """The ids that the last answer followed; UsageError before there is one."""
        return self.chat.render(self._under_system(self.turns[: self._last_question + 1]))

    @property
    def used(self) -> int | None:
        """Tokens of the window that the conversation takes with the shortest next question; None: unknown."""
        try:
            return len(self.chat.render([*self.messages, Message("user", "?")]))
        except ArrieroError:
            return None

    def ask(self, question: str, show: Show) -> FinishReason:
        """Answer a question, handing on the text as it comes, and remember both.

        Ctrl-C ends it as "cancelled" and keeps what was said. What cannot be answered is raised, and neither it nor
        an answer of blanks is remembered.
        """
        return self._answer(self.turns, question, show)

    def retry(self, show: Show) -> FinishReason:
        """Answer the last question once more; the old answer stays unless there is a new one."""
        last = self._last_question
        return self._answer(self.turns[:last], self.turns[last].content, show)

    def undo(self) -> str:
        """Take back the last question and its answer; returns the question."""
        last = self._last_question
        question = self.turns[last].content
        self.remember(self.turns[:last])
        return question

    def remember(self, turns: Sequence[Message]) -> None:
        """Make `turns` what was said."""
        self.turns = list(turns)
        self._save(self.turns)

    def begin(self, turns: Sequence[Message] = (), *, system: str | None = None) -> None:
        """A new conversation, which may have begun already; the one before stays saved."""
        self.saved = SavedConversation(self.saved.model, self.saved.adapter)
        self.system = system
        self.remember(turns)

    def resume(self, saved: SavedConversation) -> str | None:
        """Go on with a saved conversation; returns its last question if that has no answer.

        Model and adapter stay those that are loaded; a notice says so where they were others.
        """
        if self.history is None or saved.id is None:
            return None
        messages = self.history.messages(saved.id)
        unanswered = messages.pop().content if messages and messages[-1].role == "user" else None
        had, has = _held_with(saved), _held_with(self.saved)
        if had != has:
            self.notices.append(f"this conversation was held with {had}; {has} goes on with it")
        self.saved = replace(saved, model=self.saved.model, adapter=self.saved.adapter)
        self.system, self.turns = saved.system, messages
        return unanswered

    def switch_adapter(self, directory: Path | None) -> None:
        """Go on with another adapter, or with None; its own system prompt applies. Raises as `with_adapter`."""
        self.chat = self.chat.with_adapter(directory)
        self.system = None
        self.saved = replace(self.saved, adapter=str(directory) if directory is not None else None)

    def _answer(self, before: Sequence[Message], question: str, show: Show) -> FinishReason:
        asked = [*before, Message("user", question)]
        pieces: list[Piece] = []
        try:
            with contextlib.closing(self.chat.stream(self._under_system(asked), self.sampling)) as stream:
                self._save(asked)
                reason = self._read(stream, asked, pieces, show)
        except (ArrieroError, KeyboardInterrupt):
            self._save(self.turns)
            raise
        answer = _answered(pieces)
        if answer is None and reason == "stop":
            self.notices.append("the model said nothing, so the question is taken back")
        self.remember(self.turns if answer is None else [*asked, answer])
        return reason

    def _read(self, stream: Stream, asked: list[Message], pieces: list[Piece], show: Show) -> FinishReason:
        first, due = 0.0, time.monotonic() + SAVE_SECONDS
        piece = Piece("")
        try:
            for piece in stream:
                first = first or time.monotonic()
                pieces.append(piece)
                self.watch(piece)
                show(piece.text)
                if time.monotonic() > due and (answer := _answered(pieces)) is not None:
                    self._save([*asked, answer])
                    due = time.monotonic() + SAVE_SECONDS
        except KeyboardInterrupt:
            return "cancelled"
        tokens, seconds = piece.usage.completion_tokens - 1 if piece.usage else 0, time.monotonic() - first
        self.speed = tokens / seconds if tokens > 0 and seconds > 0 else None
        return piece.finish_reason or "cancelled"

    def _save(self, turns: Sequence[Message]) -> None:
        """Keep `turns` on disk. Where that fails the conversation goes on, and the user receives a notice."""
        if self.history is None:
            return
        current = replace(self.saved, system=self.system)
        try:
            try:
                self.saved = self.history.save(current, turns)
            except ChangedElsewhere as error:
                self.saved = self.history.save(replace(current, id=None, revision=0), turns)
                self.notices.append(f"{error.message}: this one goes on as conversation {self.saved.id}")
        except ArrieroError as error:
            self.notices.append(f"{error.message}; from here on nothing is kept")
            self.history = None


def _answered(pieces: Sequence[Piece]) -> Message | None:
    """What was answered so far; None for blanks."""
    text, reasoning = text_and_reasoning(pieces)
    message = Message("assistant", text, reasoning_content=reasoning or None)
    return message if text.strip() or reasoning.strip() else None


def _held_with(saved: SavedConversation) -> str:
    """Model and adapter by their names."""
    model = Path(saved.model).name if Path(saved.model).is_absolute() else saved.model
    return f"{model} + {Path(saved.adapter).name}" if saved.adapter is not None else model
