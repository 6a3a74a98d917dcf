"""evaluate: how well a model, with and without an adapter, predicts the answers of a data file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from arriero.cli import output
from arriero.cli.early import check
from arriero.cli.options import Data, Json, TunedOptions, examples, plain
from arriero.cli.progress import Bar
from arriero.training.adapter.options import EvaluateOptions

if TYPE_CHECKING:
    from arriero.training.adapter.evaluate import Evaluation

MODEL = TunedOptions()
DEFAULTS = EvaluateOptions()
app = App(
    name="evaluate",
    help_epilogue=examples(
        "evaluate examples/data/llama-driver.json --adapter runs/llama-driver --held-out",
        "evaluate my.json --model llama-3.1-8b-instruct",
        "evaluate my.json --adapter runs/mine --json",
    ),
)


@app.default
def evaluate(
    data: Data,
    /,
    *,
    model: TunedOptions = MODEL,
    options: Annotated[EvaluateOptions, Parameter(name="*")] = DEFAULTS,
    as_json: Json = False,
) -> None:
    """Measure a model, and an adapter beside it, on a data file.

    How well it predicts the answers, and whether it ends them where they end.

    All rows count, unless --held-out is given. With --adapter, rows are read and split as in its training; an option
    that is given here with another value than its default overrides that.
    """
    check(adapter=model.adapter, data=data, model=model.model)
    from arriero.training.adapter.evaluate import evaluate as run

    with Bar("evaluating") as bar:
        evaluation = run(data, on_done=bar.update, **plain(model), **options.changed())
    if as_json:
        document = plain(evaluation)
        if evaluation.base is None:
            del document["base"]
        output.document(document)
        return
    _print(evaluation)


def _print(evaluation: Evaluation) -> None:
    from rich.console import Console
    from rich.table import Table

    columns: list[tuple[str, Any]] = [(evaluation.adapter or evaluation.model, evaluation)]
    if evaluation.base is not None:
        columns.insert(0, ("base", evaluation.base))
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("", *(heading for heading, _ in columns), ""):
        table.add_column(heading, justify="right" if heading else "left")
    measured = [figures for _, figures in columns]
    table.add_row("loss", *(f"{figures.nll:.4f}" for figures in measured), "nats per loss token")
    table.add_row("perplexity", *(f"{figures.perplexity:,.2f}" for figures in measured))
    table.add_row("stop rate", *map(_stop_rate, measured), "ends answers where they end")
    rows = f"{evaluation.rows:,} {'held-out rows' if evaluation.held_out else 'rows'}"
    output.note(f"{evaluation.model}: {rows}, {evaluation.loss_tokens:,} loss tokens, {evaluation.precision}")
    output.prompt(evaluation.system, evaluation.contract)
    Console().print(table)


def _stop_rate(figures: Any) -> str:
    return "–" if figures.stop_rate is None else f"{figures.stop_rate:.1%}"
