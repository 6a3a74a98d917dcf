"""What `prepare.py` left, read as far as a page of rows needs it: the file is memory-mapped, never held."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from tokenizers import Tokenizer

FLAGS = ("repeat", "contradiction", "cut")


@dataclass(frozen=True, slots=True)
class Row:
    """A row of an instruction file. `record` is None where it cannot be read, `reason` why training leaves it out.

    `ids` and `spans` (loss, [start, end)) are empty where it is left out; `flags` those of FLAGS that hold.
    """

    file: int
    row: int
    record: Any
    reason: str | None
    flags: tuple[str, ...]
    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]

    @property
    def row_id(self) -> tuple[int, int]:
        """What tells it from all others: file and row, both 0-based."""
        return self.file, self.row

    @property
    def mask(self) -> list[bool]:
        """For each id whether it is loss."""
        return [any(start <= position < end for start, end in self.spans) for position in range(len(self.ids))]


@dataclass(frozen=True)
class Prepared:
    """An inspected file: the folder of a finished job, and its result."""

    folder: Path
    report: Mapping[str, Any]

    @cached_property
    def table(self) -> pa.Table:
        """All rows, memory-mapped."""
        return pa.ipc.open_file(pa.memory_map(str(self.folder / "rows.arrow"))).read_all()

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Decodes ids; nothing is tokenized here."""
        return Tokenizer.from_file(str(self.folder / "tokenizer.json"))

    @cached_property
    def specials(self) -> frozenset[int]:
        """The ids of special tokens."""
        return frozenset(self.report["specials"])

    def decode(self, ids: list[int]) -> str:
        """The text of ids, special tokens included."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=False))

    def matching(self, kind: str = "", text: str = "") -> list[int]:
        """The indices in `table` of the rows of a kind that hold a text, in any case.

        `kind` is "" for all, "kept", "dropped", one of FLAGS, or a kind of fault as in `report["faults"]`.
        """
        mask = self._of_kind(kind)
        if text:
            with_text = pc.match_substring(self.table["text"], text, ignore_case=True)
            mask = with_text if mask is None else pc.and_(mask, with_text)
        if mask is None:
            return list(range(len(self.table)))
        return list(pc.indices_nonzero(pc.fill_null(mask, False)).to_pylist())

    def _of_kind(self, kind: str) -> Any:
        if not kind:
            return None
        if kind in ("kept", "dropped"):
            return (pc.is_null if kind == "kept" else pc.is_valid)(self.table["reason"])
        return self.table[kind] if kind in FLAGS else pc.equal(self.table["kind"], kind)

    def row(self, index: int) -> Row:
        """The row of that index in `table`."""
        cells = self.table.slice(index, 1).to_pylist()[0]
        spans = cells["spans"] or ()
        return Row(
            cells["file"],
            cells["row"],
            json.loads(cells["record"]) if cells["record"] is not None else None,
            cells["reason"],
            tuple(flag for flag in FLAGS if cells[flag]),
            tuple(cells["ids"] or ()),
            tuple(zip(spans[::2], spans[1::2], strict=True)),
        )
