"""Models with longrope, whose positions are all encoded otherwise once a sequence outgrows the original context."""

from __future__ import annotations

import pytest
import torch

from arriero.engines.registry import openvino_lacks
from arriero.engines.transformers import scheduler
from tests.engines.transformers.graphs.support import Driven
from tests.engines.transformers.support import END, GREEDY, model_in, random_model

LENGTHS = {"original_max_position_embeddings": 64, "max_position_embeddings": 256}
ROPE = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [3.0, 5.0, 7.0, 9.0], "rope_theta": 100.0}
LONG = [*range(100, 200)]


@pytest.fixture(scope="module")
def phi(tmp_path_factory):
    """A tiny Phi-3 with a context of 256, and where it is."""
    directory = tmp_path_factory.mktemp("models") / "phi"
    return random_model(directory, "phi3", **LENGTHS, rope_parameters=ROPE), directory


def whole(model, ids, limit):
    """The greedy answer, each id from all before it, without a cache; generate of older transformers gets it wrong."""
    answer = []
    with torch.no_grad():
        while len(answer) < limit and END not in answer:
            answer.append(int(model(torch.tensor([[*ids, *answer]]), use_cache=False).logits[0, -1].argmax()))
    return answer


@pytest.mark.parametrize("length", [40, 60, 63, 64, 65, 100])
@pytest.mark.parametrize("deterministic", [False, True])
def test_answers_beyond_the_original_context_are_computed_by_its_factors(length, deterministic, phi, make, monkeypatch):
    """Keys that were there at the switch stayed as they were, and so did those of a long prompt's first chunks."""
    monkeypatch.setattr(scheduler, "CHUNK", 32)
    model, directory = phi
    engine = make(directory, precision="float32", deterministic=deterministic)
    ids = LONG[:length]
    assert list(engine.submit(ids, GREEDY, max_new_tokens=30)) == whole(model, ids, 30)


def test_a_short_request_beside_a_long_one_answers_as_alone(phi, make):
    """Its new keys were encoded as the long one's were."""
    model, directory = phi
    engine = make(directory, precision="float32")
    beside = engine.submit(LONG, GREEDY, max_new_tokens=60)
    asked = [(LONG[first : first + 20], 40) for first in range(8)]
    answers = [engine.submit(ids, GREEDY, max_new_tokens=limit) for ids, limit in asked]
    assert [list(answer) for answer in answers] == [whole(model, *each) for each in asked]
    assert list(beside) == whole(model, LONG, 60)


def test_an_answer_of_any_length_shares_a_batch_while_it_is_short(phi, make):
    """Without max_tokens every request may come to the whole window; none would ever have shared one."""
    model, directory = phi
    engine = make(directory, precision="float32")
    sizes = []
    hook = lambda _, __, given: sizes.append(len(given["input_ids"]))  # noqa: E731
    model_in(engine).register_forward_pre_hook(hook, with_kwargs=True)
    asked = [LONG[first : first + 20] for first in (0, 5, 10, 15)]
    answers = [engine.submit(ids, GREEDY, max_new_tokens=200) for ids in asked]
    assert [list(answer) for answer in answers] == [whole(model, ids, 200) for ids in asked]
    assert max(sizes) > 1
    assert engine.description.endswith("requests over 64 tokens are not batched")


def test_an_answer_leaves_the_cache_of_graphs_when_it_has_to(phi):
    model, _ = phi
    driven = Driven(model)
    requests = [driven.add(LONG[first : first + 20], 80) for first in (0, 5, 10)]
    driven.run()
    for request in requests:
        assert request.answer_ids == whole(model, request.prompt_ids, 80)
    # older transformers decides on the host, which no capture takes
    assert driven.capture.replays or "waits for the device" in driven.graphs.off


def test_a_cache_that_slides_is_not_cut(make, tmp_path, monkeypatch):
    monkeypatch.setattr(scheduler, "CHUNK", 32)
    model = random_model(tmp_path, "phi3", **LENGTHS, rope_parameters=ROPE, sliding_window=48)
    engine = make(tmp_path, precision="float32")
    answers = [engine.submit(LONG[:length], GREEDY, max_new_tokens=30) for length in (40, 60, 100)]
    assert [list(answer) for answer in answers] == [whole(model, LONG[:length], 30) for length in (40, 60, 100)]


def test_scores_of_a_long_prompt_are_those_of_one_call(phi, make, monkeypatch):
    monkeypatch.setattr(scheduler, "CHUNK", 32)
    model, directory = phi
    generation = make(directory, precision="float32").submit(LONG, GREEDY, max_new_tokens=1, prompt_logprobs=True)
    assert list(generation)
    with torch.no_grad():
        every = model(torch.tensor([LONG])).logits[0].log_softmax(-1)
    expected = [float(every[at - 1, token]) for at, token in enumerate(LONG) if at]
    assert [entry.logprob for entry in generation.prompt_logprobs] == pytest.approx(expected, abs=1e-4)


def test_openvino_refuses_what_it_would_get_wrong(phi):
    """All sequences of a step were encoded as its longest one."""
    assert openvino_lacks(phi[1]) == "its positions are encoded otherwise beyond 64 tokens"
