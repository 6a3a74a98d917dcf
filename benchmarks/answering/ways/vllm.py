"""A child: vLLM's asynchronous engine as it is, in bfloat16. Imports nothing of ours."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

from vllm import AsyncEngineArgs, SamplingParams
from vllm.inputs import TokensPrompt
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM

from benchmarks.lib.channel import Answer, Document, Watch, serve

numbers = itertools.count()


def load(job: Document) -> tuple[Answer, Document]:
    """The model with room for as many requests as will be made."""
    runner = asyncio.Runner()
    arguments = AsyncEngineArgs(
        model=job["model"],
        dtype="bfloat16",
        max_model_len=job["context"],
        max_num_seqs=job["parallel"],
        disable_log_stats=True,
    )
    if current_platform.is_cpu():
        arguments.kv_cache_memory_bytes = 2 << 30

    async def start() -> Any:
        return AsyncLLM.from_engine_args(arguments)

    llm = runner.run(start())
    return lambda command: runner.run(answers(llm, command, job["stops"])), {"description": "bfloat16"}


async def answers(llm: Any, command: Document, stops: list[int]) -> Document:
    """Answer all prompts at once."""
    params = SamplingParams(
        temperature=0.0,
        max_tokens=command["tokens"],
        stop_token_ids=stops,
        output_kind=RequestOutputKind.DELTA,
    )
    watch = Watch(len(command["prompts"]))

    async def one(request: int, ids: list[int]) -> None:
        async for output in llm.generate(TokensPrompt(prompt_token_ids=ids), params, str(next(numbers))):
            watch.began(request)
            watch.tokens[request] += len(output.outputs[0].token_ids)

    await asyncio.gather(*(one(request, ids) for request, ids in enumerate(command["prompts"])))
    return watch.outcome()


if __name__ == "__main__":
    serve(load)
