"""Downloading over loopback: time and CPU beside curl and sha256sum, bytes fetched twice after kills, manifest check.

    python -m benchmarks.downloading [--bytes 2e9] [--rounds 5] [--json | --markdown]

A hub that speaks Hugging Face's protocol serves random files from this process. `arriero download`, its start
included, and `curl` followed by `sha256sum --check` take turns; the ratio of their medians counts, whatever else the
machine does.
For the kills the hub sends 100 MB/s, and a download is killed ten times at random moments of it, then finished.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from arriero import hub
from benchmarks.lib import command
from benchmarks.lib.channel import Document
from benchmarks.lib.sheets import Sheet

COMMIT = "0" * 40
PIECE = 1 << 18
OURS, THEIRS = "arriero", "curl + sha256sum"
TIMES = ("seconds", "cpu_seconds")


class Hub(ThreadingHTTPServer):
    """Serves a folder as owner/name; `sent` counts the bytes handed to the kernel, `rate` (bytes/s) limits them."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.sent, self.rate = folder, 0, 0.0
        self.sums = {file.name: hashlib.file_digest(file.open("rb"), "sha256").hexdigest() for file in folder.iterdir()}
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, *_: object) -> None:
        """Clients are killed."""


class Handler(BaseHTTPRequestHandler):
    """The model's information, and its files with ranges."""

    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        """Answer one request."""
        if "/resolve/" not in self.path:
            siblings = [
                {"rfilename": name, "size": (size := (self.server.folder / name).stat().st_size)}
                | {"lfs": {"sha256": sha256, "size": size, "pointerSize": 1}}
                for name, sha256 in self.server.sums.items()
            ]
            body = json.dumps({"id": "owner/name", "sha": COMMIT, "siblings": siblings}).encode()
            self._head(200, len(body))
            self.wfile.write(body)
            return
        file = self.server.folder / self.path.rpartition("/")[2]
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        size = file.stat().st_size
        self._head(206 if start else 200, size - start, {"Content-Range": f"bytes {start}-{size - 1}/{size}"})
        with file.open("rb") as stream:
            while start < size:
                start += (count := os.sendfile(self.connection.fileno(), stream.fileno(), start, PIECE))
                self.server.sent += count
                if self.server.rate:
                    time.sleep(count / self.server.rate)

    def _head(self, status: int, length: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(length), "ETag": '"one"', **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()


def made(folder: Path, size: int, count: int) -> None:
    """Random weights of `size` bytes altogether, in `count` files, and a config."""
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    for number in range(1, count + 1):
        with (folder / f"model-{number:05}-of-{count:05}.safetensors").open("wb") as stream:
            for _ in range(size // count // PIECE):
                stream.write(random.randbytes(PIECE))


def measured(command: list[str], environment: dict[str, str], place: Path) -> tuple[float, float]:
    """Seconds on the clock and of CPU, user and system, that a command took in a fresh directory."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, env=environment, cwd=place, check=True, capture_output=True)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def compare(server: Hub, work: Path, rounds: int, download: list[str], environment: dict[str, str]) -> Document:
    """Both in turns: medians, and ours over theirs."""
    (work / "sums").write_text("".join(f"{sha256}  {name}\n" for name, sha256 in server.sums.items()))
    urls = " ".join(f"-O {server.url}/owner/name/resolve/{COMMIT}/{name}" for name in server.sums)
    by_hand = ["sh", "-c", f"curl -sS {urls} && sha256sum --quiet --check {work / 'sums'}"]
    figures: dict[str, list[tuple[float, float]]] = {OURS: [], THEIRS: []}
    for number in range(rounds):
        print(f"download: round {number + 1}", file=sys.stderr)
        figures[OURS].append(measured(download, environment, work / "home"))
        figures[THEIRS].append(measured(by_hand, environment, work / "by-hand"))
    medians = {
        name: dict(zip(TIMES, map(statistics.median, zip(*times, strict=True)), strict=True))
        for name, times in figures.items()
    }
    return {"medians": medians, "ratio": {name: medians[OURS][name] / medians[THEIRS][name] for name in TIMES}}


def kill(server: Hub, work: Path, download: list[str], environment: dict[str, str]) -> float:
    """Ten kills, then the rest; the share of the bytes that was sent twice."""
    print("download: ten kills", file=sys.stderr)
    total = sum(file.stat().st_size for file in server.folder.iterdir())
    shutil.rmtree(work / "home")
    server.sent, server.rate = 0, 25e6  # for each of four connections
    for _ in range(10):
        begun = server.sent
        process = subprocess.Popen(download, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while server.sent < begun + total * random.uniform(0.05, 0.09) and process.poll() is None:
            time.sleep(0.001)
        process.kill()
        process.wait()
    server.rate = 0
    subprocess.run(download, env=environment, check=True, capture_output=True)
    return server.sent / total - 1


def check(model: Path, times: int = 100) -> float:
    """Seconds for which a later load holds the directory against its manifest."""
    start = time.perf_counter()
    for _ in range(times):
        hub.resolve(model)
    return (time.perf_counter() - start) / times


def sheet(document: Document) -> Sheet:
    """Both ways, and what else was measured below."""
    rows = [[name, *(f"{times[kind]:.2f}" for kind in TIMES)] for name, times in document["medians"].items()]
    return Sheet(
        f"Downloading {document['bytes'] / 1e6:,.0f} MB over loopback",
        ["", "seconds", "of CPU"],
        [*rows, ["ratio", *(f"{document['ratio'][kind]:.2f}" for kind in TIMES)]],
        [
            f"sent twice after ten kills: {document['sent_twice']:.3%}",
            f"manifest check: {1000 * document['manifest_s']:.2f} ms",
        ],
    )


def main() -> None:
    """Measure everything."""
    parser = command.parser(__doc__, model=False)
    parser.add_argument("--bytes", type=float, default=2e9)
    parser.add_argument("--files", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        made(work / "files", int(options.bytes), options.files)
        server = Hub(work / "files")
        own = {"ARRIERO_HOME": str(work / "home"), "HF_HOME": str(work / "hf"), "HF_ENDPOINT": server.url}
        environment = {**os.environ, **own}
        environment.pop("HF_HUB_OFFLINE", None)
        download = [sys.executable, "-m", "arriero.cli", "download", "owner/name", "--source", "huggingface"]
        document = command.facts() | {
            "bytes": options.bytes,
            **compare(server, work, options.rounds, download, environment),
            "sent_twice": kill(server, work, download, environment),
            "manifest_s": check(work / "home" / "models" / "owner--name"),
        }
    command.show(document, [sheet(document)], options)


if __name__ == "__main__":
    main()
