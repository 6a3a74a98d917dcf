"""The frame of a command that measures answers: its common options, the document of a run, and printing it."""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from arriero import hub
from arriero.prompt import resolve
from benchmarks.lib.channel import Document
from benchmarks.lib.children import Bench
from benchmarks.lib.machine import Device, described, matrix_rate
from benchmarks.lib.sheets import Sheet
from benchmarks.lib.versions import versions

Part = Callable[[Bench], Document]
ToSheet = Callable[[Document], Sheet]
WIDTH = 240  # of a table that goes into a file


def parser(description: str | None, *, model: bool = True) -> argparse.ArgumentParser:
    """The options that every command has."""
    result = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if model:
        result.add_argument("--model", help="a model's name or directory")
    result.add_argument("--json", action="store_true", help="print the document")
    result.add_argument("--markdown", action="store_true")
    return result


def run(options: argparse.Namespace, parts: Mapping[str, tuple[Part, ToSheet]]) -> None:
    """Measure the parts that the options name, and print."""
    options.model = hub.resolve(options.model).resolve()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, resolve(options.model).renderer, Path(folder))
        gc.freeze()  # or a client would pause over what torch and transformers have made
        document = measure(bench, {name: part for name, (part, _) in parts.items()})
    show(document, [parts[name][1](figures) for name, figures in document["parts"].items()], options)


def measure(bench: Bench, parts: Mapping[str, Part]) -> Document:
    """The document of one run."""
    device: Device = "cuda" if torch.cuda.is_available() else "cpu"
    before = matrix_rate(device)
    measured = {name: parts[name](bench) for name in dict.fromkeys(bench.options.parts)}
    return {
        **facts(device, before, matrix_rate(device)),
        "model": hub.name_of(bench.options.model),
        "versions": all_versions(measured) or versions(),
        "parts": measured,
    }


def facts(device: Device = "cpu", *matrix_rates: float) -> Document:
    """When and where; with the matrix rates before and after, how fast the machine was."""
    document: Document = {"date": f"{datetime.datetime.now():%Y-%m-%d %H:%M}", "machine": described(device)}
    if matrix_rates:
        before, after = (round(rate / 1e12, 4) for rate in matrix_rates)
        document["matrix_tflops"] = {"before": before, "after": after}
    return document | {"versions": versions()}


def all_versions(document: Any) -> dict[str, str]:
    """All that the processes said of their packages."""
    if not isinstance(document, dict):
        return {}
    own = document.get("versions", {})
    return {name: version for said in [own, *map(all_versions, document.values())] for name, version in said.items()}


def show(document: Document, sheets: Sequence[Sheet], options: argparse.Namespace) -> None:
    """The document as the options want it: JSON, Markdown, or tables for a terminal."""
    if options.json:
        print(json.dumps(document, indent=2, ensure_ascii=False))
    elif options.markdown:
        print("\n\n".join([head(document), *(sheet.markdown() for sheet in sheets)]))
    else:
        console = Console(width=None if sys.stdout.isatty() else WIDTH)
        console.print(head(document))
        for sheet in sheets:
            console.print(sheet.rich())
            for note in sheet.notes:
                console.print(f"- {note}", highlight=False, markup=False)


def head(document: Document) -> str:
    """When, where and with what it was measured."""
    said = [f"{document['date']}: {document['machine']}"]
    if rates := document.get("matrix_tflops"):
        said.append(f"bfloat16 matrix products: {rates['before']:.3g} TFLOP/s before, {rates['after']:.3g} after")
    if model := document.get("model"):
        said.append(model if isinstance(model, str) else model["name"])
    said.append(", ".join(f"{name} {version}" for name, version in document["versions"].items()))
    return "; ".join(said)
