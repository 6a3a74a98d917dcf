"""Where questions come from: an editor in a terminal, plain lines from anything else."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from arriero.errors import UsageError

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.buffer import Buffer
    from prompt_toolkit.completion import Completer, Completion
    from prompt_toolkit.document import Document
    from prompt_toolkit.history import History
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

MENU_LINES = 8  # kept free below for the completion menu, while there is one
Values = Callable[[], Iterable[tuple[str, str]]]
Complete = Literal["", "file", "directory"] | Values  # nothing, paths, or these values with what they mean


class Reader(Protocol):
    """Gives one question or command after the other."""

    def read(self, footer: str = "", draft: str = "") -> str | None:
        """The next one; None at the end. `footer` is shown meanwhile, `draft` stands there to be edited."""
        ...

    def confirm(self, question: str) -> bool:
        """Whether the user says yes; no where nobody can be asked."""
        ...


class Lines:
    """Standard input, a line at a time."""

    def read(self, footer: str = "", draft: str = "") -> str | None:
        """See `Reader.read`; there is nobody to show anything to."""
        try:
            line = sys.stdin.readline()
        except UnicodeDecodeError as error:
            raise UsageError(f"standard input is not UTF-8 text: {error}") from error
        return line.rstrip("\n") if line else None

    def confirm(self, question: str) -> bool:
        """See `Reader.confirm`."""
        return False


class Editor:
    """An editor for questions: Enter sends, Alt+Enter begins a new line, what is pasted stays one message.

    Ctrl-C clears the line and, on an empty one, leaves when pressed twice; Ctrl-D leaves. Ctrl-R searches the
    `remembered` questions, a file (None: those of this session only). `commands` are the commands with what they do
    and how their argument is completed. Draws on standard error where standard output is no terminal.
    """

    def __init__(self, commands: Sequence[tuple[str, str, Complete]], remembered: Path | None) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.filters import Condition
        from prompt_toolkit.output import create_output
        from prompt_toolkit.styles import Style

        self._footer = self._hint = ""
        self._session: PromptSession[str] = PromptSession(
            [("", "\n"), ("class:prompt", "> ")],
            multiline=True,
            prompt_continuation="  ",
            completer=_completer(commands),
            complete_while_typing=Condition(lambda: self._session.default_buffer.text.startswith("/")),
            reserve_space_for_menu=MENU_LINES,
            history=_history(remembered),
            key_bindings=self._keys(),
            bottom_toolbar=lambda: self._hint or self._footer,
            style=Style.from_dict({"prompt": "bold ansicyan", "bottom-toolbar": "noreverse ansibrightblack"}),
            enable_suspend=True,
            enable_open_in_editor=True,
            output=create_output(always_prefer_tty=True),
        )
        self._session.default_buffer.on_text_changed += self._typed

    def _typed(self, _: Buffer) -> None:
        self._hint = ""

    def read(self, footer: str = "", draft: str = "") -> str | None:
        """See `Reader.read`."""
        self._footer, self._hint = footer, ""
        try:
            return self._session.prompt(default=draft)
        except EOFError:
            return None

    def confirm(self, question: str) -> bool:
        """See `Reader.confirm`."""
        from prompt_toolkit import PromptSession
        from prompt_toolkit.output import create_output

        asking: PromptSession[str] = PromptSession(f"{question} [y/N] ", output=create_output(always_prefer_tty=True))
        try:
            return asking.prompt().strip().lower() in ("y", "yes")
        except (EOFError, KeyboardInterrupt):
            return False

    def _keys(self) -> KeyBindings:
        from prompt_toolkit.enums import DEFAULT_BUFFER
        from prompt_toolkit.filters import has_focus
        from prompt_toolkit.key_binding import KeyBindings

        keys = KeyBindings()
        editing = has_focus(DEFAULT_BUFFER)  # and not the search

        @keys.add("enter", filter=editing)
        def send(event: KeyPressEvent) -> None:
            buffer = event.current_buffer
            if buffer.complete_state and buffer.complete_state.current_completion:
                buffer.complete_state = None  # takes the completion; a second Enter sends
            else:
                buffer.validate_and_handle()

        @keys.add("escape", "enter", filter=editing)
        def new_line(event: KeyPressEvent) -> None:
            event.current_buffer.newline(copy_margin=False)

        @keys.add("c-c", filter=editing)
        @keys.add("<sigint>", filter=editing)
        def clear(event: KeyPressEvent) -> None:
            if event.is_repeat and not event.current_buffer.text:
                event.app.exit(exception=EOFError)
            event.current_buffer.reset()
            self._hint = "Ctrl-C again leaves"

        return keys


def _completer(commands: Sequence[tuple[str, str, Complete]]) -> Completer:
    """Completes a command's name, then its argument."""
    from prompt_toolkit.completion import Completer, Completion, PathCompleter
    from prompt_toolkit.document import Document

    class Commands(Completer):
        def get_completions(self, document: Document, complete_event: Any) -> Iterable[Completion]:
            text = document.text_before_cursor
            if not text.startswith("/") or "\n" in document.text:
                return
            name, blank, argument = text.partition(" ")
            for command, about, complete in commands:
                if not blank and command.startswith(name):
                    yield Completion(command, -len(name), display_meta=about)
                elif blank and command == name and callable(complete):
                    for value, meaning in complete():
                        if value.startswith(argument):
                            yield Completion(value, -len(argument), display_meta=meaning)
                elif blank and command == name and complete:
                    files = PathCompleter(only_directories=complete == "directory", expanduser=True)
                    yield from files.get_completions(Document(argument), complete_event)

    return Commands()


def _history(file: Path | None) -> History:
    """The questions in a file that only its owner can read, or none to begin with."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    if file is None:
        return InMemoryHistory()
    file.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(file, os.O_CREAT | os.O_WRONLY, 0o600))
    return FileHistory(file)
