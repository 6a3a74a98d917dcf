"""From the tutorial's recipe to `arriero train`, a step at a time, with the pieces of arriero.training.

`by_hand` puts the pieces together one after the other, `as_set_up` computes what the command computes for a model that
is in memory only, `command` is the command itself.
"""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, set_seed

from arriero import hub
from arriero.prompt import Rendered
from arriero.training import TrainOptions
from arriero.training.adapter.measure import measure
from arriero.training.kernels import Kernels
from arriero.training.kernels.varlen import newest_flash
from arriero.training.pack import loss_tokens, split, tokens_of
from arriero.training.planning.mode import Mode
from arriero.training.planning.plan import PREFERRED, Plan
from arriero.training.setup.step_setup import set_up
from arriero.training.steps import StepResult, Steps
from benchmarks.training.jobs import Job, write_rows
from benchmarks.training.meter import Meter, host_waits, launched
from benchmarks.training.tutorial_recipe import BATCH

PADDED = Mode("padded", "benchmark", own_attention=False)
PACKED = Mode("packed", "benchmark")
SHARED = Mode("shared", "benchmark")
Outcome = dict[str, Any]
Compute = Callable[[Sequence[Rendered]], StepResult]


def base_model(job: Job) -> Any:
    """The model in bfloat16, from its directory or with random weights."""
    if not job.shape:
        return AutoModelForCausalLM.from_pretrained(job.model, dtype=torch.bfloat16, local_files_only=True)
    with torch.device(job.device):
        return AutoModelForCausalLM.from_config(LlamaConfig(**job.shape), dtype=torch.bfloat16)


def lora(base: Any) -> Any:
    """The model as `arriero train` sets it up: LoRA matrices in float32, no dropout."""
    from peft import LoraConfig, TaskType, get_peft_model

    base.config.use_cache = False
    config = LoraConfig(task_type=TaskType.CAUSAL_LM, target_modules="all-linear", r=8, lora_alpha=32, lora_dropout=0.0)
    model = get_peft_model(base, config)
    model.train()
    return model


def by_hand(job: Job, mode: Mode, *, head: bool = False, fused: bool = False) -> Outcome:
    """One of the steps on the way; `head` puts in the fused loss of the head only, `fused` all pieces."""
    set_seed(job.workload.seed)
    model = lora(base_model(job))
    kernels = Kernels(model if fused else None)
    if head:
        kernels.whole_head = model.get_output_embeddings()
    layers = model.config.get_text_config().num_hidden_layers
    steps = Steps(model, Plan(mode, PREFERRED[job.device], layers), kernels)
    if mode is PADDED:
        return timed(job, steps, functools.partial(batches, steps)) | {"plan": f"padded batches of {BATCH}"}
    return timed(job, steps, steps.backward)


def batches(steps: Steps, examples: Sequence[Rendered]) -> StepResult:
    """A step in the tutorial's batches of 4; `Steps` itself would divide it by tokens."""
    total = loss_tokens(examples)
    parts = [examples[at : at + BATCH] for at in range(0, len(examples), BATCH)]
    loss = torch.zeros((), device=steps.device)
    with steps.active():
        for part in parts:
            share = steps.loss(part) / total
            share.backward()
            loss += share.detach()
    return StepResult(loss, sum(len(example.ids) for example in examples), sum(map(steps.computed, parts)))


def as_set_up(job: Job, known: Callable[[Outcome], None], cuda_graphs: Literal["auto", "off"] = "auto") -> Outcome:
    """What `arriero train` computes: its plan, its check of the first step, its pieces and its optimizer."""
    set_seed(job.workload.seed)
    model = lora(base_model(job))
    longest = max(len(example.ids) for step in job.workload.steps for example in step)
    options = TrainOptions(precision="bfloat16", cuda_graphs=cuda_graphs)
    try:
        setup = set_up(model, job.workload.steps[0], longest, options, None)
    except torch.OutOfMemoryError:
        model.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        setup = set_up(model, job.workload.steps[0], longest, replace(options, verify=False), None)
    facts: dict[str, Any] = {} if setup.verification is None else {"checked": asdict(setup.verification)}
    if job.device == "cuda":
        facts["attention"] = newest_flash(torch.cuda.get_device_capability()[0])
    return timed(job, setup.steps, setup.steps.backward, lambda outcome: known(outcome | facts)) | facts


def timed(job: Job, steps: Steps, compute: Compute, known: Callable[[Outcome], None] = lambda _: None) -> Outcome:
    """Make the steps as the Trainer makes them: gradients clipped, AdamW, a learning rate that falls in a line.

    The times are `known` before it is looked at what a step launches.
    """
    work = job.workload
    trained = [weight for weight in steps.model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=job.learning_rate, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=len(work.steps))
    meter, results = Meter(job.device, work.warm_ups), list[StepResult]()

    def step(examples: Sequence[Rendered]) -> None:
        results.append(compute(examples))
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()

    for examples in work.steps:
        step(examples)
        meter.step()
    outcome = {
        **meter.outcome(),
        "computed": [result.computed for result in results[work.warm_ups :]],
        "head_positions": [loss_tokens(examples) for examples in work.steps[work.warm_ups :]],
        "first_loss": float(results[0].loss),
        "plan": _in_words(steps.plan.mode.name, steps.plan.row_tokens, steps.plan.checkpointing),
        "fused": dict(steps.kernels.counts),
    }
    if steps.graphs is not None:
        outcome["graphs"] = {"captured": len(steps.graphs.graphs), "off": steps.graphs.off}
    known(outcome)
    last = functools.partial(step, work.steps[-1][: work.profiled])
    if steps.graphs is not None:  # a graph is made the second time
        last(), last()
    return outcome | {"host_waits": host_waits(job.device, last), "launched": launched(job.device, last)}


def command(job: Job) -> Outcome:
    """`arriero train` itself, from a data file to an adapter directory; the time from one step's report to the next."""
    from arriero.training import StepReport, train

    work, meter, losses = job.workload, Meter(job.device, job.workload.warm_ups), list[float | None]()

    def on_step(report: StepReport) -> None:
        meter.step()
        losses.append(report.loss)

    with tempfile.TemporaryDirectory() as folder:
        write_rows(work, file := Path(folder) / "rows.json")
        output = Path(folder) / "run"
        train(
            file, output=output, model=job.model, system=work.system, on_step=on_step,
            epochs=(len(work.steps) - 0.5) * len(work.steps[0]) / len(work.rows),  # half a step less, rounded up
            batch_size=len(work.steps[0]), learning_rate=job.learning_rate, seed=work.seed, eval_fraction=0.0,
            join_input="nothing", precision="bfloat16", save_steps=10**6,
        )  # fmt: skip
        if job.quality:
            return held_out(job, output)
        plan = json.loads((output / "report.json").read_text(encoding="utf-8"))["plan"]
    share = plan["mode"] == "shared"
    count = padded if plan["mode"] == "padded" else functools.partial(distinct, share=share)
    rows = [split(examples, plan["row_tokens"], share=share) for examples in work.steps[work.warm_ups :]]
    return {
        **meter.outcome(),
        "computed": [sum(map(count, step)) for step in rows],
        "head_positions": [loss_tokens(examples) for examples in work.steps[work.warm_ups :]],
        "first_loss": losses[0],
        "plan": _in_words(plan["mode"], plan["row_tokens"], plan["checkpointing"]),
        "fused": plan["fast"],
    }


def held_out(job: Job, adapter: Path) -> Outcome:
    """Figures of base and adapter on the held-out rows; both recipes' adapters are loaded and measured alike."""
    assert job.model is not None
    work = job.workload
    model = hub.load_adapter(hub.load_weights(job.model, dtype=torch.bfloat16), adapter)
    after = measure(model, work.held_out, work.stop_token_ids)
    with model.disable_adapter():
        before = measure(model, work.held_out, work.stop_token_ids)
    return {"adapter": asdict(after), "base": asdict(before)}


def distinct(examples: Sequence[Rendered], *, share: bool = True) -> int:
    """Tokens of examples that have to be computed, what they begin with in common once if it is shared."""
    return tokens_of(examples, share=share)


def padded(examples: Sequence[Rendered]) -> int:
    """Tokens of a padded batch."""
    return len(examples) * max(len(example.ids) for example in examples)


def _in_words(mode: str, row_tokens: int, checkpointing: str) -> str:
    return f"{mode}, rows of up to {row_tokens} tokens, recomputation {checkpointing}"
