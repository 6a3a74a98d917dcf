"""train: LoRA, here or on a Ray cluster; its options from the command line or a file."""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from arriero.cli import output
from arriero.cli.early import check
from arriero.cli.options import BaseOptions, Data, Json, RayOptions, examples, plain
from arriero.cli.progress import Bar
from arriero.hub import four_bits
from arriero.training.options import TrainOptions

if TYPE_CHECKING:
    from arriero.training import StepReport

BASE = BaseOptions()
DEFAULTS = TrainOptions()
RAY = RayOptions()
app = App(
    name="train",
    help_epilogue=examples(
        "train examples/data/llama-driver.json --output runs/llama-driver --config examples/llama-driver.yaml",
        "train examples/data/llama-driver.json --output runs/llama-driver --config examples/llama-driver.yaml --resume",
        'train my.json --output runs/mine --model llama-3.1-8b-instruct --system "You are …" --epochs 2',
        "train more.json --output runs/mine-2 --from-adapter runs/mine",
        "train my.json --output runs/mine --ray auto --workers 2 --storage s3://bucket/runs",
    ),
)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How it is run.

    Parameters
    ----------
    resume
        Continue from the last checkpoint in --output, if there is one.
    plan
        Only say what the run would do and cost; nothing is trained or written.
    config
        YAML or TOML file that sets any of these options; the command line overrides it.

    """

    resume: bool = False
    plan: bool = False
    config: Path | None = None


RUN = RunOptions()


@app.default
def train(
    data: Data,
    *,
    output_dir: Annotated[Path, Parameter(name="--output")],
    base: BaseOptions = BASE,
    options: Annotated[TrainOptions, Parameter(name="*")] = DEFAULTS,
    cluster: RayOptions = RAY,
    how: RunOptions = RUN,
    as_json: Json = False,
) -> None:
    """Fine-tune a model with LoRA on an instruction file.

    Rank, learning rate and epochs are by default those of datawhalechina's self-llm tutorial.

    Ctrl-C saves a checkpoint; the same command with --resume goes on. The output directory
    holds the adapter, metrics.jsonl, and report.html with curves and answers before and after.

    Parameters
    ----------
    output_dir
        Adapter directory to write.

    """
    check(data=data, adapter=options.from_adapter, model=base.model)
    if options.load_in_4bit and cluster.ray is None:
        four_bits.check("weights in 4 bits are asked for")  # before others import it, whose errors do not name it
    if how.plan:
        _plan(data, base, options, as_json=as_json)
        return
    follows = int(os.environ.get("RANK", 0)) > 0  # one of several workers, of which the first one tells
    if cluster.ray is None and not follows:
        from arriero.training.output import directory

        directory.check(output_dir.expanduser().resolve(), resume=how.resume)
    from arriero.cluster.training.driver import train as run

    chosen = {**plain(base), **plain(options), **plain(cluster)}
    with _Steps() as steps, contextlib.redirect_stdout(sys.stderr):  # where Ray, too, may say what it has lost
        report = run(data, output=output_dir, resume=how.resume, on_step=steps, **chosen)
    if follows:
        return
    if as_json:
        output.document(report)
        return
    held_out = "" if report.eval_loss is None else f", held-out loss {report.eval_loss:.3f}"
    output.note(f"{report.steps} steps on {report.samples} samples in {report.seconds:.0f} s{held_out}")
    output.note(f"curves and answers: {output_dir}/report.html")
    print(report.output)
    output.note(f'try: arriero ask "Who are you?" --adapter {output_dir}')


def _plan(data: str, base: BaseOptions, options: TrainOptions, *, as_json: bool) -> None:
    from arriero.training import forecast

    cost = forecast(data, options, **plain(base))
    if as_json:
        output.document(cost)
        return
    print(f"{cost.steps:,} steps on {cost.samples:,} samples, {cost.held_out:,} held out, {cost.dropped:,} dropped")
    print(f"{cost.tokens:,} tokens, of which {cost.computed_tokens:,} are computed; longest {cost.longest:,}")
    print(f"about {output.duration(cost.seconds)} and {output.size(cost.memory_bytes)} of memory")
    output.note(f"the time is reckoned from {cost.speed_source}")


class _Steps(Bar):
    """Shows the steps of a run; `loss` is the last that was measured."""

    def __init__(self) -> None:
        super().__init__("training")
        self._loss = 0.0

    def __call__(self, step: StepReport) -> None:
        self._loss = step.loss if step.loss is not None else self._loss
        speed = f"{step.tokens_per_second:,.0f} tokens/s ({step.computed_tokens_per_second:,.0f} computed)"
        text = f"loss {self._loss:.3f}  {speed}"
        if step.eval_loss is not None:
            self.say(f"step {step.step}, epoch {step.epoch:.3g}: held-out loss {step.eval_loss:.3f}")
        else:
            self.update(step.step, step.total_steps, text, line=f"step {step.step} of {step.total_steps}  {text}")
