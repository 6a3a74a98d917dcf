"""evaluate(): how well a model, and an adapter on it, predicts the answers of a data file."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from arriero import data, hub
from arriero.data import DataOptions, Dropped, RenderedData
from arriero.errors import DataError, MemoryLimitError, UsageError
from arriero.prompt import ResolvedModel, resolve
from arriero.prompt.options import taken
from arriero.training.adapter.loading import compute_type, load_model, trained_reading, wants_4bit
from arriero.training.adapter.measure import Examples, Measured, OnDone, measure
from arriero.training.adapter.options import EvaluateOptions


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Figures of the model, or of the adapter on it where there is one; fields as in `Measured`.

    `contract` names the adapter or merged model whose prompt contract holds, None without one. With an adapter `base`
    has the figures of the base model alone on the same ids, so under the same system prompt.
    `held_out` says whether only the held-out rows were read, `dropped` which rows could not be used.
    """

    model: str
    adapter: str | None
    system: str | None
    contract: str | None
    precision: str
    held_out: bool
    rows: int
    loss_tokens: int
    nll: float
    perplexity: float
    stop_rate: float | None
    base: Measured | None
    dropped: tuple[Dropped, ...]


def evaluate(
    file: str | Path,
    *,
    model: str | Path | None = None,
    adapter: str | Path | None = None,
    on_done: OnDone | None = None,
    **options: Any,
) -> Evaluation:
    """Measure a model on all rows of a file, a directory or a hub's data set, and an adapter beside its base model.

    `options` are the fields of EvaluateOptions. With an adapter, those of them that say how data is read and split are
    by default what it was trained with, and so are those of `prompt.PromptSettings`. `held_out` takes only the
    rows that training with these options holds out. `on_done` is called with the rows done and their number, those
    of the base model counted too. Raises as `resolve`, DataError where no row is left, MemoryLimitError.
    """
    trained = trained_reading(hub.adapter(adapter)) if adapter is not None else {}
    prompting = taken(options)
    chosen = EvaluateOptions.of(options, trained)
    if chosen.held_out and adapter is not None and "seed" not in {*trained, *options}:
        raise UsageError(
            f"{adapter} has no report.json, so nothing says which rows its training held out",
            hint="evaluate all rows, or give the same --eval-fraction and --seed without --adapter",
        )
    loaded = data.load(file, chosen)  # before anything that takes longer
    resolved = resolve(model, adapter, **prompting)
    resolved = replace(resolved, renderer=replace(resolved.renderer, answers=chosen.answers))
    rows = data.render(loaded, resolved.renderer, chosen, hub.window(resolved.model_dir))
    if chosen.held_out:
        rows = held_out(rows, chosen, file)
    rows.announce("--json")
    in_4bit = wants_4bit(resolved.adapter_dir, chosen.precision)
    dtype = compute_type(chosen.precision)
    try:
        model = load_model(resolved, dtype, in_4bit=in_4bit)
        figures, base = _measure(resolved, model, data.Single(rows), chosen.batch_size, on_done)
    except torch.OutOfMemoryError as error:
        raise MemoryLimitError(f"out of memory while evaluating: {error}", hint="lower --batch-size") from error
    return Evaluation(
        model=hub.name_of(resolved.model_dir),
        adapter=resolved.adapter_dir.name if resolved.adapter_dir is not None else None,
        system=resolved.renderer.system,
        contract=resolved.contract_name,
        precision="int4" if in_4bit else str(dtype).removeprefix("torch."),
        held_out=chosen.held_out,
        base=base,
        dropped=rows.dropped,
        **asdict(figures),
    )


def held_out(rows: RenderedData, options: DataOptions, file: str | Path) -> RenderedData:
    """The rows that training with these options holds out; raises DataError where it holds out none."""
    _, indices = data.split(rows.column("prompt_key"), options.eval_fraction, options.seed)
    if not len(indices):
        raise DataError(
            file,
            f"training with eval_fraction {options.eval_fraction} and seed {options.seed} holds out none of its "
            f"{len(rows)} rows",
            hint="evaluate all rows, without --held-out",
        )
    return replace(rows, table=rows.table.select(indices), row_ids=rows.row_ids[indices])


def _measure(
    resolved: ResolvedModel, model: Any, rows: Examples, batch_size: int, on_done: OnDone | None
) -> tuple[Measured, Measured | None]:
    """Figures of what answers, and of the base model alone where that is another."""
    stops = resolved.renderer.stop_token_ids
    if resolved.adapter_dir is None:
        return measure(model, rows, stops, batch_size=batch_size, on_done=on_done), None
    tell = on_done or (lambda _done, _rows: None)
    every = 2 * len(rows)
    tuned = measure(model, rows, stops, batch_size=batch_size, on_done=lambda done, _: tell(done, every))
    with model.disable_adapter():
        base = measure(model, rows, stops, batch_size=batch_size, on_done=lambda done, _: tell(len(rows) + done, every))
    return tuned, base
