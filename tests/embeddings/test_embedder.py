"""Vectors: what they are, by a tiny real BERT and torch; what is refused; what happens when the process dies."""

from __future__ import annotations

import gc
import os
import signal
import weakref

import numpy as np
import pytest
import torch

from arriero import hub
from arriero.embeddings import Embedder
from arriero.errors import ArrieroError, EngineError, NotFoundError, TooLongError, UsageError
from tests.embeddings.tiny import build_embedding_model

TEXTS = ["who drives a llama", "vet", "a man drives", "", "who who who who who who who who who"]


def expected(directory, texts_ids, pool=lambda hidden: hidden.mean(0), normalize=True):
    """Each text by itself, without padding, through transformers alone."""
    from transformers import BertModel

    model = BertModel.from_pretrained(directory, add_pooling_layer=False)
    rows = []
    with torch.no_grad():
        for ids in texts_ids:
            row = pool(model(torch.tensor([ids])).last_hidden_state[0])
            rows.append(row / row.norm() if normalize else row)
    return torch.stack(rows).numpy()


def test_vectors_are_the_models_pooled_and_normalised(embedder, embedding_dir):
    """Padding, the order of lengths within a batch and the tokenizer's own limit of 4 tokens change nothing."""
    ids = embedder.encode(TEXTS)
    assert ids[0] == [2, 6, 7, 8, 4, 3]
    assert [len(each) for each in ids] == [6, 3, 5, 2, 11]
    vectors = embedder.embed(TEXTS)
    assert (vectors.dtype, vectors.shape) == (np.float32, (5, 16))
    np.testing.assert_allclose(vectors, expected(embedding_dir, ids), atol=1e-6)
    assert (embedder.name, embedder.window, embedder.dimension) == ("words", 24, 16)
    assert embedder.embed([]).shape == (0, 16)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flag", "pool"),
    [("pooling_mode_cls_token", lambda hidden: hidden[0]), ("pooling_mode_lasttoken", lambda hidden: hidden[-1])],
)
def test_other_ways_of_pooling_and_no_normalisation(tmp_path, flag, pool):
    directory = build_embedding_model(tmp_path / "m", pooling=flag, steps=("Transformer", "Pooling"))
    with Embedder(directory) as made:
        ids = made.encode(TEXTS)
        np.testing.assert_allclose(made.embed(TEXTS), expected(directory, ids, pool, normalize=False), atol=1e-5)


def test_what_is_too_long_is_an_error_and_cut_only_when_asked_for(embedder):
    longer = "a " * 23
    with pytest.raises(TooLongError, match="text 1 has 25 tokens, but the embedding model's window holds 24"):
        embedder.embed(["a", longer])
    cut = embedder.encode([longer], truncate=True)
    assert cut == [[2] + [8] * 22 + [3]]
    assert embedder.encode([longer]) == [[2] + [8] * 23 + [3]], "truncating was for one call"
    assert embedder.submit(cut).result().shape == (1, 16)


@pytest.mark.parametrize(("ids", "told"), [([12], "ids are below 12"), ([-1], "ids are below 12"), ([], "no tokens")])
def test_ids_that_are_not_the_models(embedder, ids, told):
    with pytest.raises(UsageError, match=f"text 1 .*{told}"):
        embedder.submit([[2], ids])


def test_prompts_are_the_models_own(prompted_embedder):
    made = prompted_embedder
    assert made.encode(["vet"], kind="query") == [[2, 9, 5, 3]]
    assert made.encode(["vet"], kind="document") == made.encode(["vet"]) == [[2, 10, 5, 3]]
    np.testing.assert_array_equal(made.embed(["vet"], kind="query"), made.submit([[2, 9, 5, 3]]).result())


@pytest.mark.slow
def test_vectors_are_cut_only_where_the_model_was_trained_for_it(tmp_path, embedder):
    with pytest.raises(UsageError, match="16 numbers and were not made to be cut, got 4"):
        embedder.embed(["vet"], dimensions=4)
    assert embedder.embed(["vet"], dimensions=16).shape == (1, 16)
    with Embedder(build_embedding_model(tmp_path / "m", matryoshka_dimensions=[4, 8])) as made:
        whole, short = made.embed(TEXTS), made.embed(TEXTS, dimensions=4)
        np.testing.assert_allclose(short, whole[:, :4] / np.linalg.norm(whole[:, :4], axis=1)[:, None], atol=1e-6)
        with pytest.raises(UsageError, match="may be cut to 4, 8, got 5"):
            made.embed(["vet"], dimensions=5)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"steps": ("Transformer", "Pooling", "Dense")}, "steps Transformer, Pooling, Dense"),
        ({"steps": ("own_code.Transformer", "Pooling")}, r"steps own_code\.Transformer, Pooling"),
        ({"pooling": "pooling_mode_weightedmean_tokens"}, "pools by pooling_mode_weightedmean_tokens"),
    ],
)
def test_a_model_that_does_more_is_refused(tmp_path, options, told):
    with pytest.raises(UsageError, match=told):
        Embedder(build_embedding_model(tmp_path / "m", **options))


def test_a_model_that_is_none_for_embeddings(model_dir, tmp_path):
    with pytest.raises(NotFoundError, match=r"tiny is not an embedding model .* no modules\.json"):
        Embedder(model_dir)
    directory = build_embedding_model(tmp_path / "m")
    (directory / "modules.json").write_text("{")
    with pytest.raises(ArrieroError, match=r"modules\.json is damaged"):
        Embedder(directory)


def test_weights_that_are_missing_are_not_made_up(tmp_path):
    """transformers fills in random numbers with a warning, and every vector would be nonsense."""
    from safetensors.torch import load_file, save_file

    directory = build_embedding_model(tmp_path / "m")
    weights = load_file(directory / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, directory / "model.safetensors", {"format": "pt"})
    with pytest.raises(ArrieroError, match=r"lacks 1 of its weights, encoder\.layer\.1\.output\.dense\.weight"):
        Embedder(directory).wait()


def test_a_process_that_dies_is_started_again(embedding_dir):
    made = Embedder(embedding_dir)
    first = made.embed(["vet"])
    worker = made._batcher._computer
    os.kill(worker._process.pid, signal.SIGKILL)
    worker._process.wait()
    with pytest.raises(EngineError, match="ended with exit code -9"):
        made.embed(["vet"])
    np.testing.assert_array_equal(made.embed(["vet"]), first)
    made.close()
    with pytest.raises(EngineError, match="closed"):
        made.embed(["vet"])


@pytest.mark.slow
def test_who_drops_it_ends_its_process(embedding_dir):
    made = Embedder(embedding_dir)
    made.wait()
    process, thread, gone = made._batcher._computer._process, made._batcher._thread, weakref.ref(made)
    del made
    gc.collect()
    assert gone() is None
    thread.join(30)
    assert process.poll() is not None


@pytest.mark.model
def test_the_embedded_model_knows_what_is_near(embedding_model):
    """The reference is sentence-transformers 6.2.0 on torch 2.13.0, the first numbers of each vector."""
    with Embedder(embedding_model) as made:
        assert (made.name, made.window, made.dimension) == ("all-minilm-l6-v2", 256, 384)
        vectors = made.embed(["Who drives llamas?", "An arriero drives them.", "The bond market fell."])
    reference = [
        [0.01649, 0.06538, -0.041577, 0.060493],
        [0.042956, 0.044569, -0.098005, 0.078086],
        [0.021514, 0.043441, 0.021561, 0.064781],
    ]
    np.testing.assert_allclose(vectors[:, :4], reference, atol=1e-5)
    near, far = vectors[1:] @ vectors[0]
    assert near > far + 0.1
    assert hub.verify(hub.store.find("all-minilm-l6-v2")) == []
