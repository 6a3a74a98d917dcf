"""A file of requests answered by the server's own application, without a server.

arriero.batch("in.jsonl", output="out.jsonl", model="llama-3.1-8b-instruct")
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack, cast

from arriero import hub, settings
from arriero.batches import Journal, Requests, RowResponse, answer_all, resumed
from arriero.chat import Chat, Loading, load
from arriero.errors import InterruptedRun, UsageError
from arriero.locks import held
from arriero.prompt.options import taken
from arriero.server.admission import Limits
from arriero.server.app import create_app
from arriero.server.in_process import in_process_client
from arriero.server.loading import load_models
from arriero.server.models import Models

MOST_ANSWERS = 128  # that one request may ask for, as `n`


class BatchOptions(Loading, total=False):
    """Which models answer, and how; adapters, which are directories or names on a hub, by the names that requests call
    them by, the first is the default; one alone goes by the last part of its directory or repository.

    `load` takes the place of `arriero.chat.load`, for engines elsewhere.
    """

    model: str | Path | None
    adapter: Mapping[str, str | Path] | str | Path | None
    embedding: str | None
    load: Callable[..., Chat]


@dataclass(frozen=True, slots=True)
class BatchReport:
    """What became of a file: `answered` in this run, which took `seconds`; `failed` of all `rows`."""

    output: Path
    rows: int
    answered: int
    failed: int
    seconds: float

    @property
    def rows_per_second(self) -> float:
        """Of this run."""
        return self.answered / self.seconds if self.answered else 0.0


def batch(
    file: str | Path,
    output: str | Path,
    *,
    at_once: int = 32,
    progress: Callable[[int, int, int], None] = lambda _done, _rows, _failed: None,
    **options: Unpack[BatchOptions],
) -> BatchReport:
    """Answer every request of `file`, in OpenAI's batch format, to `output`, in the same order.

    Called again it continues where it was stopped, however that was. Requests that are refused have their status and
    error in their lines. `progress` is called with rows done, all rows and rows failed.

    Raises, before a model is loaded: NotFoundError without `file`, BatchFileError with its bad lines, UsageError where
    `output` is of another run or another process is at it; ArrieroError where it cannot be written, also later;
    InterruptedRun on Ctrl-C. An adapter's name on a hub raises as `hub.adapter` does.
    """
    file, output = Path(file).expanduser(), Path(output).expanduser()
    if at_once < 1:
        raise UsageError(f"at_once must be at least 1, got {at_once}")
    if unknown := options.keys() - BatchOptions.__optional_keys__:
        raise UsageError(
            f"there is no option {', '.join(unknown)}; there are {', '.join(sorted(BatchOptions.__optional_keys__))}"
        )
    adapters = _named(options.get("adapter"))
    return _run(file, output, _salt(adapters, options), lambda: _load(adapters, options), at_once, progress)


def _run(
    file: Path,
    output: Path,
    salt: str,
    make: Callable[[], Models],
    at_once: int,
    progress: Callable[[int, int, int], None],
) -> BatchReport:
    requests = Requests(file, salt=salt)
    _check_output(file, output)
    with held(output.with_name(f".{output.name}.lock"), lambda holder: _busy(output, holder)):
        journal = resumed(output, requests)
        before, began = len(journal), time.perf_counter()
        try:
            if journal.missing:
                began = _answer(requests, journal, make, at_once, progress)
            seconds = time.perf_counter() - began
            journal.finish(output)
        except KeyboardInterrupt:
            message = f"stopped; {len(journal)} of {len(requests.rows)} rows are answered and kept"
            raise InterruptedRun(message, hint="the same command continues from there") from None
        finally:
            journal.close()
    return BatchReport(output, len(requests.rows), len(journal) - before, len(journal.failed), seconds)


def _answer(
    requests: Requests,
    journal: Journal,
    make: Callable[[], Models],
    at_once: int,
    progress: Callable[[int, int, int], None],
) -> float:
    """Answer what is missing; returns when that began, by `time.perf_counter`."""
    models = make()
    # no request waits or is refused for its length: how many there are at once is decided here
    limits = Limits(max_running=at_once * MOST_ANSWERS, max_body=2 * requests.longest)
    app = create_app(None, limits=limits, no_store=True)
    app.service.open(models)

    def report() -> None:
        progress(len(journal), len(requests.rows), len(journal.failed))

    stopped = threading.Event()

    async def work() -> None:
        async with in_process_client(app) as ask:

            async def asked(url: str, body: dict[str, Any]) -> RowResponse | None:
                return None if stopped.is_set() else await ask(url, body)

            await answer_all(requests, journal, asked, at_once=at_once, kept=report)

    began = time.perf_counter()
    report()
    try:
        _run_whole(work, stopped)
    finally:
        models.close()
    return began


def _run_whole(work: Callable[[], Coroutine[Any, Any, None]], stopped: threading.Event) -> None:
    """Run `work`, in a thread where this one has a running event loop, as in notebooks; Ctrl-C sets `stopped` there."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work())
        return
    with ThreadPoolExecutor(1) as pool:
        try:
            pool.submit(lambda: asyncio.run(work())).result()
        except KeyboardInterrupt:
            stopped.set()
            raise


def _named(adapter: Mapping[str, str | Path] | str | Path | None) -> dict[str, Path]:
    if adapter is None:
        return {}
    return hub.adapters.by_name(adapter.items() if isinstance(adapter, Mapping) else [("", adapter)])


def _check_output(file: Path, output: Path) -> None:
    if output.is_dir():
        raise UsageError(f"{output} is a directory", hint=f"--output {output / file.name}")
    if output.exists() and output.samefile(file):
        raise UsageError(f"{output} is the file of the requests itself", hint="another --output")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"there can be no directory {output.parent}: {error.strerror}") from error


def _busy(output: Path, holder: str) -> None:
    raise UsageError(f"{holder} is writing {output} already", hint="wait for it, or another --output")


def _salt(adapters: Mapping[str, Path], options: BatchOptions) -> str:
    """Who answers: the same requests to another model are another run."""
    model, embedding = options.get("model"), options.get("embedding")
    directories = [(name, str(directory.resolve())) for name, directory in adapters.items()]
    name = settings.default_model() if model is None and not directories else model
    return json.dumps([str(name), directories, taken(dict(options)), embedding])


def _load(adapters: Mapping[str, Path], options: BatchOptions) -> Models:
    given: Mapping[str, Any] = options
    how = cast(Loading, {name: given[name] for name in Loading.__annotations__ if name in given})
    return load_models(options.get("model"), adapters, options.get("embedding"), how, options.get("load", load))
