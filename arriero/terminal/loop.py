"""The loop of a conversation: read, answer or obey, until it ends."""

from __future__ import annotations

import sys

from arriero import settings
from arriero.chat import Chat
from arriero.errors import ArrieroError, ContextLengthError
from arriero.history import History, SavedConversation
from arriero.messages import Sampling
from arriero.terminal.commands import COMMAND, SYNONYMS, Commands, recall
from arriero.terminal.dialogue import Dialogue
from arriero.terminal.reader import Editor, Lines, Reader
from arriero.terminal.screen import Thinking, answering, clean, hushed, note


def converse(
    chat: Chat,
    sampling: Sampling,
    *,
    history: History | None = None,
    new: SavedConversation | None = None,
    resumed: SavedConversation | None = None,
    plain: bool = False,
) -> None:
    """Read questions and commands from standard input and answer them until it ends.

    What is said is kept in `history`, where one is given: as a new conversation under the model, adapter and system
    prompt of `new`, or as the `resumed` one. Answers are drawn as Markdown on a terminal, unless `plain` is true. An
    answer stopped by Ctrl-C keeps what was said. A question that cannot be answered, say because the conversation has
    outgrown the window, is reported and taken back; the conversation goes on.
    """
    dialogue = Dialogue(chat, sampling, history, new)
    commands = Commands(dialogue)
    if resumed is not None:
        commands.draft = dialogue.resume(resumed) or ""
        recall(dialogue.saved, dialogue.turns)
    reader: Reader = Lines()
    if sys.stdin.isatty():
        reader = Editor(commands.described(), settings.home() / "questions" if history is not None else None)
        note("/help says what you can do here, Ctrl-D leaves")
    commands.reader = reader
    while not commands.leaving:
        _tell(dialogue)
        line = reader.read(_footer(dialogue), commands.draft)
        commands.draft = ""
        if line is None:
            break
        try:
            _turn(dialogue, commands, line, plain=plain)
        except ArrieroError as error:
            hint = "/clear, or /undo" if isinstance(error, ContextLengthError) else error.hint
            note(f"error: {error.message}" + (f"\n  try: {hint}" if hint else ""))
        except KeyboardInterrupt:
            note("interrupted")


def _turn(dialogue: Dialogue, commands: Commands, line: str, *, plain: bool) -> None:
    """Answer a question or obey a command, which may be to answer once more; a blank line is neither."""
    commands.again = False
    line = SYNONYMS.get(line.strip(), line)
    if COMMAND.match(line):
        commands.obey(line)
        if not commands.again:
            return
    elif not line.strip():
        return
    dialogue.watch = Thinking("; /reasoning shows what")
    with hushed(), answering(plain=plain) as show:
        reason = dialogue.retry(show) if commands.again else dialogue.ask(line.strip(), show)
    if reason == "length":
        note("[cut at /set max_new_tokens, or where the window ends]")
    elif reason == "cancelled":
        note("[stopped]")


def _tell(dialogue: Dialogue) -> None:
    for notice in dialogue.notices:
        note(notice)
    dialogue.notices.clear()


def _footer(dialogue: Dialogue) -> str:
    """Model and adapter, speed of the last answer, use of the window, title."""
    chat = dialogue.chat
    parts = [f"{chat.model} + {chat.adapter_name}" if chat.adapter is not None else chat.model]
    if dialogue.speed is not None:
        parts.append(f"{dialogue.speed:.1f} tokens/s")
    used = dialogue.used
    parts.append(f"{'?' if used is None else used} / {chat.window} tokens")
    if dialogue.saved.title:
        parts.append(clean(dialogue.saved.title))
    return "  ·  ".join(parts)
