"""One variant in a process of its own: `python -m benchmarks.training.child JOB RESULT`.

Every variant makes the same optimizer steps, the first ones as a warm-up. RESULT is JSON: seconds, and how many tokens
and logits were computed, of every counted step; the first step's loss in nats per loss token; peak memory in bytes.
Where it cannot be measured, the error. What is said on the way goes to standard error.
"""

from __future__ import annotations

import functools
import json
import logging
import pickle
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, TrainerCallback, set_seed

from arriero.hardware import cores
from arriero.training.pack import loss_tokens
from benchmarks.training import tutorial_recipe
from benchmarks.training.jobs import Job
from benchmarks.training.meter import Meter
from benchmarks.training.variants import (
    PACKED,
    PADDED,
    SHARED,
    Outcome,
    as_set_up,
    base_model,
    by_hand,
    command,
    held_out,
)


class Watch(TrainerCallback):
    """What the tutorial's Trainer computes: time, tokens and logits of every step, and the first step's loss."""

    def __init__(self, job: Job) -> None:
        self.job, self.meter = job, Meter(job.device, job.workload.warm_ups)
        self.tokens: list[int] = []
        self.first = torch.zeros((), dtype=torch.float64, device=job.device)
        self._computed = 0

    def saw(self, _module: Any, _args: Any, inputs: dict[str, Any], outputs: Any) -> None:
        """A forward pass was made."""
        self._computed += inputs["input_ids"].numel()
        if self.tokens:
            return
        logits, labels = outputs.logits.detach()[:, :-1], inputs["labels"][:, 1:].clone()
        if self.job.workload.extra_end:  # the other variants have no such token
            last = labels.shape[1] - 1 - (labels >= 0).flip(1).int().argmax(1)
            labels.scatter_(1, last[:, None], -100)
        for row, wanted in zip(logits, labels, strict=True):
            self.first += torch.nn.functional.cross_entropy(row.float(), wanted, reduction="sum").double()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """An optimizer step was made."""
        self.meter.step()
        self.tokens.append(self._computed)
        self._computed = 0


def tutorial(job: Job, *, recompute: bool) -> Outcome:
    """The tutorial's recipe, with or without gradient checkpointing."""
    work = job.workload
    set_seed(work.seed)
    real = job.model is not None and not job.shape
    tokenizer = AutoTokenizer.from_pretrained(job.model, local_files_only=True) if real else None
    base, watch = base_model(job), Watch(job)
    with tempfile.TemporaryDirectory() as folder:
        made = tutorial_recipe.trainer(
            base,
            work.features,
            tutorial_recipe.padding_tokenizer(tokenizer),
            Path(folder),
            use_cpu=job.device == "cpu",
            gradient_checkpointing=recompute,
            seed=work.seed,
            learning_rate=job.learning_rate,
        )
        if job.quality:
            made.train()
            made.model.save_pretrained(folder, save_embedding_layers=False)
            return held_out(job, Path(folder))
        made.model.get_base_model().register_forward_hook(watch.saw, with_kwargs=True)
        made.add_callback(watch)
        made.train()
    return {
        **watch.meter.outcome(),
        "computed": watch.tokens[work.warm_ups :],
        "head_positions": watch.tokens[work.warm_ups :],
        "first_loss": float(watch.first) / loss_tokens(work.steps[0]),
        "plan": "padded batches of 4",
    }


def outcome(job: Job, known: Callable[[Outcome], None]) -> Outcome:
    """Run the job's variant; where a profiler may take it down, what is measured until then is made `known`."""
    match job.variant:
        case "tutorial":
            return tutorial(job, recompute=True)
        case "no recomputation":
            return tutorial(job, recompute=False)
        case "loss positions only":
            return by_hand(job, PADDED, head=True)
        case "packed":
            return by_hand(job, PACKED)
        case "shared prefix":
            return by_hand(job, SHARED)
        case "fused pieces":
            return by_hand(job, SHARED, fused=True)
        case "arriero train":
            return as_set_up(job, known) if job.shape else command(job)
        case "without CUDA graphs":
            return as_set_up(job, known, cuda_graphs="off")
    raise ValueError(f"no variant {job.variant!r}")


def main() -> None:
    """Read the job, run it, write the result."""
    job: Job = pickle.loads(Path(sys.argv[1]).read_bytes())
    torch.set_num_threads(min(torch.get_num_threads(), cores()))
    logging.basicConfig(format="%(message)s")
    logging.getLogger("arriero").setLevel(logging.INFO)  # torch's attention would say at every call which one it is
    write = functools.partial(written, Path(sys.argv[2]))
    try:
        result = outcome(job, write)
    except Exception as error:
        traceback.print_exc()
        result = {"error": f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"}
    write(result)


def written(file: Path, result: Outcome) -> None:
    """Have the result in a file."""
    file.write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
