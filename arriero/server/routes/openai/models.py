"""Which models there are, and the administrator's adding and removing of adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from arriero.server.errors import RequestError
from arriero.server.models import NAME
from arriero.server.schemas import RequestBody
from arriero.server.service import Service


class Model(BaseModel):
    """A model that can be asked for: the base model, an adapter, whose `parent` it then is, or the embedding model.

    `created` is when it was loaded, in seconds since 1970; `max_model_len` the context window in tokens.
    """

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["arriero"] = "arriero"
    parent: str | None = None
    max_model_len: int


class ModelList(BaseModel):
    """All models that can be asked for; the first is what `POST /` answers with."""

    object: Literal["list"] = "list"
    data: list[Model]


class AdapterBody(RequestBody):
    """An adapter directory of this machine, and the name to serve it under."""

    name: Annotated[str, Field(pattern=NAME)]
    path: Annotated[str, Field(min_length=1)]


class Removed(BaseModel):
    """An adapter that is not served any more."""

    id: str
    object: Literal["model"] = "model"
    deleted: Literal[True] = True


def add_routes(app: FastAPI, service: Service) -> None:
    """Add models and adapters to `app`."""

    def described(name: str) -> Model:
        embedder = service.models.embedder
        if embedder is not None and name == embedder.name:
            return Model(id=name, created=service.models.created, max_model_len=embedder.window)
        served = service.models.find(name)
        return Model(id=name, created=served.created, parent=served.parent, max_model_len=served.chat.window)

    def administered(request: Request) -> None:
        if not request.scope["record"].caller.admin:
            why = (
                "the administrator's key is needed"
                if service.keys.administered
                else "this server was started without an administrator's key"
            )
            raise RequestError(why, status=403, code="administrator_only")

    @app.get("/v1/models")
    async def models() -> ModelList:
        """All models that are served."""
        embedder = service.models.embedder
        names = [*service.models, *([embedder.name] if embedder is not None else [])]
        return ModelList(data=[described(name) for name in names])

    @app.get("/v1/models/{model:path}")
    async def model(model: str) -> Model:
        """The model of that name."""
        return described(model)

    @app.post("/v1/adapters", response_model=Model, status_code=201, responses={200: {"model": Model}})
    async def add(body: AdapterBody, request: Request) -> Response:
        """Serve an adapter, or serve it anew from another directory. For the administrator."""
        administered(request)
        replaced = await run_in_threadpool(service.models.add, body.name, Path(body.path))
        return JSONResponse(described(body.name).model_dump(), 200 if replaced else 201)

    @app.delete("/v1/adapters/{name}")
    async def remove(name: str, request: Request) -> Removed:
        """Serve an adapter no longer; answers in flight continue. For the administrator."""
        administered(request)
        await run_in_threadpool(service.models.remove, name)
        return Removed(id=name)
