"""Instruction data -> an adapter directory: LoRA fine-tuning under a prompt contract.

    options.py    TrainOptions: every option, declared once
    examples.py   conversations -> rendered examples, and what had to be left out
    evaluation.py  evaluation mode for a while
    request.py    what a run is asked to do
    continued.py  training that continues an adapter
    lora.py       the base model with LoRA matrices
    targets.py    which modules get them
    pack.py       a step's examples -> packed rows
    layout.py     where things are in a packed row
    attention.py  attention over a packed row, its common prefix computed once
    loss.py       the training loss: cross-entropy, slice by slice, together with its gradient
    inputs.py     a packed row as tensors on the device
    steps.py      loss and gradients of a step, divided once however it is split
    compat.py     private names of torch and transformers that have no public one
    workers.py    the processes that train together, and what all agree on
    sharding.py   base weights sharded among them
    trainer.py    one run of transformers.Trainer over such steps; checkpoints
    progress.py   metrics, interruption, what people see
    run.py        train(): the whole way
    graphs/       short rows captured as CUDA graphs
    kernels/      fused pieces of a decoder layer
    planning/     mode, memory, time
    setup/        from a model to its steps, and the proof that the first one is right
    output/       what a run leaves on disk: checkpoints, adapter directory, report
    adapter/      what is done with an adapter: measured, answered with, merged

`TrainOptions` is here at once; what needs torch is imported when first used, so that --help is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from arriero.training.options import TrainOptions

if TYPE_CHECKING:
    from arriero.training.adapter.evaluate import evaluate
    from arriero.training.adapter.merge import merge
    from arriero.training.output.directory import TrainReport
    from arriero.training.planning.forecast import Forecast, forecast
    from arriero.training.progress import StepReport
    from arriero.training.run import train

__all__ = ["Forecast", "StepReport", "TrainOptions", "TrainReport", "evaluate", "forecast", "merge", "train"]
_HOMES = {
    "Forecast": "planning.forecast",
    "StepReport": "progress",
    "TrainReport": "output.directory",
    "evaluate": "adapter.evaluate",
    "forecast": "planning.forecast",
    "merge": "adapter.merge",
    "train": "run",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"arriero.training.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'arriero.training' has no attribute {name!r}")
