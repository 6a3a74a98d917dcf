"""`GET /api/version`, `GET /api/tags` and `POST /api/show`: which models there are, in Ollama's words."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from arriero.chat import Chat
from arriero.prompt.template import TemplateError
from arriero.server.errors import RequestError
from arriero.server.lenient import Lenient, note_ignored
from arriero.server.models import Served
from arriero.server.routes.ollama.answers import FAULTS
from arriero.server.routes.ollama.schemas import LATEST, find
from arriero.server.service import Service

SPOKEN = "0.9.0"  # the version of Ollama whose API this is: clients look for features by it


class Version(BaseModel):
    """The version of Ollama whose API is spoken here."""

    version: str = SPOKEN


class Details(BaseModel):
    """What is known of a model: for an adapter, the model it belongs to."""

    parent_model: str
    format: str = ""
    family: str = ""
    families: list[str] = []
    parameter_size: str = ""
    quantization_level: str = ""


class Tag(BaseModel):
    """A model that can be asked for. `digest` changes when it is replaced; its `size` on disk is not told."""

    name: str
    model: str
    modified_at: str
    size: int = 0
    digest: str
    details: Details


class Tags(BaseModel):
    """All models that can be asked for."""

    models: list[Tag]


class ShowBody(Lenient):
    """The model asked about; `name` is the older word for it."""

    model: str | None = None
    name: str | None = None


class Shown(BaseModel):
    """What is known of a model: its chat template, its context window, and what it can do."""

    model_config = ConfigDict(protected_namespaces=())

    modelfile: str = ""
    parameters: str = ""
    template: str
    details: Details
    model_info: dict[str, Any]
    capabilities: list[str]
    modified_at: str


def add_routes(app: FastAPI, service: Service) -> None:
    """Add version, tags and show to `app`."""

    @app.get("/api/version", responses=FAULTS)
    async def version() -> Version:
        """The version of the API."""
        return Version()

    @app.get("/api/tags", responses=FAULTS)
    async def tags() -> Tags:
        """All models that are served."""
        return Tags(models=[_tag(service.models.find(name)) for name in service.models])

    @app.post("/api/show", responses=FAULTS)
    async def show(body: ShowBody, request: Request) -> Shown:
        """What is known of a model."""
        note_ignored(request, body)
        name = body.model or body.name
        if name is None:
            raise RequestError("the field model is missing", param="model")
        served = find(service, name)
        return await run_in_threadpool(_shown, served)


def _tag(served: Served) -> Tag:
    name = served.name + LATEST
    digest = hashlib.sha256(f"{served.name} {served.created}".encode()).hexdigest()
    return Tag(name=name, model=name, modified_at=_time(served), digest=digest, details=_details(served))


def _shown(served: Served) -> Shown:
    chat = served.chat
    return Shown(
        template=chat.renderer.chat_template.source,
        details=_details(served),
        model_info={"general.architecture": "arriero", "arriero.context_length": chat.window},
        capabilities=["completion", "tools"] if _takes_tools(chat) else ["completion"],
        modified_at=_time(served),
    )


def _takes_tools(chat: Chat) -> bool:
    try:
        return bool(chat.renderer.call_form)
    except TemplateError:
        return False


def _details(served: Served) -> Details:
    return Details(parent_model=served.parent or "")


def _time(served: Served) -> str:
    return datetime.fromtimestamp(served.created, UTC).isoformat().replace("+00:00", "Z")
