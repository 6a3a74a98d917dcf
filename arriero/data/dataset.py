"""Instruction data on disk: conversations read once, rendered once, both memory-mapped and cached.

    files ──read, parse──> conversations.arrow ──render, in batches over processes──> rendered.arrow
                             key: the files' content,                 key: those, and template, tokenizer,
                             the options of reading                   system prompt, limits

However large the files, memory holds a batch. A row that cannot be used is dropped and listed with its reason.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from arriero import hub, settings
from arriero.data.formats import FIELDS, detect, parse
from arriero.data.options import DataOptions, FormatName
from arriero.data.records import files_of, read
from arriero.errors import DataError, UsageError
from arriero.messages import Conversation, Message
from arriero.prompt import Rendered, Renderer, TemplateError

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

log = logging.getLogger(__name__)
VERSION = 1  # of the cached files; raise it when what they hold changes
BATCH = 1000  # rows
IN_PROCESS = 20_000  # up to so many rows, other processes take longer to start than they save


@dataclass(frozen=True, slots=True)
class Dropped:
    """A row that was left out, and why; `row` is its 0-based index in `file`."""

    row: int
    reason: str
    file: str = ""


@dataclass(frozen=True, slots=True)
class Loaded:
    """The usable rows of some files, memory-mapped.

    `table` has a row each: file (index into `files`), row, conversation (JSON), prompt_key and key (64-bit hashes of
    everything before the last answer, and of everything).
    """

    files: tuple[str, ...]
    format: FormatName
    table: Dataset
    dropped: tuple[Dropped, ...]
    key: str

    def conversation(self, index: int) -> Conversation:
        """The conversation at a place in `table`."""
        return _conversation(self.table[index]["conversation"])


@dataclass(frozen=True, slots=True)
class RenderedData:
    """Rendered rows, memory-mapped; `table` adds ids and spans (flat start, end, …) to file, row and keys.

    `cut` counts rows whose answer was shortened on request. `dropped` has the rows of `Loaded.dropped` too. `first` is
    the place of the first kept row in `Loaded.table`.
    """

    table: Dataset
    dropped: tuple[Dropped, ...]
    cut: int
    first: int

    def __len__(self) -> int:
        return len(self.table)

    def column(self, name: str) -> npt.NDArray[np.int64]:
        """A column of numbers."""
        return np.asarray(self.table.with_format("numpy")[name][:], dtype=np.int64)

    def __getitem__(self, index: int) -> Rendered:
        return rendered(self.table[index])


def rendered(row: dict[str, Any]) -> Rendered:
    """A row of a rendered table as `Rendered`."""
    spans = row["spans"]
    return Rendered(tuple(row["ids"]), tuple(zip(spans[::2], spans[1::2], strict=True)))


def load(source: str | Path, options: DataOptions | None = None) -> Loaded:
    """Read a file, a directory or a hub's data set; what was read before comes from the cache.

    Raises NotFoundError where there is nothing, DataError where a file cannot be read or has no usable row.
    """
    chosen = options or DataOptions()
    path = _path(source)
    files = files_of(path)
    names = tuple(str(file.relative_to(path)) if path.is_dir() else file.name for file in files)
    key = _key(VERSION, names, *map(hub.store.sha256, files), chosen.format, chosen.join_input)
    folder = settings.cache_dir() / "data" / key
    if not (folder / "rows.json").is_file():
        _read_into(folder, files, names, chosen)
    from datasets import Dataset

    told = json.loads((folder / "rows.json").read_text(encoding="utf-8"))
    dropped = tuple(Dropped(**drop) for drop in told["dropped"])
    log.info("%s: %d rows in the %s format", path.name, told["rows"] + len(dropped), told["format"])
    if told["unused"]:
        log.warning("%s: fields that are not used: %s", path.name, ", ".join(told["unused"]))
    table = Dataset.from_file(str(folder / "conversations.arrow"))
    return Loaded(names, told["format"], table, dropped, key)


def render(loaded: Loaded, renderer: Renderer, options: DataOptions, window: int) -> RenderedData:
    """Ids and spans of every row that fits `options.max_length` (default: `window`, in tokens); cached.

    Raises TemplateError where the chat template cannot be trained with, DataError where no row is left.
    """
    limit = min(options.max_length or window, window)
    job = _Job(renderer, loaded.files, limit, options.too_long == "cut")
    key = _key(loaded.key, renderer.template, _tokenizer_key(renderer), job.described())
    cache = settings.cache_dir() / "data" / loaded.key / f"rendered-{key}.arrow"
    rows = len(loaded.table)
    import datasets

    if rows <= IN_PROCESS or not sys.stderr.isatty():
        datasets.disable_progress_bars()
    _INHERITED[id(job)] = job
    try:
        table = loaded.table.with_format("arrow").map(
            job,
            batched=True,
            batch_size=BATCH,
            num_proc=None if rows <= IN_PROCESS else len(os.sched_getaffinity(0)),
            remove_columns=["conversation"],
            cache_file_name=str(cache),
            new_fingerprint=key,
            desc="rendering",
        )
    finally:
        del _INHERITED[id(job)]
        datasets.enable_progress_bars()
    return _outcome(table.with_format(None), loaded)


def _outcome(table: Dataset, loaded: Loaded) -> RenderedData:
    import pyarrow.compute as pc

    reasons = table.data.column("reason")
    kept = np.flatnonzero(pc.is_null(reasons).to_numpy())
    dropped = list(loaded.dropped)
    if len(kept) < len(table):
        for index in np.flatnonzero(~pc.is_null(reasons).to_numpy()):
            row = table[int(index)]
            dropped.append(Dropped(row["row"], row["reason"], loaded.files[row["file"]]))
        dropped.sort(key=lambda drop: (drop.file, drop.row))
    cut = int(pc.sum(table.data.column("cut")).as_py() or 0)
    if not len(kept):
        raise DataError(loaded.files[0], f"no row is left of {len(dropped)}; the first: {dropped[0].reason}")
    whole = len(kept) == len(table)
    return RenderedData(table if whole else table.select(kept), tuple(dropped), cut, int(kept[0]))


_INHERITED: dict[int, _Job] = {}  # jobs that processes forked from now on find in their memory


def _inherited(job: int) -> _Job:
    return _INHERITED[job]


@dataclass(frozen=True, slots=True)
class _Job:
    """Renders a batch of rows; what `Dataset.map` calls in each process."""

    renderer: Renderer
    files: tuple[str, ...]
    limit: int
    cut: bool

    def __reduce__(self) -> Any:
        """Hand a forked process the object it has already: a large tokenizer takes 200 MB to unpickle in each."""
        import multiprocess

        if multiprocess.get_start_method() == "fork" and id(self) in _INHERITED:
            return _inherited, (id(self),)
        return _Job, (self.renderer, self.files, self.limit, self.cut)

    def described(self) -> str:
        """Everything that the result depends on besides rows, template and tokenizer."""
        r = self.renderer
        parts = [r.system, r.today, dict(r.variables), r.answers, r.stop_token_ids, self.limit, self.cut]
        return json.dumps(parts, sort_keys=True)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """A table with the columns ids, spans, reason and cut instead of conversation."""
        layouts, places = [], []
        reasons: list[str | None] = [None] * len(batch)
        for place, text in enumerate(batch.column("conversation").to_pylist()):
            try:
                layouts.append(self.renderer.layout(_conversation(text).with_system(self.renderer.system)))
                places.append(place)
            except TemplateError:
                raise
            except UsageError as error:
                reasons[place] = error.message
        results: list[Rendered | None] = [None] * len(batch)
        cut = [False] * len(batch)
        for place, result in zip(places, self.renderer.render_layouts(layouts), strict=True):
            length = len(result.ids)
            if length <= self.limit:
                results[place] = result
            elif self.cut and (shorter := result.cut(self.limit)) is not None:
                results[place], cut[place] = shorter, True
            else:
                reasons[place] = f"{length} tokens, the limit is {self.limit}"
        return _with_results(batch, results, reasons, cut)


def _with_results(
    batch: pa.Table, results: list[Rendered | None], reasons: list[str | None], cut: list[bool]
) -> pa.Table:
    import pyarrow as pa

    ids = [result.ids if result is not None else () for result in results]
    spans = [tuple(itertools.chain(*result.spans)) if result is not None else () for result in results]
    return pa.table(
        {
            **{name: batch.column(name) for name in ("file", "row", "prompt_key", "key")},
            "ids": _lists(ids),
            "spans": _lists(spans),
            "reason": pa.array(reasons, pa.string()),
            "cut": pa.array(cut, pa.bool_()),
        }
    )


def _lists(rows: list[tuple[int, ...]]) -> pa.Array:
    """Rows of numbers as an Arrow list array of 32-bit integers."""
    import pyarrow as pa

    offsets = np.zeros(len(rows) + 1, np.int32)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    values = np.fromiter(itertools.chain.from_iterable(rows), np.int32, count=int(offsets[-1]))
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))


def _read_into(folder: Path, files: list[Path], names: tuple[str, ...], options: DataOptions) -> None:
    """Fill a cache folder, which appears whole or not at all."""
    import pyarrow as pa

    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    reader = _Reader(files, names, options)
    fields = {"file": pa.int32(), "row": pa.int64(), "conversation": pa.large_string()}
    schema = pa.schema({**fields, "prompt_key": pa.int64(), "key": pa.int64()})
    try:
        with pa.ipc.new_stream(str(partial / "conversations.arrow"), schema) as writer:
            for columns in reader.batches():
                writer.write_batch(pa.record_batch(columns, schema))
        told: dict[str, Any] = {"format": reader.format, "rows": reader.rows, "unused": sorted(reader.unused)}
        told["dropped"] = [asdict(drop) for drop in reader.dropped]
        (partial / "rows.json").write_text(json.dumps(told), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


class _Reader:
    """Parses records batch by batch; knows afterwards what it dropped."""

    def __init__(self, files: list[Path], names: tuple[str, ...], options: DataOptions) -> None:
        self._files = files
        self._names = names
        self._options = options
        self.format: FormatName = options.format
        self.rows = 0
        self.unused: set[str] = set()
        self.dropped: list[Dropped] = []

    def batches(self) -> Iterator[list[list[Any]]]:
        """Columns in the order of the schema. Raises DataError when no row can be used."""
        columns: list[list[Any]] = [[], [], [], [], []]
        size = 0
        for file, row, record in self._records():
            text = self._parsed(file, row, record)
            if text is None:
                continue
            for column, value in zip(columns, (file, row, *text), strict=True):
                column.append(value)
            size += len(text[0])
            self.rows += 1
            if len(columns[0]) == BATCH or size > 1 << 26:
                yield columns
                columns, size = [[], [], [], [], []], 0
        if columns[0]:
            yield columns
        if not self.rows:
            reason = f"none of its {len(self.dropped)} rows can be used"
            if self.dropped:
                reason += f"; the first: row {self.dropped[0].row}: {self.dropped[0].reason}"
            hint = 'expected rows like {"instruction": …, "input": "", "output": …}'
            raise DataError(self._names[0], reason, hint=hint)

    def _records(self) -> Iterator[tuple[int, int, Any]]:
        every = ((index, row, record) for index, file in enumerate(self._files) for row, record in read(file))
        if self.format != "auto":
            return every
        head = list(itertools.islice(every, 100))
        self.format = detect([record for _, _, record in head]) or "alpaca"
        return itertools.chain(head, every)

    def _parsed(self, file: int, row: int, record: Any) -> tuple[str, int, int] | None:
        try:
            messages = parse(record, self.format, self._options).messages
            turns = [(message.role, message.content) for message in messages]
            text = json.dumps(turns, ensure_ascii=False)
            keys = _hash(json.dumps(turns[:-1], ensure_ascii=False)), _hash(text)
        except UsageError as error:
            self.dropped.append(Dropped(row, error.message, self._names[file]))
            return None
        except UnicodeEncodeError as error:
            reason = f"is not Unicode text: a lone surrogate {error.object[error.start]!r}"
            self.dropped.append(Dropped(row, reason, self._names[file]))
            return None
        self.unused |= record.keys() - FIELDS[self.format]
        return text, *keys


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)


def _conversation(text: str) -> Conversation:
    return Conversation(tuple(Message(role, content) for role, content in json.loads(text)))


def _key(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode("utf-8", "surrogatepass")).hexdigest()[:24]


def _tokenizer_key(renderer: Renderer) -> str:
    return hashlib.sha256(renderer.tokenizer.backend_tokenizer.to_str().encode()).hexdigest()


def _path(source: str | Path) -> Path:
    """A path as it is; any other name is a hub's data set."""
    path = Path(source).expanduser()
    looks_like_a_file = path.suffix.lower() in (".json", ".jsonl", ".ndjson", ".csv", ".parquet", ".txt")
    if path.exists() or looks_like_a_file or path.is_absolute() or str(source).startswith("."):
        return path
    return hub.dataset(str(source))
