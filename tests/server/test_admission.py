"""Slots and queues: bounded, fair between keys, and none is ever lost."""

from __future__ import annotations

import asyncio

import pytest

from arriero.errors import UsageError
from arriero.server.admission import Admission, Limits, Permit
from arriero.server.errors import RequestError


async def turn() -> None:
    """Let every task go on until it waits again."""
    for _ in range(10):
        await asyncio.sleep(0)


def entering(admission: Admission, key: str = "a", slots: int = 1) -> asyncio.Task[Permit]:
    return asyncio.create_task(admission.enter(key, slots))


async def refused(awaitable) -> RequestError:
    with pytest.raises(RequestError) as caught:
        await awaitable
    return caught.value


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_running": 0},
        {"max_waiting": -1},
        {"max_wait": 0},
        {"requests_per_minute": 0},
        {"max_body": 0},
        {"max_file": 0},
        {"max_batch_running": 0},
    ],
)
def test_limits_that_make_no_sense(wrong):
    [(name, value)] = wrong.items()
    with pytest.raises(UsageError, match=f"{name} must be .*, got {value}"):
        Limits(**wrong)


async def test_running_and_waiting_are_bounded():
    admission = Admission(Limits(max_running=2, max_waiting=1))
    permits = [await admission.enter("a") for _ in range(2)]
    waiting = entering(admission)
    await turn()
    assert (admission.running, admission.waiting, waiting.done()) == (2, 1, False)
    error = await refused(admission.enter("b"))
    assert (error.status, error.code, error.retry_after) == (503, "queue_full", 1)
    permits[0].release()
    permits[0].release()  # changes nothing
    await turn()
    assert (admission.running, admission.waiting, waiting.done()) == (2, 0, True)
    for permit in (permits[1], await waiting):
        permit.release()
    assert (admission.running, admission.waiting) == (0, 0)


async def test_who_waits_too_long_is_sent_away():
    admission = Admission(Limits(max_running=1, max_wait=0.01))
    permit = await admission.enter("a")
    error = await refused(admission.enter("b"))
    assert (error.status, error.code, error.retry_after) == (503, "wait_timeout", 1)
    assert "0.01 seconds" in error.message
    permit.release()
    assert (admission.running, admission.waiting) == (0, 0)
    (await admission.enter("b")).release()


async def test_a_hundred_requests_of_one_key_hold_another_up_by_one_answer():
    admission = Admission(Limits(max_running=1))
    order: list[str] = []
    first = await admission.enter("crowd")

    async def answered(key: str) -> None:
        permit = await admission.enter(key)
        order.append(key)
        permit.release()

    tasks = [asyncio.create_task(answered("crowd")) for _ in range(100)]
    await turn()
    tasks += [asyncio.create_task(answered("one"))]
    await turn()
    first.release()
    await asyncio.gather(*tasks)
    assert order[:3] == ["crowd", "one", "crowd"]
    assert len(order) == 101


async def test_several_slots_at_once_are_neither_refused_for_ever_nor_overtaken():
    admission = Admission(Limits(max_running=4))
    error = await refused(admission.enter("a", 5))
    assert (error.status, "5 answers" in error.message, "gives 4" in error.message) == (400, True, True)
    permits = [await admission.enter("a") for _ in range(2)]
    large, small = entering(admission, "b", 4), entering(admission, "c")
    await turn()
    assert not small.done(), "it would fit, but the large one could wait for ever"
    for permit in permits:
        permit.release()
    await turn()
    assert (large.done(), small.done(), admission.running) == (True, False, 4)
    (await large).release()
    (await small).release()
    assert admission.running == 0


async def test_who_leaves_while_waiting_gives_up_the_turn_that_came_at_the_same_moment():
    admission = Admission(Limits(max_running=1))
    permit = await admission.enter("a")
    leaving, next_one = entering(admission, "b"), entering(admission, "c")
    await turn()
    permit.release()  # the turn is given now, before the task that it was given to can take it
    leaving.cancel()
    await turn()
    assert leaving.cancelled()
    assert next_one.done()
    (await next_one).release()
    assert (admission.running, admission.waiting) == (0, 0)
    await admission.idle()


async def test_a_large_request_that_leaves_lets_those_behind_it_in():
    admission = Admission(Limits(max_running=2))
    permit = await admission.enter("a")
    large, small = entering(admission, "b", 2), entering(admission, "c")
    await turn()
    large.cancel()
    await turn()
    assert small.done()
    (await small).release()
    permit.release()
    assert (admission.running, admission.waiting) == (0, 0)


async def test_draining_refuses_new_ones_and_idle_comes_with_the_last():
    admission = Admission(Limits(max_running=1))
    await admission.idle()
    permit, waiting = await admission.enter("a"), entering(admission)
    await turn()
    admission.drain()
    error = await refused(admission.enter("b"))
    assert (error.status, error.code, error.retry_after) == (503, "draining", 1)
    idle = asyncio.create_task(admission.idle())
    permit.release()
    (await waiting).release()
    await idle


async def test_who_waits_can_be_sent_away():
    admission = Admission(Limits(max_running=1))
    permit, *waiting = await admission.enter("a"), entering(admission), entering(admission, "b")
    await turn()
    admission.refuse_waiting()
    assert [(await refused(task)).code for task in waiting] == ["draining", "draining"]
    permit.release()
    await admission.idle()
    assert (admission.running, admission.waiting) == (0, 0)


def test_requests_in_a_minute_are_counted_for_each_key():
    admission = Admission(Limits(requests_per_minute=2))
    for _ in range(2):
        admission.check_rate("a")
    with pytest.raises(RequestError, match="more than 2 requests in a minute") as caught:
        admission.check_rate("a")
    assert (caught.value.status, caught.value.code) == (429, "rate_limit_exceeded")
    assert 0 < caught.value.retry_after <= 60
    admission.check_rate("b")


def test_without_a_rate_limit_nothing_is_counted():
    admission = Admission(Limits())
    for _ in range(1000):
        admission.check_rate("a")


async def test_what_batches_ask_has_a_share_of_the_slots_and_waits_behind_everybody():
    admission = Admission(Limits(max_running=4, max_waiting=1, max_batch_running=2))
    batch = [asyncio.create_task(admission.enter_background(key)) for key in ("a", "a", "b")]
    await turn()
    assert [task.done() for task in batch] == [True, True, False]
    assert admission.waiting == 0, "a batch takes nobody's slot to wait"
    own = [await admission.enter("c"), await admission.enter("c")]
    waiting = entering(admission, "c")
    await turn()
    batch[0].result().release()
    await turn()
    assert (waiting.done(), batch[2].done()) == (True, False)
    own[0].release()
    await turn()
    assert batch[2].done()
    for permit in (own[1], waiting.result(), batch[1].result(), batch[2].result()):
        permit.release()
    await admission.idle()
    assert admission.running == 0


async def test_a_draining_server_lets_no_batch_in_and_a_large_request_of_one_is_not_left_waiting():
    admission = Admission(Limits(max_running=4, max_batch_running=1))
    large = await admission.enter_background("a", 3)
    waiting = asyncio.create_task(admission.enter_background("a"))
    given_up = asyncio.create_task(admission.enter_background("b"))
    await turn()
    given_up.cancel()
    admission.drain()
    assert (await refused(waiting)).code == "draining"
    assert (await refused(admission.enter_background("a"))).code == "draining"
    large.release()
    await admission.idle()
