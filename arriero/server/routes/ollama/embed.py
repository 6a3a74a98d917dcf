"""`POST /api/embed`, and the older `/api/embeddings` for one text: texts -> vectors of the server's embedding model."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI
from pydantic import BaseModel, Field
from pydantic_core import to_json
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from arriero.embeddings import Embedder, Vectors
from arriero.server.errors import at
from arriero.server.lenient import LenientBody, note_ignored
from arriero.server.routes.ollama.chat import FAULTS
from arriero.server.routes.ollama.schemas import LATEST
from arriero.server.routes.openai.embeddings import MOST, compute
from arriero.server.schemas import Whole
from arriero.server.service import Service

Texts = Annotated[list[str], Field(max_length=MOST)]


class EmbedBody(LenientBody):
    """The body of `POST /api/embed`. A text beyond the window is cut to its beginning unless `truncate` is false."""

    model: str | None = None
    input: str | Texts | None = None
    truncate: bool | None = None
    dimensions: Annotated[Whole, Field(ge=0)] | None = None

    def ids(self, embedder: Embedder) -> list[list[int]]:
        """Every text's token ids; RequestError for what is asked for and cannot be given."""
        with at("dimensions"):
            embedder.check_dimensions(self.dimensions or None)
        texts = [self.input] if isinstance(self.input, str) else self.input or []
        with at("input"):
            ids = embedder.encode([] if texts == [""] else texts, truncate=self.truncate is not False)
            embedder.check(ids)
        return ids


class LegacyEmbedBody(LenientBody):
    """The body of `POST /api/embeddings`."""

    model: str | None = None
    prompt: str | None = None

    def ids(self, embedder: Embedder) -> list[list[int]]:
        """The token ids of the text, if there is one."""
        return embedder.encode([self.prompt] if self.prompt else [], truncate=True)


class EmbedResponse(BaseModel):
    """The vectors in the order of the texts; durations are in nanoseconds, the count is in tokens."""

    model: str
    embeddings: list[list[float]]
    total_duration: int
    load_duration: int
    prompt_eval_count: int


class LegacyEmbedResponse(BaseModel):
    """One vector."""

    embedding: list[float]


def add_routes(app: FastAPI, service: Service) -> None:
    """Add embeddings to `app`."""

    async def vectors_of(body: EmbedBody | LegacyEmbedBody, request: Request) -> tuple[Embedder, Vectors]:
        embedder = service.models.embedding(None if body.model is None else body.model.removesuffix(LATEST))
        note_ignored(request, body)
        texts = await run_in_threadpool(body.ids, embedder)
        return embedder, await compute(service, request, embedder, texts)

    @app.post("/api/embed", response_model=EmbedResponse, responses=FAULTS)
    async def embed(body: EmbedBody, request: Request) -> Response:
        """The vectors of one or several texts; of none there are none, for the model is loaded."""
        embedder, vectors = await vectors_of(body, request)
        record = request.scope["record"]
        response = {
            "model": embedder.name if body.model is None else body.model,
            "embeddings": embedder.cut(vectors, body.dimensions or None),
            "total_duration": max(1, round(record.elapsed() * 1e9)),
            "load_duration": 0,
            "prompt_eval_count": record.prompt_tokens,
        }
        return await _written(response)

    @app.post("/api/embeddings", response_model=LegacyEmbedResponse, responses=FAULTS)
    async def old(body: LegacyEmbedBody, request: Request) -> Response:
        """The vector of one text."""
        _, vectors = await vectors_of(body, request)
        return await _written({"embedding": vectors[0] if len(vectors) else []})


async def _written(value: dict[str, object]) -> Response:
    """The response, made beside the event loop: there may be a million numbers in it."""
    return Response(await run_in_threadpool(to_json, value, fallback=_numbers), media_type="application/json")


def _numbers(vectors: Vectors) -> list[object]:
    return list(vectors.tolist())
