"""Rendered rows on disk: ids and loss spans of every conversation, memory-mapped and cached.

    conversations.arrow ──render, in batches over processes──> rendered-KEY.arrow

The key is a hash of everything the ids depend on: the rows, the template, the tokenizer, the system prompt, the limits.
However many rows there are, memory holds a batch for each process.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from arriero import hardware, settings
from arriero.data.conversations import BATCH, Dropped, Loaded, as_conversation, cache_key
from arriero.data.options import DataOptions
from arriero.errors import DataError, UsageError
from arriero.prompt import Rendered, Renderer, TemplateError

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

log = logging.getLogger(__name__)
IN_PROCESS = 20_000  # up to so many rows, other processes take longer to start than they save


@dataclass(frozen=True, slots=True)
class RenderedData:
    """Rendered rows, memory-mapped; `table` adds ids and spans (flat start, end, …) to file, row and keys.

    `cut` counts rows whose answer was shortened on request. `dropped` has the rows of `Loaded.dropped` too. `places`
    are those of the kept rows in `Loaded.table`.
    """

    table: Dataset
    dropped: tuple[Dropped, ...]
    cut: int
    places: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.table)

    def column(self, name: str) -> npt.NDArray[np.int64]:
        """A column of numbers."""
        return np.asarray(self.table.with_format("numpy")[name][:], dtype=np.int64)

    def announce(self, listed: str) -> None:
        """Warn of rows that were left out or cut; `listed` is where all of them can be read."""
        for drop in self.dropped[:20]:
            log.warning("left out %s, row %d: %s", drop.file, drop.row, drop.reason)
        if len(self.dropped) > 20:
            log.warning("left out %d more rows; %s lists all", len(self.dropped) - 20, listed)
        if self.cut:
            log.warning("cut the last answer of %d rows to fit", self.cut)

    def __getitem__(self, index: int) -> Rendered:
        return rendered(self.table[index])


def rendered(row: dict[str, Any]) -> Rendered:
    """A row of a rendered table as `Rendered`."""
    spans = row["spans"]
    return Rendered(tuple(row["ids"]), tuple(zip(spans[::2], spans[1::2], strict=True)))


def render(loaded: Loaded, renderer: Renderer, options: DataOptions, window: int) -> RenderedData:
    """Ids and spans of every row that fits `options.max_length` (default: `window`, in tokens); cached.

    Raises TemplateError where the chat template cannot be trained with, DataError where no row is left.
    """
    limit = min(options.max_length or window, window)
    job = _Job(renderer, loaded.files, limit, options.too_long == "cut")
    key = cache_key(loaded.key, renderer.template, _tokenizer_key(renderer), job.described())
    cache = settings.cache_dir() / "data" / loaded.key / f"rendered-{key}.arrow"
    rows = len(loaded.table)
    processes = 1 if rows <= IN_PROCESS else hardware.cores()
    import datasets

    if rows <= IN_PROCESS or not sys.stderr.isatty():
        datasets.disable_progress_bars()
    for broken in _unreadable(cache):
        broken.unlink()
    _INHERITED[id(job)] = job
    environment, parallelism = os.environ, os.environ.get("TOKENIZERS_PARALLELISM")
    try:
        table = loaded.table.with_format("arrow").map(
            job,
            batched=True,
            batch_size=BATCH,
            num_proc=processes if processes > 1 else None,
            remove_columns=["conversation"],
            cache_file_name=str(cache),
            new_fingerprint=key,
            desc="rendering",
        )
    finally:
        os.environ = environment  # noqa: B003  with several processes, map leaves a copy that others do not know
        if parallelism is None:
            os.environ.pop("TOKENIZERS_PARALLELISM", None)
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = parallelism
        del _INHERITED[id(job)]
        datasets.enable_progress_bars()
    return _outcome(table.with_format(None), loaded)


def _unreadable(cache: Path) -> list[Path]:
    """Cached files, one for each process, that a killed process or a full disk left cut off."""
    import pyarrow as pa

    broken = []
    for file in cache.parent.glob(f"{cache.stem}*"):
        try:
            with pa.memory_map(str(file)) as source:
                pa.ipc.open_stream(source).read_all()
        except (pa.ArrowException, OSError):
            broken.append(file)
    return broken


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
    return RenderedData(table if whole else table.select(kept), tuple(dropped), cut, kept)


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
        parts = [r.system, r.today, dict(r.variables), r.answers, r.stop_token_ids, r.fold_system, self.limit, self.cut]
        return json.dumps(parts, sort_keys=True)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """A table with the columns ids, spans, reason and cut instead of conversation."""
        layouts, places = [], []
        reasons: list[str | None] = [None] * len(batch)
        for place, text in enumerate(batch.column("conversation").to_pylist()):
            try:
                layout = self.renderer.layout(as_conversation(text).with_system(self.renderer.system))
                if not self.cut and self.renderer.surely_longer(layout.text, self.limit):
                    reasons[place] = f"{len(layout.text)} characters, more than {self.limit} tokens, which is the limit"
                    continue
                layouts.append(layout)
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


def _tokenizer_key(renderer: Renderer) -> str:
    return hashlib.sha256(renderer.tokenizer.backend_tokenizer.to_str().encode()).hexdigest()
