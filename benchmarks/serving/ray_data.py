"""`arriero batch --ray` beside the same rows through Ray Data, with the embedded model.

    python -m benchmarks.serving.ray_data [--rows 80] [--replicas 0 1 2] [--parts speed worker driver]

    speed    rows/s from the first answer's begin to the last one's end, and seconds of the whole command: `arriero
             batch` with that many replicas (0: without Ray), and Ray Data's pool of as many actors
    worker   kill -9 of a replica, or of an actor, once a third of the rows is answered
    driver   kill -9 of the command, once a third is answered, and the same command again

Of the kills: seconds of the command that ends, rows that are missing or doubled in its output, and rows whose answer
was complete and was computed again.

The pipeline is what `arriero batch` on Ray Data would be: actors that ask the server's application, blocks of 8 rows,
and Ray Data's own checkpoints of the rows whose block is written.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

MODEL, URL = "smollm2-135m-instruct", "/v1/chat/completions"
BLOCK, BLOCKS_AT_ONCE, TOKENS = 8, 4, 24  # 32 rows at once, as `arriero batch` has


class Asker:
    """An actor: the server's application over an engine of its own. It notes the rows it has answered in `log`."""

    def __init__(self, log: str) -> None:
        import arriero
        from arriero.server import create_app
        from arriero.server.admission import Limits

        self._app = create_app(arriero.load(MODEL), limits=Limits(max_running=BLOCK * BLOCKS_AT_ONCE))
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """The answer to a row."""
        from arriero.server.in_process import in_process_client

        began = time.time()
        request = json.loads(row["request"])
        async with in_process_client(self._app) as ask:
            answer = await ask(request["url"], request["body"])
        assert answer is not None, "nobody stops this"
        os.write(self._log, f"{row['custom_id']} {began} {time.time()}\n".encode())
        response = {"status_code": answer.status_code, "request_id": answer.request_id, "body": answer.body}
        return {"custom_id": row["custom_id"], "response": json.dumps(response)}


def pipeline(source: Path, target: Path, actors: int) -> None:
    """Answer `source` into `target`, in its order; run again, it goes on."""
    import ray
    from ray.data.checkpoint import CheckpointConfig

    from arriero.cluster.connect import connect

    work = target.with_name(f"{target.name}.work")
    work.mkdir(exist_ok=True)
    lines = source.read_text().splitlines()
    ids = [json.loads(line)["custom_id"] for line in lines]
    # checkpoints know rows by a column that is read; and of requests that are read as columns, each has all fields
    rows = [json.dumps({"custom_id": name, "request": line}) for name, line in zip(ids, lines, strict=True)]
    (work / "rows.jsonl").write_text("\n".join(rows))
    # one more for what reads and writes and one for what a rerun has to leave out, or the rerun waits for ever
    with connect("local", cpus=max(actors, os.cpu_count() or 1) + 2):
        context = ray.data.DataContext.get_current()
        context.checkpoint_config = CheckpointConfig("custom_id", str(work / "checkpoints"))
        context.enable_progress_bars = False
        blocks = ray.data.read_json(str(work / "rows.jsonl")).repartition(target_num_rows_per_block=BLOCK)
        answers = blocks.map(
            Asker,
            fn_constructor_args=[str(work / "log")],
            compute=ray.data.ActorPoolStrategy(size=actors),
            num_cpus=max(1, (os.cpu_count() or 1) // actors),
            max_concurrency=BLOCKS_AT_ONCE,
        )
        answers.write_json(str(work / "answers"))
    files = (work / "answers").glob("*.json")
    answered = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    answered.sort(key=lambda line: ids.index(line["custom_id"]))
    target.write_text("".join(json.dumps(line) + "\n" for line in answered))


class Run:
    """One way to answer `rows` rows in `folder`: "data" with as many actors, or "batch" with as many replicas."""

    def __init__(self, way: str, count: int, rows: int, folder: Path) -> None:
        self.way, self.rows = way, rows
        self.source, self.target = folder / "in.jsonl", folder / "out.jsonl"
        self.source.write_text("".join(_line(number) for number in range(rows)))
        files = [str(self.source), str(self.target)]
        if way == "data":
            self.log = Path(f"{self.target}.work") / "log"
            self._command = ["benchmarks.serving.ray_data", "--pipeline", *files, "--replicas", str(count)]
        else:
            self.log = Path(f"{self.target}.partial")
            self._command = ["arriero.cli", "batch", files[0], "--output", files[1], "--model", MODEL, "--json"]
            self._command += ["--ray", "local", "--replicas", str(count)] if count else []

    def start(self) -> subprocess.Popen[str]:
        """The command, on its way."""
        command = [sys.executable, "-m", *self._command]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def answered(self) -> int:
        """The rows that have an answer by now."""
        with contextlib.suppress(FileNotFoundError):
            return len(self.log.read_bytes().splitlines())
        return 0

    def wait_for_a_third(self) -> None:
        """Until so many rows have an answer."""
        while self.answered() < self.rows // 3:
            time.sleep(0.02)

    def outcome(self) -> dict[str, int]:
        """What the output lacks and has twice; and what was computed twice, where that is known."""
        ids = Counter(json.loads(line)["custom_id"] for line in self.target.read_text().splitlines())
        figures = {"missing": self.rows - len(ids), "doubled": sum(ids.values()) - len(ids)}
        if self.way == "data":
            figures["answered_again"] = self.answered() - self.rows
        return figures


def _line(number: int) -> str:
    messages = [{"role": "user", "content": f"Tell me a long story about {number} llamas."}]
    body = {"messages": messages, "max_tokens": TOKENS, "temperature": 0}
    return json.dumps({"custom_id": f"r{number}", "method": "POST", "url": URL, "body": body}) + "\n"


def speed(run: Run) -> dict[str, Any]:
    """Undisturbed."""
    began = time.monotonic()
    printed = run.start().communicate()[0]
    seconds = round(time.monotonic() - began, 1)
    if run.way == "batch":
        return {"rows_per_second": json.loads(printed)["rows_per_second"], "command_s": seconds, **run.outcome()}
    times = [line.split()[1:] for line in run.log.read_text().splitlines()]
    answering = max(float(ended) for _, ended in times) - min(float(began) for began, _ in times)
    return {"rows_per_second": round(run.rows / answering, 2), "command_s": seconds, **run.outcome()}


def worker(run: Run) -> dict[str, Any]:
    """One of those that compute is killed."""
    began = time.monotonic()
    process = run.start()
    run.wait_for_a_third()
    _computing(process.pid)[0].kill()
    process.communicate()
    return {"command_s": round(time.monotonic() - began, 1), "exit_code": process.returncode, **run.outcome()}


def _computing(parent: int) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(parent).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            if any(title in " ".join(process.cmdline()) for title in ("ServeReplica", "MapWorker", "Asker")):
                found.append(process)
    return found


def driver(run: Run) -> dict[str, Any]:
    """The command is killed and given again."""
    process = run.start()
    run.wait_for_a_third()
    process.kill()
    process.communicate()
    kept, began = run.answered(), time.monotonic()
    again = run.start()
    again.communicate()
    return {"answered_before": kept, "again_s": round(time.monotonic() - began, 1), **run.outcome()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=["speed", "worker", "driver"])
    parser.add_argument("--replicas", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rows", type=int, default=80)
    parser.add_argument("--pipeline", nargs=2, type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.pipeline is not None:
        pipeline(*given.pipeline, *given.replicas)
        return
    measures = {"speed": speed, "worker": worker, "driver": driver}
    for name, count, way in itertools.product(given.parts, given.replicas, ("batch", "data")):
        if not count and (way == "data" or name == "worker"):
            continue
        with tempfile.TemporaryDirectory() as folder:
            figures = measures[name](Run(way, count, given.rows, Path(folder)))
        print(name, way, count, json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
