"""Cancelling, and running out of memory."""

from __future__ import annotations

import os
import signal

import pytest

from arriero.engines.openvino import engine
from arriero.errors import MemoryLimitError
from arriero.messages import Sampling
from tests.engines.openvino.support import (
    GREEDY,
    LONG,
    PROMPT,
    ids,
)


def test_a_long_prompt_can_be_cancelled_while_it_is_read(in_process, monkeypatch):
    monkeypatch.setitem(engine.SCHEDULER, "max_num_batched_tokens", 1)  # so that reading takes 200 steps
    here = in_process()
    here.give("open", key=0, adapter=None, now=True)
    here.until("open", 0)
    here.put(1, LONG)
    here.worker.round()
    assert here.pipeline().get_metrics().scheduled_requests == 1
    here.give("cancel", number=1)
    here.worker.round()
    assert here.said == [("open", 0), ("end", 1, "cancelled")]
    here.put(2, PROMPT)
    here.until("end", 2)
    assert here.pipeline().get_metrics().requests <= 1, "the library still holds it"


def test_a_request_that_waits_for_the_model_can_be_cancelled(in_process):
    here = in_process()
    here.give("open", key=0, adapter=None, now=False)
    here.put(1)
    here.give("cancel", number=1)
    here.worker.round()
    assert here.said == [("end", 1, "cancelled")]


def test_cancelling_reaches_the_worker(shared):
    """More steps than there is time for, if it did not; on a busy machine some tries may come too late."""
    for _ in range(20):
        begun = [shared.submit(PROMPT, Sampling(seed=n).over(GREEDY), max_new_tokens=200) for n in range(4)]
        begun[0].cancel()
        begun[1].cancel()
        assert list(begun[0]) == list(begun[0])
        assert list(begun[1]) == list(begun[1])
        if begun[0].finish_reason == begun[1].finish_reason == "cancelled":
            break
    assert begun[0].finish_reason == begun[1].finish_reason == "cancelled"
    for generation in begun[2:]:
        assert list(generation)
        generation.cancel()  # too late
        assert generation.finish_reason in ("stop", "length")


def test_cancelled_before_it_began(shared):
    """A thread writes the commands; on a busy machine it may write some of them only when the worker goes on."""
    worker = shared._link.process.pid
    for _ in range(20):
        os.kill(worker, signal.SIGSTOP)
        try:
            generations = [shared.submit(LONG, GREEDY, max_new_tokens=40) for _ in range(3)]
            for generation in generations:
                generation.cancel()
        finally:
            os.kill(worker, signal.SIGCONT)
        endings = [(list(generation), generation.finish_reason) for generation in generations]
        if endings == [([], "cancelled")] * 3:
            break
    assert endings == [([], "cancelled")] * 3


def test_keys_and_values_that_do_not_fit_are_a_typed_error(make, model_dir, monkeypatch):
    monkeypatch.setitem(engine.SCHEDULER, "num_kv_blocks", 4)  # of 32 tokens
    one = make(model_dir)
    with pytest.raises(MemoryLimitError, match="not enough memory"):
        list(one.submit(LONG, GREEDY, max_new_tokens=40))
    assert len(ids(one)) == 24


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("std::bad_alloc"), "MemoryLimitError"),
        (RuntimeError("step failed"), "EngineError"),
        (MemoryError(), "MemoryLimitError"),
    ],
)
def test_a_pipeline_that_failed_is_built_again(error, expected, in_process):
    """After a failed step the library's own state is undefined."""

    class Failing:
        def __init__(self, real):
            self.add_request, self.has_non_finished_requests = real.add_request, real.has_non_finished_requests

        def step(self):
            raise error

    here = in_process()
    here.give("open", key=0, adapter=None, now=True)
    here.until("open", 0)
    here.worker._pipelines[0, "library"]._pipeline = Failing(here.pipeline())
    here.put(1)
    here.put(2)
    here.until("fail", 2)
    assert [said[:3] for said in here.said[1:]] == [("fail", 1, expected), ("fail", 2, expected)]
    here.put(3)
    here.until("end", 3)
    assert len(here.ids(3)) == 8


def test_memory_stays_flat(in_process):
    """The library keeps nothing of a finished request, and its cache does not grow."""
    here = in_process()
    here.give("open", key=0, adapter=None, now=True)
    sizes = []
    for numbers in (range(n, n + 25) for n in range(0, 100, 25)):
        for number in numbers:
            here.put(number, LONG)
            if number % 2:
                here.give("cancel", number=number)
        for number in numbers:
            here.until("end", number)
        sizes.append(here.pipeline().get_metrics().kv_cache_size_in_bytes)
    assert sizes[1:] == [sizes[-1]] * 3
    assert here.pipeline().get_metrics().requests <= 1
