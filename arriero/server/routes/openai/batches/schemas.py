"""Files and batches as the API has them; times are in seconds since 1970."""

from __future__ import annotations

import time
from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field

from arriero.batches import Endpoint
from arriero.server.lenient import OpenAIBody, Unsupported

Status = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
]  # fmt: skip
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
]


class FileObject(BaseModel):
    """A file that is kept."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: Literal["batch", "batch_output"]
    status: Literal["processed"] = "processed"

    @classmethod
    def new(cls, identity: str, filename: str, purpose: Literal["batch", "batch_output"], seconds: int) -> Self:
        """A file that is yet to be written, and to be kept for `seconds`."""
        now = int(time.time())
        until = now + seconds
        return cls(id=identity, bytes=0, created_at=now, expires_at=until, filename=filename, purpose=purpose)


class FileList(BaseModel):
    """Some of the files."""

    object: Literal["list"] = "list"
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(BaseModel):
    """A file that is no more."""

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


class BatchRequest(OpenAIBody):
    """A file of requests, which are to be answered within a day."""

    input_file_id: str
    endpoint: Endpoint
    completion_window: Literal["24h"]
    metadata: Metadata | None = None
    output_expires_after: Unsupported = None


class BatchFault(BaseModel):
    """What is wrong with a file of requests, in which line, counted from 1."""

    code: str
    line: int | None
    message: str
    param: str | None


class BatchFaults(BaseModel):
    """All of it."""

    object: Literal["list"] = "list"
    data: list[BatchFault]


class Counts(BaseModel):
    """Requests of a batch."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class BatchObject(BaseModel):
    """A batch; `model` is the base model of the server that it was given to."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: Endpoint
    model: str
    errors: BatchFaults | None = None
    input_file_id: str
    completion_window: Literal["24h"] = "24h"
    status: Status
    output_file_id: str | None = None
    error_file_id: str | None = None
    created_at: int
    in_progress_at: int | None = None
    expires_at: int
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: Counts = Counts()
    metadata: Metadata | None = None

    @property
    def active(self) -> bool:
        """Whether something is still to be done."""
        return self.status in ("validating", "in_progress", "finalizing", "cancelling")


class BatchList(BaseModel):
    """Some of the batches, the newest first."""

    object: Literal["list"] = "list"
    data: list[BatchObject]
    first_id: str | None
    last_id: str | None
    has_more: bool
