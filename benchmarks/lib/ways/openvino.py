"""OpenVINO GenAI as it is, over the files and with the settings of our engine: a child."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import openvino_genai as genai
from openvino import Tensor

from arriero.engines.openvino import exported
from arriero.engines.openvino.engine import described
from arriero.engines.openvino.pipeline import Model
from benchmarks.lib.channel import Answer, Document, Watch, serve

Call = tuple[tuple[Any, ...], dict[str, Any]]


def bare(job: Document) -> tuple[Answer, Document]:
    """Continuous batching, driven as its documentation does it: add all requests, step until none is left."""
    arguments, options = recorded(job)
    if job["scheduling"] == "defaults":
        arguments = tuple(
            genai.SchedulerConfig() if isinstance(part, genai.SchedulerConfig) else part for part in arguments
        )
    pipeline = genai.ContinuousBatchingPipeline(*arguments, **options)
    numbers = itertools.count()

    def answer(command: Document) -> Document:
        config = genai.GenerationConfig()
        config.apply_chat_template = False
        config.max_new_tokens = command["tokens"]
        config.stop_token_ids = set(job["stops"])
        config.eos_token_id = min(job["stops"])
        watch = Watch(len(command["prompts"]))
        tensors = [Tensor(np.array([ids], dtype=np.int64)) for ids in command["prompts"]]
        handles = [pipeline.add_request(next(numbers), tensor, config) for tensor in tensors]
        while pipeline.has_non_finished_requests():
            pipeline.step()
            for request, handle in enumerate(handles):
                while handle.can_read():
                    watch.began(request)
                    watch.tokens[request] += sum(len(output.generated_ids) for output in handle.read().values())
        return watch.outcome()

    settings = {name: str(value) for name, value in properties((arguments, options)).items()}
    return answer, {"description": f"{Path(arguments[0]).name}, {settings}"}


def recorded(job: Document) -> Call:
    """What our engine's worker gives the constructor of `ContinuousBatchingPipeline`, seen while it builds one."""
    calls: list[Call] = []
    real = genai.ContinuousBatchingPipeline

    def record(*arguments: Any, **options: Any) -> Any:
        calls.append((arguments, options))
        return real(*arguments, **options)

    genai.ContinuousBatchingPipeline = record
    try:
        precision = "int8" if job["precision"] == "auto" else job["precision"]
        model = Path(job["model"])
        Model(**described(model, exported(model, precision), precision)).build()
    finally:
        genai.ContinuousBatchingPipeline = real
    return calls[0]


def properties(call: Call) -> dict[str, Any]:
    """What a call sets, but for the scheduler."""
    arguments, options = call
    given = [part for part in (*arguments, options) if isinstance(part, dict)]
    plain = {name: value for part in given for name, value in part.items() if name not in ("properties", "device")}
    return {**plain, **options.get("properties", {})}


if __name__ == "__main__":
    serve(bare)
