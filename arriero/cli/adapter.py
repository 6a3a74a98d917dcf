"""evaluate, merge and adopt: what is done with an adapter besides answering."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from arriero.cli import output
from arriero.cli.options import Json, PromptOptions, TunedOptions, plain
from arriero.training.adapter.options import EvaluateOptions

if TYPE_CHECKING:
    from rich.progress import Progress

    from arriero.training.adapter.evaluate import Evaluation
    from arriero.training.adapter.merge import MergeReceipt

MODEL = TunedOptions()
PROMPT = PromptOptions()
DEFAULTS = EvaluateOptions()


def evaluate(
    data: str,
    /,
    *,
    model: TunedOptions = MODEL,
    options: Annotated[EvaluateOptions, Parameter(name="*")] = DEFAULTS,
    as_json: Json = False,
) -> None:
    """Measure how well a model predicts the answers of a data file; an adapter is shown beside its base model.

    All rows count, unless --held-out is given. With --adapter, rows are read and split as in its training; an option
    that is given here with another value than its default goes first.

    Parameters
    ----------
    data
        A file (JSON, JSON Lines, CSV, Parquet), a directory of these, or a
        data set's name: owner/name[@revision] on Hugging Face, modelscope:owner/name, the address of a file (#sha256=…
        pins its content), huanhuan.

    """
    from arriero.training.adapter.evaluate import evaluate as run

    progress = _Progress()
    try:
        found = run(data, on_done=progress, **plain(model), **options.changed())
    finally:
        progress.close()
    if as_json:
        document = plain(found)
        if found.base is None:
            del document["base"]
        output.document(document)
        return
    _print_evaluation(found)


def _print_evaluation(found: Evaluation) -> None:
    from rich.console import Console
    from rich.table import Table

    columns: list[tuple[str, Any]] = [(found.adapter or found.model, found)]
    if found.base is not None:
        columns.insert(0, ("base", found.base))
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("", *(heading for heading, _ in columns), ""):
        table.add_column(heading, justify="right" if heading else "left")
    figures = [each for _, each in columns]
    table.add_row("loss", *(f"{each.nll:.4f}" for each in figures), "nats per loss token")
    table.add_row("perplexity", *(f"{each.perplexity:,.2f}" for each in figures))
    table.add_row("stop rate", *map(_share, figures), "ends answers where they end")
    part = "held-out rows" if found.held_out else "rows"
    output.note(f"{found.model}: {found.rows:,} {part}, {found.loss_tokens:,} loss tokens, {found.precision}")
    output.prompt(found.system, found.contract)
    Console().print(table)


def _share(figures: Any) -> str:
    return "–" if figures.stop_rate is None else f"{figures.stop_rate:.1%}"


def merge(
    directory: str,
    /,
    *,
    output_dir: Annotated[Path, Parameter(name="--output")],
    model: str | None = None,
    data: str | None = None,
    rows: int = 16,
    allow_quantised: bool = False,
    as_json: Json = False,
) -> None:
    """Merge an adapter into its base model: one ordinary model directory that any program can load.

    Arriero prompts it as the adapter was trained; other programs have to be given the system prompt.
    The receipt says how far the merged model is from the unmerged adapter; it is written as merge.json too.

    Parameters
    ----------
    directory
        Adapter directory: the --output of `arriero train`.
    output_dir
        Model directory to write; it must not exist, or be empty.
    model
        Directory or name of the base model. Default: the one the adapter names.
    data
        Data to compare on, besides the adapter's own sample: the held-out rows, or the first.
    rows
        At most so many rows of --data.
    allow_quantised
        Merge an adapter of a quantised base model into full-precision weights all the same.

    """
    from arriero.training.adapter.merge import merge as run

    receipt = run(directory, output_dir, model=model, file=data, rows=rows, allow_quantised=allow_quantised)
    if as_json:
        output.document({"output": str(output_dir.expanduser().resolve()), **plain(receipt)})
        return
    _print_receipt(receipt)
    target = output_dir.expanduser().resolve()
    print(target)
    output.prompt(receipt.system, target.name)
    output.note(f"try: arriero chat --model {shlex.quote(str(output_dir))}")


def _print_receipt(receipt: MergeReceipt) -> None:
    output.note(
        f"merged {receipt.adapter} into {receipt.model}: {receipt.dtype}, {output.size(receipt.bytes)}\n"
        f"unmerged against merged, both computed in {receipt.dtype}, "
        f"at {receipt.positions} loss positions of {receipt.rows} rows:\n"
        f"  divergence (KL)    mean {receipt.mean_kl:.2e}, largest {receipt.max_kl:.2e} nats\n"
        f"  logit difference   mean {receipt.mean_logit_difference:.2e}, largest {receipt.max_logit_difference:.2e}\n"
        f"  most likely token  the same at {receipt.same_choice:.1%}"
    )


def adopt(
    directory: str,
    /,
    *,
    model: str | None = None,
    system: str | None = None,
    prompt: PromptOptions = PROMPT,
    output_dir: Annotated[Path | None, Parameter(name="--output")] = None,
    as_json: Json = False,
) -> None:
    """Give an adapter that another program trained the prompt contract that Arriero needs to answer with it.

    Parameters
    ----------
    directory
        PEFT's directory (adapter_config.json, adapter_model.safetensors), or a Trainer's checkpoint-N.
    model
        Catalogue name, repository id or directory of the base model. Default: the one that the adapter names.
    system
        The system prompt that the adapter was trained with. Default: the chat template's own.
    output_dir
        Directory to copy the adapter to. Default: the contract is written into the adapter's own.

    """
    from arriero.prompt.adopt import adopt as run

    adopted = run(directory, model=model, system=system, output=output_dir, **plain(prompt))
    if as_json:
        document = {"adapter": str(adopted.adapter_dir), "model": str(adopted.model_dir)}
        output.document({**document, "system": adopted.renderer.system})
        return
    print(adopted.adapter_dir)
    output.prompt(adopted.renderer.system, adopted.contract_name)
    output.note(f"base model: {adopted.model_dir}")
    output.note(f'try: arriero ask "Who are you?" --adapter {shlex.quote(str(output_dir or directory))}')


class _Progress:
    """A live bar on a terminal, nothing elsewhere."""

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._task: Any = None

    def __call__(self, done: int, rows: int) -> None:
        if not sys.stderr.isatty():
            return
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = TextColumn("evaluating"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._bar.start()
            self._task = self._bar.add_task("", total=rows)
        self._bar.update(self._task, completed=done)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()
