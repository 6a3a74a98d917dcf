"""A child: what a decode step asks of the device, without CUDA graphs and with, counted on any machine.

On a GPU a profiler counts, and steps are timed, too. On a CPU operators that compute or copy are counted, which would
be one kernel or more, and a replay as one launch: there it calls what was captured. `copies` are the times that a step
has the host wait for a value of the device.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from arriero import hub
from arriero.cuda_graphs import Captured, CudaCapture, Timing
from arriero.engines.generation import Generation
from arriero.engines.llguidance import Grammars
from arriero.engines.transformers.adapters import Adapters
from arriero.engines.transformers.forward import Forward
from arriero.engines.transformers.graphs import PATIENCE, DecodeGraphs
from arriero.engines.transformers.requests import Request
from arriero.engines.transformers.scheduler import Scheduler
from arriero.hardware import gpus
from arriero.messages import Sampling
from benchmarks.lib.channel import Answer, Document, serve
from benchmarks.lib.launches import Operators, on_gpu

PROMPT, STEPS = 100, 20
NUMBERS = ("tolist", "item", "numpy", "cpu", "nonzero", "__bool__", "__int__", "__float__", "__index__")
READS = {getattr(Tensor, name) for name in NUMBERS}


class Copies(TorchFunctionMode):
    """Counts what reads a tensor on the host."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function in READS
        return function(*args, **(kwargs or {}))


class Called:
    """A capture that replays by calling."""

    def __init__(self, launches: Operators) -> None:
        self.launches = launches

    def stream(self) -> AbstractContextManager[None]:
        """No other stream."""
        return nullcontext()

    def timed(self) -> Timing:
        """Nobody asks."""
        raise NotImplementedError

    def __call__(self, work: Callable[[], Tensor]) -> Captured:
        """See `arriero.cuda_graphs.Capture`."""
        result = work()

        def replay() -> None:
            self.launches.count += 1
            with self.launches.paused():
                result.copy_(work())

        return replay, result


def measured(model: Any, grammars: Grammars, count: int, *, graphs: bool) -> Document:
    """Launches and copies of a step of `count` greedy requests."""
    launches, cuda = Operators(), model.device.type == "cuda"
    forward = Forward(model)
    captured = DecodeGraphs(forward, CudaCapture(model.device) if cuda else Called(launches)) if graphs else None
    scheduler = Scheduler(forward, Adapters(model), grammars, (), captured)
    numbers = torch.Generator().manual_seed(0)
    for _ in range(count):
        ids = torch.randint(model.config.vocab_size, (PROMPT,), generator=numbers).tolist()
        scheduler.add(Request(Generation(PROMPT), ids, Sampling(temperature=0.0), 2 * STEPS + count))
    while not all(request.answer_ids for request in scheduler.requests):
        scheduler.step()
    for _ in range(PATIENCE + 1):
        scheduler.step()
    launches.count = 0
    with Copies() as copies, nullcontext() if cuda else launches:
        scheduler.step()
    figures = {"copies": copies.count, "graphs_off": captured.off if captured else ""}
    if not cuda:
        return figures | {"launches": launches.count}
    return figures | {"seconds": seconds(scheduler)} | on_gpu(scheduler.step)


def seconds(scheduler: Scheduler) -> float:
    """Of one of several steps on a GPU."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(STEPS):
        scheduler.step()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / STEPS


def counted(model: Any, grammars: Grammars, requests: Sequence[int]) -> dict[str, Document]:
    """By number of requests, without and with graphs."""
    return {
        str(count): {
            name: measured(model.eval(), grammars, count, graphs=name == "graphs") for name in ("eager", "graphs")
        }
        for count in requests
    }


def load(job: Document) -> tuple[Answer, Document]:
    """The model, in float32 on a CPU."""
    model_dir = Path(job["model"])
    how = {"dtype": torch.bfloat16, "device_map": "auto"} if gpus() else {"dtype": torch.float32}
    model, grammars = hub.load_weights(model_dir, **how), Grammars(model_dir, ())
    return lambda command: counted(model, grammars, command["requests"]), {}


if __name__ == "__main__":
    serve(load)
