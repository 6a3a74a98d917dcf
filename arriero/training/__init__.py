"""Instruction data -> an adapter directory: LoRA fine-tuning under a prompt contract.

    options.py   TrainOptions: every option, declared once
    examples.py  conversations -> rendered examples, batches, and what had to be left out
    trainer.py   one run of transformers.Trainer: batches, counting, progress, interruption, evaluation
    output.py    the adapter directory: contract, metrics, report, model card; what may be resumed
    run.py       train(): the whole way
"""

from arriero.training.options import TrainOptions
from arriero.training.output import TrainReport
from arriero.training.run import train
from arriero.training.trainer import StepReport

__all__ = ["StepReport", "TrainOptions", "TrainReport", "train"]
