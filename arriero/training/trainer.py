"""One run of transformers.Trainer with PEFT: counting tokens, reporting steps, stopping early, evaluating."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from arriero.errors import ArrieroError
from arriero.prompt import Rendered
from arriero.training.examples import Batch, collate
from arriero.training.output.directory import mark_complete

if TYPE_CHECKING:
    from peft import PeftModel

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StepReport:
    """Progress after an optimizer step, or an evaluation when `eval_loss` is set. Losses in nats per loss token."""

    step: int
    total_steps: int
    epoch: float
    loss: float | None
    learning_rate: float | None
    tokens_per_second: float
    eval_loss: float | None = None


OnStep = Callable[[StepReport], None]


class CountingTrainer(Trainer):
    """Trainer that counts what it computes: `logical` tokens of examples, `computed` ones with padding."""

    logical = 0
    computed = 0

    def training_step(self, model: torch.nn.Module, inputs: Batch, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Count, then train on one micro-batch."""
        self.logical += int(inputs["attention_mask"].sum())
        self.computed += inputs["input_ids"].numel()
        loss: torch.Tensor = super().training_step(model, inputs, *args, **kwargs)
        return loss


class Recorder(TrainerCallback):
    """Writes metrics.jsonl, reports every step, evaluates after every epoch, and stops when told to."""

    def __init__(self, metrics: Path, held_out: Sequence[Rendered], on_step: OnStep) -> None:
        self.held_out = held_out
        self.on_step = on_step
        self.eval_loss: float | None = None
        self.evaluated_at = -1
        self.stop = threading.Event()
        self.trainer: CountingTrainer | None = None
        self._metrics: IO[str] = metrics.open("a", encoding="utf-8")
        self._started = time.monotonic()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock once the data loader and the optimizer are there."""
        self._started = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save and stop once an interruption was asked for."""
        if self.stop.is_set():
            control.should_save = True
            control.should_training_stop = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Record an optimizer step; a loss that is not a number ends the run."""
        if logs is None or "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            raise ArrieroError(
                f"the loss became {logs['loss']} at step {state.global_step}", hint="lower --learning-rate"
            )
        self._record(state, logs["loss"], logs["learning_rate"])

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Mark the checkpoint, whose files are all there now."""
        mark_complete(Path(str(args.output_dir)) / f"checkpoint-{state.global_step}")

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Evaluate on the held-out part."""
        if not self.stop.is_set():
            self.evaluate(kwargs["model"], state)

    def evaluate(self, model: PeftModel, state: TrainerState) -> None:
        """Evaluate and record it, unless that was done at this step."""
        if self.held_out and self.evaluated_at != state.global_step:
            self.eval_loss = mean_nll(model, self.held_out)
            self.evaluated_at = state.global_step
            self._record(state, None, None)

    def close(self) -> None:
        """Close the metrics file."""
        self._metrics.close()

    def _record(self, state: TrainerState, loss: float | None, learning_rate: float | None) -> None:
        seconds = time.monotonic() - self._started
        logical = self.trainer.logical if self.trainer is not None else 0
        report = StepReport(
            step=state.global_step,
            total_steps=state.max_steps,
            epoch=round(state.epoch or 0.0, 4),
            loss=loss,
            learning_rate=learning_rate,
            tokens_per_second=logical / seconds if seconds > 0 else 0.0,
            eval_loss=self.eval_loss if loss is None else None,
        )
        line = {name: getattr(report, name) for name in StepReport.__slots__}
        self._metrics.write(json.dumps({name: value for name, value in line.items() if value is not None}) + "\n")
        self._metrics.flush()
        self.on_step(report)


def mean_nll(model: PeftModel, examples: Sequence[Rendered], batch_size: int = 8) -> float:
    """Mean negative log-likelihood over all loss tokens of `examples`, in nats per token."""
    total, tokens = 0.0, 0
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for start in range(0, len(examples), batch_size):
            batch = {k: v.to(model.device) for k, v in collate(examples[start : start + batch_size]).items()}
            labels = batch.pop("labels")[:, 1:]
            logits = model(**batch).logits[:, :-1]
            wanted = labels >= 0
            loss = torch.nn.functional.cross_entropy(logits[wanted].float(), labels[wanted], reduction="sum")
            total += float(loss)
            tokens += int(wanted.sum())
    model.train(was_training)
    return total / tokens


@contextlib.contextmanager
def stops_on_signals(stop: threading.Event) -> Iterator[None]:
    """While open, the first SIGINT or SIGTERM sets `stop`; a second one interrupts at once.

    Outside the main thread Python allows no signal handlers, and nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, _: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        log.warning("%s: saving a checkpoint after this step (again to stop at once)", signal.Signals(number).name)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
