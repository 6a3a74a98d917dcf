"""What a decode step of the transformers engine asks of the device, without CUDA graphs and with; on any machine.

    python -m benchmarks.answering.decode [--model NAME] [--requests N …] [--json]

An operator that computes or copies is one kernel or more on a GPU, views are none. A replay counts as one launch: here
it calls what was captured. `copies` are the times that a step has the host wait for a value of the device.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from arriero import hub
from arriero.cuda_graphs import Captured, Timing
from arriero.engines.generation import Generation
from arriero.engines.llguidance import Grammars
from arriero.engines.transformers.adapters import Adapters
from arriero.engines.transformers.forward import Forward
from arriero.engines.transformers.graphs import PATIENCE, DecodeGraphs
from arriero.engines.transformers.requests import Request
from arriero.engines.transformers.scheduler import Scheduler
from arriero.messages import Sampling

PROMPT, STEPS = 100, 20
NUMBERS = ("tolist", "item", "numpy", "cpu", "nonzero", "__bool__", "__int__", "__float__", "__index__")
READS = {getattr(Tensor, name) for name in NUMBERS}
NO_WORK = {"empty", "empty_like", "lift_fresh", "detach_", "split", "chunk", "unbind"}


class Launches(TorchDispatchMode):
    """Counts operators that compute or copy; not those of a replay."""

    def __init__(self) -> None:
        super().__init__()
        self.count, self.replaying = 0, False

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operator(*args, **(kwargs or {}))
        if not self.replaying and operator.overloadpacket.__name__ not in NO_WORK:
            self.count += operator._schema.is_mutable or not shared(result, args)
        return result


def shared(result: Any, arguments: Sequence[Any]) -> bool:
    """Whether a result lies in the memory of an argument, so that nothing was computed."""
    parts = [part for part in arguments if isinstance(part, Tensor)]
    if not isinstance(result, Tensor):
        return False
    return result.untyped_storage().data_ptr() in [part.untyped_storage().data_ptr() for part in parts]


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

    def __init__(self, launches: Launches) -> None:
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
            self.launches.replaying = True
            result.copy_(work())
            self.launches.replaying = False

        return replay, result


def measured(model: Any, grammars: Grammars, count: int, *, graphs: bool) -> dict[str, int]:
    """Launches and copies of a step with so many requests, all greedy."""
    launches = Launches()
    forward = Forward(model)
    captured = DecodeGraphs(forward, Called(launches)) if graphs else None
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
    with Copies() as copies, launches:
        scheduler.step()
    return {"launches": launches.count, "copies": copies.count}


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a model's name or directory")
    parser.add_argument("--requests", nargs="+", type=int, default=(1, 8, 32), help="at once")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    model_dir = hub.resolve(options.model)
    found = counted(hub.load_weights(model_dir, dtype=torch.float32), Grammars(model_dir, ()), options.requests)
    print(json.dumps(found, indent=2) if options.json else table(found))


def counted(model: Any, grammars: Grammars, requests: Sequence[int]) -> dict[str, dict[str, dict[str, int]]]:
    """By number of requests, without and with graphs."""
    return {
        str(count): {
            name: measured(model.eval(), grammars, count, graphs=name == "graphs") for name in ("eager", "graphs")
        }
        for count in requests
    }


def table(found: dict[str, dict[str, dict[str, int]]]) -> str:
    """In Markdown."""
    head = ["| requests | launches | with graphs | copies to the host | with graphs |", "|---|---|---|---|---|"]
    return "\n".join(
        head
        + [
            "| "
            + " | ".join([count, *(f"{each[name][what]:,}" for what in ("launches", "copies") for name in each)])
            + " |"
            for count, each in found.items()
        ]
    )


if __name__ == "__main__":
    main()
