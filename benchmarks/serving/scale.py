"""What Ray costs, and what replicas bring.

    python -m benchmarks.serving.scale [--parts handle embedded kills autoscaling idle] [--json FILE]

    handle       an engine without a model, an id every 20 ms for each of 8 streams a replica, at --replicas: tokens/s
                 beside the ideal, the gap between ids (p99), the way from the engine's hand to the reader's (p50, p99),
                 CPU time a token in all processes, and the start
    embedded     the embedded model in 1 and 2 replicas beside the same engine without Ray: tokens/s, first token, gaps
    kills        --kills times kill -9 of a replica that has streams in flight: streams lost, doubled or altered,
                 seconds until a new process is there, and until Serve sends it requests
    autoscaling  1:3 replicas, the limit of 16 a replica exceeded, then 4 readers: seconds up and down, and streams
                 lost, doubled or altered meanwhile
    idle         CPU and memory of a cluster with 2 replicas that have nothing to do

All on this machine, in a Ray cluster of its own. Where replicas share its cores, they share its speed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from arriero.chat import Chat
from arriero.chat import load as load_here
from arriero.cluster.connect import Cluster, connect
from arriero.cluster.serving.deploy import load
from arriero.engines import Engine
from benchmarks.lib.questions import greedily
from benchmarks.serving.paced import (
    PACE,
    STREAMS,
    TOKENS,
    Paced,
    cpu_seconds,
    paced,
    replicas,
    running,
    seconds_until,
    streams,
)  # fmt: skip

QUIET_SECONDS = 5.0  # until a replica goes; 600 where nobody says otherwise
IDLE_SECONDS = 20.0


def handle(cluster: Cluster, counts: Sequence[int]) -> dict[str, Any]:
    """By number of replicas; 0 is the engine without Ray."""
    prompts = [[1000 * number] for number in range(STREAMS)]
    figures: dict[str, Any] = {"0": streams(Paced(), prompts, TOKENS, 0)}
    for count in counts:
        began = time.monotonic()
        with paced(cluster, count) as engine:
            started = round(time.monotonic() - began, 1)
            prompts = [[1000 * number] for number in range(STREAMS * count)]
            streams(engine, prompts, 5, 0)
            ideal, cpu = STREAMS * count / PACE, cpu_seconds()
            measured = streams(engine, prompts, TOKENS, 0)
            cpu = round(1e6 * (cpu_seconds() - cpu) / (len(prompts) * TOKENS))
            figures[str(count)] = {"start_s": started, "ideal": ideal, "cpu_us_per_token": cpu, **measured}
    return figures


def embedded(counts: Sequence[int]) -> dict[str, Any]:
    """By number of replicas; 0 is without Ray."""
    figures: dict[str, Any] = {}
    for count in (0, *counts):
        began = time.monotonic()
        chat: Chat = load(ray="local", replicas=count) if count else load_here()
        started = round(time.monotonic() - began, 1)
        prompts = [chat.render([{"role": "user", "content": f"Tell a story of {n} llamas."}]) for n in range(3, 11)]
        streams(chat.engine, prompts, 5, None)
        figures[str(count)] = {"start_s": started, **streams(chat.engine, prompts, 64, None)}
        chat.close()
    return figures


def _whole(engine: Engine, start: int) -> str:
    """What became of a stream that counts up from `start`."""
    try:
        ids = list(engine.submit([start], greedily(TOKENS), max_new_tokens=TOKENS))
    except Exception as error:  # whatever it was, the stream was lost
        print(error)
        return "lost"
    return "whole" if ids == list(range(start + 1, start + 1 + TOKENS)) else "doubled_or_altered"


def kills(cluster: Cluster, count: int) -> dict[str, Any]:
    """Kill the replicas in turns, each time with streams in flight that are one id further than the last time."""
    outcomes: Counter[str] = Counter()
    started, ready = [], []
    with paced(cluster, 2) as engine:
        for number in range(count):
            readers = _readers(engine, outcomes, STREAMS, threading.Event(), rounds=1)
            time.sleep(PACE * (number % 20 + 1))
            before = replicas()
            before[number % 2].kill()
            process = seconds_until(lambda gone=before: not set(replicas()) <= set(gone))  # type: ignore[misc]
            started.append(process)
            ready.append(process + seconds_until(lambda: running() == 2))
            for reader in readers:
                reader.join()
    return {"kills": count, **outcomes, "new_process_p50_s": round(statistics.median(started), 1),
            "ready_p50_s": round(statistics.median(ready), 1), "ready_max_s": round(max(ready), 1)}  # fmt: skip


def _readers(
    engine: Engine, outcomes: Counter[str], count: int, stop: threading.Event, rounds: int | None = None
) -> list[threading.Thread]:
    """Threads that read one stream after another, `rounds` of them or until `stop`."""

    def read(number: int) -> None:
        done = 0
        while not stop.is_set() and done != rounds:
            outcomes[_whole(engine, 1000 * number)] += 1
            done += 1

    threads = [threading.Thread(target=read, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    return threads


def autoscaling(cluster: Cluster) -> dict[str, Any]:
    """More readers than one replica is to have, then few; those few are there all the time."""
    outcomes: Counter[str] = Counter()
    few, many = threading.Event(), threading.Event()
    with paced(cluster, "1:3", QUIET_SECONDS) as engine:
        threads = [*_readers(engine, outcomes, 4, few), *_readers(engine, outcomes, 44, many)]
        try:
            up = round(seconds_until(lambda: running() == 3), 1)
            many.set()
            down = round(seconds_until(lambda: running() == 1), 1)
            gone = round(down + seconds_until(lambda: len(replicas()) == 1), 1)
        finally:
            many.set()
            few.set()
            for thread in threads:
                thread.join()
    return {"up_to_3_s": up, "down_to_1_s": down, "processes_gone_s": gone, **outcomes}


def idle(cluster: Cluster) -> dict[str, Any]:
    """By kind of process: how many, CPUs busy, and memory that is its own or its part of what is shared."""
    with paced(cluster, 2):
        time.sleep(5.0)
        before = _usage()
        time.sleep(IDLE_SECONDS)
        after = _usage()
    kinds: dict[str, list[tuple[float, int]]] = {}
    for process, (kind, cpu, memory) in after.items():
        if process in before:
            kinds.setdefault(kind, []).append(((cpu - before[process][1]) / IDLE_SECONDS, memory))
    return {
        kind: {
            "processes": len(each),
            "cpus": round(sum(cpu for cpu, _ in each), 4),
            "mb": sum(memory for _, memory in each) // 10**6,
        }
        for kind, each in kinds.items()
    }


def _usage() -> dict[psutil.Process, tuple[str, float, int]]:
    usage = {}
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            title = " ".join(process.cmdline())
            kinds = {"ServeReplica": "replica", "ServeController": "Serve controller", "ray::": "idle workers"}
            kind = next((name for mark, name in kinds.items() if mark in title), "Ray")
            times = process.cpu_times()
            usage[process] = (kind, times.user + times.system, process.memory_full_info().pss)
    return usage


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=["handle", "kills", "autoscaling", "idle", "embedded"])
    parser.add_argument("--replicas", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    figures: dict[str, Any] = {}
    parts = {
        "handle": lambda cluster: handle(cluster, given.replicas),
        "kills": lambda cluster: kills(cluster, given.kills),
        "autoscaling": autoscaling,
        "idle": idle,
    }
    for name in [name for name in parts if name in given.parts]:
        began = time.monotonic()
        with connect("local", cpus=max(*given.replicas, 3)) as cluster:
            started = round(time.monotonic() - began, 1)
            figures[name] = {"ray_start_s": started, **parts[name](cluster)}
        print(name, json.dumps(figures[name]), flush=True)
    if "embedded" in given.parts:
        figures["embedded"] = embedded([1, 2])
    print(json.dumps(figures, indent=2))
    if given.json is not None:
        given.json.write_text(json.dumps(figures), encoding="utf-8")


if __name__ == "__main__":
    main()
