"""ask: one question, from the command line, standard input and files."""

from __future__ import annotations

import contextlib
import json
import os
import select
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from arriero.cli import output
from arriero.cli.chat import MODEL, SAMPLING, load_chat
from arriero.cli.early import check
from arriero.cli.options import Json, ModelOptions, examples
from arriero.errors import EngineError, NotFoundError, UsageError
from arriero.messages import Message, Piece, Sampling, Usage
from arriero.pieces import text_and_reasoning

if TYPE_CHECKING:
    from arriero.chat import Chat, Stream

LONGEST = 16_000_000  # bytes of one text; more than any model's window
PATIENCE = 2.0  # seconds of silence on standard input before a line says that it is being read
HINT = 'arriero ask "Who are you?"'
app = App(
    name="ask",
    help_epilogue=examples(
        'ask "Why do llamas hum?"',
        'ask "Who are you?" --adapter runs/llama-driver --temperature 0.7 --seed 1',
        'ask "Write a commit message for this." < changes.diff',
        'ask "What do these say of prices?" --file may.txt --file june.txt --schema prices.schema.json',
        "ask --json < question.txt",
    ),
)


@app.default
def ask(
    *question: str,
    file: list[Path] | None = None,
    schema: Path | None = None,
    model: ModelOptions = MODEL,
    sampling: Annotated[Sampling, Parameter(name="*")] = SAMPLING,
    as_text: Annotated[bool, Parameter(name="--plain")] = False,
    as_json: Json = False,
) -> None:
    """Ask one question, about files and standard input too.

    Parameters
    ----------
    question
        The question; quotation marks keep the shell away from ? and *. Standard input is what it is about, or the
        question itself where none is given.
    file
        A text file that the question is about; may be given several times.
    schema
        A file with a JSON schema; the answer is JSON that fits it.
    as_text
        Show the answer as it is instead of as Markdown.

    """
    check(adapter=model.adapter, model=model.model)
    from arriero.terminal.screen import Thinking, answering

    text = _prompt(" ".join(question) if question else None, file or [])
    json_schema = _schema(schema) if schema is not None else None

    def asked(chat: Chat) -> Stream:
        return chat.stream([Message("user", text)], sampling, schema=json_schema)

    started = time.perf_counter()
    chat = load_chat(model, asked)
    loaded = time.perf_counter()
    try:
        show = _nothing() if as_json or json_schema is not None else answering(plain=as_text)
        answer = _read(asked(chat), show, Thinking())
    finally:
        chat.close()
    if json_schema is not None and answer.last.finish_reason == "length":
        raise EngineError(
            "the answer was cut before its JSON was complete", hint="a larger --max-new-tokens, or a shorter question"
        )
    if as_json:
        output.document(_document(chat, answer, started, loaded))
    elif json_schema is not None:
        print(answer.text)
    elif answer.last.finish_reason == "length":
        output.note("[cut at --max-new-tokens, or where the window ends]")


@dataclass(frozen=True, slots=True)
class _TimedCompletion:
    """A whole answer, its last piece, and when its first and last piece came, by `time.perf_counter`."""

    text: str
    reasoning: str
    last: Piece
    begun: float
    ended: float


def _read(
    stream: Stream, show: AbstractContextManager[Callable[[str], None]], watch: Callable[[Piece], None]
) -> _TimedCompletion:
    """Show an answer as it comes; Ctrl-C and a reader who goes away stop the engine."""
    pieces: list[Piece] = []
    begun, piece = 0.0, Piece("")
    with contextlib.closing(stream), show as take:
        for piece in stream:
            begun = begun or time.perf_counter()
            pieces.append(piece)
            watch(piece)
            take(piece.text)
    return _TimedCompletion(*text_and_reasoning(pieces), piece, begun, time.perf_counter())


@contextlib.contextmanager
def _nothing() -> Iterator[Callable[[str], None]]:
    """Shows nothing."""
    yield lambda _: None


def _document(chat: Chat, answer: _TimedCompletion, started: float, loaded: float) -> dict[str, Any]:
    usage = answer.last.usage or Usage(0, 0)
    tokens, seconds = usage.completion_tokens, answer.ended - answer.begun
    return {
        "text": answer.text,
        **({"reasoning": answer.reasoning} if answer.reasoning else {}),
        "finish_reason": answer.last.finish_reason,
        "usage": {"prompt_tokens": usage.prompt_tokens, "completion_tokens": tokens},
        "timings": {
            "load_s": round(loaded - started, 4),
            "first_token_s": round(answer.begun - loaded, 4),
            "total_s": round(answer.ended - started, 4),
            "tokens_per_second": round((tokens - 1) / seconds, 2) if tokens > 1 else 0.0,
        },
        "engine": chat.engine.name,
        "model": chat.model,
        "adapter": chat.adapter_name,
    }


def _prompt(question: str | None, files: list[Path]) -> str:
    """Files, standard input and the question, in this order: models attend best to what comes last."""
    parts = [f"File {file.name}:\n\n{_file(file)}" for file in files]
    if question is None:
        if sys.stdin is None or sys.stdin.isatty():
            raise UsageError("no question was given", hint=HINT)
        question = _standard_input()
    elif _is_fed():
        parts.append(_standard_input())
    if not question or not question.strip():
        raise UsageError("the question is empty", hint=HINT)
    return "\n\n".join(text for text in (*parts, question.strip()) if text.strip())


def _is_fed() -> bool:
    """Whether somebody sends something on standard input: a file or a pipe, and not a terminal or nothing at all."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (AttributeError, OSError, ValueError):  # closed, or replaced by something that is no file
        return False
    return stat.S_ISREG(mode) or stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _standard_input() -> str:
    if not select.select([sys.stdin], [], [], PATIENCE)[0]:
        output.note("reading standard input; < /dev/null leaves it out")
    return _text(sys.stdin.buffer.read(LONGEST + 1), "standard input")


def _file(file: Path) -> str:
    path = file.expanduser()
    if not path.exists():
        raise NotFoundError(f"no file {file}")
    if path.is_dir():
        raise UsageError(f"{file} is a directory; --file takes a text file")
    with path.open("rb") as stream:
        return _text(stream.read(LONGEST + 1), str(file))


def _text(content: bytes, source: str) -> str:
    """UTF-8 text; UsageError where it is something else, or longer than any window."""
    if len(content) > LONGEST:
        raise UsageError(f"{source} is longer than {output.size(LONGEST)}, more than any model's window holds")
    if b"\0" in content:
        raise UsageError(f"{source} is not text: it has a zero byte at position {content.index(0)}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{source} is not UTF-8 text, from byte {error.start} on", hint="convert it: iconv") from error


def _schema(file: Path) -> Mapping[str, Any]:
    text = _file(file)
    try:
        schema = json.loads(text)
    except ValueError as error:
        raise UsageError(f"{file} is not JSON: {error}") from error
    if not isinstance(schema, dict):
        raise UsageError(f"{file} must hold a JSON schema, which is an object; got {type(schema).__name__}")
    return schema
