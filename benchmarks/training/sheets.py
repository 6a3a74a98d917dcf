"""Figures of training.py: what the variants' raw results amount to, as a document and as a table with notes."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from arriero.training.pack import loss_tokens
from benchmarks.training.jobs import SAMPLES, Workload
from benchmarks.training.variants import distinct

BASELINE = "tutorial"
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
}
FORMULA = (
    "FLOPs: 4 per parameter that is neither embedding nor head and token, and 4 per parameter of the head and place "
    "with logits (2 forward, 2 to pass gradients back). Computed: the tokens and positions it computed, padding "
    "and repeated prefixes included, recomputation not. Useful: each distinct token of a step once (a common prefix "
    "once), and loss positions only; the same for every variant. Over seconds times the machine's matrix rate, the "
    "higher of the two measured. Taken by others: of the cores' time in the counted steps; times are worth little "
    "where it is more than a few hundredths."
)


def figures(
    workload: Workload, results: Sequence[dict[str, Any]], sizes: dict[str, int], rate: float
) -> dict[str, Any]:
    """A variant's figures from the results of its rounds; rates are medians over all counted steps of all rounds."""
    failed = [result["error"] for result in results if "error" in result]
    if failed:
        return {"error": failed[0]}
    steps = workload.steps[1:]
    logical = [sum(len(example.ids) for example in step) for step in steps] * len(results)
    useful = [work(sizes, distinct(step), loss_tokens(step)) for step in steps] * len(results)
    seconds = [value for result in results for value in result["seconds"]]
    computed = [value for result in results for value in result["computed"]]
    positions = [value for result in results for value in result["head_positions"]]
    done = [work(sizes, tokens, heads) for tokens, heads in zip(computed, positions, strict=True)]
    samples = rates([SAMPLES] * len(seconds), seconds)
    named = ("plan", "fused", "host_waits", "launches")
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
    for found in variants.values():
        if "error" not in found:
            found["ratio"] = round(found["logical_tokens_per_second"] / base, 3) if base else None


def show(document: dict[str, Any], console: Console) -> None:
    """The document for people."""
    before, after = document["matrix_tflops"]["before"], document["matrix_tflops"]["after"]
    console.print(f"{document['machine']}; bfloat16 matrix products: {before:.3g} TFLOP/s before, {after:.3g} after")
    model = document["model"]
    console.print(
        f"{model['name']}: {model['body']:,} parameters that are neither embedding nor head, {model['head']:,} of "
        f"the head; {document['steps']} counted steps of {SAMPLES} samples, {document['rounds']} rounds"
    )
    for name, variants in document["workloads"].items():
        console.print(_table(name, variants))
    console.print(f"\n{FORMULA}\n")
    for name in dict.fromkeys(name for variants in document["workloads"].values() for name in variants):
        console.print(f"[bold]{name}[/bold]: {CHANGES[name]}.")
    for name, variants in document["workloads"].items():
        for variant, found in variants.items():
            _details(f"{name}, {variant}", found, console)
    if document.get("quality"):
        console.print(_quality(document["quality"]))


def _table(name: str, variants: dict[str, dict[str, Any]]) -> Table:
    table = Table(title=name, title_justify="left")
    table.add_column("variant")
    for title in ("samples/s", "low to high", "ratio", "logical\ntokens/s", "computed\ntokens/s"):
        table.add_column(title, justify="right")
    for title in (
        "computed, of\nmatrix rate",
        "useful, of\nmatrix rate",
        "peak\nGB",
        "first\nloss",
        "taken by\nothers",
    ):
        table.add_column(title, justify="right")
    for variant, found in variants.items():
        if "error" in found:
            table.add_row(variant, found["error"])
            continue
        samples = found["samples_per_second"]
        table.add_row(
            variant,
            f"{samples['median']:.2f}",
            f"{samples['low']:.2f} to {samples['high']:.2f}",
            "" if found["ratio"] is None else f"{found['ratio']:.2f}",
            f"{found['logical_tokens_per_second']:,.0f}",
            f"{found['computed_tokens_per_second']:,.0f}",
            f"{found['share_computed']:.1%}",
            f"{found['share_useful']:.1%}",
            f"{found['peak_memory_bytes'] / 1e9:.2f}",
            f"{found['first_loss']:.4f}",
            f"{found['others']:.0%}",
        )
    return table


def _details(name: str, found: dict[str, Any], console: Console) -> None:
    if found.get("plan"):
        pieces = ", ".join(f"{count} {piece}" for piece, count in found.get("fused", {}).items())
        console.print(f"{name}: {found['plan']}" + (f"; fused: {pieces}" if pieces else ""))
    if "host_waits" in found:
        waits = found["host_waits"]
        console.print(f"  waits of the host for the GPU in one step: {len(waits)} {' '.join(sorted(set(waits)))}")
    if "launches" in found:
        console.print(f"  kernels in one step (on a CPU, operators that would be some): {found['launches']:,}")
    if found.get("allocator"):
        stats = found["allocator"]
        console.print(
            f"  allocator: {stats['allocated_peak'] / 1e9:.1f} GB of {stats['reserved_peak'] / 1e9:.1f} GB reserved in "
            f"use at the peak; in the counted steps {stats['device_allocations']} calls of cudaMalloc, "
            f"{stats['retries']} retries"
        )


def _quality(quality: dict[str, Any]) -> Table:
    base = quality["base"]
    title = f"{quality['steps']} steps, then {base['rows']} held-out rows, {base['loss_tokens']:,} loss tokens"
    table = Table(title=title, title_justify="left")
    for column in ("recipe", "seed", "nats per loss token", "stops where it should"):
        table.add_column(column)
    rows = [{"recipe": "the base model", "seed": "", **base}, *quality["runs"]]
    for row in rows:
        stops = "" if row["stop_rate"] is None else f"{row['stop_rate']:.1%}"
        table.add_row(row["recipe"], str(row["seed"]), f"{row['nll']:.4f}", stops)
    return table
