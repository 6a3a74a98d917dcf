"""The docs' table of fields says what the server does with each; it is held to the classes of the requests."""

from __future__ import annotations

import re
from pathlib import Path

from arriero.server.lenient import NO_EFFECT, RefusedUnless
from arriero.server.routes.openai.chat import ChatRequest
from arriero.server.routes.openai.completions import CompletionRequest
from arriero.server.routes.openai.embeddings import EmbeddingRequest
from arriero.server.routes.openai.messages import ChatMessage
from arriero.server.routes.openai.schemas import StreamOptions
from arriero.server.routes.openai.tokenize import TokenizeRequest

REQUESTS = {
    "chat": ChatRequest,
    "completions": CompletionRequest,
    "embeddings": EmbeddingRequest,
    "tokenize": TokenizeRequest,
    "a message": ChatMessage,
    "stream_options": StreamOptions,
}


def kinds() -> set[tuple[str, str, str]]:
    """(field, where, what happens to it) as the classes have it."""

    def kind(field) -> str:
        refused = any(isinstance(each, RefusedUnless) for each in field.metadata)
        return "refused" if refused else "taken" if NO_EFFECT in field.metadata else "used"

    return {(name, where, kind(field)) for where, made in REQUESTS.items() for name, field in made.model_fields.items()}


def test_the_docs_table_is_what_the_server_does():
    text = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()
    rows = re.findall(r"^\| (.+?) \| (.+?) \| (used|taken|refused) \|$", text, re.MULTILINE)
    documented = {
        (name, where, what)
        for fields, places, what in rows
        for name in re.findall(r"`([a-z_]+)`", fields)
        for where in places.split(", ")
    }
    assert documented == kinds()
