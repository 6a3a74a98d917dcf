"""train(): from an instruction file to an adapter directory."""

from __future__ import annotations

import copy
import logging
import os
import resource
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import TrainingArguments, set_seed

from arriero import data, hub, runs
from arriero.errors import InterruptedRun, MemoryLimitError, UsageError
from arriero.hardware import cores, gpus, reuse_freed_memory
from arriero.hub.adapter_files import WEIGHTS
from arriero.prompt import Contract, token_count
from arriero.prompt.options import taken
from arriero.training import workers
from arriero.training.adapter.loading import compute_type
from arriero.training.examples import prepare
from arriero.training.lora import with_lora
from arriero.training.options import TrainOptions
from arriero.training.output import checkpoint, directory
from arriero.training.output.directory import TrainReport
from arriero.training.output.report import RunContext, compare, describe
from arriero.training.planning.plan import Plan
from arriero.training.progress import OnStep, Recorder, stops_on_signals
from arriero.training.request import identity_of, record_of, resolve_request
from arriero.training.setup.step_setup import set_up
from arriero.training.trainer import HeldOut, OnCheckpoint, StepOrder, StepTrainer, put_adapter

log = logging.getLogger(__name__)
SCHEDULES = {"constant": "constant_with_warmup"}  # transformers' name where ours would lose the warm-up
TENSORBOARD = "TENSORBOARD_LOGGING_DIR"


def train(
    file: str | Path,
    *,
    output: str | Path,
    model: str | Path | None = None,
    resume: bool = False,
    on_step: OnStep | None = None,
    on_checkpoint: OnCheckpoint | None = None,
    **options: Any,
) -> TrainReport:
    """Fine-tune `model` on a file, a directory or a hub's data set, and write the adapter directory `output`.

    `options` are the fields of TrainOptions, and those of `prompt.PromptSettings`: the system prompt and the template's
    variables, by default as a merged model has them, if it is one, else the chat template; with `from_adapter`
    model and prompt are the adapter's. `resume` continues from the last checkpoint in `output`, starts over
    where there is none, and returns the old report where the run is finished. `on_step` is called after every optimizer
    step, in the first of several workers; True ends the run as a signal does. `on_checkpoint` is called in all workers
    with the step of every checkpoint; who gives it keeps them elsewhere, and lists the run himself. Raises DataError,
    UsageError, MemoryLimitError, or InterruptedRun once a SIGINT or SIGTERM was answered with a checkpoint.
    """
    prompting = taken(options)
    chosen = TrainOptions.of(options)
    target = Path(output).expanduser().resolve()
    with directory.explaining_full_disk(target), ExitStack() as run:
        with _first_worker_first():
            loaded = data.load(file, chosen)  # before anything that takes longer
            resolved, chosen = resolve_request(chosen, model, prompting)
            model_dir, renderer = resolved.model_dir, replace(resolved.renderer, answers=chosen.answers)
            if resolved.contract is not None:
                log.info("%s has a contract of its own; system prompt: %r", resolved.contract_name, renderer.system)
            window = hub.window(model_dir)
            examples = prepare(loaded, renderer, chosen, window)
            identity = identity_of(loaded, resolved, chosen, prompting)
            finished = run.enter_context(directory.claimed(target, identity, resume=resume, owner=workers.rank() == 0))
        if finished is not None:
            log.info("%s is already finished", target)
            return finished
        if workers.rank() == 0 and on_checkpoint is None:
            run.enter_context(runs.registered(record_of(file, target, model, prompting, chosen, workers.count())))
        context = RunContext(
            contract=Contract.of(
                renderer,
                examples.sample,
                base_model=identity["model"],
                base_fingerprint=identity["fingerprint"],
                base_path=hub.store.path_of(model_dir),
                base_in_4bit=chosen.load_in_4bit and not hub.quantisation(model_dir),
            ),
            renderer=renderer,
            examples=examples,
            options=chosen,
            data=data.inspect(loaded, renderer, chosen, window=window, batch_size=chosen.batch_size, limit=0),
        )
        try:
            begun = _Run(model_dir, target, context, on_step or (lambda _: None))
            begun.trainer.on_checkpoint = on_checkpoint or begun.trainer.on_checkpoint
            return begun.go()
        except torch.OutOfMemoryError as error:
            raise MemoryLimitError(f"out of memory while training: {error}", hint="a smaller --max-length") from error


@contextmanager
def _first_worker_first() -> Iterator[None]:
    """With several workers, the first one reads and claims before the others look at what it left."""
    if workers.count() == 1:
        yield
        return
    from accelerate import PartialState

    backend = {} if gpus() else {"cpu": True, "backend": "gloo"}
    with PartialState(**backend).main_process_first():
        yield


class _Run:
    """The part of a run that needs the model in memory."""

    def __init__(self, model_dir: Path, output: Path, context: RunContext, on_step: OnStep) -> None:
        self.output, self.context = output, context
        self.first = workers.rank() == 0
        self.options, self.examples = context.options, context.examples
        set_seed(self.options.seed)
        torch.set_num_threads(min(torch.get_num_threads(), cores()))
        reuse_freed_memory()
        self.checkpoint, self.resumed_from = directory.last_checkpoint(output)
        dtype, tokens = compute_type(self.options.precision), token_count(context.renderer.tokenizer)
        self.model = with_lora(model_dir, self.options, dtype, tokens)
        step = self.examples.step(self.options.batch_size)
        self.setup = set_up(self.model, step, self.examples.longest, self.options, self._earlier_plan())
        self._keep_plan(self.setup.steps.plan)
        if self.first:
            evaluated = self.checkpoint is not None and checkpoint.is_evaluated(self.checkpoint)
            directory.keep_metrics_before(output, (self.resumed_from or 0) + evaluated, evaluation=not evaluated)
        metrics = output / directory.METRICS if self.first else Path(os.devnull)
        self.recorder = Recorder(metrics, self.examples.loaded.files, on_step if self.first else lambda _: None)
        stops = context.renderer.stop_token_ids
        self.trainer = self._trainer(HeldOut(self.examples.held_out, stops, self.options.early_stopping_patience))
        self.trainer.describe = self._describe

    def go(self) -> TrainReport:
        """Train to the end and write the directory, or raise InterruptedRun after saving a checkpoint."""
        started = time.monotonic()
        with stops_on_signals(self.recorder.stop):
            self.trainer.train(resume_from_checkpoint=str(self.checkpoint) if self.checkpoint is not None else None)
        self.trainer.flush()
        seconds = time.monotonic() - started
        state = self.trainer.state
        if self.recorder.interrupted and state.global_step < state.max_steps:
            raise InterruptedRun(
                f"stopped at step {state.global_step} of {state.max_steps}; the checkpoint is saved",
                hint="run the same command with --resume to go on",
            )
        eval_loss = self._choose()
        report = TrainReport(
            output=str(self.output),
            steps=state.global_step,
            samples=len(self.examples.train),
            epochs=round(state.epoch or 0.0, 4),
            train_loss=directory.mean_loss(self.output) if self.first else 0.0,
            eval_loss=eval_loss,
            seconds=round(seconds, 3),
            logical_tokens_per_second=round(self.recorder.logical / seconds, 1),
            computed_tokens_per_second=round(self.recorder.total_computed / seconds, 1),
            peak_memory_bytes=_peak_memory(),
            resumed_from=self.resumed_from,
        )
        if self.first or self.setup.steps.sharded:  # a sharded model takes all workers to look at
            compared = compare(self.model, self.context)
            if self.first:
                self._write(report, compared)
        return report

    def _choose(self) -> float | None:
        """Take the best adapter where that was wished, else the last, evaluated; returns its held-out loss."""
        state = self.trainer.state
        if not self.examples.held_out:
            return None
        if state.global_step not in self.trainer.evaluations:
            self.trainer.evaluate()
        last, best = self.trainer.evaluations[state.global_step], state.best_global_step
        if best == state.global_step:
            return last
        if self.options.keep == "best" or self.options.early_stopping_patience:
            log.info("writing the adapter of step %d, whose held-out loss was lowest: %.4f", best, state.best_metric)
            put_adapter(self.model, self._saved(best))
            lowest: float = state.best_metric
            return lowest
        log.info(
            "held-out loss was lowest at step %d (%.4f); --keep best would write that one", best, state.best_metric
        )
        return last

    def _saved(self, step: int) -> dict[str, torch.Tensor]:
        """The adapter of a checkpoint, which only the first worker is sure to have on its disk."""
        file = checkpoint.by_step(self._checkpoints)[step] / WEIGHTS if self.first else None
        return workers.gathered(load_file(file) if file is not None else {})[0]

    def _describe(self, folder: Path) -> None:
        """Make an adapter directory of a checkpoint, that can be answered with and measured."""
        config = copy.copy(self.model.peft_config["default"])
        config.base_model_name_or_path = self.context.contract.base_model
        config.inference_mode = True
        config.save_pretrained(str(folder))
        self.context.contract.save(folder)

    def _write(self, report: TrainReport, compared: dict[str, Any]) -> None:
        partial = self.output / ".adapter"
        shutil.rmtree(partial, ignore_errors=True)
        contract = self.context.contract
        # what PEFT would write is a path of this machine; set only now, because it looks a name up on the network
        self.model.peft_config["default"].base_model_name_or_path = contract.base_model
        self.model.save_pretrained(partial, save_embedding_layers=False)
        document = describe(self.context, self.setup, report, self.trainer.state) | compared
        directory.finish(partial, self.output, contract, document)

    @property
    def _checkpoints(self) -> Path:
        return self.output / directory.CHECKPOINTS

    def _earlier_plan(self) -> Plan | None:
        """What this run was computing under when it stopped: another plan would round differently."""
        if self.checkpoint is not None:
            return Plan.of(checkpoint.read_state(self.checkpoint)["plan"])
        file = self._checkpoints / directory.PLAN
        return Plan.of(hub.read_json(file)) if file.is_file() else None

    def _keep_plan(self, plan: Plan) -> None:
        if self.first:
            directory.write_json(self._checkpoints / directory.PLAN, asdict(plan))

    def _trainer(self, held_out: HeldOut) -> StepTrainer:
        order = StepOrder(len(self.examples.train), self.options.batch_size, self.options.seed)
        named = os.environ.get(TENSORBOARD)  # read once, when the Trainer is made
        os.environ[TENSORBOARD] = named or str(self.output / directory.TENSORBOARD)
        try:
            return StepTrainer(
                self.setup.steps,
                order,
                held_out,
                self.recorder,
                self.examples.longest,
                args=self._arguments(),
                train_dataset=self.examples.train,
            )
        except (ValueError, RuntimeError, ImportError) as error:
            if not self.options.report_to:
                raise
            raise UsageError(f"report_to {', '.join(self.options.report_to)}: {error}") from error
        finally:
            del os.environ[TENSORBOARD]
            if named is not None:
                os.environ[TENSORBOARD] = named

    def _arguments(self) -> TrainingArguments:
        options = self.options
        steps = "no" if not self.examples.held_out else "epoch" if options.eval_steps is None else "steps"
        return TrainingArguments(
            output_dir=str(self._checkpoints),
            num_train_epochs=options.epochs,
            per_device_train_batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            lr_scheduler_type=SCHEDULES.get(options.lr_scheduler_type, options.lr_scheduler_type),
            warmup_steps=options.warmup_steps if options.warmup_steps < 1 else int(options.warmup_steps),
            max_grad_norm=options.max_grad_norm,
            weight_decay=options.weight_decay,
            use_cpu=not gpus(),
            ddp_backend="gloo" if workers.count() > 1 and not gpus() else None,
            logging_steps=1,
            logging_nan_inf_filter=False,
            eval_strategy=steps,
            eval_steps=options.eval_steps,
            save_strategy="steps",
            save_steps=options.save_steps,
            save_total_limit=options.save_total_limit,
            seed=options.seed,
            report_to=list(options.report_to),
            disable_tqdm=True,
            remove_unused_columns=False,
        )


def _peak_memory() -> int:
    """Peak bytes: of the accelerator where there is one, else of this process."""
    if gpus():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
