"""How fast data is read and rendered, against the same tokenizer's raw speed on the same text, in one run.

    python -m benchmarks.training.rendering DATA --model DIR [--system S] [--rows 1000000] [--json | --markdown]

DATA is repeated until it has that many rows. Measured are rows per second of reading (JSON to
conversations on disk) and of rendering (conversations to ids and spans on disk), of the tokenizer's own batch calls
on the rendered texts, the ratios, and the peak memory of all processes together (proportional set size).
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from arriero import hub
from benchmarks.lib import command
from benchmarks.lib.sheets import Sheet


def main() -> None:
    """Parse, measure, print."""
    parser = command.parser(__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--system")
    parser.add_argument("--rows", type=int, default=1_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        given = Path(options.model or "")  # a directory needs a tokenizer only
        options.model = given if options.model and given.is_dir() else hub.resolve(options.model)
        os.environ["ARRIERO_HOME"] = folder
        document = command.facts() | measure(options, Path(folder))
    command.show(document, [sheet(document)], options)


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All figures of one run."""
    from arriero import data
    from arriero.prompt import Renderer, load_tokenizer, stop_token_ids

    tokenizer = load_tokenizer(options.model)
    renderer = Renderer(tokenizer, stop_token_ids(tokenizer, options.model), options.system)
    file = repeated(options.data, options.rows, folder / "rows.json")
    peak = Peak()
    loaded, reading = timed(lambda: data.load(file))
    rows, rendering = timed(lambda: data.render(loaded, renderer, data.DataOptions(), hub.window(options.model)))
    memory = peak.stop()
    sample = [loaded.conversation(index) for index in range(min(20_000, len(loaded.table)))]
    texts = [renderer.rendered_texts(conversation.with_system(renderer.system))[0].text for conversation in sample]
    batches = [texts[start : start + 1000] for start in range(0, len(texts), 1000)]
    # a repeated small data set would flatter both sides alike: the tokenizer caches words
    _, called = timed(lambda: [tokenizer(batch, add_special_tokens=False) for batch in batches])
    _, backend = timed(lambda: [tokenizer.backend_tokenizer.encode_batch(batch) for batch in batches])
    speeds = {
        "read": len(rows) / reading,
        "render": len(rows) / rendering,
        "tokenizer_call": len(texts) / called,
        "tokenizer_encode_batch": len(texts) / backend,
    }
    return {
        "rows": len(rows),
        "rows_per_second": {name: round(value) for name, value in speeds.items()},
        "render_over_tokenizer_call": round(speeds["render"] / speeds["tokenizer_call"], 3),
        "render_over_encode_batch": round(speeds["render"] / speeds["tokenizer_encode_batch"], 3),
        "peak_memory_mb": round(memory / 1e6),
    }


def sheet(document: dict[str, Any]) -> Sheet:
    """A line for each speed."""
    over = {"tokenizer_call": "render_over_tokenizer_call", "tokenizer_encode_batch": "render_over_encode_batch"}
    rows = [
        [name.replace("_", " "), f"{value:,}", f"{document[over[name]]:.2f}" if name in over else ""]
        for name, value in document["rows_per_second"].items()
    ]
    notes = [f"peak of anonymous memory: {document['peak_memory_mb']:,} MB"]
    return Sheet(f"{document['rows']:,} rows", ["", "rows per second", "render over it"], rows, notes)


def repeated(source: Path, count: int, target: Path) -> Path:
    """A JSON array of `count` rows, those of `source` over and over."""
    rows = [json.dumps(row, ensure_ascii=False) for row in json.loads(source.read_text(encoding="utf-8"))]
    with target.open("w", encoding="utf-8") as stream:
        stream.write("[")
        for index in range(count):
            stream.write((",\n" if index else "") + rows[index % len(rows)])
        stream.write("]")
    return target


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """The result of `work` and the seconds it took."""
    started = time.perf_counter()
    return work(), time.perf_counter() - started


class Peak:
    """Samples the memory of this process and its children, four times a second; shared pages count once.

    Memory is what Linux calls Pss_Anon: pages mapped from files, such as the data itself, can be dropped at any time
    and are not what a machine runs out of.
    """

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._most = 0
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        me = psutil.Process()
        while not self._ended.wait(0.25):
            self._most = max(self._most, sum(map(anonymous, [me, *me.children(recursive=True)])))

    def stop(self) -> int:
        """The most that was seen, in bytes."""
        self._ended.set()
        self._thread.join()
        return self._most


def anonymous(process: psutil.Process) -> int:
    """A process's share of anonymous memory in bytes, 0 once it has ended."""
    try:
        lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss_Anon:"))


if __name__ == "__main__":
    main()
