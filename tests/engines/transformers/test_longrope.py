"""Models with longrope, whose positions are all encoded otherwise once a sequence outgrows the original context."""

from __future__ import annotations

import pytest

from arriero.engines.registry import openvino_lacks
from arriero.engines.transformers import scheduler
from tests.engines.transformers.graphs.support import ON, Driven
from tests.engines.transformers.support import GREEDY, generated, model_in, random_model

LENGTHS = {"original_max_position_embeddings": 64, "max_position_embeddings": 256}
ROPE = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [3.0, 5.0, 7.0, 9.0], "rope_theta": 100.0}
LONG = [*range(100, 200)]


@pytest.fixture(scope="module")
def phi(tmp_path_factory):
    """A tiny Phi-3 with a context of 256, and where it is."""
    directory = tmp_path_factory.mktemp("models") / "phi"
    return random_model(directory, "phi3", **LENGTHS, rope_parameters=ROPE), directory


@pytest.mark.parametrize("length", [40, 60, 63, 64, 65, 100])
@pytest.mark.parametrize("deterministic", [False, True])
def test_answers_beyond_the_original_context_are_those_of_generate(length, deterministic, phi, make, monkeypatch):
    """Keys that were there at the switch stayed as they were, and so did those of a long prompt's first chunks."""
    monkeypatch.setattr(scheduler, "CHUNK", 32)
    model, directory = phi
    engine = make(directory, precision="float32", deterministic=deterministic)
    ids = LONG[:length]
    assert list(engine.submit(ids, GREEDY, max_new_tokens=30)) == generated(model, ids, 30)


def test_a_short_request_beside_a_long_one_answers_as_alone(phi, make):
    """Its new keys were encoded as the long one's were."""
    model, directory = phi
    engine = make(directory, precision="float32")
    beside = engine.submit(LONG, GREEDY, max_new_tokens=60)
    asked = [(LONG[first : first + 20], 40) for first in range(8)]
    answers = [engine.submit(ids, GREEDY, max_new_tokens=limit) for ids, limit in asked]
    assert [list(answer) for answer in answers] == [generated(model, *each) for each in asked]
    assert list(beside) == generated(model, LONG, 60)


def test_an_answer_of_any_length_shares_a_batch_while_it_is_short(phi, make):
    """Without max_tokens every request may come to the whole window; none would ever have shared one."""
    model, directory = phi
    engine = make(directory, precision="float32")
    sizes = []
    hook = lambda _, __, given: sizes.append(len(given["input_ids"]))  # noqa: E731
    model_in(engine).register_forward_pre_hook(hook, with_kwargs=True)
    asked = [LONG[first : first + 20] for first in (0, 5, 10, 15)]
    answers = [engine.submit(ids, GREEDY, max_new_tokens=200) for ids in asked]
    assert [list(answer) for answer in answers] == [generated(model, ids, 200) for ids in asked]
    assert max(sizes) > 1
    assert engine.description.endswith("requests over 64 tokens are not batched")


def test_an_answer_leaves_the_cache_of_graphs_when_it_has_to(phi):
    model, _ = phi
    driven = Driven(model)
    requests = [driven.add(LONG[first : first + 20], 80, ON) for first in (0, 5, 10)]
    driven.run()
    for request in requests:
        assert request.answer_ids == generated(model, request.prompt_ids, 80, min_new_tokens=80)
    assert driven.capture.replays
    assert not driven.graphs.off


def test_a_cache_that_slides_is_not_cut(make, tmp_path, monkeypatch):
    monkeypatch.setattr(scheduler, "CHUNK", 32)
    model = random_model(tmp_path, "phi3", **LENGTHS, rope_parameters=ROPE, sliding_window=48)
    engine = make(tmp_path, precision="float32")
    answers = [engine.submit(LONG[:length], GREEDY, max_new_tokens=30) for length in (40, 60, 100)]
    assert [list(answer) for answer in answers] == [generated(model, LONG[:length], 30) for length in (40, 60, 100)]


def test_scores_of_a_long_prompt_are_those_of_one_call(phi, make, monkeypatch):
    _, directory = phi
    whole = make(directory, precision="float32").submit(LONG, GREEDY, max_new_tokens=1, prompt_logprobs=True)
    monkeypatch.setattr(scheduler, "CHUNK", 200)
    assert list(whole)
    monkeypatch.setattr(scheduler, "CHUNK", 32)
    chunked = make(directory, precision="float32").submit(LONG, GREEDY, max_new_tokens=1, prompt_logprobs=True)
    assert list(chunked)
    expected = [entry.logprob for entry in whole.prompt_logprobs]
    assert [entry.logprob for entry in chunked.prompt_logprobs] == pytest.approx(expected, abs=1e-4)


def test_openvino_refuses_what_it_would_get_wrong(phi):
    """All sequences of a step were encoded as its longest one."""
    assert openvino_lacks(phi[1]) == "its positions are encoded otherwise beyond 64 tokens"
