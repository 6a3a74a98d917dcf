"""Arriero: a language model of your own at work on your own machine.

    chat = arriero.load(adapter="runs/llama-driver")
    for piece in chat.stream([{"role": "user", "content": "Who are you?"}]):
        print(piece.text, end="")

The names below are imported when first used: `import arriero` loads no torch. What each room may import is in
pyproject.toml (import-linter) and in docs/architecture.md. From the top down:

    cli/            the command line, the only place that prints and exits
    cluster/        several machines: the only room that imports ray
    server/         a Chat over HTTP: the tutorial's endpoint, OpenAI's, Anthropic's, Ollama's
    web/            the page: Streamlit inside the server's process
    terminal/       a conversation in a terminal
    langchain/      a Chat as a LangChain model
    chat.py         Chat: model + adapter + prompt contract -> pieces of text
    loading.py      what chat.load and replicas are given -> what an engine is made from
    training/       instruction data -> an adapter directory
    stream.py       one answer: token ids -> pieces of text, tool calls, log-probabilities
    remote.py       a client of servers that speak OpenAI's protocol
    engines/        prompt ids -> token ids: transformers, OpenVINO, vLLM
    embeddings/     texts -> vectors
    prompt/         conversation -> token ids and loss mask; the prompt contract
    data/           instruction files -> conversations
    hub/            a model's name -> a complete, verified directory
    history/        saved conversations
    runs/           the training runs of this machine: started, stopped, watched
    batches/        files of many requests, in OpenAI's format
    messages.py     Message, Conversation, Sampling, Usage: what all rooms pass around
    pieces.py       Piece and what an answer took
    tools.py        tools, calls of them, and the choice among them
    constraint.py   what an answer may look like, as a tree that engines turn into grammars
    cuda_graphs.py  capturing on CUDA, for training and for answering
    database.py     one SQLite file, shared by threads and processes
    hardware.py     what this machine computes with
    locks.py        locks on directories
    markup/         a model's Markdown, made safe to draw
    settings.py     where things live on disk, and the environment variables that move them
    templates/      HTML pages and model cards
    formatting.py   sizes in bytes, and the known name nearest to an unknown one
    errors.py       the exception tree
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from arriero.chat import Chat, Reply
    from arriero.cluster.serving.deploy import load
    from arriero.cluster.training.driver import train
    from arriero.errors import ArrieroError
    from arriero.messages import Message, Piece, Sampling, Usage
    from arriero.prompt.adopt import adopt
    from arriero.server.offline import batch
    from arriero.training import evaluate, merge

__version__ = "0.1.0"
__all__ = [
    "ArrieroError",
    "Chat",
    "Message",
    "Piece",
    "Reply",
    "Sampling",
    "Usage",
    "adopt",
    "batch",
    "evaluate",
    "load",
    "merge",
    "train",
]
_HOMES = {
    "arriero.chat": ("Chat", "Reply"),
    "arriero.cluster.serving.deploy": ("load",),
    "arriero.errors": ("ArrieroError",),
    "arriero.messages": ("Message", "Piece", "Sampling", "Usage"),
    "arriero.prompt.adopt": ("adopt",),
    "arriero.cluster.training.driver": ("train",),
    "arriero.server.offline": ("batch",),
    "arriero.training": ("evaluate", "merge"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            importlib.import_module("arriero.hardware").spin_briefly()
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module 'arriero' has no attribute {name!r}")
