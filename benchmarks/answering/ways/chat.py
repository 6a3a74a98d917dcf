"""A child: our Chat over an engine. With an adapter, too, it renders as for the base model: all read the same ids."""

from __future__ import annotations

import asyncio
import itertools

import arriero
from arriero.chat import Chat
from arriero.messages import Message
from arriero.prompt import resolve
from benchmarks.answering.ways import cancel
from benchmarks.lib.channel import Answer, Document, Watch, serve
from benchmarks.lib.questions import greedily


def load(job: Document) -> tuple[Answer, Document]:
    """The Chat that the job names."""
    engine, _, process = job["engine"].partition("-")
    settings = {name: job[name] for name in ("adapter", "precision", "cuda_graphs")}
    chat = arriero.load(job["model"], engine=engine, process=bool(process), **settings)
    chat.renderer = resolve(job["model"]).renderer
    commands: dict[str, Answer] = {
        "answer": lambda command: asyncio.run(streamed(chat, command)),
        "greedy": lambda command: greedy(chat, command["prompts"], command["tokens"]),
        "cancel": lambda command: cancel.measure(chat.engine, command),
    }
    return lambda command: commands[command["do"]](command), {"description": chat.engine.description}


async def streamed(chat: Chat, command: Document) -> Document:
    """Answer all questions at once and read every answer to its end, as the server does."""
    sampling = greedily(command["tokens"])
    watch = Watch(len(command["questions"]))

    async def read(request: int, question: str) -> None:
        async for piece in chat.astream([Message("user", question)], sampling):
            if piece.text:
                watch.began(request)
            if piece.usage is not None:
                watch.tokens[request] = piece.usage.completion_tokens

    await asyncio.gather(*itertools.starmap(read, enumerate(command["questions"])))
    return watch.outcome()


def greedy(chat: Chat, prompts: list[list[int]], tokens: int) -> list[list[int]]:
    """The engine's greedy answers, as ids."""
    sampling = greedily(tokens)
    generations = [chat.engine.submit(ids, sampling, max_new_tokens=tokens) for ids in prompts]
    return [list(generation) for generation in generations]


if __name__ == "__main__":
    serve(load)
