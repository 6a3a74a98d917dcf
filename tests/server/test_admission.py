"""Places and queues: bounded, fair between keys, and none is ever lost."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arriero.errors import UsageError
from arriero.server.admission import Admission, Limits, Ticket
from arriero.server.errors import RequestError


async def turn() -> None:
    """Let every task go on until it waits again."""
    for _ in range(10):
        await asyncio.sleep(0)


def entering(admission: Admission, key: str = "a", places: int = 1) -> asyncio.Task[Ticket]:
    return asyncio.create_task(admission.enter(key, places))


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
    tickets = [await admission.enter("a") for _ in range(2)]
    waiting = entering(admission)
    await turn()
    assert (admission.running, admission.waiting, waiting.done()) == (2, 1, False)
    error = await refused(admission.enter("b"))
    assert (error.status, error.code, error.retry_after) == (503, "queue_full", 1)
    tickets[0].leave()
    tickets[0].leave()  # changes nothing
    await turn()
    assert (admission.running, admission.waiting, waiting.done()) == (2, 0, True)
    for ticket in (tickets[1], await waiting):
        ticket.leave()
    assert (admission.running, admission.waiting) == (0, 0)


async def test_who_waits_too_long_is_sent_away():
    admission = Admission(Limits(max_running=1, max_wait=0.01))
    ticket = await admission.enter("a")
    error = await refused(admission.enter("b"))
    assert (error.status, error.code, error.retry_after) == (503, "wait_timeout", 1)
    assert "0.01 seconds" in error.message
    ticket.leave()
    assert (admission.running, admission.waiting) == (0, 0)
    (await admission.enter("b")).leave()


async def test_a_hundred_requests_of_one_key_hold_another_up_by_one_answer():
    admission = Admission(Limits(max_running=1))
    order: list[str] = []
    first = await admission.enter("crowd")

    async def answered(key: str) -> None:
        ticket = await admission.enter(key)
        order.append(key)
        ticket.leave()

    tasks = [asyncio.create_task(answered("crowd")) for _ in range(100)]
    await turn()
    tasks += [asyncio.create_task(answered("one"))]
    await turn()
    first.leave()
    await asyncio.gather(*tasks)
    assert order[:3] == ["crowd", "one", "crowd"]
    assert len(order) == 101


async def test_several_places_at_once_are_neither_refused_for_ever_nor_overtaken():
    admission = Admission(Limits(max_running=4))
    error = await refused(admission.enter("a", 5))
    assert (error.status, "5 answers" in error.message, "gives 4" in error.message) == (400, True, True)
    tickets = [await admission.enter("a") for _ in range(2)]
    large, small = entering(admission, "b", 4), entering(admission, "c")
    await turn()
    assert not small.done(), "it would fit, but the large one could wait for ever"
    for ticket in tickets:
        ticket.leave()
    await turn()
    assert (large.done(), small.done(), admission.running) == (True, False, 4)
    (await large).leave()
    (await small).leave()
    assert admission.running == 0


async def test_who_leaves_while_waiting_gives_up_the_turn_that_came_at_the_same_moment():
    admission = Admission(Limits(max_running=1))
    ticket = await admission.enter("a")
    leaving, next_one = entering(admission, "b"), entering(admission, "c")
    await turn()
    ticket.leave()  # the turn is given now, before the task that it was given to can take it
    leaving.cancel()
    await turn()
    assert leaving.cancelled()
    assert next_one.done()
    (await next_one).leave()
    assert (admission.running, admission.waiting) == (0, 0)
    await admission.idle()


async def test_a_large_request_that_leaves_lets_those_behind_it_in():
    admission = Admission(Limits(max_running=2))
    ticket = await admission.enter("a")
    large, small = entering(admission, "b", 2), entering(admission, "c")
    await turn()
    large.cancel()
    await turn()
    assert small.done()
    (await small).leave()
    ticket.leave()
    assert (admission.running, admission.waiting) == (0, 0)


async def test_draining_refuses_new_ones_and_idle_comes_with_the_last():
    admission = Admission(Limits(max_running=1))
    await admission.idle()
    ticket, waiting = await admission.enter("a"), entering(admission)
    await turn()
    admission.drain()
    error = await refused(admission.enter("b"))
    assert (error.status, error.code, error.retry_after) == (503, "draining", 1)
    idle = asyncio.create_task(admission.idle())
    ticket.leave()
    (await waiting).leave()
    await idle


async def test_who_waits_can_be_sent_away():
    admission = Admission(Limits(max_running=1))
    ticket, *waiting = await admission.enter("a"), entering(admission), entering(admission, "b")
    await turn()
    admission.refuse_waiting()
    assert [(await refused(task)).code for task in waiting] == ["draining", "draining"]
    ticket.leave()
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


class Model:
    """What Admission should do, said simply: who runs, and who waits in which key's line."""

    def __init__(self, places: int) -> None:
        self.free = places
        self.running: list[int] = []
        self.keys: list[str] = []  # whose turn is next
        self.lines: dict[str, list[tuple[int, int]]] = {}

    def enter(self, number: int, key: str, places: int) -> None:
        self.lines.setdefault(key, []).append((number, places))
        if key not in self.keys:
            self.keys.append(key)
        self.serve()

    def leave(self, number: int, places: int) -> None:
        self.running.remove(number)
        self.free += places
        self.serve()

    def give_up(self, number: int) -> None:
        self.lines = {key: [one for one in line if one[0] != number] for key, line in self.lines.items()}
        self.keys = [key for key in self.keys if self.lines[key]]
        self.serve()

    def serve(self) -> None:
        while self.keys:
            key = self.keys[0]
            number, places = self.lines[key][0]
            if places > self.free:
                return
            self.lines[key].pop(0)
            self.keys.pop(0)
            if self.lines[key]:
                self.keys.append(key)
            self.free -= places
            self.running.append(number)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("enter"), st.sampled_from("abc"), st.integers(1, 3)),
        st.tuples(st.sampled_from(["leave", "cancel", "both"]), st.integers(0, 20), st.booleans()),
    ),
    max_size=60,
)


@given(STEPS)
def test_it_does_what_a_simple_model_does_and_no_place_is_lost(steps):
    asyncio.run(compare(steps))


async def compare(steps) -> None:
    """Do the same to an Admission of 3 places and to the model; "both" cancels and leaves without a turn between."""
    admission, model = Admission(Limits(max_running=3, max_waiting=1000)), Model(3)
    tasks: list[asyncio.Task[Ticket]] = []
    sizes: list[int] = []
    over: set[int] = set()

    def leave(which: int) -> None:
        running = sorted(model.running)
        if running:
            number = running[which % len(running)]
            over.add(number)
            tasks[number].result().leave()
            model.leave(number, sizes[number])

    def cancel(which: int) -> None:
        waiting = [n for n, task in enumerate(tasks) if not task.done() and n not in over]
        if waiting:
            number = waiting[which % len(waiting)]
            over.add(number)
            tasks[number].cancel()
            if number in model.running:  # its turn has come, but it will not take it
                model.leave(number, sizes[number])
            else:
                model.give_up(number)

    for kind, what, how in steps:
        if kind == "enter":
            tasks.append(entering(admission, what, how))
            sizes.append(how)
            model.enter(len(tasks) - 1, what, how)
        if kind in ("leave", "both"):
            leave(what)
        if kind in ("cancel", "both"):
            cancel(what)
        await turn()
        inside = {n for n, task in enumerate(tasks) if task.done() and not task.cancelled() and n not in over}
        assert inside == set(model.running)
        assert admission.running == sum(sizes[number] for number in model.running)
        assert admission.waiting == sum(map(len, model.lines.values()))
    while model.running:
        leave(0)
        await turn()
    assert (admission.running, admission.waiting) == (0, 0)
    await admission.idle()


@given(st.lists(st.sampled_from("abc"), max_size=12))
def test_how_many_come_first_is_how_many_do(keys):
    async def scenario() -> None:
        admission = Admission(Limits(max_running=1))
        ticket = await admission.enter("a", tag="first")
        assert admission.ahead("first") is None, "it does not wait"
        tasks = [asyncio.create_task(admission.enter(key, tag=number)) for number, key in enumerate(keys)]
        await turn()
        told = {number: admission.ahead(number) for number in range(len(keys))}
        order: list[int] = []
        for _ in keys:
            ticket.leave()
            await turn()
            order += (served := [n for n, task in enumerate(tasks) if task.done() and n not in order])
            ticket = tasks[served[0]].result()
        assert [told[number] for number in order] == list(range(len(keys)))

    asyncio.run(scenario())


async def test_what_batches_ask_has_a_part_of_the_places_and_waits_behind_everybody():
    admission = Admission(Limits(max_running=4, max_waiting=1, max_batch_running=2))
    batch = [asyncio.create_task(admission.enter_background(key)) for key in ("a", "a", "b")]
    await turn()
    assert [task.done() for task in batch] == [True, True, False]
    assert admission.waiting == 0, "a batch takes nobody's place to wait"
    own = [await admission.enter("c"), await admission.enter("c")]
    waiting = entering(admission, "c")
    await turn()
    batch[0].result().leave()
    await turn()
    assert (waiting.done(), batch[2].done()) == (True, False)
    own[0].leave()
    await turn()
    assert batch[2].done()
    for ticket in (own[1], waiting.result(), batch[1].result(), batch[2].result()):
        ticket.leave()
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
    large.leave()
    await admission.idle()
