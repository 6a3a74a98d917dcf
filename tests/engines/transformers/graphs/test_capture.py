"""What is captured, what is kept, and what cannot be captured."""

from __future__ import annotations

import pytest
import torch

from arriero.engines.transformers import cache, graphs, scheduler
from arriero.engines.transformers.forward import Forward
from arriero.engines.transformers.graphs import decode_graphs
from arriero.errors import UsageError
from tests.engines.transformers.graphs.support import ON, Driven
from tests.engines.transformers.support import PROMPT, generated, random_model
from tests.op_graph import OpCapture


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
