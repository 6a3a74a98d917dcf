"""What Ray costs, and what replicas bring.

    python -m benchmarks.serving.scale [--parts handle embedded kills] [--json FILE]

    handle     an engine without a model, an id every 20 ms for each of 8 streams a replica, at --replicas: tokens/s
               beside the ideal, the gap between ids (p99), the way from the engine's hand to the reader's (p50, p99),
               and the start
    embedded   the embedded model in 1 and 2 replicas beside the same engine without Ray: tokens/s, first token, gaps
    kills      --kills times kill -9 of a replica that has streams in flight: streams lost, doubled or altered, seconds
               until there are as many replicas again

All on this machine, in a Ray cluster of its own. Where replicas share its cores, they share its speed.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from arriero.chat import Chat
from arriero.chat import load as load_here
from arriero.cluster.connect import Cluster, connect
from arriero.cluster.serving.deploy import deploy, load
from arriero.cluster.serving.scale import Deployment, Scale, share
from arriero.engines import Adapter, Engine, Generation
from arriero.engines.base import Feature
from arriero.messages import Sampling, TokenLogprob

PACE, STREAMS, TOKENS = 0.02, 8, 100
GREEDY = Sampling(
    temperature=0.0, top_p=1.0, top_k=0, min_p=0.0, repetition_penalty=1.0, presence_penalty=0.0, frequency_penalty=0.0
)
NAME = "arriero-benchmark"


class Paced:
    """An engine whose ids count up from the prompt's last one, every PACE seconds; logprobs tell when each was made."""

    name, description, alive = "paced", "paced, no model", True
    features: frozenset[Feature] = frozenset({"logprobs"})

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


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which that share of them lies."""
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


def streams(engine: Engine, prompts: Sequence[Sequence[int]], tokens: int, logprobs: int | None) -> dict[str, Any]:
    """Read one stream for each prompt, all at once; milliseconds and tokens/s."""
    ids: list[list[int]] = [[] for _ in prompts]
    came: list[list[float]] = [[] for _ in prompts]
    given: list[list[float]] = [[] for _ in prompts]
    began = time.monotonic()

    def read(number: int) -> None:
        generation = engine.submit(prompts[number], GREEDY, max_new_tokens=tokens, logprobs=logprobs)
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
        "first_token_p99_ms": round(1000 * percentile([times[0] - began for times in came], 0.99), 1),
        "gap_p99_ms": round(1000 * percentile(gaps, 0.99), 1),
    }
    if logprobs is not None:
        late = [arrived - made for a, b in zip(came, given, strict=True) for arrived, made in zip(a, b, strict=True)]
        found["on_the_way_p50_ms"] = round(1000 * statistics.median(late), 2)
        found["on_the_way_p99_ms"] = round(1000 * percentile(late, 0.99), 2)
    return found


@contextlib.contextmanager
def paced(cluster: Cluster, replicas: int) -> Iterator[Engine]:
    """Replicas with that engine."""
    deployment = Deployment("local", Scale.of(replicas), NAME)
    size = share(deployment.scale, [(node.cpus, node.gpus) for node in cluster.nodes()])
    engine = deploy(cluster, deployment, size, partial[Engine](Paced), [])  # type: ignore[arg-type]
    try:
        yield engine
    finally:
        engine.close()


def handle(cluster: Cluster, counts: Sequence[int]) -> dict[str, Any]:
    """By number of replicas; 0 is the engine without Ray."""
    prompts = [[1000 * number] for number in range(STREAMS)]
    found: dict[str, Any] = {"0": streams(Paced(), prompts, TOKENS, 0)}
    for count in counts:
        began = time.monotonic()
        with paced(cluster, count) as engine:
            started = round(time.monotonic() - began, 1)
            prompts = [[1000 * number] for number in range(STREAMS * count)]
            streams(engine, prompts, 5, 0)
            ideal = STREAMS * count / PACE
            found[str(count)] = {"start_s": started, "ideal": ideal, **streams(engine, prompts, TOKENS, 0)}
    return found


def embedded(counts: Sequence[int]) -> dict[str, Any]:
    """By number of replicas; 0 is without Ray."""
    found: dict[str, Any] = {}
    for count in (0, *counts):
        began = time.monotonic()
        chat: Chat = load(ray="local", replicas=count) if count else load_here()
        started = round(time.monotonic() - began, 1)
        prompts = [chat.render([{"role": "user", "content": f"Tell a story of {n} llamas."}]) for n in range(3, 11)]
        streams(chat.engine, prompts, 5, None)
        found[str(count)] = {"start_s": started, **streams(chat.engine, prompts, 64, None)}
        chat.close()
    return found


def replicas() -> list[psutil.Process]:
    """The processes of this program's replicas."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            if f"ServeReplica:{NAME}:" in " ".join(process.cmdline()):
                found.append(process)
    return found


def kills(cluster: Cluster, count: int) -> dict[str, Any]:
    """Kill the replicas in turns, each time with a stream of every start in flight."""
    lost = wrong = 0
    back: list[float] = []
    with paced(cluster, 2) as engine:
        for number in range(count):
            starts = [1000 * stream for stream in range(STREAMS)]
            running = [engine.submit([start], GREEDY, max_new_tokens=TOKENS) for start in starts]
            while not all(each.completion_tokens > number % 20 for each in running):
                time.sleep(0.01)
            replicas()[number % 2].kill()
            began = time.monotonic()
            for start, generation in zip(starts, running, strict=True):
                try:
                    wrong += list(generation) != list(range(start + 1, start + 1 + TOKENS))
                except Exception as error:  # whatever it was, the stream was lost
                    lost += 1
                    print(error)
            while len(replicas()) < 2:
                time.sleep(0.05)
            back.append(time.monotonic() - began)
    return {"kills": count, "streams": count * STREAMS, "lost": lost, "doubled_or_altered": wrong,
            "two_again_p50_s": round(statistics.median(back), 1)}  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=["handle", "kills", "embedded"])
    parser.add_argument("--replicas", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found: dict[str, Any] = {}
    if {"handle", "kills"} & set(given.parts):
        began = time.monotonic()
        with connect("local", cpus=max(given.replicas)) as cluster:
            found["ray_start_s"] = round(time.monotonic() - began, 1)
            if "handle" in given.parts:
                found["handle"] = handle(cluster, given.replicas)
            if "kills" in given.parts:
                found["kills"] = kills(cluster, given.kills)
    if "embedded" in given.parts:
        found["embedded"] = embedded([1, 2])
    print(json.dumps(found, indent=2))
    if given.json is not None:
        given.json.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
