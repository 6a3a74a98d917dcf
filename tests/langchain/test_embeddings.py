"""ArrieroEmbeddings: LangChain's own suites over the embedded model, and what they leave unchecked."""

from __future__ import annotations

import numpy as np
import pytest
from langchain_core.embeddings import Embeddings
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests

from arriero.errors import NotFoundError, TooLongError, UsageError
from arriero.langchain import ArrieroEmbeddings


class OverTinyModel:
    @pytest.fixture(autouse=True)
    def _model(self, embedding_dir):
        self.directory = embedding_dir

    @property
    def embeddings_class(self) -> type[Embeddings]:
        return ArrieroEmbeddings

    @property
    def embedding_model_params(self):
        return {"model": self.directory}


@pytest.fixture(scope="module", autouse=True)
def loaded(embedding_dir):
    """Equal objects share one model, which is loaded once while this one is there."""
    return ArrieroEmbeddings(model=embedding_dir).embedder


class TestEmbeddingsUnit(OverTinyModel, EmbeddingsUnitTests):
    pass


class TestEmbeddingsIntegration(OverTinyModel, EmbeddingsIntegrationTests):
    pass


def test_the_vectors_are_the_embedders(embedding_dir, embedder):
    ours = ArrieroEmbeddings(model=embedding_dir)
    assert np.array_equal(ours.embed_documents(["a", "b"]), embedder.embed(["a", "b"], kind="document"))
    assert np.array_equal([ours.embed_query("a")], embedder.embed(["a"], kind="query"))
    assert ours.embed_documents([]) == []


def test_equal_objects_share_a_model(embedding_dir):
    assert ArrieroEmbeddings(model=embedding_dir).embedder is ArrieroEmbeddings(model=str(embedding_dir)).embedder


def test_bad_input(embedding_dir):
    with pytest.raises(NotFoundError):
        ArrieroEmbeddings(model="nobody/nothing")
    with pytest.raises(UsageError, match="were not made to be cut"):
        ArrieroEmbeddings(model=embedding_dir, dimensions=3)
    with pytest.raises(TooLongError):
        ArrieroEmbeddings(model=embedding_dir).embed_query("a " * 10_000)
