"""evaluate."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from arriero.cli import output
from arriero.cli.options import Json, TunedOptions, plain
from arriero.training.adapter.options import EvaluateOptions

if TYPE_CHECKING:
    from rich.progress import Progress

    from arriero.training.adapter.evaluate import Evaluation

MODEL = TunedOptions()
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
