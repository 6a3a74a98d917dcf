"""Decode steps by graphs: the same tokens, and what a step costs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode

from arriero.errors import EngineError
from arriero.messages import Sampling
from tests.engines.transformers.graphs.support import ON, VISITS, Driven
from tests.engines.transformers.support import GREEDY, PLAIN, PROMPT, generated


@settings(max_examples=25)
@given(st.sampled_from(["llama", "gpt2", "qwen2", "qwen3"]), st.lists(VISITS, min_size=1, max_size=12))
def test_whoever_comes_and_goes_the_answers_are_those_of_generate(answered, kind, visits):
    model, answers = answered[kind]
    driven = Driven(model)
    requests = {}
    for step in range(40):
        for at, (prompt, limit, comes, cancelled) in enumerate(visits):
            if comes == step:
                requests[at] = driven.add(answers[prompt][0], limit)
            if cancelled is not None and comes + cancelled == step:
                requests[at].generation.cancel()
        driven.scheduler.step()
    driven.run()
    for at, (prompt, limit, _, cancelled) in enumerate(visits):
        answer, whole = requests[at].answer_ids, answers[prompt][1][:limit]
        assert answer == whole[: len(answer)]
        assert len(answer) == len(whole) or cancelled is not None
    assert not driven.graphs.off
    assert max(map(len, (request.answer_ids for request in requests.values()))) < 3 or driven.capture.replays


def test_steps_of_a_bucket_are_replays_of_one_graph(model):
    driven = Driven(model)
    assert driven.answer(PROMPT[:3], 40, ON) == generated(model, PROMPT[:3], 40, min_new_tokens=40)
    assert len(driven.capture.graphs) == 4, "for 8, 16, 32 and 64 positions"
    assert driven.capture.replays == 39, "the first of each bucket is the model's, and replayed to be compared"


def test_what_is_sampled_and_its_log_probabilities_are_those_without_graphs(model):
    """A graph's logits are gone with the next replay."""
    wild = Sampling(temperature=1.3, top_p=0.95, repetition_penalty=1.2).over(PLAIN)
    logprobs = []
    for number in range(2):
        driven = Driven(model)
        if number:
            driven.graphs.off = "for once"
        requests = [
            driven.add(PROMPT[:count], 20, Sampling(seed=count).over(wild), alternatives=2) for count in range(1, 6)
        ]
        driven.run()
        assert bool(driven.capture.replays) != bool(number)
        logprobs.append([request.generation.logprobs for request in requests])
    for ours, theirs in zip(*logprobs, strict=True):
        assert [entry.token_id for entry in ours] == [entry.token_id for entry in theirs]
        assert [entry.logprob for entry in ours] == pytest.approx([entry.logprob for entry in theirs], abs=1e-4)


def test_adapters_have_graphs_and_caches_of_their_own(fresh, adapters, expected):
    driven = Driven(fresh)
    names = driven.load(adapters)
    for _ in range(2):
        driven.answers_are(expected, names)
        captured = len(driven.capture.graphs)
    assert len(driven.capture.graphs) == captured, "the second time all were there"
    assert driven.graphs.caches.keys() == set(names.values())
    assert not driven.graphs.off
    driven.adapters.delete(names["plain"])
    driven.scheduler.step()
    assert names["plain"] not in driven.graphs.caches
    versions = {one.version for one in driven.graphs.caches.values()}
    assert {key[0] for key in driven.graphs.graphs} <= versions
    assert driven.answer() == expected[None]
    assert driven.answer(adapter=names["dora"]) == expected["dora"]


def test_an_answer_that_fails_costs_nobody_else_anything(fresh):
    """Not-a-number in its logits is no reason to have no graphs, and none of it stays in the slot."""
    with torch.no_grad():
        fresh.get_input_embeddings().weight[99] = float("nan")
    driven = Driven(fresh)
    endless = driven.add(PROMPT * 3, 60, ON)
    driven.scheduler.step()
    bad = driven.add(PROMPT, 5, Sampling(logit_bias=((99, 100.0),)).over(GREEDY))
    while not bad.ended:
        driven.scheduler.step()
    after = driven.add(PROMPT[:3], 20)
    driven.run()
    with pytest.raises(EngineError, match="no finite numbers"):
        list(bad.generation)
    assert endless.answer_ids == generated(fresh, PROMPT * 3, 60, min_new_tokens=60)
    assert after.answer_ids == generated(fresh, PROMPT[:3], 20)
    assert not driven.graphs.off


NUMBERS = ("tolist", "item", "numpy", "cpu", "nonzero", "__bool__", "__int__", "__float__", "__index__")
READS = {getattr(torch.Tensor, name) for name in NUMBERS}


class HostReads(TorchFunctionMode):
    """Notes what reads a tensor on the host."""

    def __init__(self):
        super().__init__()
        self.reads = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in READS:
            self.reads.append(function.__name__)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("count", [1, 6])
def test_a_step_copies_once_to_the_host_however_many_requests_are_in_it(model, count):
    driven = Driven(model)
    for number in range(count):
        driven.add(PROMPT[: number + 1], 40, Sampling(temperature=1.0, top_p=0.9).over(ON))
    for _ in range(20):
        driven.scheduler.step()
    for request in driven.scheduler.requests:
        request.sampler.draw = lambda: 0.5  # on the CPU, whatever the device is
    before = driven.capture.replays
    with HostReads() as seen:
        for _ in range(3):
            driven.scheduler.step()
    assert driven.capture.replays == before + 3
    assert seen.reads == ["tolist"] * 3
