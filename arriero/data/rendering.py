"""Rendered rows on disk: ids and loss spans of every conversation, memory-mapped and cached.

    conversations.arrow ──render, in batches over processes──> rendered-KEY.arrow

The key is a hash of everything the ids depend on: the rows, the template, the tokenizer, the system prompt, the limits.
However many rows there are, memory holds a batch for each process.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from arriero import hardware, settings
from arriero.data.conversations import BATCH, Dropped, Loaded, cache_key
from arriero.data.job import INHERITED, Job
from arriero.data.options import DataOptions
from arriero.errors import DataError
from arriero.prompt import Rendered, Renderer

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger(__name__)
VERSION = 2  # of the cached files; raise it when what they hold changes
IN_PROCESS = 20_000  # rows; up to this many, other processes take longer to start than they save


@dataclass(frozen=True, slots=True)
class RenderedData:
    """Rendered rows, memory-mapped; `table` adds the examples of each row to file, row and keys.

    Those are ids, one example's behind the other's, ends (of the examples) and spans (flat start, end, …) in them, and
    distinct, the tokens of their tree. `cut` counts rows whose answer was shortened on request. `dropped` has the rows
    of `Loaded.dropped` too. `row_ids` are the kept rows' indices in `Loaded.table`.
    """

    table: Dataset
    dropped: tuple[Dropped, ...]
    cut: int
    row_ids: npt.NDArray[np.int64]

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

    def __getitem__(self, index: int) -> list[Rendered]:
        return rendered(self.table[index])

    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each example of all rows."""
        lengths = [np.zeros(0, np.int64)]
        for chunk in self.table.with_format("arrow").iter(batch_size=10_000):
            ends = chunk.column("ends").combine_chunks()
            sizes = np.diff(ends.flatten().to_numpy(), prepend=0)
            counts = ends.value_lengths().to_numpy()
            first = np.cumsum(counts) - counts
            sizes[first] = ends.flatten().to_numpy()[first]
            lengths.append(sizes)
        return np.concatenate(lengths).astype(np.int64)


@dataclass(frozen=True)
class Single:
    """The examples of rendered rows one by one, which stay on disk."""

    rows: RenderedData

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, index: int) -> Rendered:
        row, number = self._positions[index]
        return self.rows[row][number]

    @cached_property
    def _positions(self) -> list[tuple[int, int]]:
        """The row of each example, and its number there."""
        import pyarrow.compute as pc

        counts = pc.list_value_length(self.rows.table.with_format("arrow")["ends"][:]).to_pylist()
        return [(row, number) for row, count in enumerate(counts) for number in range(count)]


def rendered(row: dict[str, Any]) -> list[Rendered]:
    """The examples of a row of a rendered table."""
    examples, start = [], 0
    spans = list(zip(row["spans"][::2], row["spans"][1::2], strict=True))
    for end in row["ends"]:
        own = tuple((first - start, last - start) for first, last in spans if start <= first < end)
        examples.append(Rendered(tuple(row["ids"][start:end]), own))
        start = end
    return examples


def render(loaded: Loaded, renderer: Renderer, options: DataOptions, window: int) -> RenderedData:
    """Ids and spans of every row that fits `options.max_length` (default: `window`, in tokens); cached.

    Raises DataError where no row is left.
    """
    limit = min(options.max_length or window, window)
    job = Job(renderer, loaded.files, limit, options.too_long == "cut")
    key = cache_key(VERSION, loaded.key, renderer.template, _tokenizer_key(renderer), job.described())
    cache = settings.cache_dir() / "data" / loaded.key / f"rendered-{key}.arrow"
    rows = len(loaded.table)
    processes = 1 if rows <= IN_PROCESS else hardware.cores()
    import datasets

    if rows <= IN_PROCESS or not sys.stderr.isatty():
        datasets.disable_progress_bars()
    for broken in _unreadable(cache):
        broken.unlink()
    INHERITED[id(job)] = job
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
        del INHERITED[id(job)]
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


def _tokenizer_key(renderer: Renderer) -> str:
    return hashlib.sha256(renderer.tokenizer.backend_tokenizer.to_str().encode()).hexdigest()
