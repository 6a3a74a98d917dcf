"""One run of transformers.Trainer whose steps are computed by `Steps`, with checkpoints of our own.

Optimizer, schedule, clipping, trackers and the exchange between workers are the Trainer's. What differs: a batch is a
whole optimizer step of examples, a step that ran out of memory is tried again under a smaller plan, a loss that is
not a number ends the run before anything is saved, and resuming is exact.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerControl

from arriero import data
from arriero.errors import ArrieroError, MemoryLimitError
from arriero.hardware import out_of_memory
from arriero.hub.adapter_files import WEIGHTS
from arriero.prompt import Rendered
from arriero.training import sharding, workers
from arriero.training.adapter.measure import measure
from arriero.training.output import checkpoint
from arriero.training.progress import Recorder
from arriero.training.steps import StepResult, Steps, Worker

Batch = dict[str, list[Any]]
OnCheckpoint = Callable[[int], None]


class StepOrder(Sampler[list[int]]):
    """The rows of every optimizer step: a shuffle of all of them that depends on seed and epoch only."""

    def __init__(self, rows: int, batch_size: int, seed: int) -> None:
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self.epoch = 0

    def __len__(self) -> int:
        return math.ceil(self.rows / self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.rows, generator=generator).tolist()
        for start in range(0, self.rows, self.batch_size):
            yield order[start : start + self.batch_size]


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What evaluations are made on, and when a lack of progress ends the run (0: never)."""

    examples: Sequence[Rendered]
    stop_token_ids: Sequence[int]
    patience: int


def as_step(rows: Sequence[dict[str, Any]]) -> Batch:
    """Rows of a rendered table as the examples of a step, with the file number and row that each came from."""
    return {
        "examples": [example for row in rows for example in data.rendered(row)],
        "row_ids": [(row["file"], row["row"]) for row in rows],
    }


class StepTrainer(Trainer):
    """Trainer for `Steps`; `longest` is the longest example in tokens, which no plan can be smaller than.

    `on_checkpoint` is called with the step in every worker once the first has saved it, `describe` by that one with the
    checkpoint's directory, for what makes it an adapter directory.
    """

    control: TrainerControl
    _globalstep_last_logged: int

    def __init__(
        self, steps: Steps, order: StepOrder, held_out: HeldOut, recorder: Recorder, longest: int, **options: Any
    ) -> None:
        self.steps, self.order, self.held_out, self.recorder = steps, order, held_out, recorder
        self.longest = longest
        self.on_checkpoint: OnCheckpoint = lambda _: None
        self.describe: Callable[[Path], None] = lambda _: None
        super().__init__(model=steps.model, eval_dataset=list(held_out.examples) or None, **options)
        for callback in (PrinterCallback, ProgressCallback):  # they write to standard output
            self.remove_callback(callback)
        self.add_callback(recorder)
        recorder.began = functools.partial(setattr, order, "epoch")

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Every worker sees the whole step and takes its rows of it."""
        return DataLoader(self.train_dataset, batch_sampler=self.order, collate_fn=as_step)

    def _wrap_model(self, model: Any, training: bool = True, dataloader: Any = None) -> Any:
        """Accelerate would wrap the whole of a sharded model, and refuses."""
        if training and model is self.steps.model and self.steps.sharded:
            return sharding.exchanging(model)
        # one process with several GPUs: DataParallel would cut up the tensors of a row
        return model if self.args.n_gpu > 1 else super()._wrap_model(model, training=training, dataloader=dataloader)

    def _run_epoch(self, *arguments: Any, **options: Any) -> None:
        """After a resume first make the evaluation that the checkpoint lacks, and no step where training had ended."""
        step, epochwise = self.state.global_step, self.args.eval_strategy == "epoch"
        every = len(self.order) if epochwise else self.args.eval_steps
        if self.held_out.examples and step and step % every == 0 and step not in self.evaluations:
            self.evaluate()
        if step >= self.state.max_steps or self._out_of_patience():
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*arguments, **options)

    def training_step(self, model: torch.nn.Module, inputs: Batch, *_: Any, **__: Any) -> Tensor:
        """Compute the gradients of one optimizer step; returns its loss without waiting for the device."""
        model.train()
        self.steps.wrapped = model
        unsynchronised = functools.partial(self.accelerator.no_sync, model)
        worker = Worker(self.args.process_index, self.args.world_size, unsynchronised)
        result = self._fitting(inputs["examples"], worker)
        self.recorder.computed(result, inputs["row_ids"])
        loss: Tensor = self.accelerator.reduce(result.loss, "mean") if worker.count > 1 else result.loss
        return loss

    def _fitting(self, examples: list[Rendered], worker: Worker) -> StepResult:
        """The step, under smaller and smaller plans as long as memory does not suffice."""
        drops = any(isinstance(module, torch.nn.Dropout) and module.p > 0 for module in self.steps.model.modules())
        random = torch.get_rng_state() if drops else None
        cuda = torch.cuda.get_rng_state() if drops and torch.cuda.is_available() else None
        while True:
            try:
                return self.steps.backward(examples, worker)
            except Exception as error:
                self._give_way(error, len(examples), alone=worker.count == 1)
            self.model.zero_grad(set_to_none=True)
            if random is not None:
                torch.set_rng_state(random)
            if cuda is not None:
                torch.cuda.set_rng_state(cuda)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _give_way(self, error: Exception, samples: int, *, alone: bool) -> None:
        """Out of memory: no graphs, then a smaller plan. Another error in the first step: the model's own code.

        Else raise it again.
        """
        if not out_of_memory(error):
            if self.recorder.total_computed or not alone or not self.steps.fused:
                raise error
            self.steps.fall_back(error)
            return
        if self.steps.release_graphs("out of memory"):
            return
        plan = self.steps.plan.smaller(self.longest) if alone else None
        if plan is None:
            raise MemoryLimitError(
                f"out of memory in a step of {samples} samples, with nothing left to make smaller",
                hint="lower --max-length, or --batch-size with several workers; or use --load-in-4bit",
            ) from error
        self.recorder.replanned(plan)
        self.steps.apply(plan)

    def floating_point_ops(self, inputs: Any) -> int:
        """Operations of the step just computed, for trackers: 4 per parameter and computed token."""
        return 4 * int(self.model.num_parameters()) * self.recorder.last_computed

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Held-out loss and stop rate; marks a new best, and ends the run when there has been none for long."""
        with self.steps.kernels.installed():
            mine = measure(self.model, self.held_out.examples, self.held_out.stop_token_ids)
        figures = workers.gathered(mine)[0]  # what is made of it has to be the same in all workers
        metrics = {"eval_loss": figures.nll}
        if figures.stop_rate is not None:
            metrics["eval_stop_rate"] = figures.stop_rate
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        if self.state.best_metric is None or figures.nll < self.state.best_metric:
            self.state.best_metric, self.state.best_global_step = figures.nll, self.state.global_step
            self.control.should_save = True
        if self._out_of_patience():
            self.control.should_training_stop = True
        return metrics

    @property
    def evaluations(self) -> dict[int, float]:
        """Held-out loss by optimizer step."""
        return {entry["step"]: entry["eval_loss"] for entry in self.state.log_history if "eval_loss" in entry}

    def _out_of_patience(self) -> bool:
        since = sum(step > (self.state.best_global_step or 0) for step in self.evaluations)
        return 0 < self.held_out.patience <= since

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        return bool(self.state.best_global_step == self.state.global_step)

    def _maybe_log_save_evaluate(  # the Trainer's signature
        self, tr_loss: Tensor, grad_norm: Any, *rest: Any, learning_rate: float | None = None, **options: Any
    ) -> None:
        """Take the step's figures along without waiting for the device, and write them out now and then."""
        if self.state.global_step > self._globalstep_last_logged:
            self.recorder.stepped(self.state, tr_loss.clone(), grad_norm, learning_rate)
            tr_loss.zero_()
            self._globalstep_last_logged = self.state.global_step
        if self.recorder.due or self.control.should_save or self.control.should_evaluate:
            self.flush()
        self.control.should_log = False
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, *rest, learning_rate=learning_rate, **options)

    def flush(self) -> None:
        """Hand the figures of the steps since the last time to trackers and to metrics.jsonl."""
        state = self.state.global_step, self.state.epoch
        for record in self.recorder.drain():
            self.state.global_step, self.state.epoch = record.step, record.epoch
            self._total_loss_scalar += record.loss
            self.log({"loss": record.loss, "grad_norm": record.grad_norm, "learning_rate": record.learning_rate})
        self.state.global_step, self.state.epoch = state

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        randoms = workers.gathered(checkpoint.RandomState.now())
        if self.args.should_save:
            folder, step = Path(str(self.args.output_dir)), self.state.global_step
            checkpoint.write(folder, step, functools.partial(self._fill, randoms))
            checkpoint.rotate(folder, self.args.save_total_limit, self.state.best_global_step)
        self.on_checkpoint(self.state.global_step)

    def _fill(self, randoms: list[checkpoint.RandomState], folder: Path) -> None:
        save_adapter(self.model, folder / WEIGHTS)
        self.describe(folder)
        state = {"scheduler": self.lr_scheduler.state_dict(), "plan": asdict(self.steps.plan)}
        checkpoint.save_state(folder, self.optimizer, state, randoms)
        self.state.stateful_callbacks["TrainerControl"] = TrainerControl().state()
        self.state.save_to_json(str(folder / "trainer_state.json"))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        put_adapter(self.model, load_file(Path(resume_from_checkpoint) / WEIGHTS))

    def _load_optimizer_and_scheduler(self, checkpoint_dir: str | None) -> None:
        if checkpoint_dir is not None:
            state = checkpoint.load_optimizer(Path(checkpoint_dir), self.optimizer)
            self.lr_scheduler.load_state_dict(state["scheduler"])

    def _load_rng_state(self, checkpoint_dir: str | None) -> None:
        if checkpoint_dir is not None:
            checkpoint.load_random(Path(checkpoint_dir), workers.rank())


def save_adapter(model: Any, file: Path) -> None:
    """The adapter's tensors, as PEFT names them."""
    from peft import get_peft_model_state_dict

    # state_dict() of a sharded model lets gathered weights go, here in one worker only
    trained = {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}
    tensors = get_peft_model_state_dict(model, state_dict=trained, save_embedding_layers=False)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)


def put_adapter(model: Any, tensors: Mapping[str, Tensor]) -> None:
    """Put an adapter's tensors back, in all workers; raises ArrieroError if they are not this model's."""
    from peft import set_peft_model_state_dict

    outcome = set_peft_model_state_dict(model, tensors)
    if outcome.unexpected_keys:
        names = ", ".join(outcome.unexpected_keys[:3])
        raise ArrieroError(f"the checkpoint holds tensors that this model lacks: {names} …")
