"""train: options from the command line and a file, progress for people, the report as JSON."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from arriero.cli import output
from arriero.cli.options import BaseOptions, Json, RayOptions, plain
from arriero.training.options import TrainOptions

if TYPE_CHECKING:
    from rich.progress import Progress

    from arriero.training import StepReport

BASE = BaseOptions()
DEFAULTS = TrainOptions()
HERE = RayOptions()


def train(
    data: str,
    *,
    output_dir: Annotated[Path, Parameter(name="--output")],
    base: BaseOptions = BASE,
    options: Annotated[TrainOptions, Parameter(name="*")] = DEFAULTS,
    cluster: RayOptions = HERE,
    resume: bool = False,
    plan: bool = False,
    config: Path | None = None,
    as_json: Json = False,
) -> None:
    """Fine-tune a model with LoRA on an instruction file.

    The defaults are those of the tutorial's recipe. Ctrl-C saves a checkpoint; the same command with --resume goes on.
    The output directory holds the adapter, metrics.jsonl, and report.html with curves and answers before and after.

    Parameters
    ----------
    data
        A file (JSON, JSON Lines, CSV, Parquet), a directory of these, or a
        data set's name: owner/name[@revision] on Hugging Face, modelscope:owner/name, the address of a file (#sha256=…
        pins its content), huanhuan.
    output_dir
        Adapter directory to write.
    resume
        Go on from the last checkpoint in --output, if there is one.
    plan
        Only say what the run would do and cost; nothing is trained or written.
    config
        YAML or TOML file that sets any of these options; the command line goes first.

    """
    if plan:
        _plan(data, base, options, as_json=as_json)
        return
    from arriero.cluster.learning.start import train as run

    progress = _Progress()
    try:
        chosen = {**plain(base), **plain(options), **plain(cluster)}
        with contextlib.redirect_stdout(sys.stderr):  # where Ray, too, may say what it has lost
            report = run(data, output=output_dir, resume=resume, on_step=progress, **chosen)
    finally:
        progress.close()
    if int(os.environ.get("RANK", 0)) > 0:  # one of several workers: the first one tells
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

    found = forecast(data, options, **plain(base))
    if as_json:
        output.document(found)
        return
    print(f"{found.steps:,} steps on {found.samples:,} samples, {found.held_out:,} held out, {found.dropped:,} dropped")
    print(f"{found.tokens:,} tokens, of which {found.computed_tokens:,} are computed; longest {found.longest:,}")
    print(f"about {output.duration(found.seconds)} and {output.size(found.memory_bytes)} of memory")
    output.note(f"the time is reckoned from {found.speed_source}")


class _Progress:
    """A live bar on a terminal; elsewhere a line for every tenth of the way."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._task: Any = None
        self._told = -1
        self._loss = 0.0

    def __call__(self, step: StepReport) -> None:
        self._loss = step.loss if step.loss is not None else self._loss
        speed = f"{step.tokens_per_second:,.0f} tokens/s ({step.computed_tokens_per_second:,.0f} computed)"
        text = f"loss {self._loss:.3f}  {speed}"
        if step.eval_loss is not None:
            line = f"step {step.step}, epoch {step.epoch:.3g}: held-out loss {step.eval_loss:.3f}"
            (self._bar.console.print if self._bar is not None else output.note)(line)
        elif sys.stderr.isatty():
            self._draw(step, text)
        elif (tenth := 10 * step.step // step.total_steps) > self._told:
            self._told = tenth
            output.note(f"step {step.step} of {step.total_steps}  {text}")

    def _draw(self, step: StepReport, text: str) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("training"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.description}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._bar.start()
            self._task = self._bar.add_task(text, total=step.total_steps, completed=step.step - 1)
        self._bar.update(self._task, completed=step.step, description=text)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()
