"""Who looks, at which conversation, with which model, and what can be done there.

Made anew in every script run and callback, from the site and the session's state. The conversation's number is in the
page's address, so that a reload and a bookmark come back to it.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Self

import streamlit as st

from arriero.errors import ArrieroError, NotFoundError
from arriero.history import History, Node, SavedConversation
from arriero.messages import Message, Sampling
from arriero.web.backend import Backend, Choice
from arriero.web.completion import LiveCompletion, Request
from arriero.web.completions import LiveCompletions
from arriero.web.state import get_site

ADDRESS = "c"  # the query parameter


def owner_here() -> str | None:
    """Whose this visit's conversations and comparisons are; of somebody who is not recognised, this visit's alone."""
    owner = get_site().visitor(st.context.headers).owner
    return owner if owner != "" else st.session_state.setdefault("nobody", f"visit-{secrets.token_hex(16)}")


@dataclass
class Desk:
    """One visitor's view of one conversation; `identity` is None before its first question."""

    backend: Backend
    answers: LiveCompletions
    history: History
    identity: int | None

    @classmethod
    def here(cls) -> Self:
        """This visitor's, in a script run or callback."""
        site, state = get_site(), st.session_state
        if "conversation" not in state:
            asked = st.query_params.get(ADDRESS, "")
            state.conversation = int(asked) if asked.isdecimal() else None
        desk = cls(site.backend, site.answers, site.history.of(owner_here()), state.conversation)
        if desk.identity is not None and desk.saved is None:  # deleted, or another's
            desk.open(None)
        return desk

    @cached_property
    def saved(self) -> SavedConversation | None:
        """The conversation; None before its first question."""
        with contextlib.suppress(NotFoundError):
            return self.history.get(self.identity) if self.identity is not None else None
        return None

    @cached_property
    def path(self) -> list[Node]:
        """What was said."""
        return self.history.path(self.identity) if self.identity is not None else []

    @cached_property
    def choices(self) -> list[Choice]:
        """The models there are now, the default first. Raises ArrieroError where they cannot be listed."""
        return self.backend.choices()

    @property
    def choice(self) -> Choice | None:
        """The model that was chosen, or the default where it is gone; None where there is none."""
        name = st.session_state.get("model")
        return next((choice for choice in self.choices if choice.name == name), next(iter(self.choices), None))

    @property
    def answer(self) -> LiveCompletion | None:
        """The answer in flight, or one that came to no good end."""
        return self.answers.get(self.identity)

    @property
    def running(self) -> bool:
        """Whether an answer is in flight."""
        return self.answer is not None and not self.answer.ended.is_set()

    @property
    def system(self) -> str | None:
        """The system prompt that was set here, None where the model's own is used."""
        system: str | None = st.session_state.get("system") if self.saved is None else self.saved.system
        return system

    def open(self, identity: int | None) -> None:
        """Go to a conversation, or to a new one; the answer in flight goes on."""
        st.session_state.conversation = self.identity = identity
        st.session_state.pop("editing", None)
        self._forget()
        if identity is None:
            st.query_params.pop(ADDRESS, None)
        else:
            st.query_params[ADDRESS] = str(identity)
            last = next((node.info for node in reversed(self.path) if node.info is not None), None)
            if last is not None:
                st.session_state.model = last.model

    def use_system(self, system: str | None) -> None:
        """Have this system prompt from the next answer on."""
        if self.saved is None:
            st.session_state.system = system
        else:
            self.history.change(replace(self.saved, system=system))
        self._forget()

    def ask(self, question: str, sampling: Sampling) -> None:
        """Ask a question after what was said."""
        self.stop()
        self._ask(self.path[-1].id if self.path else None, question, sampling)

    def reword(self, node: int, question: str, sampling: Sampling) -> None:
        """Ask a question anew in other words; the old one and what followed it stay as a branch."""
        self.stop()
        before = next((asked.parent for asked in self.path if asked.id == node), None)
        st.session_state.pop("editing", None)
        self._ask(before, question, sampling)

    def regenerate(self, question: int, sampling: Sampling) -> None:
        """Answer a question once more; the old answer stays as a branch."""
        self.stop()
        if self.identity is not None:
            self.history.select(self.identity, question, below=False)
            self._forget()
            self._answer(sampling)

    def go_on(self, sampling: Sampling) -> None:
        """Go on with the last answer, which was cut off."""
        self.stop()
        self._answer(sampling, self.path[-1])

    def stop(self) -> None:
        """Stop the answer in flight, and keep what was said."""
        if self.identity is not None:
            self.answers.stop(self.identity)
            self._forget()

    def switch(self, node: int) -> None:
        """Go to another branch."""
        self.stop()
        if self.identity is not None:
            self.history.select(self.identity, node)
            self._forget()

    def delete(self, identity: int) -> None:
        """Forget a conversation."""
        self.answers.stop(identity)
        self.history.delete(identity)
        if identity == self.identity:
            self.open(None)

    def _ask(self, parent: int | None, question: str, sampling: Sampling) -> None:
        choice = self._chosen()
        saved = self.saved or SavedConversation(choice.parent or choice.name, choice.directory, self.system)
        node = self.history.add(saved, parent, Message("user", question))
        if self.identity is None:
            st.session_state.pop("system", None)  # it is the conversation's now
            self.open(node.conversation)
        self._forget()
        self._answer(sampling)

    def _answer(self, sampling: Sampling, continued: Node | None = None) -> None:
        question = continued.parent if continued is not None else self.path[-1].id
        if self.identity is not None and question is not None:
            messages = spoken(self.path, self.system)
            choice = self._chosen()
            thinking = st.session_state.get("set_thinking") if choice.switch is not None else None
            self.answers.start(
                Request(self.history, self.identity, question, choice.name, messages, sampling, continued, thinking)
            )

    def _chosen(self) -> Choice:
        if self.choice is None:
            raise ArrieroError("no model is served")
        return self.choice

    def _forget(self) -> None:
        """Read what is cached here anew."""
        for name in ("saved", "path"):
            self.__dict__.pop(name, None)


def spoken(path: Sequence[Node], system: str | None) -> list[Message]:
    """The turns the model receives: not a question that was given up for another one, nor an answer of blanks."""
    messages = [node.message for node in path if node.message.content.strip() or node.message.reasoning_content]
    given_up = [message.role == after.role == "user" for message, after in pairwise(messages)]
    kept = [message for message, gone in zip(messages, [*given_up, False], strict=False) if not gone]
    return [*([Message("system", system)] if system is not None else ()), *kept]
