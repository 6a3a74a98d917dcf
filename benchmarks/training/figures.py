"""What the raw results of the variants amount to."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from arriero.training.pack import loss_tokens
from benchmarks.training.jobs import SAMPLES, Workload
from benchmarks.training.variants import distinct

BASELINE, OURS, WITHOUT_GRAPHS = "tutorial", "arriero train", "without CUDA graphs"
CHANGES = {
    "tutorial": "the tutorial's recipe: transformers.Trainer and DataCollatorForSeq2Seq, padded batches of 4, 4 "
    "accumulated, gradient checkpointing, LoRA in float32 with dropout 0.1, the model's loss over all logits, "
    "averaged over each batch of 4, one end token more a row",
    "no recomputation": "the same without gradient checkpointing",
    "loss positions only": "batches of 4 still, but logits only where a loss is taken, with their gradient, 256 at a "
    "time; LoRA computes in bfloat16 by autocast, without dropout, gradients are divided by the step's loss tokens, no "
    "additional end token; from here on without the Trainer",
    "packed": "rows of up to 2,048 tokens (CPU) in place of padding, each example with an attention of its own; the "
    "model's own head, logits at loss positions",
    "shared prefix": "what the examples of a row begin with computed once",
    "fused pieces": "LoRA layer, norm, gate, rotary embedding and head's loss each with a backward pass of its own",
    "arriero train": "with its own choice of rows and recomputation, its check of the first step, and (CPU) freed "
    "memory kept for the next step; on a CPU it is the command itself, Trainer, data on disk and metrics included, "
    "and its memory includes those; on CUDA the same pieces in a plain loop, since the model is not on disk",
    "without CUDA graphs": "the same with --cuda-graphs off; on CUDA only",
}


def figures(
    workload: Workload, results: Sequence[dict[str, Any]], sizes: dict[str, int], rate: float
) -> dict[str, Any]:
    """A variant's figures from the results of its rounds; rates are medians over all counted steps of all rounds."""
    failed = [result["error"] for result in results if "error" in result]
    if failed:
        return {"error": failed[0]}
    steps = workload.steps[workload.warm_ups :]
    logical = [sum(len(example.ids) for example in step) for step in steps] * len(results)
    useful = [work(sizes, distinct(step), loss_tokens(step)) for step in steps] * len(results)
    seconds = [value for result in results for value in result["seconds"]]
    computed = [value for result in results for value in result["computed"]]
    positions = [value for result in results for value in result["head_positions"]]
    done = [work(sizes, tokens, heads) for tokens, heads in zip(computed, positions, strict=True)]
    samples = rates([SAMPLES] * len(seconds), seconds)
    named = ("plan", "fused", "checked", "attention", "graphs", "host_waits", "launched")
    shown = {name: results[0][name] for name in named if results[0].get(name) is not None}
    return {
        "samples_per_second": {
            "median": round(statistics.median(samples), 3),
            "low": round(min(samples), 3),
            "high": round(max(samples), 3),
        },
        "logical_tokens_per_second": round(statistics.median(rates(logical, seconds)), 1),
        "computed_tokens_per_second": round(statistics.median(rates(computed, seconds)), 1),
        "share_computed": round(statistics.median(rates(done, seconds)) / rate, 4),
        "share_useful": round(statistics.median(rates(useful, seconds)) / rate, 4),
        "others": round(max(result["others"] for result in results), 3),
        "peak_memory_bytes": max(result["peak_memory"] for result in results),
        "first_loss": results[0]["first_loss"],
        "seconds": [result["seconds"] for result in results],
        **shown,
        "allocator": results[0].get("allocator") or None,
    }


def work(sizes: dict[str, int], tokens: int, positions: int) -> int:
    """FLOPs by FORMULA."""
    return 4 * (sizes["body"] * tokens + sizes["head"] * positions)


def rates(amounts: Sequence[float], seconds: Sequence[float]) -> list[float]:
    """Amounts per second."""
    return [amount / second for amount, second in zip(amounts, seconds, strict=True)]


def with_ratios(variants: dict[str, dict[str, Any]]) -> None:
    """Add each variant's logical tokens per second over the baseline's; steps are the same, so samples' are too."""
    base = variants.get(BASELINE, {}).get("logical_tokens_per_second")
    for variant in variants.values():
        if "error" not in variant:
            variant["ratio"] = round(variant["logical_tokens_per_second"] / base, 3) if base else None
