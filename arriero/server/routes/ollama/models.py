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
from arriero.embeddings import Embedder
from arriero.prompt.template import TemplateError
from arriero.server.errors import RequestError
from arriero.server.lenient import LenientBody, note_ignored
from arriero.server.models import ServedModel
from arriero.server.routes.ollama.chat import FAULTS
from arriero.server.routes.ollama.schemas import LATEST, find
from arriero.server.service import Service

OLLAMA_VERSION = "0.9.0"  # the version of Ollama whose API this is: clients look for features by it

ARCHITECTURE = {"general.architecture": "arriero"}  # what the names of other facts begin with


class Version(BaseModel):
    """The version of Ollama whose API is spoken here."""

    version: str = OLLAMA_VERSION


class Details(BaseModel):
    """What is known of a model: for an adapter, the model it belongs to."""

    parent_model: str = ""
    format: str = ""
    family: str = ""
    families: list[str] = []
    parameter_size: str = ""
    quantization_level: str = ""


class Tag(BaseModel):
    """A model that can be asked for. `digest` changes when it is replaced; its `size` on disk is not given."""

    name: str
    model: str
    modified_at: str
    size: int = 0
    digest: str
    details: Details


class Tags(BaseModel):
    """All models that can be asked for."""

    models: list[Tag]


class ShowBody(LenientBody):
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
        models = service.models
        served = [models.find(name) for name in models]
        listed = [_tag(model.name, model.created, model.parent) for model in served]
        embedders = [models.embedder] if models.embedder is not None else []
        return Tags(models=[*listed, *(_tag(embedder.name, models.created, None) for embedder in embedders)])

    @app.post("/api/show", responses=FAULTS)
    async def show(body: ShowBody, request: Request) -> Shown:
        """What is known of a model."""
        note_ignored(request, body)
        name = body.model or body.name
        if name is None:
            raise RequestError("the field model is missing", param="model")
        embedder = service.models.embedder
        if embedder is not None and embedder.name == name.removesuffix(LATEST):
            return _embedding_shown(embedder, service.models.created)
        served = find(service, name)
        return await run_in_threadpool(_shown, served)


def _tag(name: str, created: int, parent: str | None) -> Tag:
    digest = hashlib.sha256(f"{name} {created}".encode()).hexdigest()
    named, details = name + LATEST, Details(parent_model=parent or "")
    return Tag(name=named, model=named, modified_at=_time(created), digest=digest, details=details)


def _embedding_shown(embedder: Embedder, created: int) -> Shown:
    return Shown(
        template="",
        details=Details(),
        model_info={
            **ARCHITECTURE,
            "arriero.context_length": embedder.window,
            "arriero.embedding_length": embedder.dimension,
        },
        capabilities=["embedding"],
        modified_at=_time(created),
    )


def _shown(served: ServedModel) -> Shown:
    chat = served.chat
    able = [word for word, holds in (("tools", _takes_tools(chat)), ("thinking", chat.renderer.tags)) if holds]
    return Shown(
        template=chat.renderer.chat_template.source,
        details=Details(parent_model=served.parent or ""),
        model_info={**ARCHITECTURE, "arriero.context_length": chat.window},
        capabilities=["completion", *able],
        modified_at=_time(served.created),
    )


def _takes_tools(chat: Chat) -> bool:
    try:
        return bool(chat.renderer.native_call_format)
    except TemplateError:
        return False


def _time(created: int) -> str:
    return datetime.fromtimestamp(created, UTC).isoformat().replace("+00:00", "Z")
