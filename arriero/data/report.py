"""inspect(): what training would see, before anyone burns compute on it.

All numbers are of the kept rows. They are computed over the memory-mapped columns, a chunk at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from arriero.data.conversations import Dropped, Loaded
from arriero.data.options import DataOptions
from arriero.data.rendering import RenderedData, render
from arriero.data.split import split
from arriero.prompt import Renderer

if TYPE_CHECKING:
    import pyarrow as pa

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Shown:
    """An example of a row as training sees it: ids, for each whether it is loss, and the text they decode to."""

    file: str
    row: int
    ids: list[int]
    mask: list[bool]
    text: str


@dataclass(frozen=True, slots=True)
class Bar:
    """Examples of `first` to `last` tokens, both included."""

    first: int
    last: int
    rows: int


@dataclass(frozen=True, slots=True)
class Report:
    """What a data set holds.

    `rows` kept + dropped; `duplicates` rows that repeat an earlier one; `contradictions` prompts that stand with
    different answers. A row of several answers may be several examples, whose lengths `longest`, `median` and `lengths`
    are. `prefix_tokens` is how many ids all rows begin with in common; `computed_tokens` what one epoch computes when
    each optimizer step of `batch_size` rows computes that prefix once, and each row what its examples begin with in
    common. `held_out` rows would be kept for evaluation.
    """

    files: list[str]
    format: str
    rows: int
    kept: int
    dropped: list[Dropped]
    cut: int
    duplicates: int
    contradictions: int
    held_out: int
    tokens: int
    loss_tokens: int
    prefix_tokens: int
    computed_tokens: int
    batch_size: int
    longest: int
    median: int
    lengths: list[Bar]
    template: str
    system: str | None
    examples: list[Shown] = field(default_factory=list)


def inspect(
    loaded: Loaded, renderer: Renderer, options: DataOptions, *, window: int, batch_size: int = 16, limit: int = 3
) -> Report:
    """Render a data set and report on it; `limit` rows are shown in full.

    `window` is the model's context in tokens, `batch_size` the rows of an optimizer step.
    """
    data = render(loaded, renderer, options, window)
    prompt_keys, keys = data.column("prompt_key"), data.column("key")
    lengths, loss_tokens = data.lengths(), _loss_tokens(data)
    prefix = _common_prefix(data)
    kept = len(data)
    steps = math.ceil(kept / batch_size)
    pairs = np.unique(np.stack([prompt_keys, keys]), axis=1)
    return Report(
        files=list(loaded.files),
        format=loaded.format,
        rows=kept + len(data.dropped),
        kept=kept,
        dropped=list(data.dropped),
        cut=data.cut,
        duplicates=kept - len(np.unique(keys)),
        contradictions=int((np.unique(pairs[0], return_counts=True)[1] > 1).sum()),
        held_out=len(split(prompt_keys, options.eval_fraction, options.seed)[1]),
        tokens=int(lengths.sum()),
        loss_tokens=loss_tokens,
        prefix_tokens=prefix,
        computed_tokens=int(data.column("distinct").sum()) - prefix * (kept - steps),
        batch_size=batch_size,
        longest=int(lengths.max()),
        median=int(np.median(lengths)),
        lengths=_bars(lengths),
        template=renderer.template_sha256,
        system=renderer.system,
        examples=[shown for index in range(min(limit, kept)) for shown in _shown(loaded, data, renderer, index)],
    )


def _shown(loaded: Loaded, data: RenderedData, renderer: Renderer, index: int) -> Iterator[Shown]:
    row = data.table[index]
    for example in data[index]:
        text = renderer.tokenizer.decode(list(example.ids), skip_special_tokens=False)
        yield Shown(loaded.files[row["file"]], row["row"], list(example.ids), list(example.mask), str(text))


def _chunks(data: RenderedData) -> Any:
    """The table in pieces, dropped rows left out, as Arrow."""
    return data.table.with_format("arrow").iter(batch_size=10_000)


def _flat(column: pa.ChunkedArray) -> tuple[Array, Array]:
    """(values, offsets) of a column of lists."""
    lists = column.combine_chunks()
    return lists.flatten().to_numpy(), np.concatenate([[0], np.cumsum(lists.value_lengths().to_numpy())])


def _loss_tokens(data: RenderedData) -> int:
    """Tokens in the spans of all rows."""
    loss = 0
    for chunk in _chunks(data):
        spans, _ = _flat(chunk.column("spans"))
        loss += int((spans[1::2] - spans[::2]).sum())
    return loss


def _common_prefix(data: RenderedData) -> int:
    """How many ids all rows begin with in common, none of them loss."""
    first = data[0][0]
    prefix = np.asarray(first.ids[: first.loss_spans[0][0]])  # of the row's first example, as below
    for chunk in _chunks(data):
        ids, offsets = _flat(chunk.column("ids"))
        spans, span_offsets = _flat(chunk.column("spans"))
        prefix = prefix[: int(spans[span_offsets[:-1]].min())]  # where a row's first answer begins
        same = ids[offsets[:-1, None] + np.arange(len(prefix))] == prefix
        differing = np.flatnonzero(~same.all(axis=0))
        if len(differing):
            prefix = prefix[: differing[0]]
    return len(prefix)


def _bars(lengths: Array, count: int = 20) -> list[Bar]:
    """A histogram with bars of equal width, from the first that is not empty."""
    width = max(1, math.ceil((int(lengths.max()) + 1) / count))
    rows = np.bincount(lengths // width)
    bars = [Bar(index * width, (index + 1) * width - 1, int(number)) for index, number in enumerate(rows)]
    return bars[int(np.flatnonzero(rows)[0]) :]
