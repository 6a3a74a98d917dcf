"""What happens during a run, for people and in metrics.jsonl; and signals that end it in good order."""

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
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from arriero.errors import ArrieroError
from arriero.training import workers
from arriero.training.planning.plan import Plan
from arriero.training.steps import StepResult

log = logging.getLogger(__name__)
PASSED_ON = 2.0
AT_ONCE = 10  # steps whose figures are fetched from a GPU together: fetching waits for it
RowId = tuple[int, int]  # number of the file, row in it


@dataclass(frozen=True, slots=True)
class StepReport:
    """Progress after an optimizer step, or an evaluation when `eval_loss` is set. Losses in nats per loss token.

    `seconds` is the time since the first step began, in this process.
    """

    step: int
    total_steps: int
    epoch: float
    loss: float | None
    learning_rate: float | None
    grad_norm: float | None
    tokens_per_second: float
    computed_tokens_per_second: float
    seconds: float
    eval_loss: float | None = None
    eval_stop_rate: float | None = None

    @property
    def line(self) -> str:
        """Its line of metrics.jsonl."""
        values = {name: getattr(self, name) for name in StepReport.__slots__}
        return json.dumps({name: value for name, value in values.items() if value is not None}) + "\n"


OnStep = Callable[[StepReport], bool | None]  # True ends the run after its next step, as Ctrl-C does


@dataclass(frozen=True, slots=True)
class Record:
    """An optimizer step's figures, on this side."""

    step: int
    epoch: float
    loss: float
    grad_norm: float
    learning_rate: float


@dataclass(slots=True)
class _Pending:
    """The same, some of it still on the device."""

    step: int
    epoch: float
    loss: Tensor
    grad_norm: Tensor
    learning_rate: float
    row_ids: Sequence[RowId]


class Recorder(TrainerCallback):
    """Counts tokens, writes `metrics` (metrics.jsonl), reports every step, and stops the run when asked to.

    `files` are the names of the data files, for errors that name rows.
    """

    def __init__(self, metrics: Path, files: Sequence[str], on_step: OnStep) -> None:
        self.metrics, self.files, self.on_step = metrics, files, on_step
        self.stop = threading.Event()
        self.logical = self.total_computed = self.last_computed = 0
        self.interrupted = False  # as all workers agreed after a step
        self.began: Callable[[int], None] = lambda _: None
        self._pending: list[_Pending] = []
        self._row_ids: Sequence[RowId] = ()
        self._started = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether it is time to fetch figures: always on a CPU, now and then on a GPU."""
        return bool(self._pending) and (not self._pending[0].loss.is_cuda or len(self._pending) >= AT_ONCE)

    def computed(self, result: StepResult, row_ids: Sequence[RowId]) -> None:
        """A step's gradients are there (or on their way)."""
        self.logical += result.logical
        self.total_computed += result.computed
        self.last_computed = result.computed
        self._row_ids = row_ids

    def replanned(self, plan: Plan) -> None:
        """Memory did not suffice; the step is tried again under `plan`."""
        log.warning(
            "out of memory: trying the step again with rows of up to %d tokens, recomputation %s",
            plan.row_tokens,
            plan.checkpointing,
        )

    def stepped(self, state: TrainerState, loss: Tensor, grad_norm: Any, learning_rate: float | None) -> None:
        """An optimizer step was made."""
        norm = torch.as_tensor(grad_norm, device=loss.device).float()
        row_ids = self._row_ids
        self._pending.append(_Pending(state.global_step, state.epoch or 0.0, loss, norm, learning_rate or 0.0, row_ids))

    def drain(self) -> list[Record]:
        """Figures of the steps since the last time. Raises ArrieroError if one of them is not a number."""
        pending, self._pending = self._pending, []
        if not pending:
            return []
        values = torch.stack([part for step in pending for part in (step.loss.float(), step.grad_norm)]).tolist()
        records = []
        for step, loss, norm in zip(pending, values[::2], values[1::2], strict=True):
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise self._diverged(step, loss, norm)
            records.append(Record(step.step, step.epoch, loss, norm, step.learning_rate))
        return records

    def _diverged(self, step: _Pending, loss: float, norm: float) -> ArrieroError:
        by_file: dict[int, list[int]] = {}
        for file, row in sorted(step.row_ids):
            by_file.setdefault(file, []).append(row)
        listed = "; ".join(f"{self.files[file]} rows {', '.join(map(str, rows))}" for file, rows in by_file.items())
        what = f"the loss became {loss}" if not math.isfinite(loss) else f"the gradients' norm became {norm}"
        return ArrieroError(
            f"{what} at step {step.step}, which trained on {listed}; checkpoints of earlier steps are kept",
            hint="lower --learning-rate, or look at these rows with arriero inspect; then train into another --output",
        )

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Tell the order of rows which epoch it is."""
        self.began(int(state.epoch or 0))

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock once the data loader and the optimizer are there."""
        self._started = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save and stop once an interruption was asked for, in all workers after the same step."""
        if workers.anywhere(self.stop.is_set()):
            self.stop.set()
            self.interrupted = True
            control.should_save = True
            control.should_training_stop = True
            control.should_evaluate = False  # the resumed run begins with it

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """An interruption ends an epoch too, which is no reason to evaluate."""
        if self.interrupted:
            control.should_evaluate = False

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write a line of metrics.jsonl and report it."""
        logs = logs or {}
        if "loss" not in logs and "eval_loss" not in logs:
            return
        seconds = max(1e-9, time.monotonic() - self._started)
        report = StepReport(
            step=state.global_step,
            total_steps=state.max_steps,
            epoch=round(state.epoch or 0.0, 4),
            loss=logs.get("loss"),
            learning_rate=logs.get("learning_rate"),
            grad_norm=logs.get("grad_norm"),
            tokens_per_second=round(self.logical / seconds, 1),
            computed_tokens_per_second=round(self.total_computed / seconds, 1),
            seconds=round(seconds, 3),
            eval_loss=logs.get("eval_loss"),
            eval_stop_rate=logs.get("eval_stop_rate"),
        )
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(report.line)
        if self.on_step(report):
            self.stop.set()


@contextlib.contextmanager
def stops_on_signals(stop: threading.Event) -> Iterator[None]:
    """While open, the first SIGINT or SIGTERM sets `stop`; a second one interrupts at once.

    Not one that follows within PASSED_ON seconds where there are several workers: a launcher passes on to them what
    they have got from the terminal. Outside the main thread Python allows no signal handlers, and nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    first = math.inf

    def handle(number: int, _: object) -> None:
        nonlocal first
        now, same = time.monotonic(), PASSED_ON if workers.count() > 1 else 0.0
        if now - first >= same:
            raise KeyboardInterrupt
        first = min(first, now)
        if not stop.is_set():
            stop.set()
            log.warning("%s: saving a checkpoint after this step (again to stop at once)", signal.Signals(number).name)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
