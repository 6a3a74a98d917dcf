"""Requests that are cancelled, fail, wait for memory; engines that are closed or collected."""

from __future__ import annotations

import gc
import random
import weakref
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from arriero.engines.transformers import TransformersEngine, scheduler
from arriero.engines.transformers.forward import rounded
from arriero.errors import EngineError, MemoryLimitError, UsageError
from arriero.messages import Sampling
from tests.engines.transformers.support import (
    END,
    GREEDY,
    PLAIN,
    PROMPT,
    answer,
    gated,
    generated,
    model_in,
    prompts,
)


@given(st.integers(1, 100_000))
def test_sizes_are_rounded_up_a_little(size):
    assert size <= rounded(size) <= min(size * 9 // 8, size + 63)
    assert rounded(rounded(size)) == rounded(size) <= rounded(size + 1)
    assert len({rounded(each) for each in range(1, 513)}) == 56


def test_a_cpu_meets_few_shapes_whatever_the_lengths(engine, model):
    """Memory grew with every new number of tokens in a call: by 600 MB over 1,000 requests of the embedded model."""
    tokens, positions = set(), set()

    def hook(_, __, given):
        tokens.add(given["input_ids"].numel())
        positions.add(given["attention_mask"].shape[1])

    model_in(engine).register_forward_pre_hook(hook, with_kwargs=True)
    rng = random.Random(0)
    asked = [([rng.randrange(3, 262) for _ in range(rng.randint(1, 200))], rng.randint(1, 8)) for _ in range(400)]
    for start in range(0, len(asked), 20):
        together = asked[start : start + 20]
        answers = [engine.submit(ids, GREEDY, max_new_tokens=limit) for ids, limit in together]
        assert [len(list(answer)) > 0 for answer in answers] == [True] * 20
        assert list(answers[0]) == generated(model, *together[0])
    assert len(tokens) <= 60, sorted(tokens)
    assert len(positions) <= 48, sorted(positions)


def test_cancelling_during_prefill(engine, monkeypatch):
    reached, release, seen = gated(engine, 2)
    generation = engine.submit([7] * 5000, GREEDY, max_new_tokens=5)
    assert reached.wait(30)
    generation.cancel()
    release.set()
    assert list(generation) == []
    assert generation.finish_reason == "cancelled"
    assert seen == [(1, scheduler.CHUNK)] * 2


def test_answers_are_decoded_between_the_chunks_of_a_long_prompt(engine):
    reached, release, seen = gated(engine, 3)
    short = engine.submit(PROMPT, Sampling(logit_bias=((END, -100.0),)).over(GREEDY), max_new_tokens=40)
    assert reached.wait(30)
    long = engine.submit([7] * 2000, GREEDY, max_new_tokens=1)
    release.set()
    assert len(list(short)) == 40
    assert len(list(long)) == 1
    kinds = ["long" if new > len(PROMPT) else "short" for _, new in seen]
    at = kinds.index("long")
    assert kinds[at : at + 6] == ["long", "short"] * 3


def test_cancelling_one_of_many_leaves_the_others(engine, model):
    asked = prompts(9, longest=30)
    answers = [engine.submit(ids, GREEDY, max_new_tokens=30) for ids, _ in asked]
    endless = engine.submit(PROMPT, Sampling(logit_bias=((END, -100.0),)).over(GREEDY), max_new_tokens=10**6)
    stream = iter(endless)
    next(stream)
    endless.cancel()
    assert len(list(stream)) < 10**6
    assert endless.finish_reason == "cancelled"
    assert [list(answer) for answer in answers] == [generated(model, ids, 30) for ids, _ in asked]


@pytest.mark.parametrize(
    ("raised", "kind", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), MemoryLimitError, "out of memory while answering"),
        (ZeroDivisionError("oh"), EngineError, "the engine failed: oh"),
    ],
)
def test_a_failing_call_fails_its_own_requests_only(engine, model, raised, kind, message):
    """The prompt that is too much is one call; the answers in flight are another."""
    before = engine.submit(PROMPT, GREEDY, max_new_tokens=30)

    def hook(_, __, given):
        if 99 in given["input_ids"] and given["input_ids"].shape[1] > 1:
            raise raised

    model_in(engine).register_forward_pre_hook(hook, with_kwargs=True)
    bad = engine.submit([99] * 600, GREEDY, max_new_tokens=5)
    with pytest.raises(kind, match=message):
        list(bad)
    assert list(before) == list(answer(engine, None)) == generated(model, PROMPT, 30)


def test_weights_that_compute_no_numbers_are_an_error(engine):
    with torch.no_grad():
        model_in(engine).model.norm.weight.fill_(float("nan"))
    for chosen in (GREEDY, Sampling(temperature=1.0).over(PLAIN)):
        with pytest.raises(EngineError, match="no finite numbers"):
            list(engine.submit(PROMPT, chosen, max_new_tokens=5))


def test_an_answer_that_failed_leaves_nothing_in_its_slot(engine, model):
    """A mask hides numbers that are left over in a batch, but not those that are none."""
    weights = model_in(engine).get_input_embeddings().weight
    with torch.no_grad():
        weights[99] = float("nan")
    rare = Sampling(logit_bias=((99, 100.0),)).over(GREEDY)
    endless = engine.submit(PROMPT * 3, Sampling(logit_bias=((END, -100.0),)).over(GREEDY), max_new_tokens=10**6)
    next(iter(endless))
    with pytest.raises(EngineError, match="no finite numbers"):
        list(engine.submit(PROMPT, rare, max_new_tokens=5))
    after = list(engine.submit(PROMPT[:3], GREEDY, max_new_tokens=20))
    endless.cancel()
    assert after == generated(model, PROMPT[:3], 20)


def test_an_answer_that_failed_leaves_nothing_to_the_one_that_moves_into_its_slot(engine, model):
    """Only the positions in use then were moved; a longer answer that joined later uncovered the rest."""
    with torch.no_grad():
        model_in(engine).get_input_embeddings().weight[99] = float("nan")
    on = Sampling(logit_bias=((END, -100.0),)).over(GREEDY)
    reached, release, _ = gated(engine, 1)
    first = engine.submit(PROMPT, on, max_new_tokens=1)
    assert reached.wait(30)
    bad = engine.submit([7] * 40, Sampling(logit_bias=((99, 100.0),)).over(GREEDY), max_new_tokens=5)
    moved = engine.submit(PROMPT, on, max_new_tokens=120)
    release.set()
    with pytest.raises(EngineError, match="no finite numbers"):
        list(bad)
    longer = engine.submit(PROMPT * 15, on, max_new_tokens=30)
    assert list(moved) == generated(model, PROMPT, 120, min_new_tokens=120)
    assert list(longer) == generated(model, PROMPT * 15, 30, min_new_tokens=30)
    assert len(list(first)) == 1


def test_without_memory_for_more_requests_wait_instead_of_failing(engine, model, monkeypatch):
    monkeypatch.setattr(scheduler, "free_memory", lambda: 0)
    _, _, seen = gated(engine, 0)
    answers = [answer(engine, None, 10) for _ in range(4)]
    assert [list(each) for each in answers] == [generated(model, PROMPT, 10)] * 4
    assert {sequences for sequences, _ in seen} == {1}


def test_ids_that_the_model_does_not_have_are_refused(engine):
    with pytest.raises(UsageError, match="logit_bias has the token id 262, but the model's ids go from 0 to 261"):
        engine.submit(PROMPT, Sampling(logit_bias=((262, 1.0),)).over(GREEDY), max_new_tokens=1)
    with pytest.raises(UsageError, match="the prompt has the token id -1"):
        engine.submit([1, -1], GREEDY, max_new_tokens=1)
    with pytest.raises(UsageError, match="no tokens"):
        engine.submit([], GREEDY, max_new_tokens=1)


def test_closing_frees_the_model(model_dir):
    engine = TransformersEngine(model_dir, (END,))
    held = weakref.ref(model_in(engine))
    generation = engine.submit(PROMPT, Sampling(logit_bias=((END, -100.0),)).over(GREEDY), max_new_tokens=10**6)
    next(iter(generation))
    engine.close()
    list(generation)
    assert generation.finish_reason == "cancelled"
    gc.collect()
    assert held() is None
    with pytest.raises(EngineError, match="closed"):
        engine.load_adapter(Path("nowhere"))


def test_an_engine_that_nobody_holds_frees_the_model(model_dir):
    """Its own thread held it, so that weights stayed in memory until the process ended."""
    engine = TransformersEngine(model_dir, (END,))
    held, thread, collected = weakref.ref(model_in(engine)), engine._thread, weakref.ref(engine)
    assert list(engine.submit(PROMPT, GREEDY, max_new_tokens=3))
    del engine
    gc.collect()
    assert collected() is None
    thread.join(30)
    gc.collect()
    assert (thread.is_alive(), held()) == (False, None)


def test_an_answer_in_flight_keeps_its_engine(model_dir):
    engine = TransformersEngine(model_dir, (END,))
    whole = list(engine.submit(PROMPT, GREEDY, max_new_tokens=20))
    reached, release, _ = gated(engine, 2)
    generation, collected = engine.submit(PROMPT, GREEDY, max_new_tokens=20), weakref.ref(engine)
    del engine
    assert reached.wait(30)
    gc.collect()
    assert collected() is not None
    release.set()
    assert list(generation) == whole


def test_a_gpu_that_is_lost_closes_the_engine(engine, monkeypatch, caplog):
    """Every later request failed too, in a process that could not compute any more; one of its own is started anew."""

    def fail(*_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    model_in(engine).register_forward_pre_hook(fail)
    monkeypatch.setattr(scheduler, "gpus", lambda: ("GPU",))
    monkeypatch.setattr(torch.cuda, "synchronize", fail)
    with pytest.raises(EngineError, match="the engine failed: CUDA error: an illegal memory access"):
        list(engine.submit(PROMPT, GREEDY, max_new_tokens=5))
    engine._thread.join(30)
    assert not engine.alive
    assert "the engine cannot go on" in caplog.text
    with pytest.raises(EngineError, match="the engine is closed"):
        engine.submit(PROMPT, GREEDY, max_new_tokens=5)
