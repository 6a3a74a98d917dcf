"""ask, chat and serve."""

from __future__ import annotations

import socket
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from arriero.cli import output
from arriero.cli.options import Json, ModelOptions, plain
from arriero.errors import ArrieroError, UsageError
from arriero.messages import Sampling

if TYPE_CHECKING:
    from arriero.chat import Chat

MODEL = ModelOptions()
SAMPLING = Sampling()


def ask(
    question: str | None = None,
    /,
    *,
    model: ModelOptions = MODEL,
    sampling: Annotated[Sampling, Parameter(name="*")] = SAMPLING,
    as_json: Json = False,
) -> None:
    """Ask one question.

    Parameters
    ----------
    question
        The question; - or nothing reads it from standard input.

    """
    text = _question(question)
    started = time.perf_counter()
    chat = _load(model)
    loaded = time.perf_counter()
    first: float | None = None
    answer = []
    stream = chat.stream([{"role": "user", "content": text}], sampling)
    for piece in stream:
        first = first or time.perf_counter()
        answer.append(piece.text)
        if not as_json:
            print(piece.text, end="", flush=True)
    ended = time.perf_counter()
    chat.close()
    if not as_json:
        print()
        return
    usage, begun = piece.usage, first or ended
    tokens = usage.completion_tokens if usage is not None else 0
    output.document(
        {
            "text": "".join(answer),
            "finish_reason": piece.finish_reason,
            "usage": {"prompt_tokens": usage.prompt_tokens if usage else 0, "completion_tokens": tokens},
            "timings": {
                "load_s": round(loaded - started, 4),
                "first_token_s": round(begun - loaded, 4),
                "total_s": round(ended - started, 4),
                "tokens_per_second": round((tokens - 1) / (ended - begun), 2) if tokens > 1 else 0.0,
            },
            "engine": chat.engine.name,
            "model": chat.model,
            "adapter": chat.adapter,
        }
    )


def chat(*, model: ModelOptions = MODEL, sampling: Annotated[Sampling, Parameter(name="*")] = SAMPLING) -> None:
    """Talk in the terminal. Ctrl-C stops an answer, Ctrl-D or /exit leaves."""
    from arriero.terminal import converse

    loaded = _load(model)
    try:
        converse(loaded, sampling)
    finally:
        loaded.close()


def serve(*, model: ModelOptions = MODEL, host: str = "127.0.0.1", port: int = 6006) -> None:
    """Serve the tutorial's POST /, OpenAI's /v1 and the web page on one port, from one loaded model.

    The adapter may be given as NAME=DIRECTORY; NAME is then its model id in /v1/models.

    Parameters
    ----------
    host
        Address to listen on. Anything but loopback puts the model on the network, without a key.
    port
        Port to listen on; 0 takes any free one.

    """
    import uvicorn

    from arriero.server import create_app

    listener = _listen(host, port)
    name, _, directory = (model.adapter or "").partition("=")
    if model.adapter is not None and Path(model.adapter).is_dir():  # its path has a = in it
        name, directory = model.adapter, ""
    loaded = _load(replace(model, adapter=directory or name or None), name=name if directory else None)
    app = create_app(loaded)
    _mount_page(app, loaded)
    address = f"http://{host}:{listener.getsockname()[1]}"
    output.note(f"serving {loaded.adapter or loaded.model} at {address} (web page, POST /, /v1); Ctrl-C stops")
    if host not in ("127.0.0.1", "localhost", "::1"):
        output.note("warning: anyone who reaches this address can use the model")
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5))
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:
        output.note("stopped")
    finally:
        loaded.close()


def _question(question: str | None) -> str:
    if question in (None, "-"):
        if sys.stdin is None or sys.stdin.isatty():
            raise UsageError("no question was given", hint='arriero ask "Who are you?"')
        question = sys.stdin.read()
    if not question or not question.strip():
        raise UsageError("the question is empty", hint='arriero ask "Who are you?"')
    return question.strip()


def _load(options: ModelOptions, name: str | None = None) -> Chat:
    from arriero.chat import load

    chosen: dict[str, Any] = plain(options)
    return load(chosen.pop("model"), name=name, **chosen)


def _listen(host: str, port: int) -> socket.socket:
    """Take the port before the model is loaded, so that a port in use is an error at once."""
    if not 0 <= port <= 65535:
        raise UsageError(f"a port is a number from 0 to 65535, got {port}")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)  # requests that come before the server is up wait instead of being refused
    except OSError as error:
        listener.close()
        raise ArrieroError(
            f"cannot listen on {host} port {port}: {error}",
            hint=f"another port: arriero serve --port {port % 65535 + 1}",
        ) from error
    return listener


def _mount_page(app: Any, loaded: Chat) -> None:
    try:
        from arriero.web import mount

        mount(app, loaded)
    except UsageError as error:
        output.note(f"no web page: {error.message}; {error.hint}")
