"""`/v1/files` and `/v1/batches`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Literal

from fastapi import FastAPI, File, Form, Query, UploadFile
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse

from arriero.errors import ArrieroError
from arriero.server.errors import RequestError
from arriero.server.lenient import note_ignored
from arriero.server.middleware import FILES
from arriero.server.routes.openai.batches.runner import Runner, now_in
from arriero.server.routes.openai.batches.schemas import (
    BatchList,
    BatchObject,
    BatchRequest,
    FileDeleted,
    FileList,
    FileObject,
)
from arriero.server.routes.openai.batches.store import MOST_SECONDS, BatchStore, Page
from arriero.server.service import Service

log = logging.getLogger(__name__)
BATCHES = "/v1/batches"
WINDOW_SECONDS = 24 * 3600
CONTENT: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
}
Limit = Annotated[int, Query(ge=1, le=10_000)]


def add_routes(app: FastAPI, service: Service) -> None:
    """Add files and batches to `app`; batches that an earlier server has left are resumed once the models are there."""
    store = BatchStore()
    runner = Runner(app, service, store)
    _add_files(app, service, store)
    _add_batches(app, service, store, runner)
    outer = app.router.lifespan_context

    async def resume() -> None:
        while service.state == "loading":
            await asyncio.sleep(0.5)
        if service.state == "ready" and service.keeps_responses:
            try:
                await runner.resume()
            except ArrieroError as error:
                log.warning("earlier batches are not continued: %s", error.message)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Any]:
        resuming = asyncio.create_task(resume())
        async with outer(app) as shared:
            yield shared
        resuming.cancel()
        await runner.close()

    app.router.lifespan_context = lifespan


def _add_files(app: FastAPI, service: Service, store: BatchStore) -> None:
    @app.post(FILES)
    async def upload(
        file: Annotated[UploadFile, File()],
        purpose: Annotated[str, Form()],
        request: Request,
        seconds: Annotated[int, Form(alias="expires_after[seconds]", ge=3600, le=MOST_SECONDS)] = MOST_SECONDS,
    ) -> FileObject:
        """Keep a file of requests for a batch."""
        owner = _owner(service, request)
        if purpose != "batch":
            raise RequestError(f"purpose: files are for batches here, got {purpose!r}", param="purpose")
        limit = service.admission.limits.max_file
        if (file.size or 0) > limit:
            raise RequestError(f"the file is longer than {limit} bytes", status=413, code="request_too_large")
        identity = f"file-{secrets.token_hex(12)}"
        made = FileObject.new(identity, file.filename or "file.jsonl", "batch", seconds)
        return await run_in_threadpool(store.add_file, owner, made, file.file)

    @app.get(FILES)
    def list_files(
        request: Request,
        purpose: str | None = None,
        after: str | None = None,
        limit: Limit = 10_000,
        order: Literal["asc", "desc"] = "desc",
    ) -> FileList:
        """The files of this key; `after` is a file's id."""
        page = Page(after, limit, order == "desc", purpose)
        data, more = store.files(_owner(service, request), page)
        first, last = _ends(data)
        return FileList(data=data, first_id=first, last_id=last, has_more=more)

    @app.get(f"{FILES}/{{file_id}}")
    def retrieve_file(file_id: str, request: Request) -> FileObject:
        """What is known of a file."""
        return store.file(_owner(service, request), file_id)

    @app.delete(f"{FILES}/{{file_id}}")
    def delete_file(file_id: str, request: Request) -> FileDeleted:
        """Forget a file."""
        store.delete_file(_owner(service, request), file_id)
        return FileDeleted(id=file_id)

    @app.get(f"{FILES}/{{file_id}}/content", response_class=FileResponse, responses=CONTENT)
    def content(file_id: str, request: Request) -> FileResponse:
        """What a file holds."""
        file = store.file(_owner(service, request), file_id)
        return FileResponse(store.path(file.id), media_type="application/octet-stream")


def _add_batches(app: FastAPI, service: Service, store: BatchStore, runner: Runner) -> None:
    @app.post(BATCHES)
    async def create(body: BatchRequest, request: Request) -> BatchObject:
        """Have the requests of a file answered; they are checked, and answered, in the background."""
        owner = _owner(service, request)
        note_ignored(request, body)
        await run_in_threadpool(store.file, owner, body.input_file_id, "input_file_id")
        now = int(time.time())
        batch = BatchObject(
            id=f"batch_{secrets.token_hex(12)}",
            endpoint=body.endpoint,
            model=service.models.default.chat.model,
            input_file_id=body.input_file_id,
            status="validating",
            created_at=now,
            expires_at=now + WINDOW_SECONDS,
            metadata=body.metadata,
        )
        await run_in_threadpool(store.add_batch, owner, batch)
        runner.start(owner, batch)
        return batch

    @app.get(BATCHES)
    async def list_batches(request: Request, after: str | None = None, limit: Limit = 20) -> BatchList:
        """The batches of this key, the newest first; `after` is a batch's id."""
        rows, more = await run_in_threadpool(store.batches, _owner(service, request), Page(after, limit))
        data = [runner.seen(batch) for batch in rows]
        first, last = _ends(data)
        return BatchList(data=data, first_id=first, last_id=last, has_more=more)

    @app.get(f"{BATCHES}/{{batch_id}}")
    async def retrieve(batch_id: str, request: Request) -> BatchObject:
        """How a batch is getting on."""
        return runner.seen(await run_in_threadpool(store.batch, _owner(service, request), batch_id))

    @app.post(f"{BATCHES}/{{batch_id}}/cancel")
    async def cancel(batch_id: str, request: Request) -> BatchObject:
        """Stop a batch; what is answered stays."""
        owner = _owner(service, request)
        batch = await run_in_threadpool(store.batch, owner, batch_id)
        batch = now_in(runner.seen(batch), "cancelling") if batch.active else batch
        if not await run_in_threadpool(store.save, owner, batch):
            raise RequestError(f"the batch {batch_id!r} has ended already", status=409)
        runner.cancel(owner, batch)
        return batch


def _owner(service: Service, request: Request) -> str:
    """Whose files they are; RequestError where none are kept."""
    if not service.keeps_responses:
        raise RequestError("no files are kept: the server was started with --no-store")
    return service.keys.owner(request.scope["record"].caller)


def _ends(data: Sequence[FileObject | BatchObject]) -> tuple[str | None, str | None]:
    return (data[0].id, data[-1].id) if data else (None, None)
