"""Train in an address space that a whole step does not fit into, and print the outcome as JSON.

`python -m tests.training.short_of_memory ROWS MODEL OUTPUT BYTES`: BYTES (0: no limit) may be allocated on top of what
the process has when its first step begins.
"""

from __future__ import annotations

import json
import logging
import resource
import sys
from pathlib import Path

import torch

from arriero.training.run import train
from arriero.training.setup import step_setup


def main() -> None:
    """As the module says."""
    rows, model, output, room = *sys.argv[1:4], int(sys.argv[4])
    torch.set_num_threads(1)  # every thread would reserve address space of its own
    told: list[str] = []
    logging.getLogger("arriero").addHandler(_Listener(told))
    check = step_setup.verify

    def then_limit(*arguments: object) -> object:
        """The check of the first step is the last thing before training; from here on memory is short."""
        checked = check(*arguments)
        if room:
            size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (size + room, resource.RLIM_INFINITY))
        return checked

    step_setup.verify = then_limit
    report = train(
        rows,
        output=output,
        model=model,
        epochs=1,
        batch_size=192,
        precision="float32",
        eval_fraction=0,
        row_tokens=50_000,
    )
    print(json.dumps({"steps": report.steps, "told": told}))


class _Listener(logging.Handler):
    def __init__(self, told: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.told = told

    def emit(self, record: logging.LogRecord) -> None:
        self.told.append(record.getMessage())


if __name__ == "__main__":
    main()
