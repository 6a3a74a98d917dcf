"""Decode steps on the pretend GPU of tests/pretend_gpu.py: nothing lies on the wrong device, and a step waits once."""

from __future__ import annotations

import copy
import gc

import pytest

from arriero import hardware
from arriero.constraint import JsonSchema
from arriero.engines.llguidance import Grammars, check
from arriero.engines.transformers import scheduler
from arriero.engines.transformers.graphs import decode_graphs
from arriero.messages import Sampling
from tests.engines.transformers.graphs.support import ON, Driven
from tests.engines.transformers.support import END, PROMPT
from tests.pretend_gpu import CUDA, pretend

COPY = "a copy from cuda to cpu"
WILD = Sampling(
    temperature=1.2,
    top_k=40,
    top_p=0.9,
    min_p=0.01,
    repetition_penalty=1.2,
    presence_penalty=0.5,
    frequency_penalty=0.2,
    seed=3,
).over(ON)
LIST = check(JsonSchema({"type": "array", "items": {"type": "integer"}, "minItems": 40}))


@pytest.fixture
def gpu(monkeypatch):
    for module in (hardware, scheduler):
        monkeypatch.setattr(module, "gpus", lambda: ("pretend",))
    with pretend() as gpu:
        yield gpu


def on_gpu(model, option="on", **more):
    """A scheduler over a copy of the model there."""
    return Driven(copy.deepcopy(model).to(CUDA), make=lambda forward, _: decode_graphs(forward, option), **more)


def mixture(driven, count, limit=12):
    """Requests with everything that may be asked of a sampler."""
    wants = [
        {"sampling": WILD},
        {"sampling": WILD, "alternatives": 2},
        {"sampling": ON},
        {"sampling": ON, "alternatives": 0},
        {"sampling": WILD, "grammar": LIST},
    ]
    return [driven.add(PROMPT[: 1 + at % 6], limit, **wants[at % 5]) for at in range(count)]


@pytest.fixture
def answers(model, model_dir):
    """What the CPU answers to a mixture, whose random numbers are the CPU's everywhere."""
    driven = Driven(model, grammars=Grammars(model_dir, [END]))
    requests = mixture(driven, 6)
    driven.run()
    return [request.answer_ids for request in requests]


@pytest.mark.parametrize("option", ["on", "off"])
def test_the_answers_are_those_of_the_cpu(answers, gpu, model, model_dir, option):
    driven = on_gpu(model, option, grammars=Grammars(model_dir, [END]))
    requests = mixture(driven, 6)
    driven.run()
    assert [request.answer_ids for request in requests] == answers
    assert bool(gpu.graphs) == (option == "on")
    assert option == "off" or not driven.graphs.off


@pytest.mark.parametrize("count", [1, pytest.param(7, marks=pytest.mark.slow)])
def test_a_replayed_step_waits_once_however_many_requests_are_in_it(gpu, model, model_dir, count):
    driven = on_gpu(model, grammars=Grammars(model_dir, [END]))
    for _ in range(3):  # the second time all buckets are in one buffer, the third all have graphs
        mixture(driven, count)
        driven.scheduler.step()
        gpu.waits.clear()
        gpu.staged, steps = 0, 0
        while driven.scheduler.requests:
            driven.scheduler.step()
            steps += 1
    assert gpu.waits == [COPY] * steps
    assert not gpu.staged


def test_requests_that_leave_make_nobody_wait(gpu, model):
    """Moving sequences to free slots sent indices from the host four times a layer."""
    driven = on_gpu(model, "off")
    for limit in (3, 12, 12):
        driven.add(PROMPT, limit, ON)
    driven.run()
    assert gpu.waits
    assert "an index of the CPU" not in gpu.waits


@pytest.mark.slow
def test_adapters_come_and_go(expected, gpu, model, adapters):
    driven = on_gpu(model)
    names = driven.load(adapters)
    for _ in range(2):
        driven.answers_are(expected, names)
    assert not driven.graphs.off
    captured = len(gpu.graphs)
    driven.adapters.delete(names["plain"])
    driven.scheduler.step()
    gc.collect()
    assert len(gpu.graphs) < captured, "its graphs have gone with it"
    assert driven.answer() == expected[None]
    assert driven.answer(adapter=names["dora"]) == expected["dora"]


def test_a_prompt_s_log_probabilities_in_chunks(model, monkeypatch, request):
    monkeypatch.setattr(scheduler, "CHUNK", 4)
    scored = []
    for make in (Driven, on_gpu):
        if make is on_gpu:
            request.getfixturevalue("gpu")
        driven = make(model)
        asked = driven.add(PROMPT * 3, 3, ON, alternatives=2, scores=True)
        driven.run()
        scored.append([entry.logprob for entry in asked.generation.prompt_logprobs])
    assert scored[0] == pytest.approx(scored[1], abs=1e-5)
    assert len(scored[0]) == len(PROMPT * 3) - 1
