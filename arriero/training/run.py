"""train(): from an instruction file to an adapter directory."""

from __future__ import annotations

import json
import logging
import resource
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PrinterCallback, TrainingArguments, set_seed

from arriero import data, hub
from arriero.errors import InterruptedRun, MemoryLimitError, UsageError
from arriero.hardware import fast_bfloat16, gpus
from arriero.prompt import Contract, Renderer, load_tokenizer, stop_token_ids
from arriero.training.examples import Examples, collate_rows, prepare
from arriero.training.options import TrainOptions
from arriero.training.output import directory
from arriero.training.output.directory import TrainReport
from arriero.training.trainer import CountingTrainer, OnStep, Recorder, stops_on_signals

if TYPE_CHECKING:
    from peft import PeftModel

log = logging.getLogger(__name__)


def train(
    file: str | Path,
    *,
    output: str | Path,
    model: str | Path | None = None,
    system: str | None = None,
    resume: bool = False,
    on_step: OnStep | None = None,
    **options: Any,
) -> TrainReport:
    """Fine-tune `model` on a file, a directory or a hub's data set, and write the adapter directory `output`.

    `options` are the fields of TrainOptions. `resume` goes on from the last checkpoint in `output`, starts from the
    beginning where there is none, and returns the old report where the run is finished. `on_step` is called after
    every optimizer step. Raises DataError, UsageError, MemoryLimitError, or InterruptedRun once a SIGINT or SIGTERM
    was answered with a checkpoint.
    """
    chosen = TrainOptions.of(options)
    target = Path(output).expanduser().resolve()
    loaded = data.load(file, chosen)  # before anything that takes longer
    model_dir = hub.resolve(model)
    tokenizer = load_tokenizer(model_dir)
    renderer = Renderer(tokenizer, stop_token_ids(tokenizer, model_dir), system, answers=chosen.answers)
    window = hub.window(model_dir)
    examples = prepare(loaded, renderer, chosen, window)
    identity = {
        "data": examples.key,
        "model": hub.name_of(model_dir),
        "fingerprint": hub.fingerprint(model_dir),
        "system": system,
        "options": json.loads(json.dumps(asdict(chosen))),
    }
    finished = directory.claim(target, identity, resume=resume)
    if finished is not None:
        log.info("%s is already finished", target)
        return finished
    contract = Contract.of(
        renderer,
        examples.sample,
        base_model=hub.name_of(model_dir),
        base_fingerprint=identity["fingerprint"],
    )
    try:
        return _Run(model_dir, target, examples, chosen, on_step or (lambda _: None)).go(contract)
    except torch.OutOfMemoryError as error:
        raise MemoryLimitError(f"out of memory while training: {error}", hint="lower --batch-size") from error
    finally:
        directory.release(target)


class _Run:
    """The part of a run that needs the model in memory."""

    def __init__(
        self, model_dir: Path, output: Path, examples: Examples, options: TrainOptions, on_step: OnStep
    ) -> None:
        self.output = output
        self.examples = examples
        self.options = options
        self.bfloat16 = _wants_bfloat16(options.precision)
        set_seed(options.seed)
        self.model = self._with_lora(model_dir)
        self.recorder = Recorder(output / directory.METRICS, examples.held_out, on_step)
        self.trainer = CountingTrainer(
            model=self.model,
            args=self._arguments(),
            train_dataset=examples.train,
            data_collator=collate_rows,
            callbacks=[self.recorder],
        )
        self.recorder.trainer = self.trainer
        self.trainer.remove_callback(PrinterCallback)  # it prints every log to standard output

    def go(self, contract: Contract) -> TrainReport:
        """Train to the end and write the directory, or raise InterruptedRun after saving a checkpoint."""
        from peft.helpers import disable_input_dtype_casting

        checkpoint, resumed_from = directory.last_checkpoint(self.output)
        directory.keep_metrics_until(self.output, resumed_from or 0)
        started = time.monotonic()
        # autocast runs the float32 LoRA matrices in bfloat16; peft's own casts would only undo and redo that
        with stops_on_signals(self.recorder.stop), disable_input_dtype_casting(self.model, active=self.bfloat16):
            self.trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint is not None else None)
        seconds = time.monotonic() - started
        state = self.trainer.state
        if self.recorder.stop.is_set() and state.global_step < state.max_steps:
            self.recorder.close()
            raise InterruptedRun(
                f"stopped at step {state.global_step} of {state.max_steps}; the checkpoint is saved",
                hint="run the same command with --resume to go on",
            )
        self.recorder.evaluate(self.model, state)
        self.recorder.close()
        report = TrainReport(
            output=str(self.output),
            steps=state.global_step,
            samples=len(self.examples.train),
            epochs=round(state.epoch or 0.0, 4),
            train_loss=directory.mean_loss(self.output),
            eval_loss=self.recorder.eval_loss,
            seconds=round(seconds, 3),
            logical_tokens_per_second=round(self.trainer.logical / seconds, 1),
            computed_tokens_per_second=round(self.trainer.computed / seconds, 1),
            peak_memory_bytes=_peak_memory(),
            resumed_from=resumed_from,
        )
        self._write(contract, report)
        return report

    def _write(self, contract: Contract, report: TrainReport) -> None:
        partial = self.output / ".adapter"
        shutil.rmtree(partial, ignore_errors=True)
        # what PEFT would write is a path of this machine; set only now, because it looks a name up on the network
        self.model.peft_config["default"].base_model_name_or_path = contract.base_model
        self.model.save_pretrained(partial, save_embedding_layers=False)
        details = {
            "model": contract.base_model,
            "system": contract.system,
            "held_out": len(self.examples.held_out),
            "dropped": [asdict(drop) for drop in self.examples.dropped],
            "options": asdict(self.options),
        }
        directory.finish(partial, self.output, contract, report, details)

    def _with_lora(self, model_dir: Path) -> PeftModel:
        from peft import LoraConfig, TaskType, get_peft_model

        base = hub.load_weights(
            model_dir,
            dtype=torch.bfloat16 if self.bfloat16 else torch.float32,
            device_map="auto" if gpus() else None,
        )
        base.config.use_cache = False
        config = LoraConfig(
            task_type=TaskType.CAUSAL_LM,
            target_modules=list(self.options.target_modules),
            r=self.options.rank,
            lora_alpha=self.options.alpha,
            lora_dropout=self.options.dropout,
        )
        missing = set(self.options.target_modules) - {name.rsplit(".", 1)[-1] for name, _ in base.named_modules()}
        if missing:
            raise UsageError(
                f"{model_dir.name} has no layers named {', '.join(sorted(missing))}",
                hint="give the model's own layer names with --target-modules",
            )
        model: PeftModel = get_peft_model(base, config)
        return model

    def _arguments(self) -> TrainingArguments:
        options = self.options
        return TrainingArguments(
            output_dir=str(self.output / directory.CHECKPOINTS),
            num_train_epochs=options.epochs,
            per_device_train_batch_size=options.micro_batch_size,
            gradient_accumulation_steps=options.batch_size // options.micro_batch_size,
            learning_rate=options.learning_rate,
            lr_scheduler_type="linear",
            bf16=self.bfloat16,
            use_cpu=not gpus(),
            logging_steps=1,
            logging_nan_inf_filter=False,
            save_steps=options.save_steps,
            save_total_limit=2,
            seed=options.seed,
            data_seed=options.seed,
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=bool(gpus()),
        )


def _wants_bfloat16(precision: str) -> bool:
    """Announces what auto means here, and why."""
    if precision != "auto":
        return precision == "bfloat16"
    where = "this GPU" if gpus() else "this CPU"
    fast = fast_bfloat16()
    log.info("precision: %s (%s %s bfloat16)", *(("bfloat16", where, "has") if fast else ("float32", where, "lacks")))
    return fast


def _peak_memory() -> int:
    """Peak bytes: of the accelerator where there is one, else of this process."""
    if gpus():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
