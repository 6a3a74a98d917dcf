"""Instruction files -> conversations -> rendered rows, with every fault reported by file and row.

    options.py         DataOptions: how data is read, declared once
    records/           files -> raw records: JSON, JSON Lines, CSV, Parquet, directories
    formats/           records -> conversations: alpaca, messages, ShareGPT, prompt/completion
    conversations.py   load(): records -> conversations on disk, larger than memory
    rendering.py       render(): conversations -> ids and spans on disk, over processes
    job.py             what each of those processes does
    split.py           a held-out part that shares no prompt with the training part
    report.py          inspect(): what training would see
    page.py            the same as an HTML page

A row that cannot be used is dropped and listed, never changed.
"""

from arriero.data.conversations import Dropped, Loaded, check_source, load
from arriero.data.options import DataOptions
from arriero.data.rendering import RenderedData, Single, render, rendered
from arriero.data.report import Report, inspect
from arriero.data.split import split

__all__ = [
    "DataOptions",
    "Dropped",
    "Loaded",
    "RenderedData",
    "Report",
    "Single",
    "check_source",
    "inspect",
    "load",
    "render",
    "rendered",
    "split",
]
