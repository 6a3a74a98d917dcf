"""llama.cpp through the wheel xllamacpp: its own server, a child. Imports nothing of ours."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import xllamacpp

from benchmarks.lib.channel import Answer, Document, Watch, serve


def load(job: Document) -> tuple[Answer, Document]:
    """The GGUF file in a server with a slot for each request, batching continuously, as many threads as cores."""
    threads = len(os.sched_getaffinity(0))
    params = xllamacpp.CommonParams()
    params.model.path = job["gguf"]
    params.n_parallel = job["parallel"]
    params.n_ctx = job["parallel"] * job["context"]  # it divides it among the slots
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(params)
    about = {
        "url": server.listening_address,
        "description": f"{threads} threads, {Path(job['gguf']).name}",
    }
    return lambda command: answers(server, command), about


def answers(server: Any, command: Document) -> Document:
    """Answer all prompts at once, each from a thread of its own."""
    prompts, watch = command["prompts"], Watch(len(command["prompts"]))

    def one(request: int) -> None:
        def piece(chunk: Document) -> bool:
            if "error" in chunk:
                raise RuntimeError(chunk["error"])
            if any(choice["text"] for choice in chunk.get("choices", ())):
                watch.began(request)
            if chunk.get("usage"):
                watch.tokens[request] = chunk["usage"]["completion_tokens"]
            return False  # go on

        asked = {"prompt": prompts[request], "max_tokens": command["tokens"], "temperature": 0.0, "stream": True}
        server.handle_completions(asked, piece)

    with ThreadPoolExecutor(len(prompts)) as threads:
        list(threads.map(one, range(len(prompts))))
    return watch.outcome()


if __name__ == "__main__":
    serve(load)
