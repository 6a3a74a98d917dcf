"""A child: transformers in float32, and how far the next-token distributions of others are from its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.answering.ways.generate import batch, weights
from benchmarks.lib.channel import Answer, Document, serve

BATCH = 25  # prompts that the reference answers together
Logits = Callable[[list[int], int], torch.Tensor]  # ids, how many last positions -> (positions, vocabulary), float32


class Reference:
    """transformers in float32: its greedy answers, and the divergence of others from its distributions."""

    def __init__(self, job: Document) -> None:
        self.job = job
        self.model = weights(job["model"], torch.float32)

    def answer(self, command: Document) -> Any:
        """Do what the command says."""
        if command["do"] == "greedy":
            return self._greedy(command["prompts"], command["tokens"])
        candidates = {name: self._candidate(*name.split()) for name in command["candidates"]}
        return divergence(of(self.model), candidates, command["prompts"], command["answers"])

    def _greedy(self, prompts: list[list[int]], tokens: int) -> list[list[int]]:
        """Its answers, as ids; prompts of about the same length share a batch."""
        order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
        answers: dict[int, list[int]] = {}
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            rows = batch(self.model, [prompts[number] for number in chosen], self.job["stops"], tokens)
            answers |= zip(chosen, rows, strict=True)
        return [answers[number] for number in range(len(prompts))]

    def _candidate(self, engine: str, precision: str) -> Logits:
        if engine == "transformers":
            return of(weights(self.job["model"], getattr(torch, precision)))
        return exported(self.job | {"precision": precision})


def divergence(
    reference: Logits, candidates: dict[str, Logits], prompts: list[list[int]], answers: list[list[int]]
) -> dict[str, Document]:
    """KL(reference || candidate) in nats, and whether the most probable token is the same, at all positions.

    As in llama.cpp's `perplexity --kl-divergence`, but on the reference's own greedy answers.
    """
    kl: dict[str, list[torch.Tensor]] = {name: [] for name in candidates}
    same: dict[str, list[torch.Tensor]] = {name: [] for name in candidates}
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = [*prompt, *answer[:-1]]
        expected = reference(ids, len(answer)).double().log_softmax(-1)
        for name, logits in candidates.items():
            actual = logits(ids, len(answer)).double().log_softmax(-1)
            kl[name].append((expected.exp() * (expected - actual)).sum(-1))
            same[name].append(expected.argmax(-1) == actual.argmax(-1))
    return {name: _figures(torch.cat(kl[name]), torch.cat(same[name])) for name in candidates}


def _figures(nats: torch.Tensor, same: torch.Tensor) -> Document:
    return {
        "positions": len(nats),
        "mean_kl": float(nats.mean()),
        "p99_kl": float(nats.quantile(0.99)),
        "same_top": float(same.double().mean()),
    }


def of(model: Any) -> Logits:
    """A torch model's logits."""

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def logits(ids: list[int], positions: int) -> torch.Tensor:
        output = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False, logits_to_keep=positions)
        kept: torch.Tensor = output.logits[0].float().cpu()
        return kept

    return logits  # type: ignore[no-any-return]


def exported(job: Document) -> Logits:
    """The logits of the file that our OpenVINO engine has exported, run with the engine's own properties.

    But for those of the KV cache: prompt and answer are computed at once here, and nothing is kept.
    """
    import numpy as np
    import openvino

    from benchmarks.lib.ways.openvino import properties, recorded

    call = recorded(job)
    given = {name: value for name, value in properties(call).items() if "CACHE_PRECISION" not in name}
    compiled = openvino.Core().compile_model(Path(call[0][0]) / "openvino_model.xml", "CPU", given)
    request = compiled.create_infer_request()

    def logits(ids: list[int], positions: int) -> torch.Tensor:
        request.reset_state()
        request.infer(
            {
                "input_ids": np.array([ids], dtype=np.int64),
                "attention_mask": np.ones((1, len(ids)), dtype=np.int64),
                "position_ids": np.arange(len(ids), dtype=np.int64)[None],
                "beam_idx": np.zeros(1, dtype=np.int32),
            }
        )
        return torch.tensor(request.get_tensor("logits").data[0, -positions:])

    return logits


def load(job: Document) -> tuple[Answer, Document]:
    """The float32 reference and what is compared with it."""
    return Reference(job).answer, {"description": "transformers, float32"}


if __name__ == "__main__":
    serve(load)
