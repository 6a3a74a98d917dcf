"""inspect: what training would see, as text, coloured tokens, JSON or an HTML page."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from arriero import hub
from arriero.cli import output
from arriero.cli.options import BaseOptions, Data, Json, examples, plain
from arriero.data.options import DataOptions
from arriero.errors import ArrieroError, UsageError

if TYPE_CHECKING:
    from arriero.data import Report
    from arriero.prompt import Renderer
    from arriero.training.planning.estimate import Estimate

BASE = BaseOptions()
DEFAULTS = DataOptions()
app = App(
    name="inspect",
    help_epilogue=examples(
        "inspect examples/data/llama-driver.json --show 2",
        'inspect my.jsonl --model llama-3.1-8b-instruct --system "You are …" --html report.html',
        "inspect owner/name --json --limit 10",
    ),
)


@app.default
def inspect(
    data: Data,
    /,
    *,
    base: BaseOptions = BASE,
    options: Annotated[DataOptions, Parameter(name="*")] = DEFAULTS,
    show: int = 0,
    limit: int = 3,
    html: Path | None = None,
    as_json: Json = False,
) -> None:
    """Report what training would see, before anything is trained.

    Rows kept and dropped, tokens, duplicates, lengths, cost.

    Parameters
    ----------
    show
        Print at most this many rows as tokens: prompt grey, loss green, special tokens in bold.
    limit
        At most this many examples in the JSON document and on the HTML page.
    html
        Write the report as a page to this file.

    """
    if min(show, limit) < 0:
        raise UsageError(f"--show and --limit are numbers of rows, got {min(show, limit)}")
    from arriero.data import inspect as examine
    from arriero.data import load

    loaded = load(data, options)  # before what follows, which takes seconds to import

    from arriero.prompt import resolve
    from arriero.training.planning.estimate import estimate

    resolved = resolve(**plain(base), more_tokens=True)  # tokenizer and config suffice
    renderer = replace(resolved.renderer, answers=options.answers)
    report = examine(loaded, renderer, options, window=hub.window(resolved.model_dir), limit=max(limit, show))
    step = report.computed_tokens * report.batch_size // report.kept
    cost = estimate(resolved.model_dir, tokens=report.computed_tokens, step_tokens=step, longest=report.longest)
    if html is not None:
        _write_page(html, report, renderer)
    if as_json:
        document = {**asdict(report), "contract": resolved.contract_name, "estimate": asdict(cost)}
        document["examples"] = document["examples"][:limit]
        output.document(document)
        return
    output.prompt(report.system, resolved.contract_name)
    _print(report, cost)
    for shown in report.examples[:show]:
        _show(shown, renderer)
    if html is not None:
        output.note(f"wrote {html}")


def _write_page(file: Path, report: Report, renderer: Renderer) -> None:
    from arriero.data.page import page

    text = page(report, lambda token: str(renderer.tokenizer.decode([token])), renderer.is_special)
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ArrieroError(f"cannot write {file}: {error.strerror}", hint="give --html another path") from error


def _print(report: Report, cost: Estimate) -> None:
    from rich.console import Console
    from rich.table import Table

    saved = 1 - report.computed_tokens / report.tokens
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    rows: list[tuple[str, Any, str]] = [
        ("rows", report.rows, f"{report.format} format"),
        ("kept", report.kept, f"{report.held_out} of them held out for evaluation"),
        ("dropped", len(report.dropped), "listed below" if report.dropped else ""),
        ("cut to fit", report.cut, ""),
        ("duplicates", report.duplicates, "rows that repeat an earlier one"),
        ("contradictions", report.contradictions, "prompts with different answers"),
        ("tokens", report.tokens, f"median {report.median}, longest {report.longest}"),
        ("loss tokens", report.loss_tokens, "answers and the token that ends each"),
        ("prefix tokens", report.prefix_tokens, "that all rows begin with"),
        ("computed tokens", report.computed_tokens, f"an epoch, if that is shared: {saved:.0%} saved"),
    ]
    for name, value, remark in rows:
        table.add_row(name, f"{value:,}", remark)
    table.add_row("training here", output.duration(cost.seconds_per_epoch), "an epoch, very roughly, without sharing")
    table.add_row("", output.size(cost.memory_bytes), "of memory, roughly, besides what the program itself takes")
    console = Console()
    console.print(table)
    most = max(bar.rows for bar in report.lengths)
    for bar in report.lengths:
        console.print(
            f"{bar.first:>6}–{bar.last:<6} {'█' * round(40 * bar.rows / most):40} {bar.rows:,}", highlight=False
        )
    for drop in report.dropped[:20]:
        output.note(f"dropped {drop.file}, row {drop.row}: {drop.reason}")
    if len(report.dropped) > 20:
        output.note(f"and {len(report.dropped) - 20} more; --json lists all")


def _show(shown: Any, renderer: Renderer) -> None:
    from rich.console import Console
    from rich.text import Text

    text = Text()
    for token, loss in zip(shown.ids, shown.mask, strict=True):
        style = "green" if loss else "bright_black"
        text.append(str(renderer.tokenizer.decode([token])), f"bold {style}" if renderer.is_special(token) else style)
    console = Console()
    console.rule(f"{shown.file}, row {shown.row}: {len(shown.ids)} tokens, {sum(shown.mask)} loss", align="left")
    console.print(text)
