"""Replicas that are lost, at every moment of an answer: the engine's own side, over a handle that loses them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arriero.cluster.serving.protocol import AdapterFiles, Chunk, Description, Request
from arriero.cluster.serving.replica import chunks
from arriero.constraint import Text
from arriero.engines.base import Feature
from arriero.errors import ContractError, EngineLostError, NotFoundError, UsageError
from arriero.messages import Sampling, TokenLogprob
from tests.cluster.scripted import STOP, PacedEngine, expected

ray = pytest.importorskip("ray")
from arriero.cluster.serving.engine import CHUNK_SECONDS, RayEngine  # noqa: E402

GREEDY = Sampling(
    temperature=0.0, top_p=1.0, top_k=0, min_p=0.0, repetition_penalty=1.0, presence_penalty=0.0, frequency_penalty=0.0
)
PROMPT = [7, 8]


class Handle:
    """As far as the engine knows a Serve handle: each request is answered by the next of `replicas`."""

    def __init__(self, *replicas: Callable[[Request], AsyncIterator[Chunk]]) -> None:
        self.replicas = list(replicas)
        self.asked: list[Request] = []
        self.cancelled = threading.Event()
        self.describe = self.answer = self

    def options(self, *, stream: bool) -> Handle:
        return self

    def shutdown(self) -> None:
        """Serve's handles have a router to end."""

    def result(self) -> Description:
        return Description("mark", "paced", "no model", frozenset(get_args(Feature)), in_4bit=False)

    def remote(self, *request: Request) -> object:
        if not request:
            return self
        self.asked.append(request[0])
        return _Response(self.replicas.pop(0)(request[0]), self.cancelled)


class _Response:
    def __init__(self, chunks: AsyncIterator[Chunk], cancelled: threading.Event) -> None:
        self._chunks, self._cancelled = chunks, cancelled

    def __aiter__(self) -> AsyncIterator[Chunk]:
        return self._chunks

    def cancel(self) -> None:
        self._cancelled.set()


def lost_after(count: int, size: int = 1) -> Callable[[Request], AsyncIterator[Chunk]]:
    """A replica that is lost when it has sent that many ids, in chunks of `size`, and before it says why it ended."""

    async def answer(request: Request) -> AsyncIterator[Chunk]:
        ids = expected(request.prompt_ids, min(count, request.max_new_tokens))
        for start in range(0, len(ids), size):
            part = ids[start : start + size]
            scores = [TokenLogprob(token, -1.0) for token in part] if request.logprobs is not None else []
            yield Chunk(part, scores, (TokenLogprob(1, -2.0),) if request.prompt_logprobs and not start else ())
        raise ray.exceptions.ActorDiedError

    return answer


async def whole(request: Request) -> AsyncIterator[Chunk]:
    generation = PacedEngine(0).submit(request.prompt_ids, request.sampling, max_new_tokens=request.max_new_tokens)
    async for chunk in chunks(generation):
        yield chunk


@pytest.fixture
def engine():
    made: list[RayEngine] = []

    def build(*replicas: Callable[[Request], AsyncIterator[Chunk]]) -> tuple[RayEngine, Handle]:
        handle = Handle(*replicas)
        made.append(RayEngine(handle, [STOP]))
        return made[-1], handle

    yield build
    for each in made:
        each.close()


@settings(max_examples=40, deadline=None)
@given(losses=st.lists(st.tuples(st.integers(0, 12), st.integers(1, 5)), max_size=3), limit=st.integers(1, 24))
def test_whenever_replicas_are_lost_nothing_of_an_answer_is_lost_doubled_or_altered(losses, limit):
    handle = Handle(*(lost_after(*loss) for loss in losses), whole)
    engine = RayEngine(handle, [STOP])
    try:
        generation = engine.submit(PROMPT, GREEDY, max_new_tokens=limit)
        assert list(generation) == expected(PROMPT, limit)
        assert generation.finish_reason == "length"
    finally:
        engine.close()


def test_log_probabilities_of_the_prompt_and_the_answer_come_once(engine):
    made, handle = engine(lost_after(3), lost_after(9))
    generation = made.submit(PROMPT, GREEDY, max_new_tokens=9, logprobs=0, prompt_logprobs=True)
    assert list(generation) == expected(PROMPT, 9)
    assert [token.token_id for token in generation.logprobs] == expected(PROMPT, 9)
    assert len(generation.prompt_logprobs) == 1
    assert [request.prompt_logprobs for request in handle.asked] == [True, False]


def test_an_answer_whose_last_id_had_come_is_complete(engine):
    async def lost_at_the_end(request: Request) -> AsyncIterator[Chunk]:
        yield Chunk([11, STOP])
        raise ray.exceptions.ActorDiedError

    made, handle = engine(lost_at_the_end)
    generation = made.submit(PROMPT, GREEDY, max_new_tokens=9)
    assert list(generation) == [11, STOP]
    assert generation.finish_reason == "stop"
    assert len(handle.asked) == 1


@pytest.mark.parametrize(
    ("sampling", "constraint"),
    [
        (replace(GREEDY, temperature=1.0, seed=1), None),
        (replace(GREEDY, presence_penalty=0.5), None),
        (replace(GREEDY, frequency_penalty=0.5), None),
        (GREEDY, Text("x")),
    ],
)
def test_what_depends_on_more_than_the_ids_so_far_is_asked_again_only_before_the_first(engine, sampling, constraint):
    made, _ = engine(lost_after(0), whole, lost_after(4), whole)
    again = made.submit(PROMPT, sampling, max_new_tokens=9, constraint=constraint)
    assert list(again) == expected(PROMPT, 9)
    broken = made.submit(PROMPT, sampling, max_new_tokens=9, constraint=constraint)
    with pytest.raises(EngineLostError, match="cannot go on"):
        list(broken)
    assert broken.completion_tokens == 4


def test_a_seed_without_temperature_and_a_temperature_without_seed_go_on(engine):
    for sampling in (replace(GREEDY, seed=1), replace(GREEDY, temperature=1.0)):
        made, _ = engine(lost_after(4), whole)
        assert list(made.submit(PROMPT, sampling, max_new_tokens=9)) == expected(PROMPT, 9)


def test_after_three_more_tries_the_answer_fails(engine):
    made, handle = engine(*[lost_after(1)] * 5)
    with pytest.raises(EngineLostError, match="4 replicas were lost"):
        list(made.submit(PROMPT, GREEDY, max_new_tokens=99))
    assert len(handle.asked) == 4


def test_what_a_request_does_wrong_is_not_tried_again(engine):
    async def refuses(request: Request) -> AsyncIterator[Chunk]:
        raise ray.exceptions.RayTaskError("answer", "traceback", UsageError("no such thing"))
        yield

    made, handle = engine(refuses, whole)
    with pytest.raises(UsageError, match="no such thing"):
        list(made.submit(PROMPT, GREEDY, max_new_tokens=9))
    assert len(handle.asked) == 1


def test_cancelling_and_closing_reach_the_replica(engine):
    async def endless(request: Request) -> AsyncIterator[Chunk]:
        yield Chunk([11])
        await asyncio.Event().wait()

    for end in (lambda engine, generation: generation.cancel(), lambda engine, generation: engine.close()):
        made, handle = engine(endless)
        generation = made.submit(PROMPT, GREEDY, max_new_tokens=9)
        assert next(iter(generation)) == 11
        end(made, generation)
        list(generation)
        assert generation.finish_reason == "cancelled"
        assert handle.cancelled.wait(30)


async def test_the_last_ids_bring_the_reason_along_and_nothing_is_sent_twice():
    """So that a replica that is lost after them has said all; of an answer without ids the end alone is sent."""
    generation = PacedEngine(0).submit(PROMPT, GREEDY, max_new_tokens=5)
    while generation.finish_reason is None:
        await asyncio.sleep(0)
    assert [(list(chunk.ids), chunk.finish_reason) async for chunk in chunks(generation)] == [
        (expected(PROMPT, 5), "length")
    ]
    nothing = PacedEngine(0).submit(PROMPT, GREEDY, max_new_tokens=0)
    assert [(list(chunk.ids), chunk.finish_reason) async for chunk in chunks(nothing)] == [([], "length")]


async def test_chunks_keep_their_distance_and_the_end_is_not_waited_for():
    """With an interval of an hour there are the first ids, and the others once the last is there."""
    generation = PacedEngine(0.001).submit(PROMPT, GREEDY, max_new_tokens=40)
    sent = [chunk async for chunk in chunks(generation, 3600)]
    assert [token for chunk in sent for token in chunk.ids] == expected(PROMPT, 40)
    assert len(sent) <= 2
    assert sent[-1].finish_reason == "length"


def test_the_more_answers_are_in_flight_the_further_apart_their_chunks_are(engine):
    """The bug: with 64 answers each id came by itself; those were too many chunks, and readers had them too late."""

    async def held(request: Request) -> AsyncIterator[Chunk]:
        while len(handle.asked) < 3:
            await asyncio.sleep(0)
        yield Chunk([11, STOP], finish_reason="stop")

    made, handle = engine(*[held] * 3)
    for generation in [made.submit(PROMPT, GREEDY, max_new_tokens=9) for _ in range(3)]:
        assert list(generation) == [11, STOP]
    assert [request.interval / CHUNK_SECONDS for request in handle.asked] == pytest.approx([1, 2, 3])


def test_an_adapter_that_was_changed_in_its_directory_is_another_one(tmp_path):
    with pytest.raises(NotFoundError, match=r"adapter_config\.json"):
        AdapterFiles.of(tmp_path)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / name).write_text("{}")
    first = AdapterFiles.of(tmp_path)
    assert first.find() == tmp_path
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 2}')
    with pytest.raises(ContractError, match="holds another adapter"):
        first.find()
