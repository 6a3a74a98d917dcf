"""Figures of training as tables: one for each workload, and one of held-out rows."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.lib.channel import Document
from benchmarks.lib.sheets import Sheet, check, launches
from benchmarks.training.figures import CHANGES
from benchmarks.training.jobs import SAMPLES

FORMULA = (
    "FLOPs: 4 per parameter that is neither embedding nor head and token, and 4 per parameter of the head and position "
    "with logits (2 forward, 2 to pass gradients back). Computed: the tokens and positions it computed, padding "
    "and repeated prefixes included, recomputation not. Useful: each distinct token of a step once (a common prefix "
    "once), and loss positions only; the same for every variant. Over seconds times the machine's matrix rate, the "
    "higher of the two measured. Taken by others: of the cores' time in the counted steps; times are worth little "
    "where it is more than a few hundredths."
)
HEADS = (
    "variant", "samples/s", "low to high", "ratio", "logical tokens/s", "computed tokens/s", "computed, of matrix rate",
    "useful, of matrix rate", "peak GB", "first loss", "taken by others",
)  # fmt: skip


def sheets(document: Document) -> Iterator[Sheet]:
    """All tables of a document; what holds for every workload stands in the last one."""
    for name, variants in document["workloads"].items():
        notes = [note for variant, figures in variants.items() for note in _details(variant, figures)]
        yield Sheet(name, HEADS, [_row(variant, figures) for variant, figures in variants.items()], notes)
    if document.get("quality"):
        yield _quality(document["quality"])
    yield _variants(document)


def _row(variant: str, figures: Document) -> list[str]:
    if "error" in figures:
        return [variant, figures["error"], *[""] * (len(HEADS) - 2)]
    samples = figures["samples_per_second"]
    return [
        variant,
        f"{samples['median']:.2f}",
        f"{samples['low']:.2f} to {samples['high']:.2f}",
        "" if figures["ratio"] is None else f"{figures['ratio']:.2f}",
        f"{figures['logical_tokens_per_second']:,.0f}",
        f"{figures['computed_tokens_per_second']:,.0f}",
        f"{figures['share_computed']:.1%}",
        f"{figures['share_useful']:.1%}",
        f"{figures['peak_memory_bytes'] / 1e9:.2f}",
        f"{figures['first_loss']:.4f}",
        f"{figures['others']:.0%}",
    ]


def _details(variant: str, figures: Document) -> Iterator[str]:
    if figures.get("plan"):
        fused = ", ".join(f"{count} {kernel}" for kernel, count in figures.get("fused", {}).items())
        yield f"{variant}: {figures['plan']}" + (f"; fused: {fused}" if fused else "")
    if "host_waits" in figures:
        waits = figures["host_waits"]
        yield f"{variant}: waits of the host for the GPU in one step: {len(waits)} {' '.join(sorted(set(waits)))}"
    if found := figures.get("checked"):
        yield f"{variant}: check of the first step: {check(found)}"
    if found := figures.get("graphs"):
        yield f"{variant}: CUDA graphs: {found['captured']} at the end{found['off'] and ', off: ' + found['off']}"
    if found := figures.get("launched"):
        yield f"{variant}: in one step, or one row of full ones: {launches(found)}"
    if stats := figures.get("allocator"):
        yield (
            f"{variant}: {stats['allocated_peak'] / 1e9:.1f} GB of {stats['reserved_peak'] / 1e9:.1f} GB reserved in "
            f"use at the peak; in the counted steps {stats['device_allocations']} calls of cudaMalloc, "
            f"{stats['retries']} retries"
        )


def _quality(quality: Document) -> Sheet:
    base = quality["base"]
    rows = [{"recipe": "the base model", "seed": "", **base}, *quality["runs"]]
    return Sheet(
        f"{quality['steps']} steps, then {base['rows']} held-out rows, {base['loss_tokens']:,} loss tokens",
        ["recipe", "seed", "nats per loss token", "stops where it should"],
        [
            [
                row["recipe"],
                str(row["seed"]),
                f"{row['nll']:.4f}",
                "" if row["stop_rate"] is None else f"{row['stop_rate']:.1%}",
            ]
            for row in rows
        ],
    )


def _variants(document: Document) -> Sheet:
    model = document["model"]
    names = dict.fromkeys(name for variants in document["workloads"].values() for name in variants)
    return Sheet(
        "What the variants are",
        ["variant", ""],
        [[name, CHANGES[name]] for name in names],
        [
            FORMULA,
            f"{model['name']}: {model['body']:,} parameters that are neither embedding nor head, {model['head']:,} of "
            f"the head; {document['steps']} counted steps of {SAMPLES} samples, {document['rounds']} rounds",
        ],
    )
