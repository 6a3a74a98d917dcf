"""The batches that are in progress: each answers its requests through the application, below everybody's own.

A batch survives its server's end: the next server of the same model over the same ARRIERO_HOME resumes it. The lock on
its journal keeps two servers from answering the same one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp

from arriero.batches import Ask, BatchFileError, Fault, Journal, Requests, RowResponse, answer_all
from arriero.errors import ArrieroError, NotFoundError
from arriero.locks import held
from arriero.server.in_process import in_process_client
from arriero.server.routes.openai.batches.schemas import (
    BatchFault,
    BatchFaults,
    BatchObject,
    Counts,
    FileObject,
    Status,
)
from arriero.server.routes.openai.batches.store import MOST_SECONDS, BatchStore
from arriero.server.service import Service

log = logging.getLogger(__name__)
MOST_ROWS = 50_000
LEAVING = ("draining", "broken_off")  # codes that requests receive while the server ends
UNANSWERED = {
    "expired": "the request was not answered within the completion window",
    "cancelled": "the batch was cancelled before the request was answered",
}


class _ShutdownError(Exception):
    """The server ends; the next one resumes."""


class _LockedError(Exception):
    """Another server of this machine is at it."""


@dataclass(eq=False)
class _Run:
    """A batch in this process."""

    task: asyncio.Task[None]
    answering: asyncio.Future[None] | None = None
    journal: Journal | None = None
    cancelled: bool = False


class Runner:
    """Batches in progress. On the event loop only."""

    def __init__(self, app: ASGIApp, service: Service, store: BatchStore) -> None:
        self._app = app
        self._service = service
        self._store = store
        self._runs: dict[str, _Run] = {}

    async def resume(self) -> None:
        """Go on with the batches that an earlier server of this model has left."""
        model = self._service.models.default.chat.model
        for owner, batch in await asyncio.to_thread(self._store.active):
            if batch.model == model:
                self.start(owner, batch)

    def start(self, owner: str, batch: BatchObject) -> None:
        """Begin with a batch, or go on with it."""
        if batch.id not in self._runs:
            self._runs[batch.id] = _Run(asyncio.create_task(self._work(owner, batch)))

    def cancel(self, owner: str, batch: BatchObject) -> None:
        """Stop a batch, which ends soon; those that are being answered now stay without an answer."""
        self.start(owner, batch)
        run = self._runs[batch.id]
        run.cancelled = True
        if run.answering is not None:
            run.answering.cancel()

    def seen(self, batch: BatchObject) -> BatchObject:
        """The batch with what is done by now."""
        run = self._runs.get(batch.id)
        return batch if run is None or run.journal is None else _counted(batch, run.journal)

    async def close(self) -> None:
        """Stop all; the next server resumes them."""
        tasks = [run.task for run in self._runs.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _work(self, owner: str, batch: BatchObject) -> None:
        journal = self._store.journal(batch.id)
        try:
            with held(journal.with_suffix(".lock"), _locked):
                batch = await self._end(owner, batch, journal)
                await asyncio.to_thread(self._store.save, owner, batch)
                journal.unlink(missing_ok=True)
                log.info("the batch %s is %s", batch.id, batch.status)
        except _ShutdownError:
            log.info("the batch %s is continued by the next server", batch.id)
        except _LockedError:
            log.info("the batch %s is answered by another server", batch.id)
        except Exception:
            log.exception("the batch %s was left as it is", batch.id)
        finally:
            self._runs.pop(batch.id, None)

    async def _end(self, owner: str, batch: BatchObject, journal: Path) -> BatchObject:
        """Answer it; returns the batch as it has ended, failed where its file or the disk would not do."""
        try:
            requests = await asyncio.to_thread(self._requests, batch)
        except BatchFileError as error:
            return _failed(batch, error.faults)
        except NotFoundError:
            return _failed(batch, [Fault(None, "its file is not there any more", "input_file_id", "file_not_found")])
        kept = await asyncio.to_thread(Journal, journal, requests)
        try:
            status = await self._answer(owner, batch, requests, kept)
            batch = await asyncio.to_thread(self._store.batch, owner, batch.id)
            if status != "cancelled":
                batch = _counted(now_in(batch, "finalizing"), kept)
                await asyncio.to_thread(self._store.save, owner, batch)
            return await asyncio.to_thread(self._finish, owner, batch, kept, status)
        except ArrieroError as error:
            log.warning("the batch %s failed: %s", batch.id, error)
            return _failed(_counted(batch, kept), [Fault(None, "the server's disk failed; its log says why")])
        finally:
            kept.close()

    def _requests(self, batch: BatchObject) -> Requests:
        path = self._store.path(batch.input_file_id)
        return Requests(path, salt=batch.id, endpoint=batch.endpoint, most=MOST_ROWS)

    async def _answer(self, owner: str, batch: BatchObject, requests: Requests, journal: Journal) -> Status:
        """Answer what can be answered; returns how the batch ends."""
        run = self._runs[batch.id]
        run.journal = journal
        caller = self._service.keys.owned(owner)  # None: its key is not good any more
        run.cancelled |= batch.status == "cancelling" or caller is None
        if batch.status == "validating" and not run.cancelled:
            started = _counted(now_in(batch, "in_progress"), journal)
            await asyncio.to_thread(self._store.save, owner, started)
        slots = self._service.admission.limits.batch_slots
        async with in_process_client(self._app, caller) as ask:
            answering = asyncio.ensure_future(answer_all(requests, journal, _until_shutdown(ask), at_once=slots))
            run.answering = answering
            if run.cancelled:
                answering.cancel()
            try:
                await asyncio.wait((answering,), timeout=batch.expires_at - time.time())
            finally:
                answering.cancel()
                await asyncio.wait((answering,))
        if answering.cancelled():
            return "cancelled" if run.cancelled else "expired"
        answering.result()
        if journal.missing:
            raise _ShutdownError
        return "completed"

    def _finish(self, owner: str, batch: BatchObject, journal: Journal, status: Status) -> BatchObject:
        """Make the files; may be done again after a kill, for they have the batch's name."""
        failed = journal.failed.__contains__
        for row in journal.missing:
            error = {"code": f"batch_{status}", "message": UNANSWERED[status]}
            journal.append({"id": row.id, "custom_id": row.custom_id, "response": None, "error": error})
        file_ids: dict[str, Any] = {}
        for name, belongs in (("output", lambda custom_id: not failed(custom_id)), ("error", failed)):
            path = journal.file.with_suffix(f".{name}")
            if not journal.write(path, belongs):
                path.unlink()
                continue
            identity = f"file-{batch.id.removeprefix('batch_')}-{name}"
            file = FileObject.new(identity, f"{batch.id}_{name}.jsonl", "batch_output", MOST_SECONDS)
            file_ids[f"{name}_file_id"] = self._store.add_file(owner, file, path).id
        return now_in(_counted(batch, journal), status).model_copy(update=file_ids)


def _until_shutdown(ask: Ask) -> Ask:
    """`ask`, which has no answer any more once the server ends."""

    async def asked(url: str, body: dict[str, Any]) -> RowResponse | None:
        answer = await ask(url, body)
        gone = answer is not None and answer.status_code == 503 and answer.body["error"]["code"] in LEAVING
        return None if gone else answer

    return asked


def _locked(_: str) -> None:
    raise _LockedError


def now_in(batch: BatchObject, status: Status) -> BatchObject:
    """The batch, in that state from now on."""
    return batch.model_copy(update={"status": status, f"{status}_at": int(time.time())})


def _counted(batch: BatchObject, journal: Journal) -> BatchObject:
    failed = len(journal.failed)
    counts = Counts(total=len(journal.rows), completed=len(journal) - failed, failed=failed)
    return batch.model_copy(update={"request_counts": counts})


def _failed(batch: BatchObject, faults: Sequence[Fault]) -> BatchObject:
    data = [BatchFault(**asdict(fault)) for fault in faults]
    return now_in(batch, "failed").model_copy(update={"errors": BatchFaults(data=data)})
