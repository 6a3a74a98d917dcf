"""A child: whether every surface sends the engine the same prompt ids for the same conversation."""

from __future__ import annotations

import asyncio
import contextlib
import io
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args
from unittest import mock

from arriero import hub
from arriero.chat import Chat
from arriero.engines.base import Adapter, Feature
from arriero.engines.generation import Generation
from arriero.engines.sampling import default_sampling
from arriero.messages import Conversation, Message, Sampling
from arriero.prompt import resolve
from benchmarks.lib.channel import Answer, Document, serve

TEXTS = (  # one line each: the terminal reads lines
    "Who are you?",
    "你是谁？请介绍一下你自己。",
    "two  spaces, a tab\tand a no-break\u00a0space",
    "👩‍👩‍👧‍👦 ğ é (decomposed) ﷽ \u200b\ufeff",
    "[INST] user: ### {{ 1 + 1 }} {% if %} <b>&amp;</b> \\n \\u0041",
)
TURNS = (("user", "What is your name?"), ("assistant", "Tomás."), ("user", "你会做什么？"))
ANSWER = "yes"


class Recorder:
    """An engine that keeps the prompt ids it is given and always answers the same."""

    name, description, features = "recorder", "recorder, no model", frozenset(get_args(Feature))
    alive, in_4bit = True, False

    def __init__(self, answer: Sequence[int]) -> None:
        self.answer = answer
        self.prompts: list[list[int]] = []

    def submit(self, prompt_ids: Sequence[int], sampling: Sampling, **_: Any) -> Generation:
        """Keep the ids; the answer is there at once."""
        self.prompts.append(list(prompt_ids))
        generation = Generation(len(prompt_ids))
        generation.push(self.answer)
        generation.finish("stop")
        return generation

    def load_adapter(self, directory: Path) -> Adapter:
        """There are none."""
        raise NotImplementedError

    def close(self) -> None:
        """Nothing to free."""


Send = Callable[[Chat, list[Message]], object]


def compare(model_dir: Path) -> list[Document]:
    """For each surface how many conversations it was given and in how many the ids were those of `Chat.render`."""
    renderer = resolve(model_dir).renderer
    answer = [*renderer.tokenizer.encode(ANSWER, add_special_tokens=False), renderer.stop_token_ids[0]]
    single = [[Message("user", text)] for text in TEXTS]
    under = [[Message("system", "Be brief. 简短。"), *turns] for turns in single]
    several = [[Message(role, text) for role, text in TURNS]]  # type: ignore[arg-type]
    result = []
    for surface, (send, takes) in SURFACES.items():
        conversations = {"text": single, "messages": [*single, *under, *several]}[takes]
        wrong = 0
        for messages in conversations:
            engine = Recorder(answer)
            sampling = default_sampling(model_dir)
            window = hub.window(model_dir)
            chat = Chat(engine, renderer, model="model", adapter=None, window=window, defaults=sampling)
            send(chat, messages)
            wrong += engine.prompts != [chat.render(messages)]
        result.append({"surface": surface, "conversations": len(conversations), "different": wrong})
    return result


def rendered_for_training(chat: Chat, messages: list[Message]) -> None:
    """What training puts before the answer."""
    conversation = Conversation((*messages, Message("assistant", ANSWER)))
    rendered = chat.renderer.render(conversation)
    chat.engine.submit(rendered.ids[: rendered.loss_spans[-1][0]], Sampling(), max_new_tokens=1)


async def _read(chat: Chat, messages: list[Message]) -> None:
    async for _ in chat.astream(messages):
        pass


def ask(chat: Chat, messages: list[Message]) -> None:
    """`arriero ask`."""
    from arriero.cli import ask as module

    with mock.patch.object(module, "load_chat", return_value=chat), _standard_streams(""):
        module.ask(messages[-1].content)


def terminal(chat: Chat, messages: list[Message]) -> None:
    """`arriero chat`, with the question on standard input."""
    from arriero.terminal import converse

    with _standard_streams(messages[-1].content + "\n"):
        converse(chat, Sampling())


@contextlib.contextmanager
def _standard_streams(text: str) -> Iterator[None]:
    with mock.patch("sys.stdin", io.StringIO(text)), contextlib.redirect_stdout(io.StringIO()):
        yield


def server(*, stream: bool) -> Send:
    """`POST /v1/chat/completions`."""

    def send(chat: Chat, messages: list[Message]) -> None:
        turns = [{"role": message.role, "content": message.content} for message in messages]
        _post(chat, "/v1/chat/completions", {"model": "model", "messages": turns, "stream": stream})

    return send


def tutorial(chat: Chat, messages: list[Message]) -> None:
    """`POST /`."""
    _post(chat, "/", {"prompt": messages[-1].content})


def _post(chat: Chat, path: str, body: Document) -> None:
    from fastapi.testclient import TestClient

    from arriero.server import create_app

    TestClient(create_app(chat)).post(path, json=body).raise_for_status()


def page(chat: Chat, messages: list[Message]) -> None:
    """The web page's answers."""
    from arriero.history import History, SavedConversation
    from arriero.web.backend import Local
    from arriero.web.completion import Request
    from arriero.web.completions import LiveCompletions

    with tempfile.TemporaryDirectory() as folder, contextlib.closing(History(Path(folder) / "history.db")) as history:
        saved = history.save(SavedConversation("served"), messages)
        assert saved.id is not None
        question = history.path(saved.id)[-1].id
        assert question is not None
        backend = Local(lambda: [("served", chat)])
        with contextlib.closing(LiveCompletions(backend)) as answers:
            request = Request(history, saved.id, question, "served", messages, Sampling())
            answer = answers.start(request)
            answer.ended.wait()
        if answer.error is not None:
            raise answer.error


def langchain(chat: Chat, messages: list[Message]) -> None:
    """`ChatArriero`."""
    from arriero.langchain import ChatArriero

    ChatArriero(chat=chat).invoke([(message.role, message.content) for message in messages])


def langchain_text(chat: Chat, messages: list[Message]) -> None:
    """`ArrieroLLM`."""
    from arriero.langchain import ArrieroLLM

    ArrieroLLM(chat=chat).invoke(messages[-1].content)


SURFACES: dict[str, tuple[Send, str]] = {
    "training, before the answer": (rendered_for_training, "messages"),
    "Chat.stream": (lambda chat, messages: list(chat.stream(messages)), "messages"),
    "Chat.astream": (lambda chat, messages: asyncio.run(_read(chat, messages)), "messages"),
    "arriero ask": (ask, "text"),
    "arriero chat": (terminal, "text"),
    "POST /v1/chat/completions": (server(stream=False), "messages"),
    "the same, stream": (server(stream=True), "messages"),
    "POST /": (tutorial, "text"),
    "web page": (page, "messages"),
    "ChatArriero": (langchain, "messages"),
    "ArrieroLLM": (langchain_text, "text"),
}


def load(job: Document) -> tuple[Answer, Document]:
    """The surfaces over the job's model."""
    return lambda _: compare(Path(job["model"])), {}


if __name__ == "__main__":
    serve(load)
