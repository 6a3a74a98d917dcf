"""What the workers of a training run take of a cluster, and what its machines need to have on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from arriero.cluster.connect import Node
from arriero.errors import NotFoundError, UsageError
from arriero.runs.registry import Record


def local_paths(record: Record) -> list[str]:
    """Data and model of a run where they are paths on this machine, not a hub's names."""
    names = (record.data, record.model, record.options.get("from_adapter"))
    return [name for name in names if name is not None and Path(name).exists()]


def resources_per_worker(nodes: Sequence[Node], workers: int) -> dict[str, int]:
    """A GPU where the cluster has any, and an equal share of the CPUs.

    Raises UsageError where there is too little for all workers, NotFoundError where a node lacks data or model.
    """
    usable = [node for node in nodes if node.gpus] or [node for node in nodes if node.cpus]
    kind = "GPU" if any(node.gpus for node in usable) else "CPU"
    counts = [int(node.gpus if kind == "GPU" else node.cpus) for node in usable]
    if sum(counts) < workers:
        raise UsageError(
            f"{workers} workers need a {kind} each, and the cluster has {sum(counts)}",
            hint=f"--workers {sum(counts)}" if sum(counts) else "ray status; add nodes with ray start --address=…",
        )
    for node in usable:
        if node.missing:
            raise NotFoundError(
                f"{node.address} has no {', '.join(node.missing)}",
                hint="data and model have to be at the same path on every machine, or be a hub's name",
            )
    if kind == "GPU":
        return {"GPU": 1, "CPU": max(1, min(int(node.cpus / node.gpus) for node in usable))}
    # a worker is on one node: two nodes with three CPUs each have no room for three workers with two
    sizes = range(max(counts), 0, -1)
    return {"CPU": next(size for size in sizes if sum(count // size for count in counts) >= workers)}
