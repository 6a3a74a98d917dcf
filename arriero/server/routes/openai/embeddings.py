"""OpenAI's embeddings: texts -> vectors, by the server's embedding model.

https://platform.openai.com/docs/api-reference/embeddings describes them. `input_type` is not OpenAI's but widely
understood: it puts the model's own prompt for queries or for documents before the texts.
"""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel, Field
from pydantic_core import to_json
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from arriero.embeddings import Embedder, Kind, Vectors
from arriero.errors import TooLongError
from arriero.server.errors import RequestError, at
from arriero.server.lenient import NullOnly, RefusedUnless, Unsupported, note_ignored
from arriero.server.routes.openai.schemas import UserField
from arriero.server.schemas import TokenIds, Whole
from arriero.server.service import Service

MOST = 2048  # texts in a request, as OpenAI's
Texts = Annotated[list[str], Field(min_length=1, max_length=MOST)]


class EmbeddingRequest(UserField):
    """The body of `POST /v1/embeddings`; token ids are the embedding model's own, with its special tokens."""

    model: str | None = None
    input: str | TokenIds | Texts | Annotated[list[TokenIds], Field(min_length=1, max_length=MOST)]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[Whole, Field(ge=1)] | None = None
    input_type: Kind | None = None
    add_special_tokens: Annotated[Any, RefusedUnless((True,))] = None
    embed_dtype: Annotated[Any, RefusedUnless(("float32",))] = None
    endianness: Annotated[Any, RefusedUnless(("native", "little"))] = None
    late_chunking: Unsupported = None
    messages: Unsupported = None
    normalize: Annotated[Any, RefusedUnless((True,))] = None
    truncate_prompt_tokens: NullOnly = None

    def ids(self, embedder: Embedder) -> list[list[int]]:
        """Every text's token ids; RequestError for what is asked for and cannot be given."""
        with at("dimensions"):
            embedder.check_dimensions(self.dimensions)
        single = isinstance(self.input, str) or isinstance(self.input[0], int)
        texts: Any = [self.input] if single else self.input
        if isinstance(texts[0], str):
            texts = embedder.encode(texts, kind=self.input_type)
        elif self.input_type is not None:
            raise RequestError("a prompt goes before text, not before token ids", param="input_type")
        try:
            with at("input"):
                embedder.check(texts)
        except RequestError as error:
            error.code = "context_length_exceeded" if isinstance(error.__cause__, TooLongError) else None
            raise
        return list(texts)


class Embedding(BaseModel):
    """A text's vector: numbers, or base64 of little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingCounts(BaseModel):
    """Counts in tokens, those of prompts and special tokens included."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(BaseModel):
    """The vectors in the order of the texts."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingCounts


async def compute(service: Service, request: Request, embedder: Embedder, texts: list[list[int]]) -> Vectors:
    """The vectors of texts given as ids, in one slot, counted; cancelled when the client goes away."""
    record = request.scope["record"]
    record.prompt_tokens = sum(map(len, texts))
    try:
        vectors = await service.compute(request, embedder.name, lambda: embedder.submit(texts))
    except ClientDisconnect:
        service.metrics.cancelled.labels(embedder.name).inc()
        raise
    service.metrics.count_embeddings(record, len(texts))
    return vectors


def add_routes(app: FastAPI, service: Service) -> None:
    """Add embeddings to `app`."""

    @app.post("/v1/embeddings", response_model=Embeddings)
    async def embed(body: EmbeddingRequest, request: Request) -> Response:
        """The vectors of one or several texts."""
        note_ignored(request, body)
        embedder = service.models.embedding(body.model)
        texts = await run_in_threadpool(body.ids, embedder)
        vectors = await compute(service, request, embedder, texts)

        def written() -> bytes:
            tokens = request.scope["record"].prompt_tokens
            return to_json(
                {
                    "object": "list",
                    "data": _data(embedder.cut(vectors, body.dimensions), body.encoding_format),
                    "model": embedder.name,
                    "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
                }
            )

        return Response(await run_in_threadpool(written), media_type="application/json")


def _data(vectors: Vectors, encoding: str | None) -> list[dict[str, Any]]:
    if encoding == "base64":
        coded: Any = [base64.b64encode(vector.astype("<f4").tobytes()).decode() for vector in vectors]
    else:
        coded = vectors.tolist()
    return [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(coded)]
