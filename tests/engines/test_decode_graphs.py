"""Decode steps by graph: the tokens of transformers' own generate, whatever joins and leaves; what is not captured.

Graphs are those of tests/op_graph.py: on a CPU they replay the operators of a step in static memory. The scheduler is
driven here by hand, without the engine's thread. Buckets are small and captured at once, so that there are many.
"""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode
from transformers import AutoModelForCausalLM

from arriero.engines.generation import Generation
from arriero.engines.transformers import cache, graphs, scheduler
from arriero.engines.transformers.adapters import Adapters
from arriero.engines.transformers.forward import Forward
from arriero.engines.transformers.graphs import DecodeGraphs, decode_graphs
from arriero.engines.transformers.requests import Request
from arriero.engines.transformers.scheduler import Scheduler
from arriero.errors import EngineError, UsageError
from arriero.messages import Sampling
from tests.engines.test_transformers import (
    END,
    GREEDY,
    PLAIN,
    PROMPT,
    adapters,
    expected,
    generated,
    random_model,
)
from tests.op_graph import OpCapture

__all__ = ["adapters", "expected"]  # fixtures
ON = Sampling(logit_bias=((END, -100.0),)).over(GREEDY)


@pytest.fixture(scope="module", autouse=True)
def small_buckets():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "LEAST", 8)
        patch.setattr(graphs, "PATIENCE", 0)
        yield


@pytest.fixture(scope="module")
def model(model_dir):
    return AutoModelForCausalLM.from_pretrained(model_dir).eval()


@pytest.fixture
def fresh(model_dir):
    """A model of one's own, to hang hooks on."""
    return AutoModelForCausalLM.from_pretrained(model_dir).eval()


class Driven:
    """A scheduler with graphs, driven by hand."""

    def __init__(self, model, capture=None):
        self.capture = capture or OpCapture()
        self.graphs = DecodeGraphs(Forward(model), self.capture)
        self.adapters = Adapters(model)
        self.scheduler = Scheduler(Forward(model), self.adapters, None, [END], self.graphs)

    def add(self, ids=PROMPT, limit=30, sampling=GREEDY, **more):
        request = Request(Generation(len(ids)), list(ids), sampling, limit, **more)
        self.scheduler.add(request)
        return request

    def run(self):
        while self.scheduler.requests:
            self.scheduler.step()

    def answer(self, *arguments, **more):
        request = self.add(*arguments, **more)
        self.run()
        return request.answer_ids


# --- the same tokens

MOST_TOKENS = 24


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    """By kind: a model, and prompts of many lengths with what it answers."""
    rng = random.Random(1)
    asked = [[rng.randrange(3, 262) for _ in range(length)] for length in (1, 2, 6, 7, 15, 31, 60, 90)]
    made = {}
    for kind in ("llama", "gpt2", "qwen2", "qwen3"):
        model = random_model(tmp_path_factory.mktemp(kind), kind)
        made[kind] = model, [(ids, generated(model, ids, MOST_TOKENS)) for ids in asked]
    return made


VISITS = (
    st.tuples(  # which prompt, how much of the answer, after which step it comes, after how many more it is cancelled
        st.integers(0, 7), st.integers(1, MOST_TOKENS), st.integers(0, 20), st.one_of(st.none(), st.integers(0, 15))
    )
)


@settings(max_examples=25)
@given(st.sampled_from(["llama", "gpt2", "qwen2", "qwen3"]), st.lists(VISITS, min_size=1, max_size=12))
def test_whoever_comes_and_goes_the_answers_are_those_of_generate(answered, kind, visits):
    model, known = answered[kind]
    driven = Driven(model)
    requests = {}
    for step in range(40):
        for at, (prompt, limit, comes, cancelled) in enumerate(visits):
            if comes == step:
                requests[at] = driven.add(known[prompt][0], limit)
            if cancelled is not None and comes + cancelled == step:
                requests[at].generation.cancel()
        driven.scheduler.step()
    driven.run()
    for at, (prompt, limit, _, cancelled) in enumerate(visits):
        answer, whole = requests[at].answer_ids, known[prompt][1][:limit]
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
    found = []
    for number in range(2):
        driven = Driven(model)
        if number:
            driven.graphs.off = "for once"
        requests = [
            driven.add(PROMPT[:count], 20, Sampling(seed=count).over(wild), alternatives=2) for count in range(1, 6)
        ]
        driven.run()
        assert bool(driven.capture.replays) != bool(number)
        found.append([request.generation.logprobs for request in requests])
    for ours, theirs in zip(*found, strict=True):
        assert [entry.token_id for entry in ours] == [entry.token_id for entry in theirs]
        assert [entry.logprob for entry in ours] == pytest.approx([entry.logprob for entry in theirs], abs=1e-4)


def test_adapters_have_graphs_and_caches_of_their_own(fresh, adapters, expected):
    driven = Driven(fresh)
    names = {None: None, **{name: driven.adapters.load(directory) for name, directory in adapters.items()}}
    for _ in range(2):
        requests = [(name, driven.add(adapter=names[name])) for name in [*names, *names]]
        driven.run()
        for name, request in requests:
            assert request.answer_ids == expected[name], name
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


# --- what a step costs


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


# --- what is captured, and what is kept


def test_a_growing_cache_is_copied_once_a_bucket(model):
    driven = Driven(model)
    request = driven.add(PROMPT, 200, ON)
    versions = set()
    while not request.ended:
        driven.scheduler.step()
        versions.add(driven.graphs.caches[None].version)
    assert len(versions) == 6, "for 8, 16, 32, 64, 128 and 256 positions"
    assert len(driven.graphs.graphs) == 1, "graphs of buffers that are no more are gone"
    assert request.answer_ids == generated(model, PROMPT, 200, min_new_tokens=200)


def test_a_cache_outlives_its_batch_and_so_do_its_graphs(model):
    driven = Driven(model)
    whole = driven.answer()
    assert driven.answer() == whole, "now all buckets are in one buffer"
    captured, held = len(driven.capture.graphs), driven.graphs.caches[None].nbytes
    assert driven.answer() == whole
    assert (len(driven.capture.graphs), driven.graphs.caches[None].nbytes) == (captured, held)


def test_a_cache_that_no_batch_uses_goes_when_memory_is_short(model, monkeypatch):
    driven = Driven(model)
    whole = driven.answer()
    monkeypatch.setattr(scheduler, "free_memory", lambda: 0)
    first = driven.graphs.caches[None]
    assert driven.answer() == whole, "a single request is tried all the same"
    assert driven.graphs.caches[None] is not first
    assert {key[0] for key in driven.graphs.graphs} == {driven.graphs.caches[None].version}


def test_where_there_is_no_memory_for_a_bucket_the_model_computes_with_a_word(model, monkeypatch, caplog):
    monkeypatch.setattr(cache, "free_memory", lambda: 0)
    monkeypatch.setattr(cache, "POSITIONS", 1)
    driven = Driven(model)
    for _ in range(2):
        assert driven.answer(PROMPT, 60, ON) == generated(model, PROMPT, 60, min_new_tokens=60)
    assert (
        caplog.text.count("decode steps are not captured where a KV cache for graphs would take half of what is") == 1
    )
    assert not driven.graphs.off


def test_the_number_of_graphs_is_bounded_and_the_one_unused_longest_goes(model, monkeypatch):
    monkeypatch.setattr(graphs, "MOST", 2)
    driven = Driven(model)
    for count in (4, 2, 1, 2):
        for _ in range(count):
            driven.add(PROMPT, 2, ON)
        driven.run()
        assert len(driven.graphs.graphs) <= 2
    assert [key[1].sequences for key in driven.graphs.graphs] == [1, 2]


def test_a_bucket_of_few_steps_is_not_captured(model, monkeypatch):
    monkeypatch.setattr(graphs, "PATIENCE", 3)
    driven = Driven(model)
    driven.answer(PROMPT, 5, ON)
    assert not driven.capture.graphs, "two steps with 8 positions and two with 16"
    driven.answer(PROMPT[:1], 6, ON)
    assert [key[1].positions for key in driven.graphs.graphs] == [8]


# --- what cannot be captured


class Stale(OpCapture):
    """Replays nothing: the logits are those of the capture's zeroed memory."""

    def __call__(self, work):
        _, result = super().__call__(work)
        return result.zero_, result


def ignore_mask(_, arguments, given):
    """As attention that does not take a mask of four dimensions."""
    if given["attention_mask"].ndim == 4:
        given["attention_mask"] = None
    return arguments, given


@pytest.mark.parametrize(
    "read",
    [
        lambda ids: ids.sum().item(),
        lambda ids: ids.tolist(),
        lambda ids: ids.nonzero(),
        lambda ids: ids[ids > 0],
        lambda ids: bool(ids.any()),
        lambda ids: torch.tensor([1]),
    ],
)
def test_a_model_that_waits_for_the_device_is_not_captured(fresh, read, caplog):
    whole = generated(fresh, PROMPT, 30)

    def hook(_, __, given):
        read(given["input_ids"])

    fresh.register_forward_pre_hook(hook, with_kwargs=True)
    driven = Driven(fresh)
    assert driven.answer() == driven.answer() == whole
    assert "waits for the device" in driven.graphs.off
    assert caplog.text.count("CUDA graphs are off from now on, the model computes all decode steps: ") == 1
    assert not driven.graphs.caches, "what only graphs need is given back"


@pytest.mark.parametrize("wrong", ["stale", "masked"])
def test_a_graph_that_finds_other_logits_is_not_used(fresh, wrong, caplog):
    whole = generated(fresh, PROMPT, 30)
    if wrong == "masked":
        fresh.register_forward_pre_hook(ignore_mask, with_kwargs=True)
    driven = Driven(fresh, Stale() if wrong == "stale" else None)
    assert driven.answer() == whole
    assert "the logits of a captured step are" in driven.graphs.off
    assert not driven.graphs.graphs


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("gemma2", "its attention slides over a window"),
        ("mamba", "its answers are computed one at a time"),
        ("jamba", "its answers are computed one at a time"),
        ("bloom", "its answers are computed one at a time"),
        ("llama", "this machine has no CUDA GPU"),
    ],
)
def test_where_there_are_no_graphs_the_reason_is_named_and_demanding_them_refused(kind, word, tmp_path):
    forward = Forward(random_model(tmp_path, kind))
    assert decode_graphs(forward, "auto") is None
    assert decode_graphs(forward, "off") is None
    with pytest.raises(UsageError, match=f"--cuda-graphs on: {word}") as caught:
        decode_graphs(forward, "on")
    assert caught.value.hint == "--cuda-graphs auto"


def test_attention_without_a_boolean_mask_and_answers_in_turn_have_none(fresh):
    fresh.set_attn_implementation("eager")
    forward = Forward(fresh)
    assert forward.obstacle() == "its attention is eager, and only sdpa's takes a mask of our own"
    forward.shared_length = 0  # as --deterministic does
    assert forward.obstacle() == "its answers are computed one at a time"
