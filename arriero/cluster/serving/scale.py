"""How many replicas, where, and what each of them takes of a node."""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from arriero.errors import UsageError

DRAIN_SECONDS = 30.0
DOWNSCALE_SECONDS = 600.0
CPUS_BESIDE_GPU = 4  # an engine on a GPU keeps few threads busy; on a CPU it gets all there are


@dataclass(frozen=True, slots=True)
class Scale:
    """How many replicas; GPUs for each, None for one where the cluster has any."""

    min_replicas: int
    max_replicas: int
    gpus: int | None = None

    @classmethod
    def of(cls, replicas: int | str, gpus: int | None = None) -> Self:
        """From a number, or from "MIN:MAX"; UsageError where it is neither."""
        match = re.fullmatch(r"(\d{1,4})(?::(\d{1,4}))?", str(replicas))
        lowest, highest = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= lowest <= highest:
            raise UsageError(f"replicas are N or MIN:MAX, from 1 upwards, got {replicas}")
        if gpus is not None and gpus < 0:
            raise UsageError(f"a replica takes 0 or more GPUs, got {gpus}")
        return cls(lowest, highest, gpus)

    @property
    def fixed(self) -> bool:
        """Whether there are always as many."""
        return self.min_replicas == self.max_replicas


@dataclass(frozen=True, slots=True)
class Deployment:
    """Where replicas run and how many; `name` is the application's in Ray Serve, by default none that
    another has.

    Replicas of that name which a server left that did not end well are taken over where they are the same. Of MIN:MAX
    one goes after `downscale_seconds` with fewer requests than it takes. What a replica has of an answer comes every
    `chunk_seconds`, 0 for as soon as there is room.
    """

    address: str
    scale: Scale
    name: str = ""
    drain_seconds: float = DRAIN_SECONDS
    downscale_seconds: float = DOWNSCALE_SECONDS
    chunk_seconds: float = 0.0

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", f"arriero-{uuid.uuid4().hex[:8]}")


@dataclass(frozen=True, slots=True)
class Resources:
    """The CPUs and GPUs of one replica."""

    cpus: int
    gpus: int


def resources_per_replica(scale: Scale, nodes: Sequence[tuple[float, float]]) -> Resources:
    """The most that a replica can have where all find room on `nodes`, given by their CPUs and GPUs.

    A replica is on one node. Where not all of them find room, but the fewest do, they are of the smallest size. Raises
    UsageError where not even those do.
    """
    gpus = scale.gpus if scale.gpus is not None else int(any(node[1] >= 1 for node in nodes))

    def room(cpus: int) -> int:
        per_node = (min(node[0] // cpus, node[1] // gpus if gpus else math.inf) for node in nodes)
        return int(sum(per_node))

    if room(1) < scale.min_replicas:
        available = "; ".join(f"{node[0]:g} CPUs and {node[1]:g} GPUs" for node in nodes)
        takes = f"one CPU and {gpus} of the GPUs" if gpus else "one CPU"
        raise UsageError(
            f"{scale.min_replicas} replicas take {takes} each, on one node, and the cluster has room for {room(1)}: "
            f"{available}",
            hint="fewer --replicas or --gpus-per-replica, or more nodes: ray start --address=…",
        )
    largest = CPUS_BESIDE_GPU if gpus else int(max(node[0] for node in nodes))
    sizes = range(largest, 0, -1)
    return Resources(next((cpus for cpus in sizes if room(cpus) >= min(scale.max_replicas, room(1))), 1), gpus)
