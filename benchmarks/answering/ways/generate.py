"""A child: `transformers.generate` in bfloat16 over one batch, padded on the left."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from transformers import AutoModelForCausalLM, StoppingCriteria, StoppingCriteriaList
from transformers.utils import logging

from benchmarks.lib.channel import Answer, Document, Watch, serve


def load(job: Document) -> tuple[Answer, Document]:
    """The model in bfloat16."""
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
    logging.disable_progress_bar()
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=dtype, local_files_only=True).eval()
    return loaded.to("cuda") if torch.cuda.is_available() else loaded


def batch(model: Any, prompts: list[list[int]], stops: Collection[int], tokens: int, **options: Any) -> list[list[int]]:
    """Greedy answers of `generate` to prompts padded on the left, each up to the id that ends it."""
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
    ends = [next((at + 1 for at, token in enumerate(row) if token in stops), len(row)) for row in rows]
    return [row[:end] for row, end in zip(rows, ends, strict=True)]


if __name__ == "__main__":
    serve(load)
