"""An engine without a model in Ray Serve replicas: how its streams are read, and what runs for it on this machine."""

from __future__ import annotations

import contextlib
import itertools
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from arriero.cluster.connect import Cluster
from arriero.cluster.serving.deploy import deploy
from arriero.cluster.serving.scale import Deployment, Scale, resources_per_replica
from arriero.engines import Adapter, Engine, Generation
from arriero.engines.base import Feature
from arriero.messages import Sampling, TokenLogprob
from benchmarks.lib.figures import quantile
from benchmarks.lib.questions import greedily

PACE, STREAMS, TOKENS = 0.02, 8, 100
NAME = "arriero-benchmark"


class Paced:
    """An engine whose ids count up from the prompt's last one, every PACE seconds; logprobs tell when each was made."""

    name, description, alive = "paced", "paced, no model", True
    features: frozenset[Feature] = frozenset({"logprobs"})
    in_4bit = False

    def submit(self, prompt_ids: Sequence[int], sampling: Sampling, *, max_new_tokens: int, **_: Any) -> Generation:
        """See `Engine`."""
        generation = Generation(len(prompt_ids))
        threading.Thread(target=self._give, args=(generation, prompt_ids[-1], max_new_tokens), daemon=True).start()
        return generation

    def _give(self, generation: Generation, last: int, count: int) -> None:
        due = time.monotonic()
        for token in range(last + 1, last + 1 + count):
            due += PACE
            time.sleep(max(0.0, due - time.monotonic()))
            if generation.cancelled:
                return generation.finish("cancelled")
            generation.push([token], [TokenLogprob(token, time.monotonic())])
        return generation.finish("length")

    def load_adapter(self, directory: Path) -> Adapter:
        """See `Engine`."""
        return Adapter(directory)

    def close(self) -> None:
        """See `Engine`."""


def streams(engine: Engine, prompts: Sequence[Sequence[int]], tokens: int, logprobs: int | None) -> dict[str, Any]:
    """Read one stream for each prompt, all at once; milliseconds and tokens/s."""
    ids: list[list[int]] = [[] for _ in prompts]
    came: list[list[float]] = [[] for _ in prompts]
    given: list[list[float]] = [[] for _ in prompts]
    began = time.monotonic()

    def read(number: int) -> None:
        generation = engine.submit(prompts[number], greedily(tokens), max_new_tokens=tokens, logprobs=logprobs)
        for token in generation:
            ids[number].append(token)
            came[number].append(time.monotonic())
        given[number] += [each.logprob for each in generation.logprobs]

    readers = [threading.Thread(target=read, args=(number,)) for number in range(len(prompts))]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    seconds = time.monotonic() - began
    gaps = [later - earlier for times in came for earlier, later in itertools.pairwise(times)]
    found = {
        "tokens_per_second": round(sum(map(len, ids)) / seconds, 1),
        "first_token_p50_ms": round(1000 * statistics.median(times[0] - began for times in came), 1),
        "first_token_p99_ms": round(1000 * quantile([times[0] - began for times in came], 0.99), 1),
        "gap_p99_ms": round(1000 * quantile(gaps, 0.99), 1),
    }
    if logprobs is not None:
        late = [arrived - made for a, b in zip(came, given, strict=True) for arrived, made in zip(a, b, strict=True)]
        found["on_the_way_p50_ms"] = round(1000 * statistics.median(late), 2)
        found["on_the_way_p99_ms"] = round(1000 * quantile(late, 0.99), 2)
    return found


@contextlib.contextmanager
def paced(cluster: Cluster, replicas: int | str, downscale_seconds: float = 600.0) -> Iterator[Engine]:
    """Replicas with that engine."""
    deployment = Deployment("local", Scale.of(replicas), NAME, downscale_seconds=downscale_seconds)
    size = resources_per_replica(deployment.scale, [(node.cpus, node.gpus) for node in cluster.nodes()])
    engine = deploy(cluster, deployment, size, partial[Engine](Paced), [])  # type: ignore[arg-type]
    try:
        yield engine
    finally:
        engine.close()


def replicas() -> list[psutil.Process]:
    """The processes of this program's replicas."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            if f"ServeReplica:{NAME}:" in " ".join(process.cmdline()):
                found.append(process)
    return found


def running() -> int:
    """The replicas that Serve sends requests to."""
    from ray import serve

    states = serve.status().applications[NAME].deployments["replica"].replica_states
    return next((count for state, count in states.items() if state == "RUNNING"), 0)


def seconds_until(condition: Callable[[], bool], limit: float = 120.0) -> float:
    """How long it takes until the condition holds."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > limit:
            raise TimeoutError
        time.sleep(0.05)
    return time.monotonic() - began


def cpu_seconds() -> float:
    """Of this program and all its processes."""
    total = 0.0
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            times = process.cpu_times()
            total += times.user + times.system
    return total
