"""How the server is: for whoever watches over it."""

from __future__ import annotations

from typing import Literal

from fastapi import FastAPI
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from arriero.server.service import Service, State


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """Whether work is taken: "ready", else "loading" or "draining" with the status 503."""

    status: State


def add_routes(app: FastAPI, service: Service) -> None:
    """Add health, readiness and metrics to `app`."""

    @app.get("/health")
    async def health() -> Health:
        """Whether the process answers; it needs no key."""
        return Health()

    @app.get("/ready", response_model=Readiness, responses={503: {"model": Readiness}})
    async def ready() -> Response:
        """Whether work is taken; it needs no key."""
        state = service.state
        return JSONResponse({"status": state}, 200 if state == "ready" else 503)

    @app.get("/metrics", responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}})
    async def metrics() -> Response:
        """What was measured, for Prometheus."""
        return Response(await run_in_threadpool(service.metrics.text), media_type=CONTENT_TYPE_LATEST)
