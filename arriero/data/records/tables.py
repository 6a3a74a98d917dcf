"""Tables -> records by the names of their columns: CSV by any separator, Parquet, Excel."""

from __future__ import annotations

import csv
import itertools
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from arriero.data.records.json_text import Fault, decoded
from arriero.errors import ArrieroError, DataError

SEPARATORS = ",\t;|"
QUOTED = "a text that holds the separator, a quote or a line break stands in double quotes, a quote in it twice"


def separator_of(header: str, columns: Collection[str]) -> str:
    """What separates the columns of a header: what makes the most names of `columns` of it, then the most names."""

    def named(separator: str) -> tuple[int, int]:
        names = _names(header, separator)
        return len(set(columns).intersection(names)), len(names)

    return max(SEPARATORS, key=named)


def has_header(header: str, columns: Collection[str]) -> bool:
    """Whether a line names at least one of `columns`, and another one."""
    names = _names(header, separator_of(header, columns))
    return len(names) > 1 and not set(columns).isdisjoint(names)


def _names(header: str, separator: str) -> list[str]:
    try:
        return next(csv.reader([header], delimiter=separator), [])
    except csv.Error:
        return []


def delimited(file: Path, stream: IO[str], separator: str) -> Iterator[Any]:
    """The rows of a CSV file; DataError where it cannot be read on."""
    csv.field_size_limit(sys.maxsize)
    reader = csv.DictReader(stream, delimiter=separator, strict=True)
    for row in itertools.count():
        try:
            if row == 0:
                check_names(file, decoded(file, lambda: reader.fieldnames) or ())
            record = decoded(file, lambda: next(reader, None))
        except csv.Error as error:
            raise DataError(file, f"is not valid CSV: {error}", row=row, hint=QUOTED) from error
        if record is None:
            return
        yield Fault(f"has more fields than the header; {QUOTED}") if None in record else record


def check_names(file: Path, names: Sequence[Any]) -> None:
    """Refuse a table two of whose columns have one name, of which readers silently keep the last."""
    if (twice := next((name for name in names if name and names.count(name) > 1), None)) is not None:
        raise DataError(file, f"the name {twice!r} stands twice in the header", hint="name each column differently")


def parquet(file: Path, stream: IO[bytes]) -> Iterator[Any]:
    """The rows of a Parquet file."""
    import pyarrow
    import pyarrow.parquet

    row = 0
    try:
        table = pyarrow.parquet.ParquetFile(stream)
        check_names(file, table.schema_arrow.names)
        for batch in table.iter_batches(1000):
            for record in batch.to_pylist():
                yield record
                row += 1
    except pyarrow.ArrowException as error:
        raise DataError(file, f"is not a readable Parquet file: {error}", row=row) from error


def workbook(file: Path, stream: IO[bytes]) -> Iterator[Any]:
    """The rows of an Excel workbook's first sheet, which begins with the names of its columns; all as text."""
    try:
        from openpyxl import load_workbook
    except ImportError as error:
        hint = 'pip install "arriero[excel]", or save the sheet as CSV'
        raise ArrieroError(f"{file}: reading Excel workbooks needs the package openpyxl", hint=hint) from error
    try:
        rows = load_workbook(stream, read_only=True, data_only=True).worksheets[0].iter_rows(values_only=True)
        names = [None if name is None else str(name) for name in next(rows, ())]
    except (KeyError, ValueError, IndexError, OSError) as error:
        raise DataError(file, f"is not a readable Excel workbook: {error}") from error
    check_names(file, names)
    for cells in rows:
        pairs = zip(names, cells, strict=False)
        record = {name: "" if cell is None else str(cell) for name, cell in pairs if name}
        if any(record.values()):
            yield record
