"""The process that inspects an instruction file, and writes down what the page draws.

    rows.arrow       a row for each of the file's, the dropped ones included, to be memory-mapped
    tokenizer.json   what decodes its ids
    result.json      the report, and figures for the pictures

Rendered rows come from `arriero.data`'s cache, whose key is a hash of the files' content and of all settings.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from arriero import hub
from arriero.data import DataOptions, Loaded, RenderedData, inspect, load, render
from arriero.data.formats import KNOWN
from arriero.data.records import files_of, read
from arriero.prompt import Renderer, resolve
from arriero.web.datasets.edits import as_text
from arriero.web.jobs import Tell, work

if TYPE_CHECKING:
    import pyarrow as pa

BATCH = 1000  # rows
DOTS = 1000  # of the picture of prompts and answers
REPEATS = 8

Records = Iterator[tuple[int, int, Any]]  # (file, row, record)


def prepare(about: Mapping[str, Any], folder: Path, tell: Tell) -> dict[str, Any]:
    """What `arriero inspect` does, for `about`: source, model, system, and options as of DataOptions."""
    options = DataOptions(**about["options"])
    tell({"stage": "reading"})
    loaded = load(about["source"], options)
    resolved = resolve(about["model"], system=about["system"], more_tokens=True)
    renderer = replace(resolved.renderer, answers=options.answers)
    window = hub.window(resolved.model_dir)
    tell({"stage": "rendering", "rows": len(loaded.table)})
    report = inspect(loaded, renderer, options, window=window, limit=0)
    data = render(loaded, renderer, options, window)
    tell({"stage": "writing", "rows": report.rows})
    files = files_of(Path(about["source"]))
    _write_rows(folder / "rows.arrow", _records(files, options), loaded, data)
    renderer.tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    figures = asdict(replace(report, dropped=report.dropped[:0]))
    return {
        **figures,
        "dropped": len(report.dropped),
        "faults": Counter(kind_of(drop.reason) for drop in report.dropped).most_common(12),
        "dots": _dots(data),
        "repeats": _repeats(loaded, data),
        "specials": _specials(renderer),
        "paths": [str(file) for file in files],
        "contract": resolved.contract_name,
        "window": window,
    }


def kind_of(reason: str) -> str:
    """A reason without what is particular to its row, so that equal faults count together."""
    return re.sub(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|\d+", "…", reason)


def _specials(renderer: Renderer) -> list[int]:
    return sorted(int(token) for token in renderer.special_ids)


def _dots(data: RenderedData) -> list[tuple[int, int]]:
    """(prompt tokens, loss tokens) of the examples of rows that lie evenly over the file."""
    indices = np.unique(np.linspace(0, len(data) - 1, DOTS).astype(int))
    examples = [example for index in indices for example in data[int(index)]]
    loss = [sum(end - start for start, end in example.loss_spans) for example in examples]
    return [(len(example.ids) - answer, answer) for example, answer in zip(examples, loss, strict=True)]


def _repeats(loaded: Loaded, data: RenderedData) -> list[tuple[str, int]]:
    """The conversations that stand most often in the file: how the last question begins, and how many rows."""
    _, first, counts = np.unique(data.column("key"), return_index=True, return_counts=True)
    most = [index for index in np.argsort(-counts, kind="stable")[:REPEATS] if counts[index] > 1]
    repeats = []
    for index in most:
        conversation = loaded.conversation(int(data.row_ids[first[index]]))
        question = conversation.messages[-2].content if conversation.text is None else conversation.text
        repeats.append((" ".join(question.split())[:60], int(counts[index])))
    return repeats


def _write_rows(file: Path, records: Records, loaded: Loaded, data: RenderedData) -> None:
    import pyarrow as pa

    lists = pa.list_(pa.int32())
    fields = {"file": pa.int32(), "row": pa.int64(), "record": pa.large_string(), "text": pa.large_string()}
    fields |= {"reason": pa.string(), "kind": pa.string()}
    fields |= {"repeat": pa.bool_(), "contradiction": pa.bool_(), "cut": pa.bool_(), "ids": lists, "spans": lists}
    schema = pa.schema(fields)
    batch: list[dict[str, Any]] = []
    with pa.ipc.new_file(str(file), schema) as writer:
        for row in _rows(records, loaded, data):
            batch.append(row)
            if len(batch) == BATCH:
                writer.write_batch(_batch(batch, schema))
                batch = []
        writer.write_batch(_batch(batch, schema))


def _batch(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.RecordBatch:
    import pyarrow as pa

    return pa.RecordBatch.from_pylist(rows, schema)


def _rows(records: Records, loaded: Loaded, data: RenderedData) -> Iterator[dict[str, Any]]:
    """Every record of the files beside what became of it; kept rows come in the same order."""
    reasons = {(drop.file, drop.row): drop.reason for drop in data.dropped}
    kept = _kept(data)
    for index, row, record in records:
        text, shown = as_text(record)
        outcome = {"reason": reasons.get((loaded.files[index], row))}
        outcome |= {"kind": kind_of(outcome["reason"])} if outcome["reason"] else next(kept)
        yield {"file": index, "row": row, "record": text, "text": shown, **outcome}


def _records(files: list[Path], options: DataOptions) -> Records:
    columns = KNOWN.union(options.renamed.values())
    for index, file in enumerate(files):
        for row, record in read(file, encoding=options.encoding, columns=columns):
            yield index, row, record


def _kept(data: RenderedData) -> Iterator[dict[str, Any]]:
    prompts, keys = data.column("prompt_key"), data.column("key")
    repeat = np.ones(len(keys), bool)
    repeat[np.unique(keys, return_index=True)[1]] = False
    pairs = np.unique(np.stack([prompts, keys]), axis=1)
    names, answers = np.unique(pairs[0], return_counts=True)
    contradiction = np.isin(prompts, names[answers > 1])
    for start in range(0, len(data), BATCH):
        rows = data.table[start : start + BATCH]
        for index, (ids, spans, cut) in enumerate(zip(rows["ids"], rows["spans"], rows["cut"], strict=True), start):
            flags = {"repeat": bool(repeat[index]), "contradiction": bool(contradiction[index])}
            yield {**flags, "cut": cut, "ids": ids, "spans": spans}


if __name__ == "__main__":
    work(prepare)
