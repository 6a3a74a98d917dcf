"""The commands that begin with a slash. Each is a method of `Commands`; its docstring is what /help says of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from arriero.errors import NotFoundError, UsageError
from arriero.formatting import nearest
from arriero.history import SavedConversation, to_openai
from arriero.messages import Message, Sampling, turns_of
from arriero.terminal.dialogue import Dialogue
from arriero.terminal.reader import Complete, Reader
from arriero.terminal.screen import note

COMMAND = re.compile(r"/\w*(?=\s|$)")  # a question may begin with a path
SYNONYMS = {"exit": "/exit", "quit": "/exit", "/quit": "/exit", "/bye": "/exit", "/?": "/help"}  # whole lines
FIELDS = tuple(field.name for field in fields(Sampling))
ARGUMENTS = {
    "system": "[TEXT | default]",
    "adapter": "[DIR | none]",
    "set": "[NAME VALUE]",
    "save": "FILE",
    "load": "FILE",
    "history": "[TEXT]",
    "open": "NUMBER",
    "delete": "NUMBER",
    "tokens": "[ids | text]",
}
NAMES = (
    "help", "system", "adapter", "set", "retry", "undo", "reasoning", "tokens", "clear", "save", "load", "history",
    "open", "delete", "exit",
)  # fmt: skip


class Commands:
    """Obeys commands on a dialogue.

    After a command `again` says that the last question is to be answered once more, `draft` is what the user may want
    to edit and send, `leaving` that the conversation is over.
    """

    def __init__(self, dialogue: Dialogue) -> None:
        self.dialogue = dialogue
        self.reader: Reader | None = None
        self.again = False
        self.draft = ""
        self.leaving = False

    def obey(self, line: str) -> None:
        """Carry out a command; raises UsageError naming the nearest one where there is none of that name."""
        name, _, argument = line[1:].partition(" ")
        if name not in NAMES:
            near = nearest(name, [command for command in NAMES if command != "delete"], cutoff=0.4)
            raise UsageError(f"unknown command /{name}", hint=f"/{near or 'help'}")
        getattr(self, name)(argument.strip())

    def described(self) -> list[tuple[str, str, Complete]]:
        """Each command with a slash, what it does, and how its argument is completed."""
        completions: dict[str, Complete] = {
            "adapter": "directory",
            "save": "file",
            "load": "file",
            "set": lambda: [(f"{name} ", value) for name, value in self._settings()],
            "system": lambda: [("default", "the model's or the adapter's own")],
            "tokens": lambda: [("ids", "as the model got them"), ("text", "as the model got it")],
            "open": self._listed,
            "delete": self._listed,
        }
        return [(f"/{name}", self._about(name), completions.get(name, "")) for name in NAMES]

    def _about(self, name: str) -> str:
        return str(getattr(self, name).__doc__)

    def help(self, _: str) -> None:
        """Say what there is."""
        for name in NAMES:
            usage = f"/{name} {ARGUMENTS.get(name, '')}"
            note(f"  {usage:<26} {self._about(name)}")
        note("Enter sends, Alt+Enter begins a new line, Ctrl-R searches what you asked before.")
        note("Ctrl-C stops an answer or clears the line; twice, or Ctrl-D, leaves.")

    def system(self, text: str) -> None:
        """Show or change the system prompt."""
        if text:
            self.dialogue.system = None if text == "default" else text
        own = self.dialogue.chat.renderer.system
        if self.dialogue.system is not None:
            note(f"system prompt: {self.dialogue.system}")
        else:
            note("system prompt: the model's own" if own is None else f"system prompt: {own}")

    def adapter(self, directory: str) -> None:
        """Go on with another adapter, or with none."""
        if directory:
            self.dialogue.switch_adapter(None if directory == "none" else Path(directory).expanduser().resolve())
        note(f"adapter: {self.dialogue.chat.adapter_name or 'none'}")
        if directory:
            self.system("")

    def set(self, text: str) -> None:
        """Show or change the sampling; VALUE may be default."""
        name, _, value = text.partition(" ")
        if name and name not in FIELDS:
            near = nearest(name, FIELDS, cutoff=0.4)
            raise UsageError(f"there is no setting {name}", hint=f"/set {near}" if near else "/set")
        if value:
            changed: dict[str, Any] = {name: _value(name, value.strip())}
            self.dialogue.sampling = replace(self.dialogue.sampling, **changed)
        for setting, shown in self._settings():
            if name in ("", setting):
                note(f"  {setting:<20} {shown}")

    def retry(self, _: str) -> None:
        """Answer the last question once more."""
        self.again = True

    def undo(self, _: str) -> None:
        """Take back the last question and its answer."""
        self.draft = self.dialogue.undo()
        note("the last question and its answer are taken back")

    def reasoning(self, _: str) -> None:
        """Show what the model thought before its last answer."""
        thought = self.dialogue.turns[-1].reasoning_content if self.dialogue.turns else None
        note(thought or "nothing was thought before the last answer")

    def tokens(self, form: str) -> None:
        """Count the last prompt's tokens, or show them."""
        ids = self.dialogue.last_prompt()
        if form not in ("", "ids", "text"):
            raise UsageError(f"/tokens shows ids or text, got {form}")
        if form:
            print(ids if form == "ids" else self.dialogue.chat.renderer.tokenizer.decode(ids))
        note(f"the last prompt: {len(ids)} tokens; the window: {self.dialogue.chat.window}")

    def clear(self, _: str) -> None:
        """Begin a new conversation."""
        self.dialogue.begin(system=self.dialogue.system)

    def save(self, file: str) -> None:
        """Write the conversation to a file, in OpenAI's JSON."""
        path = _path(file)
        if path.exists() and not (self.reader and self.reader.confirm(f"{path} exists. Overwrite it?")):
            raise UsageError(f"{path} exists and was left as it is", hint="another name")
        document = {"messages": [to_openai(message) for message in self.dialogue.messages]}
        try:
            path.write_text(json.dumps(document, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error}") from error
        note(f"{len(document['messages'])} messages written to {path}")

    def load(self, file: str) -> None:
        """Go on with a conversation from such a file."""
        path = _path(file)
        turns = read_conversation(path)
        system = turns.pop(0).content if turns[0].role == "system" else None
        self.draft = turns.pop().content if turns and turns[-1].role == "user" else ""
        self.dialogue.begin(turns, system=system)
        note(f"{len(turns)} messages read from {path}")

    def history(self, text: str) -> None:
        """List saved conversations, or those with TEXT."""
        conversations = self._saved(text)
        for saved in conversations:
            note(f"  {saved.id:>4}  {saved.changed:%Y-%m-%d %H:%M}  {saved.title}")
        note("/open NUMBER goes on with one, /delete NUMBER forgets it" if conversations else "nothing is there")

    def open(self, number: str) -> None:
        """Go on with a saved conversation."""
        if self.dialogue.history is None:
            raise UsageError("no conversations are kept in this session")
        self.draft = self.dialogue.resume(self.dialogue.history.get(_number(number))) or ""
        recall(self.dialogue.saved, self.dialogue.turns)

    def delete(self, number: str) -> None:
        """Forget a saved conversation."""
        if self.dialogue.history is None:
            raise UsageError("no conversations are kept in this session")
        self.dialogue.history.delete(_number(number))
        if self.dialogue.saved.id == _number(number):
            self.dialogue.begin(system=self.dialogue.system)
        note(f"conversation {number} is forgotten")

    def exit(self, _: str) -> None:
        """Leave."""
        self.leaving = True

    def _settings(self) -> Iterable[tuple[str, str]]:
        """Every sampling parameter and its value, the model's in brackets."""
        for name in FIELDS:
            own, default = getattr(self.dialogue.sampling, name), getattr(self.dialogue.chat.defaults, name)
            yield name, f"({'' if default in (None, ()) else default})" if own in (None, ()) else str(own)

    def _saved(self, text: str = "") -> list[SavedConversation]:
        return self.dialogue.history.find(text) if self.dialogue.history is not None else []

    def _listed(self) -> list[tuple[str, str]]:
        return [(str(saved.id), saved.title) for saved in self._saved()]


def recall(saved: SavedConversation, turns: Sequence[Message]) -> None:
    """Show where a conversation stands: its title and its last turns."""
    note(f"conversation {saved.id}: {saved.title}")
    for message in turns[-2:]:
        lines = message.content.strip().split("\n")
        note(("> " if message.role == "user" else "") + "\n".join(lines[:10]) + ("\n…" if len(lines) > 10 else ""))


def read_conversation(file: Path) -> list[Message]:
    """The turns of a JSON list of messages, or of an object that has one as `messages`; UsageError otherwise."""
    if not file.is_file():
        raise NotFoundError(f"no file {file}")
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        messages = document.get("messages") if isinstance(document, dict) else document
        if not isinstance(messages, list):
            raise UsageError(f"expected a list of messages, got {type(messages).__name__}")
        return list(turns_of(messages))
    except (OSError, ValueError, UsageError) as error:
        raise UsageError(f"{file} holds no conversation: {error}") from error


def _value(name: str, text: str) -> Any:
    """What a setting's value means; whether it makes sense is for Sampling to say."""
    if text == "default":
        return () if name in ("stop", "logit_bias") else None
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    if name == "stop":
        return tuple(value) if isinstance(value, list) else (value if isinstance(value, str) else text,)
    if name == "logit_bias":
        if not isinstance(value, dict):
            raise UsageError(f'logit_bias is written as {{"token id": bias, …}}, got {text}')
        return tuple((int(token) if token.isdigit() else token, bias) for token, bias in value.items())
    return value


def _path(text: str) -> Path:
    if not text:
        raise UsageError("a file's name is missing")
    return Path(text).expanduser()


def _number(text: str) -> int:
    if not text.isdecimal():
        raise UsageError(f"a conversation's number is expected, got {text!r}", hint="/history")
    return int(text)
