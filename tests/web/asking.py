"""Asking as the page does, without a page."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from arriero.chat import Chat
from arriero.history import History, SavedConversation
from arriero.messages import Message, Sampling
from arriero.web.backend import Local
from arriero.web.completion import LiveCompletion, Request
from arriero.web.completions import LiveCompletions


class Visit:
    """One visitor of a page over what `served` gives."""

    def __init__(self, file: Path, served: Callable[[], Iterable[tuple[str, Chat]]]) -> None:
        self.history = History(file)
        self.backend = Local(served)
        self.answers = LiveCompletions(self.backend)

    def ask(self, question: str = "hi", sampling: Sampling | None = None, model: str = "tiny") -> LiveCompletion:
        """Ask in a new conversation."""
        node = self.history.add(SavedConversation(model), None, Message("user", question))
        messages = [Message("user", question)]
        return self.answers.start(
            Request(self.history, node.conversation, node.id, model, messages, sampling or Sampling())
        )

    def stop(self, answer: LiveCompletion) -> None:
        """As the button does."""
        self.answers.stop(answer.request.conversation)

    def close(self) -> None:
        """Stop everything."""
        self.answers.close()
        self.history.close()
