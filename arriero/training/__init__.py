"""Instruction data -> an adapter directory: LoRA fine-tuning under a prompt contract.

    options.py   TrainOptions: every option, declared once
    examples.py  conversations -> rendered examples, batches, and what had to be left out
    trainer.py   one run of transformers.Trainer: batches, counting, progress, interruption, evaluation
    output/      what a run leaves on disk: the adapter directory, what may be resumed
    run.py       train(): the whole way
    estimate.py  what training would cost here

`TrainOptions` is here at once; what needs torch is imported when first used, so that --help is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from arriero.training.options import TrainOptions

if TYPE_CHECKING:
    from arriero.training.output.directory import TrainReport
    from arriero.training.run import train
    from arriero.training.trainer import StepReport

__all__ = ["StepReport", "TrainOptions", "TrainReport", "train"]
_HOMES = {"StepReport": "trainer", "TrainReport": "output.directory", "train": "run"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"arriero.training.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'arriero.training' has no attribute {name!r}")
