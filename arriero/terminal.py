"""The chat loop in a terminal: several turns, streamed answers, Ctrl-C stops one, Ctrl-D leaves."""

from __future__ import annotations

import contextlib
import sys

from arriero.chat import Chat
from arriero.errors import ArrieroError
from arriero.messages import Message, Sampling

HELP = "Enter sends, Ctrl-C stops an answer, /clear starts over, /exit or Ctrl-D leaves."


def converse(chat: Chat, sampling: Sampling) -> None:
    """Read questions from standard input and answer them until it ends.

    An answer stopped by Ctrl-C keeps what was said. A question that cannot be answered, say because the conversation
    has outgrown the window, is reported and taken back; the conversation goes on.
    """
    interactive = sys.stdin.isatty()
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  arrow keys and history, where the platform has it
    if interactive:
        print(HELP, file=sys.stderr)
    messages: list[Message] = []
    while (question := _read(interactive)) is not None:
        if question == "/exit":
            break
        if question == "/clear":
            messages.clear()
        elif question.startswith("/"):
            print(f"unknown command {question.split()[0]}. {HELP}", file=sys.stderr)
        elif question:
            messages.append(Message("user", question))
            try:
                messages.append(Message("assistant", _answer(chat, messages, sampling)))
            except ArrieroError as error:
                messages.pop()
                print(f"error: {error.message}\n  try: /clear", file=sys.stderr)
            if not messages or not messages[-1].content.strip():
                del messages[-2:]


def _read(interactive: bool) -> str | None:
    """The next question without surrounding blanks; None at the end of input."""
    try:
        return input("> " if interactive else "").strip()
    except EOFError:
        return None


def _answer(chat: Chat, messages: list[Message], sampling: Sampling) -> str:
    """Print an answer as it comes; returns what was printed, which Ctrl-C may have cut short."""
    said: list[str] = []
    with contextlib.closing(chat.stream(messages, sampling)) as pieces:
        try:
            for piece in pieces:
                said.append(piece.text)
                print(piece.text, end="", flush=True)
                if piece.finish_reason == "length":
                    print(" […]", end="", flush=True)
        except KeyboardInterrupt:
            print(" […]", end="")
    print(flush=True)
    return "".join(said)
